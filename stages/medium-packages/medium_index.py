# SPDX-License-Identifier: Apache-2.0
"""Write and read the index of the medium's packages.

    python3 medium_index.py write [OPTIONS OF apk index] PACKAGE...
    python3 medium_index.py text INDEX OUT...

`write` takes the options that mkimage.sh gives to `apk index`, and signs with the key in PACKAGER_PRIVKEY. The file keeps
the name that the live system's initramfs asks for, APKINDEX.tar.gz, also for an index of format 3: apk looks at the content.
`text` writes an index of either format in the lines of a root's database, checksums included; it takes several pairs.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, "/src")

from pipeline.apk.adb.writer import write_index
from pipeline.apk.format.index import dump_index_text, entry_of, read_index
from pipeline.apk.format.opened import installed_form
from pipeline.apk.format.signature import Signer
from pipeline.base.errors import FactoryError


def write(words: list[str]) -> None:
    """Write a signed index of format 3 that lists packages of both formats."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys-dir")
    parser.add_argument("--index")
    parser.add_argument("--description", default="")
    parser.add_argument("--rewrite-arch", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("packages", type=Path, nargs="+")
    options = parser.parse_args(words)
    signer = Signer(Path(os.environ["PACKAGER_PRIVKEY"]), Path(os.environ["PACKAGER_PUBKEY"]).name)
    entries = [entry_of(path, arch=options.rewrite_arch) for path in options.packages]
    with options.output.open("wb") as out:
        write_index(out, options.description, entries, signer)


def main() -> None:
    """Do what the first word says."""
    what, *words = sys.argv[1:]
    if what == "write":
        write(words)
        return
    for index, out in zip(words[::2], words[1::2], strict=True):
        with Path(index).open("rb") as stream:
            entries = read_index(stream, None).entries
        text = dump_index_text(replace(entry, checksum=installed_form(entry.checksum)) for entry in entries)
        Path(out).write_text(text)


try:
    main()
except FactoryError as error:
    sys.exit(f"error: {error}")
