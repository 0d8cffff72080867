# SPDX-License-Identifier: Apache-2.0
"""`apk add`, `del`, `upgrade` and `fix`: what is in the root and in its database afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.unit.apktool.conftest import Lab


def leftovers(root: Path) -> list[str]:
    return [str(path) for path in root.rglob(".apk.*")]


def test_packages_come_after_what_they_need(lab: Lab) -> None:
    lab.package("app", files={"usr/bin/app": b"app"}, depends=("so:libx.so.1", "data>=2"))
    lab.package("libx", files={"usr/lib/libx.so.1": b"x"}, provides=("so:libx.so.1=1",))
    lab.package("data", "2.1-r3", files={"usr/share/data": b"d"})
    lab.publish()
    out = lab.add("app")
    assert out.splitlines()[:3] == [
        "(1/3) Installing libx (1.0-r0)",
        "(2/3) Installing data (2.1-r3)",
        "(3/3) Installing app (1.0-r0)",
    ]
    assert out.splitlines()[-1].endswith("in 3 packages")
    assert lab.world() == ["app"]
    assert lab.installed()["libx"].paths == ("usr/lib/libx.so.1",)
    assert (lab.root / "usr/bin/app").read_bytes() == b"app"
    assert (lab.root / "etc/apk/arch").read_text() == "x86_64\n"
    assert lab.add("app") == out.splitlines()[-1] + "\n", "the second time there is nothing to do"


def test_simulate_changes_nothing(lab: Lab) -> None:
    lab.package("app", files={"usr/bin/app": b"app"})
    lab.publish()
    lab.add()
    before = sorted(lab.root.rglob("*"))
    assert "(1/1) Installing app (1.0-r0)" in lab.add("--simulate", "app")
    assert sorted(lab.root.rglob("*")) == before
    assert lab.world() == []


def test_delete_takes_what_nobody_needs(lab: Lab) -> None:
    lab.package("app", files={"usr/bin/app": b"", "usr/share/app/a": b""}, depends=("lib",))
    lab.package("lib", files={"usr/lib/lib": b""})
    lab.package("other", files={"usr/bin/other": b""})
    lab.publish()
    lab.add("app", "other")
    out = lab.run("del", "app")
    assert "(1/2) Purging app (1.0-r0)" in out
    assert lab.versions() == {"other": "1.0-r0"}
    assert lab.world() == ["other"]
    assert not (lab.root / "usr/share").exists()
    assert not (lab.root / "usr/lib").exists()
    assert (lab.root / "usr/bin/other").exists()


def test_delete_says_who_still_needs_it(lab: Lab) -> None:
    lab.package("app", depends=("lib",))
    lab.package("lib")
    lab.publish()
    lab.add("app", "lib")
    assert "not removed due to:\n  lib: app\n" in lab.run("del", "lib")
    assert lab.world() == ["app"]
    assert "ERROR: No such package: nothing" in lab.run("del", "nothing", status=1)


def test_upgrade_replaces_and_removes_files(lab: Lab) -> None:
    lab.package("app", "1.0-r0", {"usr/bin/app": b"one", "usr/share/old/file": b"old"})
    lab.publish()
    lab.add("app")
    lab.package("app", "1.1-r0", {"usr/bin/app": b"two", "usr/share/new": b"new"})
    lab.publish()
    assert lab.add("app").startswith("OK:"), "add alone does not upgrade"
    assert "(1/1) Upgrading app (1.0-r0 -> 1.1-r0)" in lab.run("upgrade")
    assert (lab.root / "usr/bin/app").read_bytes() == b"two"
    assert not (lab.root / "usr/share/old").exists()
    assert lab.installed()["app"].paths == ("usr/bin/app", "usr/share/new")


def test_changed_configuration_is_kept(lab: Lab) -> None:
    files = {"etc/app.conf": b"default 1", "etc/same.conf": b"same"}
    lab.package("app", "1.0-r0", {**files, "etc/plain.conf": b"plain 1"})
    lab.publish()
    lab.add("app")
    (lab.root / "etc/app.conf").write_bytes(b"mine")
    lab.package("app", "1.1-r0", {**files, "etc/app.conf": b"default 2", "etc/plain.conf": b"plain 2"})
    lab.publish()
    lab.run("upgrade")
    assert (lab.root / "etc/app.conf").read_bytes() == b"mine"
    assert (lab.root / "etc/app.conf.apk-new").read_bytes() == b"default 2"
    assert (lab.root / "etc/plain.conf").read_bytes() == b"plain 2"
    assert sorted(path.name for path in (lab.root / "etc").glob("*.apk-new")) == ["app.conf.apk-new"]
    lab.run("del", "app")
    assert (lab.root / "etc/app.conf").read_bytes() == b"mine", "what the user changed stays"
    assert not (lab.root / "etc/same.conf").exists()


def test_file_of_another_package_is_not_overwritten(lab: Lab) -> None:
    lab.package("one", files={"usr/bin/tool": b"one"})
    lab.package("two", files={"usr/bin/tool": b"two", "usr/bin/more": b""})
    lab.package("three", files={"usr/bin/tool": b"three"}, replaces=("one",))
    lab.publish()
    lab.add("one")
    out = lab.add("two", status=1)
    assert "ERROR: two-1.0-r0: trying to overwrite usr/bin/tool owned by one-1.0-r0." in out
    assert (lab.root / "usr/bin/tool").read_bytes() == b"one"
    lab.run("del", "two")
    lab.add("three")
    assert (lab.root / "usr/bin/tool").read_bytes() == b"three"
    assert [lab.installed()[name].paths for name in ("one", "three")] == [(), ("usr/bin/tool",)]
    lab.run("del", "one")
    assert (lab.root / "usr/bin/tool").read_bytes() == b"three"
    assert not leftovers(lab.root)


def test_configuration_of_another_package_is_taken_over_unless_it_was_changed(lab: Lab) -> None:
    files = {"etc/hostname": b"localhost", "etc/issue": b"base"}
    lab.package("base", files=files)
    lab.package("ours", files={"etc/hostname": b"host", "etc/issue": b"ours"}, replaces=("base",))
    lab.publish()
    lab.add("base")
    (lab.root / "etc/issue").write_bytes(b"mine")
    lab.add("ours")
    assert (lab.root / "etc/hostname").read_bytes() == b"host"
    assert not (lab.root / "etc/hostname.apk-new").exists()
    assert (lab.root / "etc/issue").read_bytes() == b"mine"
    assert (lab.root / "etc/issue.apk-new").read_bytes() == b"ours"


def test_virtual_package(lab: Lab) -> None:
    lab.package("tool")
    lab.publish()
    lab.add("--virtual", ".build", "tool")
    assert [line.partition("=")[0] for line in lab.world()] == [".build"]
    lab.run("del", ".build")
    assert lab.versions() == {}


def test_install_if_and_provider_priority(lab: Lab) -> None:
    lab.package("service", depends=("init",))
    lab.package("service-openrc", install_if=("openrc", "service=1.0-r0"))
    lab.package("openrc", provides=("init",), provider_priority=10)
    lab.package("other-init", provides=("init",), provider_priority=5)
    lab.publish()
    lab.add("service")
    assert sorted(lab.versions()) == ["openrc", "service", "service-openrc"]
    lab.run("del", "service")
    assert lab.versions() == {}


def test_package_file_is_pinned_by_its_checksum(lab: Lab) -> None:
    path = lab.package("tool", files={"usr/bin/tool": b"1"})
    lab.publish()
    lab.add(str(path))
    assert lab.world()[0].startswith("tool><Q1")
    assert lab.versions() == {"tool": "1.0-r0"}


def test_links_of_the_root_do_not_lead_out_of_it(lab: Lab, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    lab.package("base", files={"lib": "usr/lib", "usr/lib/os": b"", "var/run": str(outside)})
    lab.package("app", files={"lib/app": b"app", "var/run/app": b"pid"}, depends=("base",))
    lab.publish()
    lab.add("app")
    assert (lab.root / "usr/lib/app").read_bytes() == b"app"
    assert (lab.root / "usr/lib/apk/db/installed").is_file()
    assert list(outside.iterdir()) == []
    assert (lab.root / str(outside).lstrip("/") / "app").read_bytes() == b"pid"


def test_overlay_files_stay_as_they_are(lab: Lab) -> None:
    lab.package("app", files={"etc/app.conf": b"default", "usr/bin/app": b""})
    lab.publish()
    lab.add()
    (lab.root / "etc/app.conf").write_bytes(b"from the overlay")
    lab.run("add", "--overlay-from-stdin", "app", stdin="etc/\netc/app.conf\n")
    assert (lab.root / "etc/app.conf").read_bytes() == b"from the overlay"
    assert not (lab.root / "etc/app.conf.apk-new").exists()


def test_interrupted_installation_is_repeated(lab: Lab) -> None:
    path = lab.package("app", files={"usr/bin/app": b"app" * 1000, "etc/app.conf": b"conf"})
    lab.package("lib", files={"usr/lib/lib": b"lib"})
    lab.publish()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    out = lab.add("app", "lib", status=1)
    assert "ERROR: app-1.0-r0: " in out
    assert "truncated" in out
    assert "1 error; " in out
    assert not (lab.root / "usr/bin/app").exists()
    assert not leftovers(lab.root)
    # As if the power had gone: a file is in place, one under its temporary name, and the database knows neither.
    path.write_bytes(whole)
    (lab.root / "usr/bin").mkdir(exist_ok=True)
    (lab.root / "usr/bin/app").write_bytes(b"app" * 1000)
    (lab.root / "etc/app.conf").write_bytes(b"conf")
    lab.add("app", "lib")
    assert sorted(lab.versions()) == ["app", "lib"]
    assert not (lab.root / "etc/app.conf.apk-new").exists()


def test_fix_restores_files(lab: Lab) -> None:
    lab.package("app", files={"usr/bin/app": b"app"})
    lab.publish()
    lab.add("app")
    (lab.root / "usr/bin/app").write_bytes(b"damaged")
    assert "(1/1) Reinstalling app (1.0-r0)" in lab.run("fix", "app")
    assert (lab.root / "usr/bin/app").read_bytes() == b"app"


def test_second_apk_waits_or_fails(lab: Lab) -> None:
    import fcntl

    lab.package("app")
    lab.publish()
    lab.add()
    with (lab.root / "lib/apk/db/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Unable to lock database" in lab.add("app", status=99)
    lab.add("app")


def test_modes_and_times(lab: Lab) -> None:
    lab.package("app", files={"usr/bin/app": b"app", "usr/bin/link": "app"}, modes={"usr/bin/app": 0o4755})
    lab.publish()
    lab.add("app")
    status = (lab.root / "usr/bin/app").stat()
    assert status.st_mode & 0o7777 == 0o4755
    assert int(status.st_mtime) == 1_700_000_000
    assert str((lab.root / "usr/bin/link").readlink()) == "app"
    (folder,) = [folder for folder in lab.installed()["app"].folders if folder.path == "usr/bin"]
    assert [(file.name, file.mode) for file in folder.files] == [("app", 0o4755), ("link", 0o777)]


def test_diskless_boot_comes_up_as_far_as_it_can(lab: Lab) -> None:
    """The apkovl's world names a package that the medium does not have."""
    lab.package("app", files={"usr/bin/app": b"app"})
    lab.publish()
    (lab.root / "etc/apk").mkdir(parents=True)
    (lab.root / "etc/apk/world").write_text("app\ngone\n")
    lab.run("add", "--initramfs-diskless-boot")
    assert lab.versions() == {"app": "1.0-r0"}


def test_force_broken_world_leaves_out_what_cannot_be_had(lab: Lab) -> None:
    lab.package("app")
    lab.publish()
    lab.add("--force-broken-world", "app", "gone>2")
    assert lab.versions() == {"app": "1.0-r0"}
    assert lab.world() == ["app", "gone>2"], "it may come back"


def test_progress_is_told_to_a_descriptor(lab: Lab, tmp_path: Path) -> None:
    lab.package("small", files={"usr/small": b"x"})
    lab.package("large", files={"usr/large": os.urandom(300_000)}, depends=("small",))
    lab.publish()
    log = tmp_path / "progress"
    with log.open("wb") as out:
        handle = out.fileno()
        apk = [sys.executable, "-IS", str(lab.prefix / "usr/sbin/apk"), "add", "--initdb", "--root", str(lab.root)]
        sources = [
            "--keys-dir",
            str(lab.keys),
            "--arch",
            "x86_64",
            "--repositories-file",
            os.devnull,
            "--repository",
            lab.address,
        ]
        argv = [*apk, *sources, "--quiet", "--progress-fd", str(handle), "large"]
        subprocess.run(argv, check=True, timeout=60, pass_fds=(handle,))
    told = [tuple(map(int, line.split("/"))) for line in log.read_text().splitlines()]
    sizes = sum(path.stat().st_size for path in lab.repository.glob("x86_64/*.apk"))
    assert len(told) > 4
    assert told == sorted(told)
    assert {total for _, total in told} == {sizes}
    assert told[-1][0] == sizes
