# SPDX-License-Identifier: Apache-2.0
"""Files that must not become a disk: refused before a byte is written, told by their inode and not by their name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tower.disk import forbidden

from pipeline.images.blockmap import dump, read_image
from tests.integration.disks import COMMON, Refusals, bound, looped, make_builds, newer, provisioned, run, seen
from tests.unit.runtime.disks import MIB, check_disk, tool, write_manifest


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_builds(tmp_path_factory.mktemp("builds"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str]) -> Refusals:
    return Refusals(home, capsys)


@pytest.fixture
def packed(builds: Path, tmp_path: Path) -> Path:
    """An image, with all that may lie beside one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in builds.glob("toweros-*"):
        shutil.copyfile(path, folder / path.name)
    (image,) = folder.glob("*.img.zst")
    for name in (f"{image.name}.asc", f"{image.name}.sha256", "SHA256SUMS", "b2sums.txt"):
        (folder / name).write_bytes(b"what vouches for it\n")
    shutil.copyfile(image, folder / "toweros-host-1.1.0-lab-rpi.img.zst")
    return image


@pytest.fixture
def plain(packed: Path, tmp_path: Path) -> Path:
    """The same, unpacked."""
    folder = tmp_path / "plain"
    folder.mkdir()
    image = folder / packed.name.removesuffix(".zst")
    tool("zstd", "-q", "-d", packed, "-o", image)
    shutil.copyfile(f"{packed}.bmap", f"{image}.bmap")
    write_manifest(image)
    return image


# --- the image, and what belongs to it ----------------------------------------------------------------------------------

OURS = "is this image"
BESIDE = {
    "image": "{image}",
    "block map": "{image}.bmap",
    "manifest": "{image}.manifest.json",
    "signature of gpg": "{image}.asc",
    "checksum": "{image}.sha256",
    "signature that is not there yet": "{image}.minisig",
    "checksums": "SHA256SUMS",
    "checksums that are not there yet": "SHA512SUMS",
    "signature of them that is not there yet": "SHA256SUMS.minisig",
    "other checksums": "b2sums.txt",
    "another image": "toweros-host-1.1.0-lab-rpi.img.zst",
    "what would pass for an image": "toweros-host-9.0.0-lab-pc.img",
}


@pytest.mark.parametrize("form", ["packed", "plain"])
def test_an_image_and_the_files_beside_it_are_refused(
    refused: Refusals, tmp_path: Path, form: str, packed: Path, plain: Path, subtests: pytest.Subtests
) -> None:
    image = packed if form == "packed" else plain
    before = seen(tmp_path)
    for what, name in BESIDE.items():
        with subtests.test(what):
            target = image.parent / name.format(image=image.name)
            assert OURS in refused("provision", "vm", *COMMON, "--image", image, "--device-file", target)
    assert seen(tmp_path) == before


def _link(link: Path, to: Path, *, hard: bool = False) -> Path:
    link.hardlink_to(to) if hard else link.symlink_to(to)
    return link


WAYS: dict[str, Callable[[Path, Path], Path]] = {
    "hard link": lambda image, place: _link(place / "1.img", image, hard=True),
    "link": lambda image, place: _link(place / "2.img", image),
    "link to a link to a hard link": lambda image, place: _link(
        place / "4.img", _link(place / "3", _link(place / "5", image, hard=True))
    ),
    "folder that is a link": lambda image, place: _link(place / "folder", image.parent) / image.name,
    "dots": lambda image, _: image.parent / ".." / image.parent.name / image.name,
    "the root of a process": lambda image, _: Path(f"/proc/{os.getpid()}/root{image}"),
    "from here": lambda image, place: Path(os.path.relpath(image, place.parent / "home")),
}


def test_the_image_by_another_name(refused: Refusals, plain: Path, tmp_path: Path, subtests: pytest.Subtests) -> None:
    place = tmp_path / "place"
    place.mkdir()
    targets = {way: make(plain, place) for way, make in WAYS.items()}
    before = seen(tmp_path)
    for way, target in targets.items():
        with subtests.test(way):
            refused("provision", "vm", *COMMON, "--image", plain, "--device-file", target)
    for link in ("mapped.img", "map"):
        target = _link(place / link, Path(f"{plain}.bmap"), hard=True)
        assert OURS in refused("provision", "vm", *COMMON, "--image", plain, "--device-file", target)
        target.unlink()
    assert seen(tmp_path) == before


def test_an_image_given_by_a_link_is_protected_at_both_places(refused: Refusals, plain: Path, tmp_path: Path) -> None:
    """What lies beside the link, and what lies beside the image, belong to it."""
    place = tmp_path / "place"
    place.mkdir()
    for ending in ("", ".bmap", ".manifest.json"):
        (place / f"{plain.name}{ending}").symlink_to(f"{plain}{ending}")
    plain.with_name("SHA256SUMS").write_bytes(b"sums")
    before = seen(tmp_path)
    for target in (place / plain.name, plain, plain.with_name("SHA256SUMS"), place / "SHA256SUMS", Path(f"{plain}.sig")):
        assert OURS in refused("provision", "vm", *COMMON, "--image", place / plain.name, "--device-file", target)
    assert seen(tmp_path) == before


def test_the_image_by_a_bind_mount(refused: Refusals, plain: Path, tmp_path: Path) -> None:
    before = seen(tmp_path)
    with bound(plain.parent, tmp_path / "point") as point:
        for name in (plain.name, f"{plain.name}.bmap", "SHA256SUMS"):
            assert OURS in refused("provision", "vm", *COMMON, "--image", plain, "--device-file", point / name)
    with bound(plain, tmp_path / "vm.img") as point:
        assert OURS in refused("provision", "vm", *COMMON, "--image", plain, "--device-file", point)
    assert seen(tmp_path) == before


def test_the_image_behind_a_disk(refused: Refusals, plain: Path, tmp_path: Path) -> None:
    before = seen(tmp_path)
    (tmp_path / "hard").hardlink_to(plain)
    with looped(tmp_path / "hard") as device:
        assert OURS in refused("provision", "vm", *COMMON, "--image", plain, "--device", device)
    (tmp_path / "hard").unlink()
    assert seen(tmp_path) == before


def test_a_foreign_file_beside_the_image(home: Path, plain: Path, tmp_path: Path) -> None:
    (plain.parent / "ipsum").write_bytes(b"a file")
    for name in ("vm.img", "ipsum"):
        run(home, "provision", name[:2], *COMMON, "--image", str(plain), "--device-file", str(plain.with_name(name)))
        check_disk(plain.with_name(name), tmp_path)


# --- tower's own, the kernel's, and what is no file ---------------------------------------------------------------------


def test_files_and_folders_of_tower_itself_are_refused(refused: Refusals, home: Path, builds: Path, tmp_path: Path) -> None:
    provisioned(home, builds, tmp_path, "vm", used=False)
    own, place = home / ".local/tower", tmp_path / "place"
    place.mkdir()
    names = ("hosts/vm/id_ed25519", "hosts/vm/crypto_keyfile.bin", "config", "new.img", "hosts/vm/new.img", "hosts/new.img")
    beside = ("../tower/new.img", "../../.ssh/config", "../../.ssh/new.img")
    links = (
        _link(place / "hard", own / "hosts/vm/id_ed25519", hard=True),
        _link(place / "soft", own / "config"),
        _link(home / "tower", own) / "hosts/new.img",
        _link(place / "to nothing", own / "nothing"),
    )
    before = seen(home, place)
    argv = ("provision", "db", *COMMON, *newer(builds), "--device-file")
    for target in (*(own / name for name in (*names, *beside)), *links, Path(forbidden.__file__), own):
        assert target == own or "tower's own" in refused(*argv, target)
    with bound(own / "hosts/vm", tmp_path / "point") as point:
        for name in ("id_ed25519", "new.img"):
            assert "tower's own" in refused(*argv, point / name)
    assert seen(home, place) == before


def test_folders_that_tower_has_links_to(refused: Refusals, home: Path, builds: Path, tmp_path: Path) -> None:
    """A linked folder of a host belongs to tower alone; other linked folders hold other files too."""
    provisioned(home, builds, tmp_path, "vm", used=False)
    elsewhere, sockets = tmp_path / "elsewhere", tmp_path / "sockets"
    (home / ".local/tower/hosts/vm").rename(elsewhere)
    sockets.mkdir()
    _link(home / ".local/tower/hosts/vm", elsewhere)
    _link(home / ".ssh/sockets", sockets)
    argv = ("provision", "db", *COMMON, *newer(builds), "--device-file")
    for name in ("id_ed25519", "new.img"):
        assert "tower's own" in refused(*argv, elsewhere / name)
    run(home, *argv, str(sockets / "vm.img"))


KERNELS = (
    *("/dev/sdz", "/dev/disk/by-id/usb-stick", "/dev/mapper/none", "/dev/../dev/none", "/dev/null", "/dev/fd/9", "/dev/stdout"),
    *("/dev/shm/none.img", "/proc/none", "/proc/sys/none", "/proc/self/mem", "/sys/none", "/sys/kernel/none", "//dev//none"),
)


def test_paths_in_dev_proc_and_sys_are_refused(
    refused: Refusals, home: Path, builds: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for number, path in enumerate(KERNELS):
        there = Path(path).exists()
        (tmp_path / f"{number}").symlink_to(path)
        with subtests.test(path):
            for target in (path, tmp_path / f"{number}", os.path.relpath(path, home)):
                refused("provision", "db", *COMMON, *newer(builds), "--device-file", target)
            assert Path(path).exists() == there
    assert seen(home) == {}


@pytest.mark.parametrize("folder", ["/dev", "/proc", "/sys"])
def test_the_kernels_folders_at_another_place(refused: Refusals, builds: Path, tmp_path: Path, folder: str) -> None:
    if not os.path.ismount(folder):
        pytest.skip(f"{folder} is no mount of its own here")
    with bound(Path(folder), tmp_path / "point") as point:
        refused("provision", "db", *COMMON, *newer(builds), "--device-file", point / "tower-test-none")
        assert not (point / "tower-test-none").exists()


KINDS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "FIFO": os.mkfifo,
    "in no folder": lambda path: path.symlink_to("nowhere/vm.img"),
    "below a file": lambda path: path.symlink_to(f"{sys.executable}/vm.img"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", KINDS)
def test_folders_fifos_and_broken_links_are_refused(
    refused: Refusals, home: Path, builds: Path, tmp_path: Path, kind: str
) -> None:
    KINDS[kind](tmp_path / "target")
    refused("provision", "db", *COMMON, *newer(builds), "--device-file", tmp_path / "target")
    assert seen(home) == {}


def test_a_file_in_use(refused: Refusals, home: Path, builds: Path, tmp_path: Path) -> None:
    """As a disk of this machine, and as that of a virtual machine: QEMU locks parts of it."""
    target = tmp_path / "vm.img"
    target.write_bytes(b"something")
    os.truncate(target, 96 * MIB)
    before = seen(tmp_path)
    argv = ("provision", "db", *COMMON, *newer(builds), "--device-file", target)
    with looped(target) as device:
        assert f"is what is behind {device}" in refused(*argv)
    assert seen(tmp_path) == before
    code = "import fcntl, sys; f = open(sys.argv[1], 'rb'); fcntl.lockf(f, fcntl.LOCK_SH, 1, 100); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        user.stdout.readline()
        assert "running virtual machine" in refused(*argv)
        user.kill()
    assert {name: data for name, data in seen(tmp_path).items() if not name.startswith(str(home))} == before


def test_swap_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "swap file").touch()
    escaped = str(tmp_path / "swap file").replace(" ", "\\040")
    listed = ["Filename\t\t\tType\tSize\tUsed\tPriority", f"{escaped}                file\t\t1\t0\t-2"]
    monkeypatch.setattr(forbidden, "_lines", lambda path: listed if path.name == "swaps" else [])
    about = (tmp_path / "swap file").stat()
    assert ("it is swap", (about.st_dev, about.st_ino)) in list(forbidden._in_use(""))


# --- sizes --------------------------------------------------------------------------------------------------------------


def test_a_size_too_small_for_the_image_or_the_file_is_refused(
    refused: Refusals, home: Path, builds: Path, tmp_path: Path
) -> None:
    target = tmp_path / "vm.img"
    argv = ("provision", "db", *COMMON, *newer(builds), "--device-file", target, "--size")
    assert "the image needs" in refused(*argv, "67M")
    assert not target.exists()
    target.write_bytes(b"something")
    os.truncate(target, 96 * MIB)
    before = seen(tmp_path)
    assert "the file already has" in refused(*argv, "95M")
    assert "--size is for --device-file" in refused("provision", "--resume", "db", "--size", "1G", status=10)
    assert seen(tmp_path) == before
    run(home, *map(str, argv), "97M")
    assert target.stat().st_size == 97 * MIB


@pytest.mark.parametrize(("more", "there"), [(1, None), (512, 0), (4095, 68 * MIB), (7, 68 * MIB + 7)])
def test_an_image_of_any_size_fits_the_file_that_is_made_for_it(
    home: Path, plain: Path, tmp_path: Path, more: int, there: int | None
) -> None:
    with plain.open("ab") as stream:
        stream.write(b"x" * more)
    Path(f"{plain}.bmap").write_bytes(dump(read_image(plain)))
    write_manifest(plain)
    target = tmp_path / "vm.img"
    if there is not None:
        target.touch()
        os.truncate(target, there)
    run(home, "provision", "vm", *COMMON, "--image", str(plain), "--device-file", str(target))
    check_disk(target, tmp_path)
    assert target.stat().st_size == 68 * MIB + 4096


# --- swapped between the look and the writing ---------------------------------------------------------------------------

SWAP = """
import os
from tower.cli import main as cli; from tower.disk import target
whole = target.opened_file
def swapped(path, *args, **more):
    {swap}
    return whole(path, *args, **more)
target.opened_file = swapped
"""


def test_a_file_that_is_swapped_is_not_written(home: Path, builds: Path, tmp_path: Path) -> None:
    target, other = tmp_path / "vm.img", tmp_path / "other.img"
    for path in (target, other):
        path.write_text(path.name)
        os.truncate(path, 96 * MIB)
    argv = ("provision", "vm", *COMMON, *newer(builds), "--device-file", str(target))
    code = SWAP.format(swap=f"os.replace({str(other)!r}, path)")
    assert "not the file that was there" in run(home, *argv, status=14, code=code)
    assert target.read_bytes().rstrip(b"\0") == b"other.img"


def test_a_link_that_is_turned_to_the_image_is_not_followed(home: Path, plain: Path, tmp_path: Path) -> None:
    """There was nothing when the file was chosen: what is there when it is opened is looked at again."""
    target, argv = (
        tmp_path / "vm.img",
        ("provision", "vm", *COMMON, "--image", str(plain), "--device-file", str(tmp_path / "vm.img")),
    )
    before = seen(plain.parent)
    for to in (plain, plain.with_name("SHA256SUMS"), "/dev/tower-test-none", home / ".local/tower/new.img"):
        run(home, *argv, status=14, code=SWAP.format(swap=f"os.symlink({str(to)!r}, path)"))
        target.unlink()
        run(home, "deprovision", "vm", "--yes")
    assert seen(plain.parent) == before
    assert not Path("/dev/tower-test-none").exists()
    assert not (home / ".local/tower/new.img").exists()


@pytest.mark.parametrize("step", ["disk.flash._fill", "disk.make._grow", "disk.make.grow_table", "disk.make._place"])
def test_all_that_is_written_goes_to_what_was_opened(home: Path, builds: Path, tmp_path: Path, step: str) -> None:
    """Another file takes the place of the one that is being written: it stays what it is."""
    target, moved, other = tmp_path / "vm.img", tmp_path / "moved.img", tmp_path / "other.img"
    for path in (target, other):
        path.write_text(path.name)
        os.truncate(path, 96 * MIB)
    module, _, name = step.rpartition(".")
    code = f"""
import os
from tower.cli import main as cli; import tower.{module} as module
whole = module.{name}
def swapped(*args, **more):
    if os.path.exists({str(other)!r}):
        os.rename({str(target)!r}, {str(moved)!r})
        os.rename({str(other)!r}, {str(target)!r})
    return whole(*args, **more)
module.{name} = swapped
"""
    run(home, "provision", "vm", *COMMON, *newer(builds), "--device-file", str(target), code=code)
    assert target.read_bytes().rstrip(b"\0") == b"other.img"
    check_disk(moved, tmp_path)
