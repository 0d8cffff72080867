# SPDX-License-Identifier: Apache-2.0
"""Every failure of an engine becomes one error that says what to do."""

from __future__ import annotations

import socket

import docker.errors
import pytest
import requests
import urllib3

from pipeline.base.errors import SandboxError, StoreError
from pipeline.sandbox.engine_errors import translated


def wrapped(cause: BaseException) -> docker.errors.DockerException:
    """As the docker package wraps what the system said."""
    error = docker.errors.DockerException(f"Error while fetching server API version: {cause}")
    error.__cause__ = requests.exceptions.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.", cause))
    return error


@pytest.mark.parametrize(
    ("cause", "message", "hint"),
    [
        (FileNotFoundError(2, "No such file or directory"), "no container engine at there", "DOCKER_HOST"),
        (PermissionError(13, "Permission denied"), "does not let this user in", "group"),
        (ConnectionRefusedError(111, "Connection refused"), "is not running", "start the engine"),
        (socket.gaierror(-2, "Name or service not known"), "cannot be reached", "DOCKER_HOST"),
        (TimeoutError("timed out"), "cannot be reached", "DOCKER_HOST"),
        (ConnectionResetError(104, "Connection reset by peer"), "went away while running", "run the same command again"),
        (BrokenPipeError(32, "Broken pipe"), "went away while running", "run the same command again"),
    ],
)
def test_unreachable(cause: BaseException, message: str, hint: str) -> None:
    with pytest.raises(SandboxError) as caught, translated("there", "running"):
        raise wrapped(cause)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("write /var/lib/x: no space left on device", "docker system df"),
        ("exec /stage/run: exec format error", "qemu-user-static"),
        ("something else", ""),
    ],
)
def test_refused(text: str, hint: str) -> None:
    with pytest.raises(SandboxError, match=f"refused running: {text}") as caught, translated("there", "running"):
        raise docker.errors.APIError("500 Server Error", explanation=text)
    assert hint in caught.value.hint


def test_errors_of_ours_pass() -> None:
    with pytest.raises(StoreError), translated("there", "running"):
        raise StoreError("damaged")
