# SPDX-License-Identifier: Apache-2.0
"""The lab's tables, and what they make of locked packages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pipeline.base.canonical import Digest
from pipeline.base.errors import ConfigError
from pipeline.channels.lab.apt import Apt
from pipeline.channels.lab.assemble import claimed, make_jobs, select
from pipeline.channels.lab.catalog import Catalog, base_name, read_catalog
from pipeline.channels.lab.deb import Control
from pipeline.channels.lab.mirror import _closure
from pipeline.supply.lock import LockedFile

Make = Callable[..., Catalog]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes tables: keyword `names`, `rules`, and a package.toml for every other keyword."""

    def write(names: str = "", rules: str = "ignored = ['dpkg']\ndrop = []", **packages: str) -> Catalog:
        (tmp_path / "names.toml").write_text(names)
        (tmp_path / "rules.toml").write_text(rules)
        for name, text in packages.items():
            folder = tmp_path / name.replace("_", "-")
            folder.mkdir()
            (folder / "package.toml").write_text(text)
        return read_catalog(tmp_path)

    return write


def deb(name: str, version: str = "1.0-1") -> LockedFile:
    return LockedFile(name, version, Digest(name.ljust(64, "0")), 1, f"pool/{name}.deb")


def control(name: str, version: str = "1.0-1", **fields: str) -> Control:
    rows = {"Package": name, "Version": version, "Description": f"the {name}\n more", **fields}
    return Control(name, version, "amd64", {key.replace("_", "-"): value for key, value in rows.items()})


def test_our_own_tables_can_be_read() -> None:
    catalog = read_catalog()
    assert {"linux-lts", "linux-rpi", "alpine-base", "chrony"} <= set(catalog.folders)
    assert "dpkg" in catalog.standing


def test_every_mistake_is_named_at_once(make: Make) -> None:
    with pytest.raises(ConfigError) as caught:
        make(
            names="one = 'not a list'\nboth = ['x']",
            both="description = 'd'\nversion = '1-r0'",
            two="description = 'd'\nversion = '1-r0'\nfrob = 1",
            three="description = 'd'",
            four="description = 'd'\nversion = '1-r0'\n[[modes]]\npath = 'x'\nmode = '9'",
        )
    for part in ("names.toml: one", "both", "frob", "packages/three/package.toml: version", "modes[0].mode"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("a", "a"),
        ("a>=1", "a"),
        ("a~1.2", "a"),
        ("a@edge", "a"),
        ("!a", ""),
        ("so:libc.so.6", ""),
        ("cmd:ls", ""),
        ("/bin/sh", ""),
    ],
)
def test_names_in_worlds(wanted: str, name: str) -> None:
    assert base_name(wanted) == name


def test_a_world_is_followed_through_folders(make: Make) -> None:
    catalog = make(
        names="doas = ['opendoas']",
        base="description = 'd'\nversion = '1-r0'\ndepends = ['tool', 'doas', 'cmd:x', 'zlib1g']",
        tool="description = 'd'\nfrom = ['real-tool', 'data-{deb_arch}']",
        other="description = 'd'\nfrom = ['o']\narch = ['aarch64']",
    )
    folders, debs = catalog.expand(["base", "other"], "x86_64")
    assert sorted(folders) == ["base", "tool"]
    assert sorted(debs) == ["data-amd64", "opendoas", "real-tool", "zlib1g"]
    assert "data-arm64" in catalog.expand(["base", "other"], "aarch64")[1]
    assert catalog.expand(["base", "other"], "aarch64")[0] == {"base", "tool", "other"}


def test_install_if_brings_packages_in(make: Make) -> None:
    catalog = make(
        names="ssh = ['ssh-server', 'ssh-client']",
        init="description = 'd'\nversion = '1-r0'\ndepends = ['files']",
        files="description = 'd'\nversion = '1-r0'",
        clock="description = 'd'\nfrom = ['real-clock']",
        clock_init="description = 'd'\nversion = '1-r0'\narch = ['noarch']\ninstall_if = ['init', 'clock=4.6-r0']",
        clock_init_docs="description = 'd'\nfrom = ['docs']\ninstall_if = ['clock-init', 'files']",
        ssh_init="description = 'd'\nversion = '1-r0'\ninstall_if = ['init', 'ssh']",
        arm_init="description = 'd'\nversion = '1-r0'\narch = ['aarch64']\ninstall_if = ['init']",
    )
    assert catalog.expand(["clock"], "x86_64")[0] == {"clock"}
    assert catalog.expand(["init", "ssh"], "x86_64")[0] == {"init", "files", "ssh-init"}
    folders, debs = catalog.expand(["init", "clock"], "x86_64")
    assert folders == {"init", "files", "clock", "clock-init", "clock-init-docs"}
    assert debs == {"real-clock", "docs"}
    assert "arm-init" in catalog.expand(["init"], "aarch64")[0]
    # Debian's own dependencies brought ssh in, and the clock that a folder is made of.
    names = {"ssh-server": 1, "ssh-client": 1, "real-clock": 1}
    assert claimed(catalog, names, ["init"], "x86_64") == {*folders, "ssh-init"}
    assert "ssh-init" not in claimed(catalog, {"ssh-client": 1}, ["init"], "x86_64")


def test_odd_folders_are_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "forgotten" / "root").mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        make(odd="description = 'd'\nversion = '1-r0'\ninstall_if = ['openrc', 'cmd:x']")
    assert caught.value.message.splitlines()[1:] == [
        f"  {tmp_path.name}/forgotten: has no package.toml",
        "  packages/odd/package.toml: install_if: 'cmd:x': only names of packages are understood here",
    ]


def test_names_and_dependencies_of_products(make: Make) -> None:
    catalog = make(
        names="doas = ['opendoas']\nlsblk = ['util-linux']\nwipefs = ['util-linux']\nopenssh = ['ssh-a', 'ssh-b']",
        tool="description = 'a tool'\nfrom = ['real-tool']\ndepends = ['doas']",
    )
    locked = [deb(name) for name in ("opendoas", "util-linux", "ssh-a", "ssh-b", "real-tool", "libc6")]
    controls = {
        "opendoas": control("opendoas", Depends="libc6 (>= 2), dpkg, debconf | dpkg"),
        "util-linux": control("util-linux", Depends="missing | libc6", Provides="virtual (= 1)"),
        "ssh-a": control("ssh-a", Depends="ssh-b", Pre_Depends="virtual"),
        "ssh-b": control("ssh-b"),
        "real-tool": control("real-tool", Depends="util-linux"),
        "libc6": control("libc6", "2.41-12+deb13u4"),
    }
    jobs = {job.product.name: job for job in make_jobs(catalog, select(catalog, locked, [], "x86_64"), controls, 0, {})}
    assert sorted(jobs) == ["doas", "libc6", "openssh", "ssh-a", "ssh-b", "tool", "util-linux"]
    assert jobs["doas"].depends == ("libc6",)
    assert jobs["doas"].provides == ("opendoas=1.0-r100",)
    assert jobs["util-linux"].provides == ("lsblk=1.0-r100", "wipefs=1.0-r100")
    assert jobs["ssh-a"].depends == ("ssh-b", "util-linux")
    assert jobs["openssh"].depends == ("ssh-a", "ssh-b")
    assert jobs["tool"].depends == ("doas", "util-linux")
    assert jobs["tool"].description == "a tool"
    assert jobs["libc6"].commit == "2.41-12+deb13u4"


def test_a_dependency_without_an_answer(make: Make) -> None:
    catalog = make()
    with pytest.raises(ConfigError, match=r"a 1\.0-1: nothing fulfils its dependency b \| c"):
        make_jobs(catalog, select(catalog, [deb("a")], [], "x86_64"), {"a": control("a", Depends="b | c")}, 0, {})


def test_one_debian_package_in_two_folders(make: Make) -> None:
    catalog = make(one="description = 'd'\nfrom = ['a']", two="description = 'd'\nfrom = ['a']")
    with pytest.raises(ConfigError, match="belongs to packages/one already"):
        select(catalog, [deb("a")], [], "x86_64")


def test_a_kernel_takes_the_package_behind_its_meta_package(make: Make) -> None:
    text = "description = 'd'\nfrom = ['linux-image-{deb_arch}']\nkernel = { flavor = 'lts' }"
    catalog = make(linux_lts=text)
    locked = [deb("linux-image-amd64"), deb("linux-image-6.12.1+deb13-amd64"), deb("linux-image-6.12.1+deb13-cloud-amd64")]
    products = {product.name: product for product in select(catalog, locked, ["linux-lts"], "x86_64")}
    assert [item.name for item in products["linux-lts"].debs] == ["linux-image-amd64", "linux-image-6.12.1+deb13-amd64"]


class Answers(Apt):
    """apt, with one answer to all; it remembers what it was told."""

    def __init__(self, *found: str) -> None:
        self.arch = "x86_64"
        self.found = tuple(map(deb, found))
        self.wanted: set[str] = set()
        self.standing: set[str] = set()

    def closure(self, wanted: Iterable[str], standing: Iterable[str] = (), *, essential: bool = False) -> tuple[LockedFile, ...]:
        self.wanted, self.standing = set(wanted), set(standing)
        return self.found


def test_a_packages_own_sources_are_wanted_even_if_replaced_for_others(make: Make) -> None:
    catalog = make(rules="ignored = ['udev']\ndrop = []", eudev="description = 'd'\nfrom = ['udev']")
    apt = Answers("udev")
    _closure(catalog, apt, frozenset({"eudev"}))
    assert (apt.wanted, apt.standing) == ({"udev"}, set())
    other = Answers("lvm2")
    _closure(catalog, other, frozenset({"lvm2"}))
    assert (other.wanted, other.standing) == ({"lvm2"}, {"udev"})


def test_packages_that_apt_needs_and_nothing_else_are_left_out(make: Make) -> None:
    catalog = make(rules="ignored = []\nleft_out = ['driver']\ndrop = []")
    apt = Answers("driver", "library")
    found = _closure(catalog, apt, frozenset({"library"}))
    assert "driver" not in apt.standing
    assert [row.name for row in found] == ["library"]
    controls = {"library": control("library", Depends="driver (= 1.0-1)")}
    (job,) = make_jobs(catalog, select(catalog, found, ["library"], "x86_64"), controls, 0, {})
    assert job.depends == ()
