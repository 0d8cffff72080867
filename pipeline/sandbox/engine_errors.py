# SPDX-License-Identifier: Apache-2.0
"""The failures of a container engine, in the user's words.

The docker package wraps errors of the system several layers deep; the cause decides about the hint.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.base.errors import SandboxError

_INSTALL = "install Docker (apt install docker.io) or name another engine in DOCKER_HOST; ./ci/doit does the first"
_START = "start the engine (systemctl start docker), or let ./ci/doit do it"
_GROUP = "add yourself to the group that owns the socket (usually docker) and log in again, or run as root"
_REACH = "is DOCKER_HOST right, and does the engine listen there?"
_AGAIN = "start it and run the same command again: finished stages are kept, leftovers are removed"
_ROOM = "free some space there: docker system df shows what uses it, docker system prune removes what nobody uses"
_ARCHITECTURE = "the engine cannot run programs of that architecture: install qemu-user-static and binfmt-support there"


@contextmanager
def translated(address: str, act: str) -> Iterator[None]:
    """Raise SandboxError in place of the errors of the docker package, of requests and of sockets."""
    import docker
    import requests
    import urllib3

    try:
        yield
    except docker.errors.APIError as error:
        raise refused(address, act, error.explanation or str(error)) from error
    except docker.errors.TLSParameterError as error:
        raise SandboxError(f"{address}: {error}", hint="see DOCKER_TLS_VERIFY and DOCKER_CERT_PATH") from error
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreachable(address, act, error) from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        # Answers are not validated one by one; one that is not JSON, or not the expected one, fails when it is used.
        raise SandboxError(
            f"the container engine at {address} sent an invalid answer ({act}): {type(error).__name__}: {error}", hint=_REACH
        ) from error


def refused(address: str, act: str, text: str) -> SandboxError:
    """Return the error if the engine answered with one."""
    known = {"no space left": _ROOM, "exec format error": _ARCHITECTURE, "permission denied": _GROUP}
    hint = next((hint for words, hint in known.items() if words in text.lower()), "")
    return SandboxError(f"the container engine at {address} refused {act}: {text.strip()}", hint=hint)


def _unreachable(address: str, act: str, error: BaseException) -> SandboxError:
    """Return the error if the engine did not answer, or stopped in the middle."""
    causes = list(_causes(error))
    text = " ".join(str(cause) for cause in causes)
    if any(isinstance(cause, FileNotFoundError) for cause in causes):
        return SandboxError(f"no container engine at {address}", hint=_INSTALL)
    if any(isinstance(cause, PermissionError) for cause in causes):
        return SandboxError(f"the container engine at {address} does not let this user in", hint=_GROUP)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return SandboxError(f"the container engine at {address} is not running", hint=_START)
    if any(isinstance(cause, (socket.gaierror, TimeoutError)) for cause in causes) or "timed out" in text:
        return SandboxError(f"the container engine at {address} cannot be reached ({act}): {_last(causes)}", hint=_REACH)
    if isinstance(causes[0], ConnectionError) or act != "connecting":
        return SandboxError(f"the container engine at {address} went away while {act}: {_last(causes)}", hint=_AGAIN)
    return SandboxError(f"the container engine at {address} cannot be used: {_last(causes)}", hint=_REACH)


def _last(causes: list[BaseException]) -> str:
    return str(causes[-1]) or type(causes[-1]).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, and all that are wrapped in it as cause, context or argument."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [arg for arg in one.args if isinstance(arg, BaseException)]
        reason = getattr(one, "reason", None)
        todo += [reason if isinstance(reason, BaseException) else None, one.__cause__, one.__context__]
