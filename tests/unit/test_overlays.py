# SPDX-License-Identifier: Apache-2.0
"""The overlays of this checkout, and the table of owners and modes that decides what their files are on the device."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.apk.format.package import read_package
from pipeline.apk.overlay import Rule, collect, entries, main, read_rules
from pipeline.base.errors import ConfigError

OVERLAYS = Path(__file__).resolve().parents[2] / "overlays"
IMAGES = ("thinclient", "host")
PROGRAMS = ("etc/apk/commit_hooks.d/", "etc/init.d/", "usr/bin/", "usr/libexec/")
VALUES = {
    "epoch": "1",
    "version": "1.2.3",
    "channel": "lab",
    "branch": "lab",
    "variant": "host",
    "variant_id": "host",
    "manual": "docs",
}


def items_of(image: str) -> dict[str, int]:
    """Name -> mode of all files in the package of an image."""
    items = collect([OVERLAYS / "common", OVERLAYS / image], read_rules(OVERLAYS / "owners.toml"))
    return {entry.name: entry.mode for entry, _ in entries(items, VALUES) if entry.kind == "file"}


@pytest.mark.parametrize("image", IMAGES)
def test_every_file_has_the_mode_it_should(image: str) -> None:
    for name, mode in items_of(image).items():
        program = name.startswith(PROGRAMS)
        assert bool(mode & 0o111) == program, name
        assert mode & 0o022 == 0, f"{name}: others could change it"
        source = next(path for path in (OVERLAYS / image / name, OVERLAYS / "common" / name) if path.exists())
        assert bool(source.stat().st_mode & 0o100) == program, f"{name}: its execute bit in the checkout"


def test_secrets_are_readable_by_root_alone() -> None:
    assert items_of("host")["etc/doas.conf"] == 0o400
    assert items_of("host")["etc/ssh/sshd_config.d/tower.conf"] == 0o600


def test_every_row_of_the_table_fits_something() -> None:
    used = {item.rule.path for image in IMAGES for item in collect([OVERLAYS / "common", OVERLAYS / image], rules()) if item.rule}
    assert used == {rule.path for rule in rules()}


def rules() -> tuple[Rule, ...]:
    return read_rules(OVERLAYS / "owners.toml")


@pytest.mark.parametrize("image", IMAGES)
def test_services_are_links_to_their_scripts(image: str) -> None:
    for overlay in ("common", image):
        for link in (OVERLAYS / overlay).glob("etc/runlevels/*/*"):
            assert link.is_symlink()
            assert str(link.readlink()) == f"/etc/init.d/{link.name}"


def test_nothing_listens_on_the_thin_client() -> None:
    links = [*(OVERLAYS / "common").glob("etc/runlevels/*/*"), *(OVERLAYS / "thinclient").glob("etc/runlevels/*/*")]
    assert "sshd" not in {link.name for link in links}


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "owners.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[rules]]\npath = "a"\nmode = "644"\n', "four octal digits"),
        ('[[rules]]\npath = "/a"\nmode = "0644"\n', "without a leading slash"),
        ('[[rules]]\npath = "a"\nmode = "0644"\nowner = "joe"\n', "'joe' is none of"),
        ('[[rules]]\npath = "a"\nmode = "0644"\nowned = "root"\n', "unknown key"),
        ("[[rules]\n", "owners.toml"),
    ],
)
def test_mistakes_in_the_table_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_rules(table(tmp_path, text))


def test_a_file_without_a_row_is_named(tmp_path: Path) -> None:
    found = read_rules(table(tmp_path, '[[rules]]\npath = "etc/*"\nmode = "0644"\n'))
    tree = tmp_path / "tree"
    (tree / "etc" / "deep").mkdir(parents=True)
    (tree / "etc" / "one").write_text("1")
    (tree / "etc" / "deep" / "two").write_text("2")
    with pytest.raises(ConfigError, match=r"etc/deep/two"):
        collect([tree], found)


def test_later_trees_win_and_folders_have_rows_of_their_own(tmp_path: Path) -> None:
    found = read_rules(table(tmp_path, '[[rules]]\npath = "**"\nmode = "0600"\n\n[[rules]]\npath = "etc/"\nmode = "0700"\n'))
    for tree in ("one", "two"):
        (tmp_path / tree / "etc").mkdir(parents=True)
        (tmp_path / tree / "etc" / "name").write_text(tree)
    done = {
        entry.name: (entry.mode, source) for entry, source in entries(collect([tmp_path / "one", tmp_path / "two"], found), {})
    }
    assert done == {"etc": (0o700, None), "etc/name": (0o600, tmp_path / "two" / "etc" / "name")}


def pack(out: Path, *values: str) -> int:
    argv = ["--owners", str(OVERLAYS / "owners.toml"), "--name", "toweros-host", "--version", "1.2.3-r0", "--epoch", "1000"]
    argv += ["--output", str(out), str(OVERLAYS / "common"), str(OVERLAYS / "host")]
    return main([*argv, *(f"--set={value}" for value in values)])


def test_the_package_names_channel_and_version(tmp_path: Path) -> None:
    out = tmp_path / "host.apk"
    assert pack(out, *(f"{name}={value}" for name, value in VALUES.items())) == 0
    package = read_package(io.BytesIO(out.read_bytes()), None)
    assert (package.info.name, package.info.version, package.info.arch) == ("toweros-host", "1.2.3-r0", "noarch")
    release = {entry.name: content.read() for entry, content in package.iter_data() if entry.name == "etc/os-release"}
    assert b'PRETTY_NAME="TowerOS host 1.2.3 (lab)"' in release["etc/os-release"]
    assert b"TOWER_CHANNEL=lab" in release["etc/os-release"]


def test_a_value_that_is_missing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack(tmp_path / "host.apk", "version=1") == ConfigError.exit_status
    assert "etc/issue" in capsys.readouterr().err
