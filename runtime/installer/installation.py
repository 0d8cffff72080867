# SPDX-License-Identifier: Apache-2.0
"""An installation from its plan to the end, step by step; after an interruption it says what state the disks are in.

It always begins anew: a step of a cut-off run is worth less than the certainty of what is on the disks. Until the last step
the boot device of a new installation starts nothing. An upgrade takes the place of the root alone: /home and the key stay.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tower.base.errors import DeviceError, StoppedError, TowerError
from tower.base.refused import OURS, ours
from tower.base.view import View
from tower.disk.device import Disk
from tower.hosts.secret import new_key_file
from tower.installer import disks, existing, firmware, live_medium, signing, system
from tower.installer.disks import TARGET, Made
from tower.installer.existing import Existing, Locked
from tower.installer.failing import DiskWatch
from tower.installer.plan import Plan

LOG: Final = Path("/var/log/tower-setup.log")
_DISK: Final = "put it in again, or take another one"


class Run(ABC):
    """One run, step by step."""

    steps: int

    def __init__(self, medium: Path, view: View, used: tuple[Disk, ...]) -> None:
        """Make a run; `used` are the disks that it writes to."""
        self._medium, self._view, self._used = medium, view, used
        self._lines: list[str] = []
        self._count = 0
        self._changed = False
        self.signed = False
        """Whether what is started is signed with the machine's own keys; known when it has run."""

    def run(self) -> None:
        """Install. Raises TowerError; its hint says what state the disks are in.

        It is DeviceError, whatever failed first, if one of the disks was taken out or is failing.
        """
        os.umask(0o022)
        self._watch = DiskWatch(self._used)
        try:
            self._run()
        except KeyboardInterrupt:
            raise StoppedError(2, hint=self._state()) from None
        except (TowerError, *OURS) as caught:
            error = ours(caught)
            self._note(f"failed: {error.message}")
            if (trouble := self._watch.trouble()) and error.message != trouble:
                self._note(trouble)
                error = DeviceError(trouble, hint=_DISK)
            error.hint = "; ".join([*filter(None, [error.hint]), self._state()])
            raise error from None
        finally:
            self._watch.close()
            with suppress(TowerError, OSError):
                disks.release()

    @abstractmethod
    def _run(self) -> None:
        """Run all steps."""

    @abstractmethod
    def _state(self) -> str:
        """Return what state the disks are in."""

    @contextmanager
    def _step(self, text: str, total: int = 0) -> Iterator[Callable[[int], object]]:
        """Show a step, with a bar if it has `total` bytes; call what is yielded with the bytes done since the last call."""
        self._count += 1
        shown = f"[{self._count}/{self.steps}] {text}"
        if total:
            with self._view.bar(shown, total) as advance:
                self._note(text)
                yield advance
        else:
            with self._view.step(shown):
                self._note(text)
                yield lambda _: None
        if trouble := self._watch.trouble():
            raise DeviceError(trouble, hint=_DISK)

    def _check_medium(self) -> None:
        """Check all that comes from the medium, while the disks are as they were. Raises ImageProblemError."""
        total = sum(path.stat().st_size for path in live_medium.packages(self._medium))
        with self._step("checking the medium", total) as advance:
            live_medium.check(self._medium, advance)

    def _note(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S', time.gmtime())} {text}"
        self._lines.append(line)
        with suppress(OSError), LOG.open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")


class SystemInstallation(Run):
    """An installation on two disks, which are wiped."""

    steps = 10

    def __init__(self, plan: Plan, medium: Path, view: View) -> None:
        super().__init__(medium, view, (plan.root, plan.boot))
        self._plan = plan
        self._whole = False
        if plan.answers.secure_boot:
            self.steps += 1

    def _run(self) -> None:
        plan, swap, signed = self._plan, self._plan.answers.swap, self._plan.answers.secure_boot
        key, variables = new_key_file(), dict[str, bytes]()
        self._check_medium()
        with self._step("getting tools from the medium"):
            system.add_tools()
        with self._step("dividing both disks"):
            self._changed = True
            part, boot = disks.partition(plan)
        with self._step("encrypting the root disk"):
            luks = disks.encrypt(part, key)
        with self._step("making volumes and file systems"):
            disks.volumes(swap)
            made = Made(luks, disks.file_systems(boot, swap=bool(swap)))
            disks.mount(boot)
        with self._step("installing packages"):
            system.add_packages(key, signed=signed)
        with self._step("writing settings, adding the user"):
            system.settings(made, swap=bool(swap))
            system.choices(plan.answers)
            system.user(plan.answers.username, plan.answers.password_hash)
            if plan.answers.desktop:
                system.desktop_at_login(plan.answers.username)
        with self._step("copying tower, host images and manual"):
            system.tower(plan.answers.username, self._medium, new=True)
        with self._step("signing what is started" if signed else "placing boot loaders"):
            if signed:
                signing.make_keys(TARGET)
                variables = signing.variables(TARGET)
            code = system.boot_files(made)
        with self._step("finishing"):
            system.keep_log(self._lines)
            disks.close()
            # That of the root disk finds nothing to start, and says so in place of hanging.
            for disk in (plan.root, plan.boot):
                disks.write_loader(disk, code)
        self._whole = True
        if signed:
            # The last of all: from then on the firmware starts nothing but what is whole now.
            with self._step("giving the firmware its keys"):
                firmware.enrol(variables)

    def _state(self) -> str:
        if not self._changed:
            return "no disk was changed"
        if self._whole:
            return "the system is whole, and starts without Secure Boot: to try this again there: doas tower setup --secure-boot"
        return f"{self._plan.root.path} and {self._plan.boot.path} are wiped and hold no whole system: run it again"


class SystemUpgrade(Run):
    """An installation in place of the system that is on the disks."""

    steps = 9

    def __init__(self, old: Existing, medium: Path, view: View) -> None:
        super().__init__(medium, view, (old.root, old.boot))
        self._old = old

    def _run(self) -> None:
        old = self._old
        self._check_medium()
        with self._step("opening the root disk"):
            made, swap = disks.open_volumes(old.part, old.boot_part, old.key)
            disks.mount_old()
        with self._step("saving your settings"):
            account = existing.keep()
            self.signed = signing.has_keys(existing.KEPT)
        with self._step("making a new root file system"):
            self._changed = True
            disks.empty_root()
            disks.mount(old.boot_part)
        with self._step("installing packages"):
            system.add_packages(old.key, signed=self.signed)
        with self._step("writing settings, adding the user"):
            system.settings(made, swap=swap)
            existing.restore()
            system.user(account.name, account.password_hash, account.number)
        with self._step("copying tower, host images and manual"):
            system.tower(account.name, self._medium, new=False)
        with self._step("signing what is started" if self.signed else "placing boot loaders"):
            code = system.boot_files(made)
        with self._step("finishing"):
            system.keep_log(self._lines)
            existing.forget()
            disks.close()
            for disk in (old.root, old.boot):
                disks.write_loader(disk, code)

    def _state(self) -> str:
        if not self._changed:
            return "the system is as it was"
        return "the old system is gone, /home and the key are whole: run it again, before you start this machine from its disk"


class BootDeviceRepair(Run):
    """A new boot device for the system that is on the root disk: that disk keeps all that is on it."""

    steps = 7

    def __init__(self, old: Locked, boot: Disk, medium: Path, view: View) -> None:
        """Make a run; `boot` will be wiped."""
        super().__init__(medium, view, (old.root, boot))
        self._old, self.boot = old, boot
        self._has_key = False

    def rows(self) -> dict[str, object]:
        """Return what will be done, for people and as JSON."""
        return {"root_disk": f"{self._old.root}: stays as it is", "boot_device": f"{self.boot}: will be wiped"}

    def _run(self) -> None:
        self._check_medium()
        with self._step("opening the root disk"):
            luks = disks.open_root(self._old.part, self._old.key)
        with self._step("dividing the boot device"):
            self._changed = True
            boot = disks.partition_boot(self.boot)
            made = Made(luks, disks.boot_file_system(boot))
        with self._step("writing the key"):
            disks.mount(boot)
            system.write_key(self._old.key)
            disks.sync_boot()
            self._has_key = True
        with self._step("installing the kernel"):
            system.add_kernel(self._medium)
            system.boot_mount(made)
            self.signed = signing.has_keys(TARGET)
        with self._step("signing what is started" if self.signed else "placing boot loaders"):
            code = system.boot_files(made)
        with self._step("finishing"):
            disks.close()
            disks.write_loader(self.boot, code)

    def _state(self) -> str:
        if not self._changed:
            return "no disk was changed"
        if not self._has_key:
            return f"{self.boot.path} is wiped, the root disk is as it was: run it again"
        return f"{self.boot.path} has the key, but starts nothing yet; the root disk is as it was: run it again"
