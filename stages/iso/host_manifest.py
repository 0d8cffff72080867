# SPDX-License-Identifier: Apache-2.0
"""The manifest of a host image that lies on the medium: what `tower provision` asks for beside it.

    python3 host_manifest.py IMAGE TARGET SUMS

The checksums of all three files are added to the file SUMS, so that nobody has to read them again.

The finished image's own manifest names the keys of all stages; with it, an edit in any of them would make the medium
anew. This one names what the image is: version, channel, and the checksums of the files there.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

OPTIONS = Path("/stage-options/options.json")


def manifest(image: Path, target: str, options: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an image that has its block map beside it."""
    files = {}
    for path in (image, image.with_name(f"{image.name}.bmap")):
        with path.open("rb") as stream:
            files[path.name] = {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": path.stat().st_size}
    channel = {"name": options["channel"], "branch": options["branch"], "epoch": options["epoch"]}
    return {
        "schema": 2,
        "image": image.name,
        "recipe": "host",
        "target": target,
        "version": options["version"],
        "channel": {**channel, "releasable": options["releasable"] != "no"},
        "files": files,
    }


def main(image: Path, target: str, sums: Path) -> None:
    """Write the manifest beside the image, and add the three checksums to `sums`, in sha256sum's form."""
    rows = manifest(image, target, json.loads(OPTIONS.read_bytes()))
    text = json.dumps(rows, indent=1, sort_keys=True) + "\n"
    beside = image.with_name(f"{image.name}.manifest.json")
    beside.write_text(text)
    digests = {name: row["sha256"] for name, row in rows["files"].items()}
    digests[beside.name] = hashlib.sha256(text.encode()).hexdigest()
    with sums.open("a") as stream:
        stream.writelines(f"{digest}  {name}\n" for name, digest in digests.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
