# SPDX-License-Identifier: Apache-2.0
"""The lab's mkimage.sh: plugins, profiles and sections kept by their arguments; the tools it calls are replaced."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

MKIMAGE = Path(__file__).parents[3] / "pipeline/channels/lab/aports/scripts/mkimage.sh"

# A plugin with one section, whose content depends on what the world says, and an image of all files in it.
PLUGIN = """\
profile_small() {
	arch="x86_64"
	image_ext="out"
	output_format="out"
	apks=""
}
profile_other() {
	profile_small
	arch="riscv64"
}
section_words() {
	build_section words $ARCH $(cat "$HOME/words")
}
build_words() {
	shift
	echo run >> "$HOME/runs"
	case "$1" in bad) echo half > "$DESTDIR/words"; return 1 ;; esac
	echo "$@" > "$DESTDIR/words"
}
create_image_out() {
	(cd "$DESTDIR" && cat words .alpine-release) > "$OUTDIR/$output_filename"
}
"""


class World:
    """A home with the plugin, and shims for apk and abuild."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        (self.home / ".mkimage").mkdir(parents=True)
        (self.home / ".mkimage/mkimg.small.sh").write_text(PLUGIN)
        self.say("one")
        tools = folder / "bin"
        tools.mkdir()
        for name, text in {
            "apk": 'case "$1" in --print-arch) echo x86_64 ;; esac',
            "abuild-apk": "exit 0",
        }.items():
            (tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (tools / name).chmod(0o755)
        (folder / "abuild").mkdir()
        (folder / "abuild/functions.sh").write_text("quiet=\n")

    def say(self, words: str) -> None:
        """What the section is asked to hold."""
        (self.home / "words").write_text(words + "\n")

    @property
    def runs(self) -> int:
        """How often the section was made."""
        path = self.home / "runs"
        return len(path.read_text().split()) if path.exists() else 0

    def mkimage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it in this world."""
        env = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "ABUILD_SHAREDIR": str(self.folder / "abuild"),
            "SOURCE_DATE_EPOCH": "1700000000",
        }
        argv = ["sh", str(MKIMAGE), "--tag", "1", "--outdir", str(self.folder / "images"), "--workdir", str(self.folder / "work")]
        return subprocess.run([*argv, *arguments], env=env, capture_output=True, text=True, check=False, timeout=60)

    def image(self) -> str:
        """The image's content."""
        return (self.folder / "images/alpine-small-1-x86_64.out").read_text()


@pytest.fixture
def world(tmp_path: Path) -> World:
    if not Path("/etc/apk/keys").is_dir():
        # mkimage.sh makes this folder itself where apk keeps its keys: a kept work folder needs none.
        (tmp_path / "work/apkroot-x86_64").mkdir(parents=True)
    return World(tmp_path)


def test_an_image_of_a_section(world: World) -> None:
    result = world.mkimage("--profile", "small")
    assert result.returncode == 0, result.stderr
    assert world.image() == "one\nalpine-small-1 231114\n"


def test_a_section_is_made_once(world: World) -> None:
    assert world.mkimage("--profile", "small").returncode == 0
    first = world.image()
    result = world.mkimage("--profile", "small")
    assert world.runs == 1
    assert "is there" in result.stderr
    assert world.image() == first


def test_other_arguments_make_it_anew(world: World) -> None:
    world.mkimage("--profile", "small")
    world.say("two words")
    assert world.mkimage("--profile", "small").returncode == 0
    assert world.runs == 2
    assert world.image().startswith("two words\n")
    # Going back finds the first one again, and the image is that of the first.
    world.say("one")
    assert world.mkimage("--profile", "small").returncode == 0
    assert world.runs == 2
    assert world.image().startswith("one\n")


def test_a_failed_section_leaves_nothing(world: World) -> None:
    world.say("bad")
    result = world.mkimage("--profile", "small")
    assert result.returncode == 1
    assert "the section words failed" in result.stderr
    assert sorted(path.name for path in (world.folder / "work").iterdir()) == ["apkroot-x86_64"]
    assert not (world.folder / "images/alpine-small-1-x86_64.out").exists()


def test_a_long_list_has_a_short_name(world: World) -> None:
    world.say(" ".join(f"package-{number}" for number in range(100)))
    assert world.mkimage("--profile", "small").returncode == 0
    assert world.mkimage("--profile", "small").returncode == 0
    assert world.runs == 1


def test_simulate_lists_the_sections_and_makes_nothing(world: World) -> None:
    result = world.mkimage("--profile", "small", "--simulate")
    assert result.returncode == 0
    assert "--> words x86_64 one" in result.stderr
    assert world.runs == 0


def test_checksums(world: World) -> None:
    world.mkimage("--profile", "small", "--checksum")
    images = world.folder / "images"
    result = subprocess.run(
        ["sha256sum", "-c", "alpine-small-1-x86_64.out.sha256"], cwd=images, capture_output=True, check=False, timeout=60
    )
    assert result.returncode == 0


def test_a_profile_of_another_architecture_is_left_out(world: World) -> None:
    assert world.mkimage("--profile", "other").returncode == 0
    assert world.runs == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--profile", "nothing"), "there is no profile nothing"),
        (("--wrong",), "unknown option --wrong"),
        (("--profile",), "--profile needs a value"),
    ],
)
def test_mistakes(world: World, arguments: tuple[str, ...], message: str) -> None:
    result = world.mkimage(*arguments)
    assert result.returncode == 1
    assert message in result.stderr
