# SPDX-License-Identifier: Apache-2.0
"""The container engine, spoken to through the `docker` package: Docker or Podman, here or far away.

`DOCKER_HOST` chooses it; nothing here assumes that the engine sees our files. Everything made there carries labels
that name the checkout and the process, so that the next build finds what a killed one left (`reap`), and leaves
alone what belongs to a build that lives. All that can go wrong with an engine becomes a SandboxError.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from pipeline.base import docker_config
from pipeline.base.errors import SandboxError
from pipeline.sandbox.engine_errors import refused, translated
from pipeline.sandbox.place import EnginePlace, client_settings

if TYPE_CHECKING:
    from docker import APIClient

LABEL_FOLDER = "tower.folder"
"""The checkout's, with what is no plain character as in an address."""
LABEL_CHECKOUT, LABEL_PID, LABEL_START = "tower.checkout", "tower.pid", "tower.start"
LABEL_ARCHITECTURE = "tower.architecture"
LOCAL_IMAGES = "localhost/"
"""Before the names of our images: Podman puts it before every name without a registry, and then finds no other."""
_PING_SECONDS = 10
_CALL_SECONDS = 900
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Engine:
    """The container engine at `place`, or else that of `DOCKER_HOST`, for one process working on one checkout.

    Safe to share between threads. `report` takes one line for the user. Who stops one of several that share `stopped`
    stops all.
    """

    def __init__(
        self,
        checkout: Path,
        *,
        report: Callable[[str], None] | None = None,
        place: EnginePlace | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        self.checkout, self.folder = checkout_id(checkout), checkout.resolve()
        self.place = place
        self.stopped = stopped or threading.Event()
        self._report = report
        self._local = threading.local()
        self._reap_guard = threading.Lock()
        self._reaped = False
        self._memory = 0

    # --- connection -----------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the engine is, for messages."""
        return self.place.shown if self.place else os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"

    @property
    def api(self) -> APIClient:
        """The connection of the calling thread. Raises SandboxError if no engine answers."""
        client: APIClient | None = getattr(self._local, "client", None)
        if client is None:
            with self.translated("connecting"):
                client = docker_config.client(**client_settings(self.place), timeout=_PING_SECONDS)
            # The time limit above is for the first answer; moving a large file takes longer.
            client.timeout = _CALL_SECONDS
            self._local.client = client
        return client

    @contextmanager
    def translated(self, act: str) -> Iterator[None]:
        """Turn whatever the docker package and its connection raise into SandboxError; `act` says what was tried."""
        with translated(self.address, act):
            yield

    def ping(self) -> str:
        """The engine's name and version. Raises SandboxError with a hint if it cannot be used."""
        api = self.api
        with self.translated("asking its version"):
            found = api.version()
        name = (
            "Podman" if any("podman" in str(part.get("Name", "")).lower() for part in found.get("Components") or ()) else "Docker"
        )
        return f"{name} {found.get('Version', '?')}"

    def memory(self) -> int:
        """The memory of the engine's machine, in bytes; asked once."""
        if not self._memory:
            api = self.api
            with self.translated("asking its memory"):
                self._memory = int(api.info()["MemTotal"])
        return self._memory

    def require(self, architecture: str, variable: str) -> None:
        """Raise SandboxError unless the engine's machine is of an architecture; `variable` is what names the engine."""
        api = self.api
        with self.translated("asking its architecture"):
            found = str(api.info()["Architecture"])
        if found not in (architecture, engine_architecture(architecture)):
            raise SandboxError(
                f"{variable}: the container engine at {self.address} is of architecture {found}, not {architecture}",
                hint=f"name an engine of a machine that is, or none ({variable}=) to use that of the other stages",
            )

    def say(self, line: str) -> None:
        """One line for the user."""
        if self._report is not None:
            self._report(line)

    # --- stopping -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Make every sandbox of this process, in whichever thread, end and clean up."""
        self.stopped.set()

    def check(self) -> None:
        """Raise SandboxError if the build was told to stop."""
        if self.stopped.is_set():
            raise SandboxError("stopped")

    def stop_on_signals(self) -> None:
        """Let SIGINT, SIGTERM and SIGHUP end the sandboxes before the process (to be called in the main thread)."""

        def handle(number: int, _frame: FrameType | None) -> None:
            self.stop()
            signal.signal(number, signal.SIG_DFL)  # a second one ends us at once
            raise KeyboardInterrupt

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, handle)

    # --- what belongs to whom -------------------------------------------------------------------------------

    def labels(self) -> dict[str, str]:
        """The labels of everything this process makes in the engine."""
        pid = os.getpid()
        return {LABEL_CHECKOUT: self.checkout, LABEL_PID: str(pid), LABEL_START: process_start(pid) or ""}

    def reap_once(self) -> None:
        """`reap`, once in the life of this object."""
        with self._reap_guard:
            if not self._reaped:
                self.reap()
                self._reaped = True

    def reap(self) -> int:
        """Remove the containers and volumes that dead builds of this checkout left; how many there were."""
        api, mine = self.api, {"label": f"{LABEL_CHECKOUT}={self.checkout}"}
        removed = 0
        with self.translated("looking for leftovers"):
            for row in api.containers(all=True, filters=mine):
                removed += not _is_alive(row["Labels"]) and self.remove_container(row["Id"])
            for row in api.volumes(filters=mine)["Volumes"] or ():
                removed += not _is_alive(row["Labels"]) and self.remove_volume(row["Name"])
        if removed:
            self.say(f"sandbox: removed {removed} containers and volumes that a killed build left")
        return removed

    def remove_container(self, name: str) -> bool:
        """Kill and remove a container; False if it is gone already or the engine does not let go of it."""
        return self._remove(lambda: self.api.remove_container(name, force=True, v=True))

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; False if it is gone already or still in use."""
        return self._remove(lambda: self.api.remove_volume(name, force=True))

    def _remove(self, act: Callable[[], object]) -> bool:
        # What cannot be removed now (an engine that went away) is what `reap` is for.
        with suppress(SandboxError), self.translated("removing"):
            act()
            return True
        return False

    # --- images ---------------------------------------------------------------------------------------------

    def find_image(self, image: str) -> dict[str, Any] | None:
        """What the engine says of an image, or None if it does not have it."""
        import docker

        api = self.api
        with self.translated(f"looking for image {image}"):
            try:
                return dict(api.inspect_image(image))  # type: ignore[no-untyped-call]
            except docker.errors.ImageNotFound:
                return None

    def import_image(
        self, tar: Iterable[bytes], tag: str, *, labels: Mapping[str, str] | None = None, architecture: str = ""
    ) -> str:
        """Make an image of a root file system that comes as a tar stream; its id.

        `tag` is `name:version`, in `LOCAL_IMAGES`; `architecture` (x86_64, aarch64) is that of the programs in it, the
        engine's own if empty. The image carries `labels` and those of the checkout.
        """
        marks = {**(labels or {}), LABEL_CHECKOUT: self.checkout, LABEL_FOLDER: quote(os.fsencode(self.folder))}
        # Podman passes over a `tag` beside the name; both engines take one that is in it.
        params: dict[str, Any] = {"fromSrc": "-", "repo": tag}
        if architecture:
            # Engines before 23.0 do not read the platform, so it is written into a label as well.
            params["platform"] = f"linux/{engine_architecture(architecture)}"
            marks[LABEL_ARCHITECTURE] = architecture
        # As in a Dockerfile, where quotes, dollars and line feeds mean something: none of them may be in a label.
        params["changes"] = [f'LABEL "{name}"="{value}"' for name, value in marks.items()]
        api = self.api
        with self.translated(f"importing image {tag}"):
            # Not `api.import_image`: it cannot name the platform.
            url = f"{api.base_url}/v{api.api_version}/images/create"
            answer = api.post(url, params=params, data=self._checked(tar), timeout=_CALL_SECONDS)
        if not answer.ok:
            raise refused(self.address, f"importing image {tag}", answer.text)
        found = self.find_image(tag)
        if found is None:
            raise SandboxError(f"image {tag}: the engine did not keep it: {answer.text.strip()[-300:]}")
        return str(found["Id"])

    def remove_images(self, label: str, *, keep: Collection[str] = (), name: str = "") -> int:
        """Remove the images of this checkout that carry `label` (`name` or `name=value`) and no tag or id in `keep`.

        With `name` only those whose tags are all of that name. What a container uses stays.
        """
        removed = 0
        for row in self._images(f"{LABEL_CHECKOUT}={self.checkout}", label):
            tags = _tags(row)
            other = bool(name) and any(tag.rpartition(":")[0] != name for tag in tags)
            removed += not other and not {row["Id"], *tags} & set(keep) and self._remove_image(row)
        return removed

    def remove_images_of_gone_checkouts(self, label: str) -> int:
        """Remove images that carry `label` and were made for a folder of this machine that is no more."""
        removed = 0
        for row in self._images(LABEL_FOLDER, label):
            labels = row["Labels"]
            folder = Path(os.fsdecode(unquote_to_bytes(labels[LABEL_FOLDER])))
            # The id tells that it was this machine, and not another one that the engine serves too.
            ours = checkout_id(folder) == labels.get(LABEL_CHECKOUT)
            removed += ours and not folder.exists() and self._remove_image(row)
        return removed

    def _images(self, asked: str, label: str) -> list[dict[str, Any]]:
        """The images that carry both (`name` or `name=value`). One of them is asked for: Podman finds none by two."""
        api = self.api
        with self.translated("looking for old images"):
            rows = list(api.images(filters={"label": asked}))
        return [row for row in rows if _has_label(row["Labels"] or {}, label)]

    def _remove_image(self, row: Mapping[str, Any]) -> bool:
        return all(self._remove(partial(self.api.remove_image, tag)) for tag in _tags(row) or [row["Id"]])

    def _checked(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.check()
            yield piece


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, _, value = wanted.partition("=")
    return name in labels and value in ("", labels[name])


def _tags(row: Mapping[str, Any]) -> list[str]:
    return [tag for tag in row.get("RepoTags") or () if tag != "<none>:<none>"]


def engine_architecture(architecture: str) -> str:
    """The engine's word for an architecture: amd64 for x86_64, arm64 for aarch64."""
    if architecture not in _ARCHITECTURES:
        raise SandboxError(f"{architecture}: not an architecture of the factory ({', '.join(_ARCHITECTURES)})")
    return _ARCHITECTURES[architecture]


def image_architecture(image: Mapping[str, Any]) -> str:
    """The engine's word for the architecture of an image that `Engine.find_image` described."""
    named = ((image.get("Config") or {}).get("Labels") or {}).get(LABEL_ARCHITECTURE)
    return engine_architecture(named) if named else str(image["Architecture"])


def checkout_id(checkout: Path) -> str:
    """What names this checkout on this machine in labels; another view of the processes counts as another machine."""
    machine = Path("/etc/machine-id")
    words = [
        machine.read_text().strip() if machine.is_file() else os.uname().nodename,
        str(Path("/proc/self/ns/pid").readlink()),
        str(checkout.resolve()),
    ]
    return hashlib.sha256(os.fsencode("\n".join(words))).hexdigest()[:16]


def process_start(pid: int) -> str | None:
    """What tells a process from a later one of the same number: the boot and the tick it started at. None if it is gone."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return f"{boot}/{ticks}"


def _is_alive(labels: Mapping[str, str] | None) -> bool:
    labels = labels or {}
    pid = labels.get(LABEL_PID, "")
    return pid.isdigit() and process_start(int(pid)) == labels.get(LABEL_START, "")
