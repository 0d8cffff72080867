# SPDX-License-Identifier: Apache-2.0
"""The one family of errors of `tower`: what, on which object, expected and got, and the next command to type.

There is a subclass for each remedy, with its exit status. Errors are raised where they are noticed and shown once, by
`tower.cli.main`; none of them shows a traceback. Status 2 is argparse's: a wrong command line.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Make a text safe for a terminal: keep lines, escape control characters. Hosts, servers and disks may have supplied it."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


class TowerError(Exception):
    """An expected failure, shown to the user as `message` and `hint`."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ValueRefusedError(TowerError):
    """A name, an address or a setting is not valid: give another one."""

    exit_status = 10


class HostError(TowerError):
    """A host is unknown, exists already, or must wait for another one."""

    exit_status = 11


class StateError(TowerError):
    """A file of ~/.local/tower or of ssh's configuration, or the output, cannot be read or written, or is damaged."""

    exit_status = 12


class ImageProblemError(TowerError):
    """There is no image to use, or it differs from what its makers signed."""

    exit_status = 13


class DeviceError(TowerError):
    """There is no device that may be written, or it does not hold what was written."""

    exit_status = 14


class AnswerError(TowerError):
    """A host does not answer, or not as it should."""

    exit_status = 15


class DownError(AnswerError):
    """Nothing answers at the host's address."""


class RefusedError(AnswerError):
    """The host answers, but its ssh server does not."""


class HangsError(AnswerError):
    """The host accepts a connection, or a command, and then is silent for too long."""


class KeyRefusedError(AnswerError):
    """The host does not accept our key."""


class HostKeyError(AnswerError):
    """A machine with another key answers at the host's address."""


class LostError(AnswerError):
    """The connection broke while it was in use."""


class GarbageError(AnswerError):
    """The answer is not that of a host's ssh server."""


class PortTakenError(AnswerError):
    """A port that a tunnel needs is in use."""


class RemoteError(TowerError):
    """A command failed on a host."""

    exit_status = 17


class ToolError(TowerError):
    """A program of this machine is missing or failed."""

    exit_status = 16


class PackageError(TowerError):
    """Packages or their index are missing, do not match their signatures, or cannot be installed."""

    exit_status = 18


class StoppedError(TowerError):
    """A signal stopped us; the exit status is that of a program ended by it."""

    def __init__(self, signal_number: int, *, hint: str = "") -> None:
        super().__init__("stopped", hint=hint)
        self.exit_status = 128 + signal_number
