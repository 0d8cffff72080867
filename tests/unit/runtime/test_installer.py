# SPDX-License-Identifier: Apache-2.0
"""The thin client's installer: files of answers that are refused, disks that are not taken, what is done in which order."""

from __future__ import annotations

import getpass
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tower.base import streams
from tower.base.errors import DeviceError, ImageProblemError, StateError, TowerError, ValueRefusedError
from tower.base.view import View
from tower.cli.main import main
from tower.disk.device import Disk, parse_disks
from tower.installer import ask, disks, installation, live_medium, system
from tower.installer.answers import MOST, Answers, parse_answers, parse_swap, read_answers
from tower.installer.failing import DiskWatch
from tower.installer.installation import SystemInstallation
from tower.installer.live_medium import check_live, find_medium, unpack_wheels
from tower.installer.plan import Plan, make_plan

GIB = 1 << 30
HASH = "$6$salt$" + "a" * 86
GOOD = {
    "ROOT_DISK": "/dev/sda", "BOOT_DEVICE": "STICK", "SWAP": "512M", "USERNAME": "al", "PASSWORD_HASH": HASH,
    "KEYBOARD_LAYOUT": "fr", "KEYBOARD_VARIANT": "fr-bepo", "TIMEZONE": "Europe/Paris", "LANG": "fr_FR.UTF-8",
    "DESKTOP": "yes",
}  # fmt: skip


def text(**changed: str | None) -> bytes:
    rows = {name: value for name, value in {**GOOD, **changed}.items() if value is not None}
    return "".join(f"{name}='{value}'\n" for name, value in rows.items()).encode()


def parsed(**changed: str | None) -> Answers:
    return parse_answers(text(**changed), "answers")


def test_all_answers() -> None:
    found = parse_answers(b"# for my laptop\n\n" + text(), "answers")
    assert found == Answers(
        "/dev/sda", "STICK", 512 << 20, found.username, HASH, "fr", "fr-bepo", "Europe/Paris", "fr_FR.UTF-8", desktop=True
    )
    assert found.username == "al"


def test_optional_answers_have_defaults() -> None:
    found = parsed(SWAP=None, KEYBOARD_LAYOUT=None, KEYBOARD_VARIANT=None, TIMEZONE=None, LANG=None, DESKTOP=None)
    assert (found.swap, found.keyboard_layout, found.keyboard_variant) == (2 * GIB, "us", "us")
    assert (found.timezone, found.lang) == ("UTC", "C.UTF-8")
    assert not found.desktop


def test_the_hash_is_shown_nowhere() -> None:
    assert "$6$" not in repr(parsed())
    assert "$6$" not in repr(Plan(parsed(), disk("sda"), disk("sdb")).rows())


REFUSED = {
    "empty": (b"", "cut off"),
    "only comments": (b"# nothing\n", "no ROOT_DISK, BOOT_DEVICE, USERNAME, PASSWORD_HASH"),
    "no end": (text()[:-1], "its last line has no newline"),
    "cut off within a value": (text()[:-5] + b"\n", "line 10 is not NAME='value'"),
    "CRLF": (text().replace(b"\n", b"\r\n"), "CRLF"),
    "CR alone": (text().replace(b"\n", b"\r"), "CRLF"),
    "oversized": (text() + b"#" * MOST + b"\n", f"more than {MOST} bytes"),
    "no UTF-8": (text(LANG=None) + b"LANG='\xff'\n", "UTF-8"),
    "NUL": (text() + b"\0\n", "line 11 is not"),
    "unknown": (text(PASSWORD="x"), "line 11: PASSWORD is not known"),
    "twice": (text() + b"SWAP='1G'\n", "line 11: SWAP occurs twice"),
    "no quotes": (b"ROOT_DISK=/dev/sda\n", "line 1 is not NAME='value'"),
    "double quotes": (b'ROOT_DISK="/dev/sda"\n', "line 1 is not NAME='value'"),
    "spaces": (b"ROOT_DISK = '/dev/sda'\n", "line 1 is not NAME='value'"),
    "export": (b"export ROOT_DISK='/dev/sda'\n", "line 1 is not NAME='value'"),
    "no disk": (text(ROOT_DISK=None), "no ROOT_DISK"),
    "no user": (text(USERNAME=None), "no USERNAME"),
    "a disk for a shell": (text(ROOT_DISK="$(reboot)"), "ROOT_DISK is '$(reboot)', which is not a disk"),
    "an option for a disk": (text(BOOT_DEVICE="--force"), "BOOT_DEVICE is '--force'"),
    "a path elsewhere": (text(BOOT_DEVICE="/etc/passwd"), "BOOT_DEVICE is '/etc/passwd'"),
    "a path that climbs": (text(BOOT_DEVICE="/dev/../etc/passwd"), "BOOT_DEVICE is"),
    "root": (text(USERNAME="root"), "root cannot log in"),
    "a user for a shell": (text(USERNAME="al;id"), "cannot be a user"),
    "two users": (text(USERNAME="al:x"), "cannot be a user"),
    "a password": (text(PASSWORD_HASH="secret"), "hash of a password"),
    "two lines of chpasswd": (text(PASSWORD_HASH=HASH + r"'\''"), "hash of a password"),
    "no size": (text(SWAP="much"), "SWAP is 'much'"),
    "size without unit": (text(SWAP="512"), "SWAP is '512'"),
    "size below nothing": (text(SWAP="-1G"), "SWAP is '-1G'"),
    "keyboard": (text(KEYBOARD_LAYOUT="uk", KEYBOARD_VARIANT=None), "is not a keyboard layout"),
    "variant": (text(KEYBOARD_VARIANT="fr-klingon"), "is not a variant"),
    "zone": (text(TIMEZONE="Europe/Pari"), "is not a time zone"),
    "zone that climbs": (text(TIMEZONE="../../etc/passwd"), "is not a time zone"),
    "neither yes nor no": (text(DESKTOP="true"), "DESKTOP is 'true'"),
    "language": (text(LANG="french; id"), "is not a locale"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, said = REFUSED[name]
    with pytest.raises(ValueRefusedError) as caught:
        parse_answers(data, "answers")
    assert said in str(caught.value)
    assert str(caught.value).startswith("answers: ")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "found"), [("0M", 0), ("512M", 512 << 20), ("4G", 4 * GIB), ("4g", 4 * GIB), ("1024T", 1 << 50)]
)
def test_sizes(size: str, found: int) -> None:
    assert parse_swap(size) == found


@pytest.mark.parametrize("size", ["", "G", "4", "04G", "-4G", "1.5G", "4GB", "4G\n", "1025T", "99999999G", "٤G"])
def test_no_sizes(size: str) -> None:
    with pytest.raises(ValueRefusedError):
        parse_swap(size)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="No such file"):
        read_answers(tmp_path / "none")
    with pytest.raises(StateError, match="folder"):
        read_answers(tmp_path)


# --- the disks ------------------------------------------------------------------------------------------------


def row(name: str, **more: Any) -> dict[str, Any]:
    base = {
        "name": name, "path": f"/dev/{name}", "type": "disk", "size": 64 * GIB, "rm": False, "hotplug": False, "ro": False,
        "serial": name.upper(), "model": "Fast", "tran": "sata", "mountpoints": [None], "uuid": None, "partuuid": None,
        "maj:min": "", "log-sec": 512,
    }  # fmt: skip
    return {**base, **more}


def stick(name: str = "sdb", **more: Any) -> dict[str, Any]:
    return row(name, **{"size": GIB, "rm": True, "hotplug": True, "tran": "usb", "serial": "STICK", "model": "Stick", **more})


def disk(name: str) -> Disk:
    return found_disks(row(name))[0]


def found_disks(*rows: dict[str, Any]) -> tuple[Disk, ...]:
    return parse_disks(json.dumps({"blockdevices": rows}).encode(), Path("/nonexistent"))


def plan_of(*rows: dict[str, Any], **changed: str) -> Plan:
    return make_plan(parsed(**changed), found_disks(*rows))


def test_a_plan_names_what_will_be_wiped() -> None:
    plan = plan_of(row("sda"), stick())
    assert (plan.root.path, plan.boot.path) == (Path("/dev/sda"), Path("/dev/sdb"))
    rows = plan.rows()
    assert rows["root_disk"] == "/dev/sda (Fast, serial SDA, sata, 68.7 GB): will be wiped"
    assert rows["boot_device"] == "/dev/sdb (Stick, serial STICK, usb, 1.07 GB): will be wiped"


def test_a_serial_number_finds_the_disk_whatever_it_is_called_now() -> None:
    plan = plan_of(row("sdc", serial="FAST"), stick("sda"), ROOT_DISK="FAST")
    assert (plan.root.path, plan.boot.path) == (Path("/dev/sdc"), Path("/dev/sda"))


def test_the_root_disk_may_be_removable() -> None:
    assert plan_of(row("sda", rm=True, tran="usb"), stick()).root.path == Path("/dev/sda")


MEDIUM = stick("sdc", serial="ISO", mountpoints=["/media/sdc"])
NO_PLAN = {
    "root disk is not there": ((stick(),), {}, "ROOT_DISK: /dev/sda is not a disk of this machine, which has:\n  /dev/sdb"),
    "boot device is not there": ((row("sda"),), {}, "BOOT_DEVICE: STICK is not a disk"),
    "no disk at all": ((), {}, "which has: none"),
    "the same": ((row("sda"), stick()), {"ROOT_DISK": "/dev/sdb"}, "cannot be root disk and boot device at once"),
    "the same by serial": ((row("sda"), stick()), {"ROOT_DISK": "STICK"}, "cannot be root disk and boot device at once"),
    "two of a serial": ((row("sda"), stick(), stick("sdd")), {}, "BOOT_DEVICE: 2 disks have the serial number STICK"),
    "root too small": ((row("sda", size=4 * GIB), stick()), {}, r"ROOT_DISK, /dev/sda .*has 4.29 GB, 4.9 GB are needed"),
    "too small with that swap": ((row("sda"), stick()), {"SWAP": "63G"}, "has 68.7 GB, 72 GB are needed"),
    "boot too small": ((row("sda"), stick(size=128 << 20)), {}, "BOOT_DEVICE, .*has 134 MB, 268 MB are needed"),
    "boot built in": ((row("sda"), row("sdb", serial="STICK")), {}, "BOOT_DEVICE, .*is not removable"),
    "root is the medium": ((row("sda"), stick(), MEDIUM), {"ROOT_DISK": "ISO"}, "ROOT_DISK, .*is in use: /media/sdc"),
    "boot is the medium": ((row("sda"), MEDIUM), {"BOOT_DEVICE": "ISO"}, "BOOT_DEVICE, .*is in use: /media/sdc"),
    "root in use": ((row("sda", mountpoints=["/"]), stick()), {}, "is in use: /"),
    "root is part of LVM": (
        (row("sda", children=[row("vg", type="lvm", path="/dev/mapper/vg")]), stick()), {}, "/dev/mapper/vg .* is built on it"
    ),
    "root write-protected": ((row("sda", ro=True), stick()), {}, "is write-protected"),
    "boot write-protected": ((row("sda"), stick(ro=True)), {}, "is write-protected"),
    "large sectors": ((row("sda", **{"log-sec": 4096}), stick()), {}, "sectors of 4096 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_PLAN)
def test_no_plan(name: str) -> None:
    rows, changed, said = NO_PLAN[name]
    with pytest.raises(DeviceError, match=said):
        plan_of(*rows, **changed)


def test_the_hint_names_what_would_do() -> None:
    with pytest.raises(DeviceError) as caught:
        plan_of(row("sda", ro=True), stick(), row("sdd"))
    assert "/dev/sdd (Fast" in caught.value.hint
    assert "/dev/sdb" not in caught.value.hint


# --- the medium -----------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, file: str) -> str:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(file, "x = 1\n")
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_wheels(tmp_path: Path) -> None:
    lines = [wheel(tmp_path, "tower", "tower/__init__.py"), wheel(tmp_path, "rich", "rich/__init__.py")]
    (tmp_path / "requirements.txt").write_text("# all\n" + "".join(lines))
    unpack_wheels(tmp_path, tmp_path / "out")
    assert {path.parent.name for path in (tmp_path / "out").glob("*/__init__.py")} == {"rich", "tower"}


@pytest.mark.parametrize(
    ("kept", "flip", "said"),
    [
        ((), False, "does not name tower"),
        (("tower",), False, "rich-1.0.*is not what its list"),
        (("tower", "rich", "tqdm"), False, "there is no tqdm"),
        (("tower", "rich"), True, "is not what its list"),
    ],
)
def test_wheels_that_are_not_those_of_the_list(tmp_path: Path, kept: tuple[str, ...], flip: bool, said: str) -> None:
    lines = {name: wheel(tmp_path, name, f"{name}/__init__.py") for name in ("tower", "rich", "tqdm")}
    (tmp_path / "tqdm-1.0-py3-none-any.whl").unlink()
    (tmp_path / "requirements.txt").write_text("".join(lines[name] for name in kept))
    if flip:
        path = tmp_path / "tower-1.0-py3-none-any.whl"
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
    with pytest.raises(ImageProblemError, match=said):
        unpack_wheels(tmp_path, tmp_path / "out")


def test_only_the_live_system_installs(tmp_path: Path) -> None:
    check_live("rootfs / rootfs rw 0 0\ntmpfs / tmpfs rw 0 0\n")
    for mounts in ("/dev/sda2 / ext4 rw 0 0\n", "tmpfs / tmpfs rw 0 0\n/dev/mapper/tower-root / ext4 rw 0 0\n", ""):
        with pytest.raises(StateError, match="only the live system"):
            check_live(mounts)
    with pytest.raises(StateError, match="no medium"):
        find_medium(tmp_path)
    (tmp_path / "sr0/toweros/wheels").mkdir(parents=True)
    assert find_medium(tmp_path) == tmp_path / "sr0/toweros"


@pytest.mark.parametrize(("active", "kind", "line"), [("tty0 ttyS0", "4", "ttyS0"), ("tty0 ttyS0", "0", ""), ("tty0", "4", "")])
def test_serial_line(tmp_path: Path, active: str, kind: str, line: str) -> None:
    for name, content in (("console/active", active), ("ttyS0/type", kind)):
        place = tmp_path / "sys/class/tty" / name
        place.parent.mkdir(parents=True)
        place.write_text(f"{content}\n")
    assert system.serial_line(tmp_path) == line
    assert system.serial_line(tmp_path / "none") == ""


# --- a run that fails -----------------------------------------------------------------------------------------


def watched(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """Let disks of these names be there, and the log of the kernel be a file, which is returned."""
    kernel = folder / "kmsg"
    kernel.write_text("")
    for name in names:
        (folder / "sys/block" / name).mkdir(parents=True)
    monkeypatch.setattr(installation, "DiskWatch", lambda used: DiskWatch(used, kernel=kernel, root=folder))
    return kernel


def test_an_interrupted_run_reports_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first change that is nothing; afterwards, that both disks are wiped. What was left open is let go."""
    monkeypatch.setattr(installation, "LOG", tmp_path / "log")
    watched(tmp_path, monkeypatch, "sda", "sdb")
    released = []
    monkeypatch.setattr(disks, "release", lambda: released.append(1))
    monkeypatch.setattr(live_medium, "check", lambda *_: None)

    def failing(*_: object) -> None:
        raise TowerError("it broke", hint="mend it")

    for place, name, said in [(system, "add_tools", "no disk was changed"), (disks, "partition", "are wiped and hold no whole")]:
        monkeypatch.setattr(place, name, failing)
        with pytest.raises(TowerError) as caught:
            SystemInstallation(plan_of(row("sda"), stick()), tmp_path, View()).run()
        assert caught.value.message == "it broke"
        assert caught.value.hint.startswith("mend it; ")
        assert said in caught.value.hint
        monkeypatch.setattr(place, name, lambda *_: None)
    assert len(released) == 2
    log = (tmp_path / "log").read_text()
    assert "failed: it broke" in log
    assert "$6$" not in log


def test_the_command_refuses_bad_answers_before_it_looks_at_disks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers"
    path.write_bytes(text(ROOT_DISK=None))
    assert main(["setup", "--answers", str(path)]) == ValueRefusedError.exit_status
    assert f"tower setup: {path}: there is no ROOT_DISK" in capfd.readouterr().err


# --- asking ---------------------------------------------------------------------------------------------------


def asked(monkeypatch: pytest.MonkeyPatch, *lines: str, setup_mode: bool = False) -> Answers:
    """What comes of lines that somebody types, of which those of a password come without echo."""
    typed = iter(lines)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(streams, "line", lambda: f"{line}\n" if (line := next(typed, None)) is not None else "")
    monkeypatch.setattr(getpass, "getpass", lambda *_: next(typed))
    return ask.ask(found_disks(row("sda"), stick(), row("sdd", size=GIB)), setup_mode=setup_mode)


GIVEN = ("/dev/sda", "sdb", "1G", "al", "secret word", "secret word", "fr", "fr-bepo", "Europe/Paris", "fr_FR.UTF-8", "yes")


def test_all_questions(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    found = asked(monkeypatch, *GIVEN)
    assert (found.root_disk, found.boot_device, found.swap, found.username) == ("/dev/sda", "/dev/sdb", GIB, "al")
    assert (found.keyboard_variant, found.timezone, found.lang) == ("fr-bepo", "Europe/Paris", "fr_FR.UTF-8")
    assert found.desktop
    assert found.password_hash.startswith("$6$")
    shown = capfd.readouterr().err
    assert "/dev/sda (Fast, serial SDA, sata, 68.7 GB): for system\n" in shown
    assert "/dev/sdb (Stick, serial STICK, usb, 1.07 GB): for boot device\n" in shown
    assert "/dev/sdd (Fast, serial SDD, sata, 1.07 GB): has 1.07 GB, 4.36 GB are needed\n" in shown
    assert "secret" not in shown


def test_enter_takes_what_is_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch, "SDA", "STICK", "", "al", "x", "x", "", "", "", "", "")
    assert (found.swap, found.keyboard_layout, found.keyboard_variant) == (2 * GIB, "us", "us")
    assert (found.timezone, found.lang) == ("UTC", "C.UTF-8")


def test_back_returns_to_the_question_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every question, also at the first; what was said before is in brackets then. No password: back, too."""
    found = asked(monkeypatch, "back", "/dev/sda", "back", "", "sdb", "1G", "al", "", "back", "4G", "bo", *GIVEN[4:])
    assert (found.root_disk, found.swap, found.username) == ("/dev/sda", 4 * GIB, "bo")


@pytest.mark.parametrize(
    ("place", "wrong", "said"),
    [
        (0, "", "that is not one of the disks"),
        (0, "/dev/sdz", "/dev/sdz is not one of the disks"),
        (0, "/dev/sdd", "4.36 GB are needed"),
        (1, "/dev/sda", "is not removable"),
        (2, "lots", "is not a size"),
        (3, "root", "cannot log in"),
        (3, "", "cannot be a user"),
        (6, "uk", "is it one of: gb, ua?"),
        (7, "fr-klingon", "is not a variant"),
        (8, "Europe/Pari", "is it one of: Europe/Paris"),
        (9, "french!", "is not a locale"),
        (10, "maybe", "DESKTOP is 'maybe'"),
    ],
)
def test_an_invalid_answer_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], place: int, wrong: str, said: str
) -> None:
    found = asked(monkeypatch, *GIVEN[:place], wrong, *GIVEN[place:])
    assert (found.root_disk, found.username, found.lang) == ("/dev/sda", "al", "fr_FR.UTF-8")
    assert said in capfd.readouterr().err


def test_two_passwords_that_differ(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    asked(monkeypatch, *GIVEN[:5], "another", *GIVEN[4:])
    shown = capfd.readouterr().err
    assert "the two are not the same" in shown
    assert "another" not in shown


def test_the_input_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TowerError, match="nobody answers any more"):
        asked(monkeypatch, *GIVEN[:3])


def test_setup_without_a_terminal_is_refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["setup"]) == ValueRefusedError.exit_status
    assert "the input is not a terminal" in capfd.readouterr().err
