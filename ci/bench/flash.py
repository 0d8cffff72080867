# SPDX-License-Identifier: Apache-2.0
"""How fast `tower` flashes an image that is mostly empty, with everything read back, beside what people use instead.

    python ci/bench/flash.py [--folder DIR] [--device /dev/loopN] [--mib 1024] [--empty 60] [--rounds 3]

One run makes an image and writes it by turns with `dd` and `cmp` (what was written read from the medium, not from the
cache), with Debian's `bmaptool` (if it is installed; it reads nothing back), and with tower. The medians, and how tower
does against each, are printed as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_MIB = 1 << 20
_TOWER = """
import sys
from pathlib import Path
from tower.image import blockmap
from tower.disk import flash, medium
image, target = Path(sys.argv[1]), Path(sys.argv[2])
found = blockmap.parse(Path(f"{image}.bmap").read_bytes(), "map")
with medium.opened(target, size=found.size) as disk:
    flash.flash(image, found, disk)
"""


def make_image(path: Path, mib: int, empty: int, checkout: Path) -> None:
    """Make an image whose content is in runs of 1 to 64 MiB, half of it as compressible as programs are."""
    chance = random.Random(1)  # noqa: S311  (an image that is the same every time)
    block = chance.randbytes(_MIB // 2) + (b"tower" * (_MIB // 10 + 1))[: _MIB // 2]
    with path.open("wb") as out:
        out.truncate(mib * _MIB)
        place, full = 0, mib * (100 - empty) // 100
        gap = (mib - full) // max(1, full // 32)
        while full > 0:
            length = min(full, chance.randint(1, 64), mib - place)
            out.seek(place * _MIB)
            for number in range(length):
                out.write(number.to_bytes(8, "big") + block[8:])
            full -= length
            place = min(place + length + gap, mib - full)
    script = checkout / "pipeline" / "images" / "blockmap.py"
    subprocess.run([sys.executable, script, path, f"{path}.bmap"], check=True, capture_output=True)


def forget(path: Path) -> None:
    """Drop a file or device from the page cache."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def with_dd(image: Path, target: Path) -> None:
    """Write the whole image, then compare all of it."""
    unpack = ("zstd", "-q", "-d", "-c", image) if image.suffix == ".zst" else ("cat", image)
    _pipe(unpack, ("dd", f"of={target}", "bs=4M", "iflag=fullblock", "conv=fsync,notrunc", "status=none"))
    forget(target)
    _pipe(unpack, ("cmp", "-n", str(_size(image)), "-", target))


def _pipe(left: tuple[str | Path, ...], right: tuple[str | Path, ...]) -> None:
    with subprocess.Popen(left, stdout=subprocess.PIPE) as source:
        subprocess.run(right, stdin=source.stdout, check=True)


def _size(image: Path) -> int:
    raw = image.with_suffix("") if image.suffix == ".zst" else image
    return raw.stat().st_size


def with_bmaptool(image: Path, target: Path) -> None:
    """Write the blocks in the map."""
    subprocess.run(["bmaptool", "-q", "copy", "--bmap", f"{image}.bmap", image, target], check=True)


def with_tower(image: Path, target: Path) -> None:
    """Write the blocks in the map, and read them back."""
    subprocess.run([sys.executable, "-P", "-c", _TOWER, image, target], check=True)


def measure(way: Callable[[Path, Path], None], image: Path, target: Path, device: Path | None, size: int) -> float:
    """Return the seconds that one way takes to write the image to a medium that was used before."""
    if device is None:
        # Written, and not only given room: the first write of a block would else be one of its file system's journal, too.
        target.unlink(missing_ok=True)
        with target.open("wb") as out:
            for _ in range(0, size, _MIB):
                out.write(b"\xaa" * _MIB)
    forget(device or target)
    start = time.monotonic()
    way(image, device or target)
    return time.monotonic() - start


def main() -> int:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where image and target lie (default: the folder of temporary files)")
    parser.add_argument("--device", type=Path, help="write this device instead of a file; all on it is lost")
    parser.add_argument("--mib", type=int, default=1024, help="size of the image")
    parser.add_argument("--empty", type=int, default=60, help="per cent of it that is empty")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packed", action="store_true", help="flash the image packed with zstd")
    args = parser.parse_args()
    ways: dict[str, Callable[[Path, Path], None]] = {"dd and cmp": with_dd, "tower": with_tower}
    if shutil.which("bmaptool"):
        ways["bmaptool"] = with_bmaptool
    with tempfile.TemporaryDirectory(prefix="tower-bench-", dir=args.folder) as folder:
        image, target = Path(folder) / "disk.img", Path(folder) / "target"
        make_image(image, args.mib, args.empty, Path(__file__).resolve().parents[2])
        if args.packed:
            subprocess.run(["zstd", "-q", "-3", image], check=True)
            shutil.copy(f"{image}.bmap", f"{image}.zst.bmap")
            image = image.with_name(f"{image.name}.zst")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                seconds[name].append(measure(way, image, target, args.device, args.mib * _MIB))
    medians = {name: round(statistics.median(rows), 2) for name, rows in seconds.items()}
    against = {f"times as fast as {name}": round(medians[name] / medians["tower"], 2) for name in ways if name != "tower"}
    json.dump({"mib": args.mib, "empty": args.empty, "packed": args.packed, "seconds": medians, **against}, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
