# SPDX-License-Identifier: Apache-2.0
"""Run a stage in a container that has nothing but what the stage declared.

No network, no privileges, a read-only root, no folder of this machine: inputs go in and outputs come out through the
engine's API (`transfer`, `receive`), so the engine may be anywhere; volumes are filled and read directly if they are on this
machine. A stage may write to /out and /work (volumes), /tmp and /run (memory); only /out outlives it.
`pipeline.sandbox.container` has the details.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.base.errors import StageError
from pipeline.sandbox.container import Container, opened
from pipeline.sandbox.engine import Engine
from pipeline.sandbox.engine_errors import refused
from pipeline.sandbox.log import LogReader
from pipeline.sandbox.made import NAME, wrapped
from pipeline.sandbox.receive import can_collect, collect, receive
from pipeline.sandbox.spec import Sandbox
from pipeline.store.artifact import FileRecord

_TAIL_LINES = 30
_POLL_SECONDS = 0.2
_STATE_TRIES = 50
_KILL_SECONDS = 20
_CHUNK = 1 << 20


def run_stage(
    engine: Engine, sandbox: Sandbox, *, outputs: Path, declared: Sequence[str] | None, log: BinaryIO, hint: str = ""
) -> dict[str, FileRecord]:
    """Run a stage, and fetch its outputs in /out into the empty folder `outputs`; return the record of each file.

    `declared`: the paths and globs that must and may be in /out (see `receive`); None accepts everything.
    `log` takes the stage's output.
    `hint` goes with StageError: the log's path and the replay command. Raises StageError if the stage fails, exceeds
    its time or makes undeclared outputs; SandboxError for trouble with the engine; DamagedError for a
    damaged artifact.
    """
    with opened(engine, replace(sandbox, argv=wrapped(sandbox.argv))) as container:
        _follow(engine, sandbox, container, log, hint)
        try:
            here = outputs_here(container)
            most = sandbox.limits.output_bytes
            if here is not None and can_collect(here):
                return collect(here, outputs, declared=declared, max_bytes=most, check=engine.check)
            # Close it at once in any case: the engine does not remove a container that it is still reading.
            with closing(fetch_outputs(engine, container)) as pieces:
                return receive(pieces, outputs, declared=declared, max_bytes=most, check=engine.check, listed=True)
        except StageError as error:
            raise StageError(f"{sandbox.name}: {error.message}", hint=error.hint or hint) from error


def _follow(engine: Engine, sandbox: Sandbox, container: Container, log: BinaryIO, hint: str) -> None:
    """Start the container and wait for its end. Raises StageError unless it succeeds."""
    deadline = time.monotonic() + sandbox.timeout
    with LogReader(container, log, sandbox.limits.log_bytes) as reader, _told_of_cuts(engine, sandbox, reader):
        container.start()
        state = container_state(engine, container)
        # The log ends with the container, or earlier, if the stage closes its outputs.
        while not reader.ended(_POLL_SECONDS) or (state := container_state(engine, container))["Running"]:
            engine.check()
            if time.monotonic() > deadline:
                engine.remove_container(container.id)
                reader.ended(_KILL_SECONDS)
                failure = f"not finished after {sandbox.timeout:.0f} s"
                break
            if reader.ended(0):
                time.sleep(_POLL_SECONDS / 10)
        else:
            failure = _failure(state)
        if failure:
            raise StageError("\n  ".join([f"{sandbox.name}: {failure}", *reader.tail(_TAIL_LINES)]), hint=hint)


@contextmanager
def _told_of_cuts(engine: Engine, sandbox: Sandbox, reader: LogReader) -> Iterator[None]:
    """Report at the end, after success or failure, that the log is not complete."""
    try:
        yield
    finally:
        if reader.left_out:
            engine.say(f"{sandbox.name}: wrote too much: its log leaves out {reader.left_out} bytes before the last lines")


def container_state(engine: Engine, container: Container) -> dict[str, Any]:
    """Return the engine's state of the container's run: `Running`, `ExitCode`, `OOMKilled`."""
    import docker

    tries = 0
    while True:
        with engine.translated(f"running {container.name}"):
            try:
                state = engine.api.inspect_container(container.id)["State"]
                ended = {"Running": bool(state["Running"]), "ExitCode": int(state["ExitCode"])}
                return {**ended, "OOMKilled": bool(state.get("OOMKilled"))}
            except docker.errors.APIError as error:
                tries += 1
                # Podman reads files of the container's process, which may end meanwhile.
                if tries == _STATE_TRIES or "no such process" not in str(error.explanation):
                    raise
        time.sleep(_POLL_SECONDS)


def _failure(state: Mapping[str, Any]) -> str:
    """Return why a stopped container failed, by its state; "" if it did not."""
    status = int(state["ExitCode"])
    if state.get("OOMKilled"):
        return "killed, because it exceeded its memory limit"
    if status > 128:
        return f"exit status {status} (signal {status - 128})"
    return f"exit status {status}" if status else ""


def outputs_here(container: Container) -> Path | None:
    """Return the folder of /out, if it is on this machine and holds what the stage made. An engine packs files at 40 MB/s."""
    try:
        return container.outputs if container.outputs is not None and (container.outputs / NAME).is_file() else None
    except OSError:
        return None


def fetch_outputs(engine: Engine, container: Container) -> Generator[bytes, None, None]:
    """Yield the tar stream of /out; close it if it is not read to its end."""
    api, act = engine.api, f"fetching the outputs of {container.name}"
    with engine.translated(act):
        # Not `api.get_archive`: it cannot end the transfer.
        url = f"{api.base_url}/v{api.api_version}/containers/{container.id}/archive"
        with api.get(url, params={"path": "/out"}, stream=True, timeout=api.timeout) as answer:
            if not answer.ok:
                raise refused(engine.address, act, answer.text)
            yield from answer.iter_content(_CHUNK)
