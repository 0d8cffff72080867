# SPDX-License-Identifier: Apache-2.0
"""The one family of errors of `tower`: what, on which object, expected and got, and the next command to type.

A subclass per remedy, each with its exit status. They are raised low and shown once, by `tower.cli`; none of them
shows a traceback. 2 is argparse's: a wrong command line.
"""

from __future__ import annotations


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
    """A name, an address or a setting is not what it must be: give another one."""

    exit_status = 10


class HostError(TowerError):
    """A host is not known, exists already, or must wait for another one."""

    exit_status = 11


class StateError(TowerError):
    """A file of ~/.local/tower, or of ssh's configuration, cannot be read or written, or is damaged."""

    exit_status = 12


class ImageProblemError(TowerError):
    """There is no image to take, or it is not what its makers say."""

    exit_status = 13


class DeviceError(TowerError):
    """There is no device that may be written, or it does not hold what was written."""

    exit_status = 14


class AnswerError(TowerError):
    """A host does not answer, or not as it should."""

    exit_status = 15


class ToolError(TowerError):
    """A program of this machine is missing or failed."""

    exit_status = 16


class StoppedError(TowerError):
    """A signal told us to stop; the exit status is that of a program ended by it."""

    def __init__(self, signal_number: int, *, hint: str = "") -> None:
        super().__init__("stopped", hint=hint)
        self.exit_status = 128 + signal_number
