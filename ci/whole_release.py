# SPDX-License-Identifier: Apache-2.0
"""All images of a channel that releases are made from, from its lock to the audit of it; by hand, it takes too long for CI.

    python ci/whole_release.py [--folder FOLDER]

The channel is `alpine-v3.23` over HTTP, as in tests/boot/test_real_channel.py: Alpine's names, test keys, the lab's packages.
`lock` and `fetch` with the mirror, and without it all images, their boots, `release`, `verify:release`, and `audit:lock`, which
makes everything again. FOLDER (default: one that is removed) needs 10 GB. Prints one JSON object: the seconds of each step,
and the files of the release with their sizes in bytes.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.supply.minisign import SecretKey
from tests.boot.test_real_channel import CHANNEL, Released, Served, remove_images_of, serve_mirror

CHECKOUT: Final = Path(__file__).resolve().parents[1]
BOOTS: Final = ("thinclient-bios", "thinclient-uefi", "host-pc", "host-rpi")
LITTLE: Final = 1 << 24
"""Memory of scrypt: the least that minisign takes."""
HOURS: Final = 2 * 3600


class Whole(Released):
    """The channel with all recipes. `seconds` are what its steps took, by name."""

    def __init__(self, folder: Path, checkout: Path, mirror: Served) -> None:
        self.seconds: dict[str, float] = {}
        super().__init__(folder, checkout, mirror)

    def _recipes(self) -> None:
        """Leave the recipes as they are."""

    def step(self, *words: str, said: str = "") -> str:
        """Run a task of the channel; return what it says. Ends the program if it fails."""
        began = time.monotonic()
        done = self.ended(*words, said=said, timeout=HOURS)
        name = words[0] if words else "images"
        self.seconds[name] = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{name}: {self.seconds[name]} s\n")
        if done.returncode:
            sys.exit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stdout


def go(place: Path) -> dict[str, object]:
    """Go the whole way below `place`; return the seconds and the files. Ends the program at the first step that fails."""
    mirror = serve_mirror(place, CHECKOUT)
    made = Whole(place, CHECKOUT, mirror)
    try:
        made.step("lock")
        made.commit("the lock")
        made.step("fetch")
        mirror.stop()
        made.step()
        for boot in BOOTS:
            made.step(f"boot:{boot}")
        words = secrets.token_hex()
        secret, key, public = SecretKey.generate(), place / "tower.key", place / "tower.pub"
        key.write_bytes(secret.dump(words, memory=LITTLE))
        key.chmod(0o600)
        public.write_bytes(secret.public_key.dump())
        version = tomllib.loads((made.folder / "pyproject.toml").read_text())["project"]["version"]
        made.step("release", f"version={version}", f"key={key}", "passphrase=0", said=f"{words}\n")
        (release,) = (path for path in (made.folder / "dist").iterdir() if path.is_dir())
        said = made.step("verify:release", f"dir={release}", f"key={public}")
        if f"release {version} of channel {CHANNEL}: good" not in said:
            sys.exit(f"verify:release says: {said}")
        audited = made.step("audit:lock")
        if "not covered" in audited or "replay without a network" not in audited:
            sys.exit(f"audit:lock says: {audited}")
        sizes = {path.name: path.stat().st_size for path in sorted(release.iterdir())}
        return {"seconds": made.seconds, "files": sizes, "audit": audited.splitlines()}
    finally:
        mirror.stop()
        for folder in (made.folder, made.folder / "build" / "audit" / "checkout"):
            remove_images_of(folder)


def main() -> int:
    """Go the whole way, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.folder is not None:
        args.folder.mkdir(parents=True)
        found = go(args.folder.resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = go(Path(folder))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
