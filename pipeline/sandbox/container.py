# SPDX-License-Identifier: Apache-2.0
"""A sandbox in the engine: its containers and volumes, from creation to removal.

Inputs are in volumes, one for each top-level folder. If the volumes of the engine are on this machine and ours to fill, a
tar stream is unpacked into each of them here; otherwise by the engine, through a *loader*: a container that is never started
(Podman fills a volume only through its own path). The stage's container has the same volumes read-only.

Secrets are in a volume in the engine's memory (tmpfs), below /run/secrets: in no environment, argument, label, layer
or disk. Such a volume loses its files when nobody has it mounted; so with secrets, the loader does run (it sleeps,
with the same restrictions) until the stage has started.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import SandboxError, StageError
from pipeline.base.files import disk_full, is_full
from pipeline.sandbox.engine import Engine, engine_architecture, image_architecture
from pipeline.sandbox.spec import Sandbox, top_folder
from pipeline.sandbox.transfer import Input, send
from pipeline.sandbox.unpack import unpack

_SECRETS = "/run/secrets"
_LOADER = ("sleep", "86400")
# Without a size, which Podman would take for a disk quota. Only the engine writes there, and only what we send.
_SECRET_VOLUME = {"type": "tmpfs", "device": "tmpfs", "o": "mode=0700,nosuid,nodev,noexec"}
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp/home",  # noqa: S108  (a place in the sandbox)
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
    # Podman sets these two by default; set them, so that a stage sees the same on every engine.
    "TERM": "dumb",
    "container": "oci",
}
_RANDOM = 64
"""The length of a name that an engine makes up."""
_NO_PROGRAM = ("executable file not found", "no such file or directory")


class ImageGoneError(SandboxError):
    """The engine does not have the image of a sandbox, which somebody may have removed a moment ago."""


@dataclass(frozen=True, slots=True)
class _Volume:
    name: str
    folder: Path | None
    """Its folder, if that is on this machine and ours to read and write."""


class Container:
    """The container of one stage, with its inputs in place, not yet started."""

    def __init__(self, engine: Engine, name: str, container_id: str, outputs: Path | None) -> None:
        self._engine = engine
        self._loader = ""
        self.name = name
        self.id = container_id
        self.outputs = outputs
        """The folder of the volume /out, if it is on this machine and we may look at it."""

    def attach(self, **streams: int) -> Any:
        """Return a socket that carries `streams` (stdin=1, stdout=1, stderr=1). Raises StageError as `start` does."""
        with self._translated("attaching to"):
            return self._engine.api.attach_socket(self.id, params={**streams, "stream": 1})

    def start(self) -> None:
        """Start the container. Raises StageError if its program is not in the image."""
        try:
            with self._translated("starting"):
                self._engine.api.start(self.id)
        finally:
            self.drop_loader()

    @contextmanager
    def _translated(self, act: str) -> Iterator[None]:
        """Tell a missing program from trouble with the engine: Docker notices it at the start, Podman before."""
        import docker

        with self._engine.translated(f"{act} {self.name}"):
            try:
                yield
            except docker.errors.APIError as error:
                text = str(error.explanation or error)
                if any(words in text for words in _NO_PROGRAM):
                    raise StageError(f"{self.name}: its command is not in the builder: {text.strip()}") from error
                raise

    def drop_loader(self) -> None:
        """Remove the container that brought the inputs; the volumes stay for this one."""
        if self._loader:
            self._engine.remove_container(self._loader)
            self._loader = ""

    def load(self, loader: str) -> None:
        """Remember the container that holds the secrets until the start."""
        self._loader = loader


@contextmanager
def opened(engine: Engine, sandbox: Sandbox, *, terminal: bool = False) -> Iterator[Container]:
    """Yield a container for `sandbox` with its inputs loaded; it and its volumes are removed at the end.

    With `terminal` it has a terminal and an open standard input. Raises SandboxError if the engine cannot make it,
    and what `send` raises.
    """
    engine.reap_once()
    engine.check()
    _require_image(engine, sandbox)
    with ExitStack() as stack:
        volumes = {place: _volume(engine, stack) for place in sorted({top_folder(item.target) for item in sandbox.inputs})}
        loader = _load(engine, stack, sandbox, volumes)
        scratch = {place: _volume(engine, stack) for place in ("/out", "/work")}
        mounts = [
            *(_mount(place, volume, read_only=True) for place, volume in volumes.items()),
            *(_mount(place, volume, read_only=False) for place, volume in scratch.items()),
        ]
        made = _create(engine, sandbox, sandbox.argv, mounts, terminal=terminal)
        stack.callback(engine.remove_container, made)
        container = Container(engine, sandbox.name, made, scratch["/out"].folder)
        container.load(loader)
        if not sandbox.secrets:
            container.drop_loader()
        yield container


def _require_image(engine: Engine, sandbox: Sandbox) -> None:
    image = engine.find_image(sandbox.image)
    if image is None:
        raise _gone(engine, sandbox)
    if sandbox.architecture and image_architecture(image) != engine_architecture(sandbox.architecture):
        raise SandboxError(
            f"{sandbox.name}: image {sandbox.image} is for {image_architecture(image)}, not {sandbox.architecture}"
        )


def _gone(engine: Engine, sandbox: Sandbox) -> ImageGoneError:
    text = f"{sandbox.name}: the engine at {engine.address} has no image {sandbox.image}"
    return ImageGoneError(text, hint="run: ./ci/doit builder")


def _volume(engine: Engine, stack: ExitStack, options: dict[str, str] | None = None) -> _Volume:
    with engine.translated("making a volume"):
        made = engine.api.create_volume(labels=engine.labels(), driver="local", driver_opts=options)
        volume = _Volume(str(made["Name"]), None if options else _folder_here(engine, made))
    stack.callback(engine.remove_volume, volume.name)
    return volume


def _folder_here(engine: Engine, made: Mapping[str, Any]) -> Path | None:
    """Return the folder of a new volume, if the engine and it are on this machine, and if it is ours to write.

    The engine's name for the volume is random, so that an empty folder of that name here is the volume, wherever the
    engine's socket leads to.
    """
    name, path = str(made["Name"]), Path(str(made.get("Mountpoint") or "/"))
    if not engine.api.base_url.startswith("http+docker://") or len(name) < _RANDOM or name not in path.parts:
        return None
    try:
        info = path.lstat()
        ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not any(path.iterdir())
    except OSError:
        return None
    return path if ours else None


def _load(engine: Engine, stack: ExitStack, sandbox: Sandbox, volumes: dict[str, _Volume]) -> str:
    """Fill the volumes; add that of the secrets, if there are any, and return the ID of the container that holds it."""
    inputs = {place: [item for item in sandbox.inputs if top_folder(item.target) == place] for place in volumes}
    elsewhere = {place: volume for place, volume in volumes.items() if volume.folder is None}
    if sandbox.secrets:
        elsewhere[_SECRETS] = volumes[_SECRETS] = _volume(engine, stack, _SECRET_VOLUME)
    loader = ""
    if elsewhere:
        loader = _create(
            engine, sandbox, _LOADER, [_mount(place, volume, read_only=False) for place, volume in elsewhere.items()], loader=True
        )
        stack.callback(engine.remove_container, loader)

    def stream(place: str, items: Sequence[Input]) -> Iterator[bytes]:
        return send(items, below=place, epoch=sandbox.epoch, check=engine.check)

    with engine.translated(f"bringing in the inputs of {sandbox.name}"):
        sent = []
        for place, items in inputs.items():
            folder = volumes[place].folder
            if folder is not None:
                fill(folder, stream(place, items), sandbox)
            else:
                engine.api.put_archive(loader, place, stream(place, items))
                sent.append(place)
        if sent:
            # Docker sets the time of a volume's folder only through its parent.
            engine.api.put_archive(loader, "/", stream("/", [Input(place, {}) for place in sent]))
        if sandbox.secrets:
            engine.api.start(loader)
            engine.api.put_archive(loader, _SECRETS, stream(_SECRETS, [Input(_SECRETS, sandbox.secrets)]))
    return loader


def fill(folder: Path, pieces: Iterator[bytes], sandbox: Sandbox) -> None:
    """Unpack the inputs of a sandbox into the folder of a volume. Raises StoreError for a full disk, SandboxError otherwise."""
    try:
        unpack(pieces, folder, epoch=sandbox.epoch)
    except OSError as error:  # of writing: `pieces` tells its own as StoreError
        if is_full(error):
            raise disk_full(folder, error) from error
        raise SandboxError(f"{sandbox.name}: {error.filename or folder}: {error.strerror}") from error


def _mount(place: str, volume: _Volume, *, read_only: bool) -> Any:
    from docker.types import Mount

    return Mount(place, volume.name, type="volume", read_only=read_only, no_copy=True)


def _create(
    engine: Engine, sandbox: Sandbox, argv: Sequence[str], mounts: list[Any], *, loader: bool = False, terminal: bool = False
) -> str:
    from docker.errors import ImageNotFound
    from docker.types import LogConfig, Ulimit

    memory = sandbox.limits.memory or engine.memory() * 3 // 4
    # Podman's default for processes is more than some machines permit.
    limits = {"nofile": sandbox.limits.open_files, "nproc": sandbox.limits.processes}
    with engine.translated(f"making the container of {sandbox.name}"):
        # The engine unpacks only into a writable root; the loader has its own, which is thrown away.
        host = engine.api.create_host_config(
            network_mode="none",
            read_only=not loader,
            cap_drop=["ALL"],
            cap_add=[] if loader else sorted(sandbox.capabilities),
            security_opt=["no-new-privileges"],
            mounts=mounts,
            tmpfs={} if loader else _memory_folders(memory),
            pids_limit=sandbox.limits.processes,
            mem_limit=memory,
            memswap_limit=memory,
            ulimits=[Ulimit(name=name, soft=most, hard=most) for name, most in limits.items()],
            ipc_mode="private",
            log_config=LogConfig(type="none"),
        )
        try:
            made = engine.api.create_container(
                sandbox.image,
                list(argv),
                hostname="builder",
                user="0:0",
                working_dir="/" if loader else "/work",
                environment={} if loader else {**_ENVIRONMENT, "SOURCE_DATE_EPOCH": str(sandbox.epoch), **sandbox.env},
                labels=engine.labels(),
                host_config=host,
                tty=terminal,
                stdin_open=terminal,
                # Podman stops a running container to remove it, and waits ten seconds if it does not react.
                stop_signal="SIGKILL",
            )
        except ImageNotFound as error:
            raise _gone(engine, sandbox) from error
        return str(made["Id"])


def _memory_folders(memory: int) -> dict[str, str]:
    """Return the folders in memory, which count as memory: large files belong in /work."""
    return {
        "/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={memory // 2}",  # noqa: S108
        "/tmp/home": "rw,exec,nosuid,nodev,mode=0700,size=64m",  # noqa: S108
        "/run": "rw,noexec,nosuid,nodev,mode=0755,size=64m",
    }
