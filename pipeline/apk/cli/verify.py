# SPDX-License-Identifier: Apache-2.0
"""`python -m pipeline.apk verify`: verify signatures and content of packages and indexes, one line a file, on all cores."""

from __future__ import annotations

import gc
import json
import os
import sys

from pipeline.apk.cli.cores import each
from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import KeyRing
from pipeline.base.errors import VerifyError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """The options of the command line: the folder of trusted keys, and files."""

    keys: str
    files: tuple[str, ...]
    as_json: bool = False


def plain_request(arguments: Sequence[str]) -> VerifyRequest | None:
    """Return the request of `--keys DIR FILE...`; None if it needs a real parser."""
    if len(arguments) < 3 or arguments[0] != "--keys" or any(text.startswith("-") for text in arguments[1:]):
        return None
    return VerifyRequest(arguments[1], tuple(arguments[2:]))


def is_index(path: str) -> bool:
    """Tell whether a file counts as an index, by its name."""
    return path.endswith(".tar.gz") or is_third(path)


def is_third(path: str) -> bool:
    """Tell whether a file counts as an index of format 3, by its name."""
    return path.endswith(".adb")


def _check(path: str, ring: KeyRing) -> dict[str, object]:
    """Return the row of one file."""
    row: dict[str, object] = {"file": path, "ok": True, "text": "ok"}
    name = path.rpartition("/")[2]
    try:
        # The reader asks for large pieces, so no buffer is needed.
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 (pathlib is slow to import)
            if is_index(path):
                from pipeline.apk.format.index import read_index

                row["text"] = f"ok, {len(read_index(stream, ring, name=name).entries)} packages"
            else:
                read_package(stream, ring, name=name).verify_data()
    except VerifyError as error:
        row |= {"ok": False, "text": error.message.removeprefix(f"{name}: ")}
    except OSError as error:
        row |= {"ok": False, "text": error.strerror or str(error)}
    return row


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def run(request: VerifyRequest) -> int:
    """Verify, and print a line for each file; return the exit status. Raises FactoryError and OSError for the keys."""
    gc.disable()  # the run is short, and garbage collection would visit its many small objects again and again
    ring = KeyRing.load(request.keys)

    rows = each(request.files, lambda path: _check(path, ring), tuple(map(_size, request.files)))
    failed = False
    shown = []
    for row in rows:
        failed |= not row["ok"]
        if request.as_json:
            shown.append(row)
        else:
            print(f"{row['file']}: {row['text']}")
    if request.as_json:
        json.dump(shown, sys.stdout, indent=1)
        print()
    return VerifyError.exit_status if failed else 0
