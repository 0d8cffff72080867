# SPDX-License-Identifier: Apache-2.0
"""The stages that make packages, wheels, manual and repositories, each on a few files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.bench import Bench
from tests.stages.listing import listing
from tests.stages.trees import DEVICE_WHEEL, tiny_overlays, tiny_runtime, wheel_of, write_tree

_TOWER = """\
from pathlib import Path
from odd_name import SAID_BY

def make_parser(wanted):
    assert wanted is None

def main(words):
    if words[:2] == ("mdhelp", "--man"):
        (Path(words[2]) / "tower-odd name.1").write_text(".TH tower 1\\n")
    else:
        print(" ".join([SAID_BY, *words]))
    return 0
"""


def test_wheel(bench: Bench, tmp_path: Path) -> None:
    bench.run("wheel", tmp_path / "out", sources=tiny_runtime(tmp_path))
    bench.compare("wheel", tmp_path / "out")


def test_wheels(bench: Bench, tmp_path: Path) -> None:
    device = write_tree(tmp_path / "device", {DEVICE_WHEEL: "wheel of another\n", "not a wheel.txt": "left alone\n"})
    own = write_tree(tmp_path / "own", {"tower-1.2.3-py3-none-any.whl": "wheel of ours\n"})
    bench.run("wheels", tmp_path / "out", inputs={"device": device, "tower": own})
    assert "odd-name==1.0" in (tmp_path / "out/requirements.txt").read_text()
    bench.compare("wheels", _unzipped(tmp_path))


def _unzipped(tmp_path: Path) -> Path:
    """The output, whose wheels hold words instead of archives."""
    for wheel in (tmp_path / "out").glob("*.whl"):
        wheel.rename(wheel.with_suffix(".whl.text"))
    return tmp_path / "out"


def test_manual(bench: Bench, tmp_path: Path) -> None:
    device = tmp_path / "device"
    wheel_of(device / DEVICE_WHEEL, {"odd_name.py": "SAID_BY = 'said by tower'\n"})
    runtime = write_tree(tmp_path / "runtime", {"__init__.py": "", "cli/__init__.py": "", "cli/main.py": _TOWER})
    bench.run("manual", tmp_path / "out", sources={"runtime": runtime}, inputs={"device": device})
    bench.compare("manual", tmp_path / "out")


def test_docs(bench: Bench, tmp_path: Path) -> None:
    docs = write_tree(tmp_path / "docs", {"index.md": "# Manual\n", "an odd näme.md": "odd\n", "pictures/one.svg": "<svg/>\n"})
    manual = write_tree(tmp_path / "manual", {"commands.md": "# Commands\n"})
    bench.run("docs", tmp_path / "out", sources={"docs": docs}, inputs={"manual": manual})
    bench.compare("docs", tmp_path / "out")


def test_package_host(bench: Bench, tmp_path: Path) -> None:
    bench.run("package-host", tmp_path / "out", sources=tiny_overlays(tmp_path, "host"), options={"depends": ("tiny", "other>1")})
    bench.compare("package-host", tmp_path / "out")


def test_package_thinclient(bench: Bench, tmp_path: Path) -> None:
    manual = write_tree(tmp_path / "manual", {"tree/usr/share/man/man1/tower.1": ".TH tower 1\n"})
    bench.run("package-thinclient", tmp_path / "out", sources=tiny_overlays(tmp_path, "thinclient"), inputs={"manual": manual})
    bench.compare("package-thinclient", tmp_path / "out")


def test_repository(bench: Bench, keys: Path, tmp_path: Path) -> None:
    bench.run("package-host", tmp_path / "packages", sources=tiny_overlays(tmp_path, "host"))
    options = {"architectures": ("aarch64", "x86_64")}
    bench.run("repository", tmp_path / "out", inputs={"packages": tmp_path / "packages", "keys": keys}, options=options)
    bench.compare("repository", tmp_path / "out")


def test_apkovl(bench: Bench, tmp_path: Path) -> None:
    image = write_tree(tmp_path / "image", {"image.img.zst": "image\n", "image.bmap": "map\n"})
    bench.run(
        "apkovl",
        tmp_path / "out",
        inputs={"host-rpi": image},
        options={
            "world": ("zzz", "alpine-base", "zzz", "odd+name.x>1"),
            "installed": ("lvm2", "zzz"),
            "repositories": ("https://a.test/v3.99/main", "https://a.test/v3.99/community"),
        },
    )
    bench.compare("apkovl", tmp_path / "out")


def test_apkovl_without_images(bench: Bench, tmp_path: Path) -> None:
    bench.run("apkovl", tmp_path / "out", options={"world": ("alpine-base",), "installed": ("lvm2",), "repositories": ()})
    bench.compare("apkovl.no-images", tmp_path / "out")


@pytest.mark.parametrize("name", ["image.img", "a tree"])
def test_a_listing_tells_trees_apart(tmp_path: Path, name: str) -> None:
    """The listing is no rubber stamp: names, modes, link targets and contents are all in it."""
    write_tree(tmp_path / "one", {name: "one\n", "b": "x\n"})
    (tmp_path / "one/link").symlink_to("b")
    before = listing(tmp_path / "one")
    for change in ("content", "mode", "link", "gone"):
        file, link = tmp_path / "one" / name, tmp_path / "one/link"
        if change == "content":
            file.write_text("two\n")
        elif change == "mode":
            file.chmod(0o600)
        elif change == "link":
            link.unlink()
            link.symlink_to("c")
        else:
            file.unlink()
        after = listing(tmp_path / "one")
        assert after != before, change
        before = after
