# SPDX-License-Identifier: Apache-2.0
"""The one family of errors: what, on which object, expected and got, and the next command to type.

There is a subclass for each remedy, with its exit status. Errors are raised where they are noticed and shown once, at
the top; none of them ever shows a traceback.
"""

from __future__ import annotations


class FactoryError(Exception):
    """An expected failure, shown to the user as `message` and `hint`, without a traceback."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigError(FactoryError):
    """A file of the checkout (channel, recipe, stage.toml, setting) is wrong: edit it."""

    exit_status = 10


class LockError(FactoryError):
    """The lock is missing or does not fit the worlds: lock again."""

    exit_status = 11


class FetchError(FactoryError):
    """Something could not be downloaded: check the network or the mirror."""

    exit_status = 12


class VerifyError(FactoryError):
    """Bytes do not match a key or checksum: do not use them."""

    exit_status = 13


class FormatError(VerifyError):
    """A package, an index or an archive breaks its format, or tries something hostile."""


class SandboxError(FactoryError):
    """The container engine is missing, unreachable, or went away."""

    exit_status = 14


class StageError(FactoryError):
    """The script of a stage failed: read its log."""

    exit_status = 15


class StoreError(FactoryError):
    """The store cannot be read or written (disk full, permissions)."""

    exit_status = 16


class BootError(FactoryError):
    """An image did not reach the expected state."""

    exit_status = 17


class ReleaseError(FactoryError):
    """Something may not be released."""

    exit_status = 18


class ToolError(FactoryError):
    """A program of this machine is missing or failed."""

    exit_status = 19
