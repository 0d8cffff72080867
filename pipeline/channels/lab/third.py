# SPDX-License-Identifier: Apache-2.0
"""The lab's repositories in apk's third format, converted from the same packages as those of the second."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.apk.adb.writer import convert_package, write_index
from pipeline.apk.format.index import IndexEntry, entry_of
from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import Signer
from pipeline.base.recorded import Recorded
from pipeline.channels.lab.conversions import check_needs
from pipeline.channels.lab.package_tree import LEVEL


def write_third_repository(
    packages: Mapping[str, Recorded], folder: Path, arch: str, *, signer: Signer, epoch: int, title: str
) -> None:
    """Do what `write_repository` does in format 3: each package is converted, and the index is `Packages.adb`.

    The latest build among the packages stands for the time of the index; `epoch` is not written.
    """
    del epoch
    folder.mkdir(parents=True)

    def one(name: str) -> IndexEntry:
        target = folder / name
        with packages[name].opened() as source, target.open("wb") as out, tempfile.TemporaryFile(dir=folder) as scratch:
            package = read_package(source, None, name=name)
            convert_package(package, out, signer, scratch, level=LEVEL)
        return entry_of(target, arch=arch)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        entries = list(pool.map(one, packages))
    check_needs(entries)
    with (folder / "Packages.adb").open("wb") as out:
        write_index(out, title, entries, signer)
