# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.base.errors import StageError
from pipeline.base.paths import Paths
from pipeline.build.factory import Factory
from pipeline.cli import inputs
from pipeline.release import reproducible
from tests.unit.small import Driver, make_checkout, make_factory, put, write
from tests.unit.test_publish import OUTPUTS


def built(root: Path, monkeypatch: pytest.MonkeyPatch, packed: str = "packed") -> Factory:
    """A checkout in which all is built and published; `compare` gets the same driver."""
    monkeypatch.setattr("pipeline.channels.drivers.open_driver", lambda channel, worlds, paths: Driver())
    paths = make_checkout(root) if not root.exists() else Paths(root)
    factory = make_factory(paths, Driver())
    for target, arch in (("rpi", "aarch64"), ("pc", "x86_64")):
        factory.need_by_name(f"channel:repository:{arch}")
        factory.need_by_name("channel:keys")
        put(factory, f"stage:root:{target}", {"root.tar": target})
        put(factory, f"stage:pack:{target}", OUTPUTS | {"image.img.zst": packed})
    for image in factory.plan.images:
        inputs.publish_image(factory, image)
    return factory


def test_equal_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(tmp_path / "a", monkeypatch)
    built(tmp_path / "b", monkeypatch)
    report = reproducible.compare(first.plan, tmp_path / "a", tmp_path / "b", scratch=tmp_path)
    assert (report.compared, report.differing) == (7 + 8, 0)
    assert all(": identical (" in line for line in report.lines)


def test_builds_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(tmp_path / "a", monkeypatch)
    built(tmp_path / "b", monkeypatch, "pocked")
    report = reproducible.compare(first.plan, tmp_path / "a", tmp_path / "b", scratch=tmp_path)
    place = report.lines.index("stage:pack:pc: differs")
    assert report.lines[place + 1] == "  image.img.zst: 6 bytes, the first difference is at 1"
    assert "stage:root:pc: identical" in "\n".join(report.lines)
    # the image, its manifest and its checksums; not the block map
    assert report.differing == 2 * (1 + 3)


def test_a_build_that_lacks_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(tmp_path / "a", monkeypatch)
    second = built(tmp_path / "b", monkeypatch)
    second.discard(second.plan.nodes["stage:pack:pc"])
    (tmp_path / "b/dist/host-1.2-lab-pc.img.zst").unlink()
    report = reproducible.compare(first.plan, tmp_path / "a", tmp_path / "b", scratch=tmp_path)
    assert report.differing == 2
    assert "  is not in the store of the second build" in report.lines


def test_the_files_of_a_checkout(tmp_path: Path) -> None:
    write(tmp_path, {"a": "", "b/c": "", "build/x": "", "b/__pycache__/d": "", "dist/y": ""})
    assert sorted(reproducible.checkout_files(tmp_path)) == ["a", "b/c"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    write(tmp_path, {".gitignore": "dist/\nbuild/\n__pycache__/\n"})
    assert sorted(reproducible.checkout_files(tmp_path)) == [".gitignore", "a", "b/c"]


def test_copies_differ_in_times_only(tmp_path: Path) -> None:
    factory = make_factory(make_checkout(tmp_path / "checkout"), Driver())
    write(factory.paths.channel("lab"), {"keys/lab.rsa": "private"})
    files = sorted(reproducible.checkout_files(factory.paths.checkout))
    reproducible._copy(factory, files, tmp_path / "a", {})
    reproducible._copy(factory, files, tmp_path / "b", {"times": 5})
    assert (tmp_path / "b/overlay/etc/motd").stat().st_mtime == 5
    assert (tmp_path / "a/overlay/etc/motd").stat().st_mtime != 5
    for one in ("a", "b"):
        assert (tmp_path / one / "build/lab/lock.json").read_bytes() == factory.lock_path.read_bytes()
        assert (tmp_path / one / "build/lab/keys/lab.rsa").read_text() == "private"
        assert not (tmp_path / one / "build/store").exists()


def test_a_build_that_fails_shows_its_end(tmp_path: Path) -> None:
    factory = make_factory(make_checkout(tmp_path / "checkout"), Driver())
    copy = tmp_path / "copy"
    reproducible._copy(factory, sorted(reproducible.checkout_files(factory.paths.checkout)), copy, {})
    write(copy, {"dodo.py": "raise SystemExit('broken here')\n"})
    with pytest.raises(StageError, match="broken here"):
        reproducible._build(factory, copy, umask="022", env={})
