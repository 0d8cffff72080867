# SPDX-License-Identifier: Apache-2.0
"""The container engine, used through the `docker` package: Docker or Podman, local or remote.

`DOCKER_HOST` chooses it; nothing here assumes that the engine sees our files. Everything made there carries labels
that name the checkout and the process, so that the next build finds the leftovers of a killed one (`reap`), and does not
touch those of a running build. Every failure of an engine becomes a SandboxError.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
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
"""The checkout's path, with special characters encoded as in an address."""
LABEL_CHECKOUT, LABEL_PID, LABEL_START = "tower.checkout", "tower.pid", "tower.start"
LABEL_ARCHITECTURE = "tower.architecture"
LOCAL_IMAGES = "localhost/"
"""The prefix of our images' names: Podman adds it to every name without a registry, and then finds no other."""
_PING_SECONDS = 10
_CALL_SECONDS = 900
_DAY = 24 * 3600
"""In seconds."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Engine:
    """The container engine at `place`, or else that of `DOCKER_HOST`, for one process working on one checkout.

    Safe to share between threads. `report` takes a line for the user. Stopping one of several engines that share `stopped`
    stops all of them.
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
        """The engine's address, for messages."""
        return self.place.shown if self.place else os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"

    @property
    def api(self) -> APIClient:
        """The connection of the calling thread. Raises SandboxError if no engine answers."""
        client: APIClient | None = getattr(self._local, "client", None)
        if client is None:
            with self.translated("connecting"):
                client = docker_config.client(**client_settings(self.place), timeout=_PING_SECONDS)
            # The time limit above is for the first answer; transferring a large file takes longer.
            client.timeout = _CALL_SECONDS
            self._local.client = client
        return client

    @contextmanager
    def translated(self, act: str) -> Iterator[None]:
        """Turn any error of the docker package and its connection into SandboxError; `act` says what was tried."""
        with translated(self.address, act):
            yield

    def ping(self) -> str:
        """Return the engine's name and version. Raises SandboxError with a hint if it cannot be used."""
        api = self.api
        with self.translated("asking its version"):
            found = api.version()
        name = (
            "Podman" if any("podman" in str(part.get("Name", "")).lower() for part in found.get("Components") or ()) else "Docker"
        )
        return f"{name} {found.get('Version', '?')}"

    def memory(self) -> int:
        """Return the memory of the engine's machine, in bytes; asked once."""
        if not self._memory:
            api = self.api
            with self.translated("asking its memory"):
                self._memory = int(api.info()["MemTotal"])
        return self._memory

    def require(self, architecture: str, variable: str) -> None:
        """Raise SandboxError unless the engine's machine has this architecture; `variable` is the one that names the engine."""
        api = self.api
        with self.translated("asking its architecture"):
            found = str(api.info()["Architecture"])
        if found not in (architecture, engine_architecture(architecture)):
            raise SandboxError(
                f"{variable}: the container engine at {self.address} is of architecture {found}, not {architecture}",
                hint=f"name an engine on such a machine, or none ({variable}=) to use that of the other stages",
            )

    def say(self, line: str) -> None:
        """Print a line for the user."""
        if self._report is not None:
            self._report(line)

    # --- stopping -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Make every sandbox of this process, in any thread, end and clean up."""
        self.stopped.set()

    def check(self) -> None:
        """Raise SandboxError if the build was told to stop."""
        if self.stopped.is_set():
            raise SandboxError("stopped")

    def stop_on_signals(self) -> None:
        """Let SIGINT, SIGTERM and SIGHUP end the sandboxes before the process (call this in the main thread)."""

        def handle(number: int, _frame: FrameType | None) -> None:
            self.stop()
            signal.signal(number, signal.SIG_DFL)  # a second signal ends us at once
            raise KeyboardInterrupt

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, handle)

    # --- ownership -------------------------------------------------------------------------------

    def labels(self) -> dict[str, str]:
        """Return the labels of everything that this process makes in the engine."""
        pid = os.getpid()
        return {LABEL_CHECKOUT: self.checkout, LABEL_PID: str(pid), LABEL_START: process_start(pid) or ""}

    def reap_once(self) -> None:
        """Call `reap`, once in the life of this object."""
        with self._reap_guard:
            if not self._reaped:
                self.reap()
                self._reaped = True

    def reap(self) -> int:
        """Remove the containers and volumes that dead builds of this checkout left; return their number."""
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
        """Kill and remove a container; False if it is gone already or the engine cannot remove it."""
        return self._remove(lambda: self.api.remove_container(name, force=True, v=True))

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; False if it is gone already or still in use."""
        return self._remove(lambda: self.api.remove_volume(name, force=True))

    def _remove(self, act: Callable[[], object]) -> bool:
        # If it cannot be removed now (the engine went away), `reap` removes it later.
        with suppress(SandboxError), self.translated("removing"):
            act()
            return True
        return False

    # --- images ---------------------------------------------------------------------------------------------

    def find_image(self, image: str) -> dict[str, Any] | None:
        """Return the engine's description of an image, or None if it does not have it."""
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
        """Make an image of a root file system that comes as a tar stream; return its ID.

        `tag` is `name:version`, in `LOCAL_IMAGES`; `architecture` (x86_64, aarch64) is that of the programs in it, the
        engine's own if empty. The image carries `labels` and those of the checkout. Raises SandboxError.
        """
        marks = {**(labels or {}), LABEL_CHECKOUT: self.checkout, LABEL_FOLDER: quote(os.fsencode(self.folder))}
        # Podman ignores a separate `tag`; both engines accept one in the name.
        params: dict[str, Any] = {"fromSrc": "-", "repo": tag}
        if architecture:
            # Engines before 23.0 ignore the platform, so it is also written into a label.
            params["platform"] = f"linux/{engine_architecture(architecture)}"
            marks[LABEL_ARCHITECTURE] = architecture
        # This has the syntax of a Dockerfile, where quotes, dollars and line feeds are special: no label may have them.
        params["changes"] = [f'LABEL "{name}"="{value}"' for name, value in marks.items()]
        api = self.api
        with self.translated(f"importing image {tag}"):
            # Not `api.import_image`: it cannot set the platform.
            url = f"{api.base_url}/v{api.api_version}/images/create"
            answer = api.post(url, params=params, data=self._checked(tar), timeout=_CALL_SECONDS)
        if not answer.ok:
            raise refused(self.address, f"importing image {tag}", answer.text)
        found = self.find_image(tag)
        if found is None:
            raise SandboxError(f"image {tag}: the engine did not keep it: {answer.text.strip()[-300:]}")
        return str(found["Id"])

    def remove_images(self, label: str, *, keep: Collection[str] = (), name: str = "") -> int:
        """Remove the images of this checkout that carry `label` (`name` or `name=value`) and no tag or ID in `keep`.

        With `name`, only those whose tags all have that name. Images that a container uses stay.
        """
        removed = 0
        for row in self._images(f"{LABEL_CHECKOUT}={self.checkout}", label):
            tags = _tags(row)
            other = bool(name) and any(tag.rpartition(":")[0] != name for tag in tags)
            removed += not other and not {row["Id"], *tags} & set(keep) and self._remove_image(row)
        return removed

    def remove_images_of_gone_checkouts(self, label: str, *, older_than: float = _DAY) -> int:
        """Remove images that carry `label` and were made for a folder of this machine that no longer exists.

        `older_than` is the least age in seconds: a checkout in a mount namespace of its own, such as another test run's
        /tmp, looks gone from here and has images that are in use.
        """
        removed = 0
        for row in self._images(LABEL_FOLDER, label):
            labels = row["Labels"]
            folder = Path(os.fsdecode(unquote_to_bytes(labels[LABEL_FOLDER])))
            # The ID shows that it was this machine, and not another one that the engine serves as well.
            ours = checkout_id(folder) == labels.get(LABEL_CHECKOUT)
            old = row["Created"] <= time.time() - older_than
            removed += ours and old and not folder.exists() and self._remove_image(row)
        return removed

    def _images(self, asked: str, label: str) -> list[dict[str, Any]]:
        """Return the images that carry both labels (`name` or `name=value`). Only one is queried: Podman cannot search by two."""
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
    """Return the engine's name for an architecture: amd64 for x86_64, arm64 for aarch64. Raises SandboxError."""
    if architecture not in _ARCHITECTURES:
        raise SandboxError(f"{architecture}: not an architecture of the factory ({', '.join(_ARCHITECTURES)})")
    return _ARCHITECTURES[architecture]


def image_architecture(image: Mapping[str, Any]) -> str:
    """Return the engine's name for the architecture of an image that `Engine.find_image` described."""
    named = ((image.get("Config") or {}).get("Labels") or {}).get(LABEL_ARCHITECTURE)
    return engine_architecture(named) if named else str(image["Architecture"])


def checkout_id(checkout: Path) -> str:
    """Return the label that names this checkout on this machine; another PID namespace counts as another machine."""
    machine = Path("/etc/machine-id")
    words = [
        machine.read_text().strip() if machine.is_file() else os.uname().nodename,
        str(Path("/proc/self/ns/pid").readlink()),
        str(checkout.resolve()),
    ]
    return hashlib.sha256(os.fsencode("\n".join(words))).hexdigest()[:16]


def process_start(pid: int) -> str | None:
    """Return what tells a process from a later one with the same ID: the boot and the tick of its start. None if it is gone."""
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
