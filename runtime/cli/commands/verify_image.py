# SPDX-License-Identifier: Apache-2.0
"""`tower verify-image FILE`: check an image against the signature, SHA256SUMS and block map beside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from tower.base import streams
from tower.base.errors import TowerError, printable
from tower.image.minisign import PublicKey, SignatureError
from tower.image.verify import KEY_FOLDERS, key_of, trusted_keys, verify_image

EXAMPLES: Final = """\
examples:
  tower verify-image toweros-thinclient-1.0.0-alpine-v3.24-x86_64.iso
  tower verify-image *.img.xz --key release.pub
  tower verify-image *.img.xz --json | jq .all_good

It looks at the signature, SHA256SUMS and block map beside each image. The exit status is 0 if all are good.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("image", type=Path, metavar="FILE", nargs="+", help="image of a thin client or host")
    folders = " and ".join(str(folder) for folder in KEY_FOLDERS)
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"public key (minisign) to trust, a file or the key itself; without it, all *.pub in {folders}",
    )

    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Check all images, one line each; return the exit status of the last error."""
    status = 0
    rows: list[dict[str, object]] = []
    keys: tuple[PublicKey, ...] = ()
    for image in args.image:
        try:
            keys = keys or _keys(args.key)
            found = verify_image(image, keys)
        except TowerError as error:
            streams.note(f"error: {printable(str(error))}\n")
            status = error.exit_status
            rows.append({"image": str(image), "good": False, "error": error.message})
        else:
            rows.append({"image": str(image), "good": True, "checks": found.checks, "signer": found.signer.name, **found.release})
            if args.json:
                continue
            release = " ".join(f"{name} {value}" for name, value in found.release.items())
            said = f"{image}: good: {', '.join(found.checks)}; {release}; signed by {found.signer.name}"
            streams.show(f"{printable(said)}\n")
    if args.json:
        streams.show_json({"images": rows, "all_good": status == 0})
    return status


def _keys(given: list[str]) -> tuple[PublicKey, ...]:
    keys = tuple(key_of(text) for text in given) or trusted_keys()
    if not keys:
        folders = " or ".join(str(folder) for folder in KEY_FOLDERS)
        raise SignatureError("there is no public key to trust", hint=f"give one with --key, or put *.pub into {folders}")
    return keys
