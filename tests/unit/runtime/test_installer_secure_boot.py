# SPDX-License-Identifier: Apache-2.0
"""Secure Boot with keys of the machine's own: keys, firmware, the file that is signed, and what is refused before it is."""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tower.base.errors import DeviceError, ImageProblemError, StateError, ToolError, TowerError, ValueRefusedError
from tower.base.view import View
from tower.cli.main import main
from tower.installer import disks, existing, firmware, installation, live_medium, signing, system
from tower.installer.firmware import Mode
from tower.installer.unified import unified_image

from tests.unit.runtime.test_installer import GIVEN, asked, parsed, plan_of, row, stick, watched
from tests.unit.runtime.test_installer_upgrade import an_account, laid_aside

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
YES, NO = b"\x06\0\0\0\x01", b"\x06\0\0\0\0"


def variables(folder: Path, **values: bytes) -> Path:
    """A folder with variables of the firmware, as efivarfs shows them."""
    place = folder / "efivars"
    place.mkdir()
    for name, value in values.items():
        (place / f"{name}-{GLOBAL}").write_bytes(value)
    return place


# --- the firmware ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"SetupMode": YES, "SecureBoot": NO}, Mode.SETUP),
        ({"SetupMode": NO, "SecureBoot": YES}, Mode.ON),
        ({"SetupMode": NO, "SecureBoot": NO}, Mode.OFF),
        ({"SetupMode": b"", "SecureBoot": b"\x06\0\0\0"}, Mode.OFF),
        ({"SetupMode": YES + b"\x01"}, Mode.OFF),
        ({}, Mode.OFF),
    ],
)
def test_what_the_firmware_does(tmp_path: Path, values: dict[str, bytes], found: Mode) -> None:
    place = variables(tmp_path, **values)
    assert firmware.mode(place) is found
    if found is Mode.SETUP:
        firmware.need_setup_mode(place)
        return
    with pytest.raises(StateError, match="needs a firmware in setup mode") as caught:
        firmware.need_setup_mode(place)
    assert "delete the platform key (PK)" in caught.value.hint


def test_a_machine_that_was_started_by_bios(tmp_path: Path) -> None:
    assert firmware.mode(tmp_path / "none") is Mode.BIOS
    with pytest.raises(StateError, match="here: started by BIOS"):
        firmware.need_setup_mode(tmp_path / "none")


def test_the_platform_key_is_the_last_that_the_firmware_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut before it leaves the firmware in setup mode. What is there already is replaced."""
    place = variables(tmp_path, SetupMode=NO)
    order: list[str] = []
    monkeypatch.setattr(firmware, "_let_change", lambda path: order.append(path.name))
    firmware.enrol({"PK": b"p", "KEK": b"k", "db": b"d"}, place)
    assert order == [f"db-{DATABASE}", f"KEK-{GLOBAL}", f"PK-{GLOBAL}"]
    assert [(place / name).read_bytes() for name in order] == [b"d", b"k", b"p"]


def test_a_variable_that_the_firmware_refuses_is_named(tmp_path: Path) -> None:
    place = variables(tmp_path, SetupMode=YES)
    (place / f"KEK-{GLOBAL}").mkdir()
    with pytest.raises(DeviceError, match="the firmware does not take its variable KEK: ") as caught:
        firmware.enrol({"PK": b"p", "KEK": b"k", "db": b"d"}, place)
    assert "setup" in caught.value.hint
    assert not (place / f"PK-{GLOBAL}").exists()


def test_a_firmware_that_stays_in_setup_mode_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="in setup mode still"):
        firmware.enrol({"PK": b"p", "KEK": b"k", "db": b"d"}, variables(tmp_path, SetupMode=YES))


# --- answers --------------------------------------------------------------------------------------------------


def test_it_is_asked_for_in_setup_mode_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not asked(monkeypatch, *GIVEN).secure_boot
    assert asked(monkeypatch, *GIVEN, "yes", setup_mode=True).secure_boot
    assert not asked(monkeypatch, *GIVEN, "", setup_mode=True).secure_boot
    assert asked(monkeypatch, *GIVEN, "back", "no", "yes", setup_mode=True).secure_boot


def test_answers_say_no_unless_they_say_yes() -> None:
    assert not parsed().secure_boot
    assert parsed(SECURE_BOOT="yes").secure_boot
    with pytest.raises(ValueRefusedError, match="SECURE_BOOT is 'on'"):
        parsed(SECURE_BOOT="on")
    for answer, shown in (("yes", "with keys of its own, which the firmware is given"), ("no", "no")):
        assert plan_of(row("sda"), stick(), SECURE_BOOT=answer).rows()["secure_boot"] == shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sign", "--secure-boot"), "--secure-boot and --sign exclude each other"),
        (("--sign", "--upgrade"), "--sign and --upgrade exclude each other"),
        (("--secure-boot", "--answers", "x"), "--secure-boot and --answers exclude each other"),
    ],
)
def test_options_that_exclude_each_other(capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    assert main(["setup", *words]) == ValueRefusedError.exit_status
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "swap UUID=1 x\n", "tower-crypt /dev/sda1 x\n", "tower-crypt\n", "tower-crypt UUID=1 x\ntower-crypt UUID=2 x\n"]
)
def test_only_an_installed_system_signs(tmp_path: Path, text: str) -> None:
    (tmp_path / "crypttab").write_text(text)
    for name in ("crypttab", "none"):
        with pytest.raises(StateError, match="no installed TowerOS"):
            system.encrypted_root(tmp_path / name)


# --- keys -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with keys."""
    root = tmp_path_factory.mktemp("made")
    (root / signing.FOLDER.parent).mkdir(parents=True)
    signing.make_keys(root)
    return root


@pytest.fixture
def keys(made: Path, tmp_path: Path) -> Path:
    """A copy of that root."""
    return Path(shutil.copytree(made, tmp_path / "root"))


def test_keys_are_their_owners_alone(keys: Path) -> None:
    folder = keys / signing.FOLDER
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {f"{name}.{end}" for name in ("PK", "KEK", "db") for end in ("key", "crt")}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert len({path.read_bytes() for path in folder.iterdir()}) == 6
    signing.check_keys(keys)
    assert signing.has_keys(keys)
    assert not signing.has_keys(keys.parent)


@pytest.mark.parametrize("name", ["PK.key", "KEK.crt", "db.key"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\0" * 9)])
def test_keys_that_cannot_be_used_are_named(keys: Path, name: str, harm: Callable[[Path], object]) -> None:
    place = keys / signing.FOLDER / name
    harm(place)
    with pytest.raises(StateError, match="keys of Secure Boot: ") as caught:
        signing.check_keys(keys)
    assert str(place) in caught.value.message
    assert "tower setup --secure-boot" in caught.value.hint


def test_a_program_that_is_missing_is_named(keys: Path) -> None:
    with pytest.raises(ToolError, match=r"^/usr/bin/sbsign: is not there") as caught:
        signing.write_start(keys, ["quiet"], "lts", "1-r0")
    assert "apk add sbsigntool systemd-efistub" in caught.value.hint


def test_the_list_that_the_firmware_gets_is_what_sbsiglist_makes(keys: Path, tmp_path: Path) -> None:
    ours = signing._signature_list(keys, "KEK")
    pem, der, theirs = keys / signing.FOLDER / "KEK.crt", tmp_path / "der", tmp_path / "list"
    subprocess.run(["openssl", "x509", "-in", pem, "-outform", "DER", "-out", der], check=True, timeout=60)
    nobody = "00000000-0000-0000-0000-000000000000"
    argv = ["sbsiglist", "--type", "x509", "--owner", nobody, "--output", str(theirs), str(der)]
    subprocess.run(argv, check=True, timeout=60)
    # They differ in the owner, which is the same for all of a machine's keys.
    assert ours[:28] + bytes(16) + ours[44:] == theirs.read_bytes()
    assert ours[28:44] == signing._signature_list(keys, "db")[28:44] != bytes(16)


def test_a_variable_is_signed_over_all_that_counts(keys: Path, tmp_path: Path) -> None:
    """Name, place, attributes, time and content, by the key above it; openssl finds the signature good."""
    folder = keys / signing.FOLDER
    for name, by in (("db", "KEK"), ("KEK", "PK"), ("PK", "PK")):
        found = signing._signed_variable(keys, name, datetime(2026, 1, 9, 8, 7, 6, tzinfo=UTC))
        attributes, time, (size, revision, kind) = found[:4], found[4:20], struct.unpack_from("<IHH", found, 20)
        assert (attributes, revision, kind) == (b"\x27\0\0\0", 0x200, 0xEF1)
        assert time == b"\xea\x07\x01\x09\x08\x07\x06" + bytes(9)
        signature, content = found[44 : 20 + size], found[20 + size :]
        assert content == signing._signature_list(keys, name)
        guid = firmware.PLACES[name].bytes_le
        (tmp_path / "signed").write_bytes(name.encode("utf-16-le") + guid + attributes + time + content)
        # As a file, it says what kind of signature it is.
        kind_of = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"
        inside = b"\xa0\x82" + len(signature).to_bytes(2, "big") + signature
        whole = b"\x30\x82" + (len(kind_of) + len(inside)).to_bytes(2, "big") + kind_of + inside
        (tmp_path / "signature").write_bytes(whole)
        for data, status in ((b"", 0), (b"x", 4)):
            with (tmp_path / "signed").open("ab") as stream:
                stream.write(data)
            argv = ["openssl", "smime", "-verify", "-binary", "-inform", "DER", "-in", str(tmp_path / "signature")]
            argv += ["-content", str(tmp_path / "signed"), "-noverify", "-certfile", str(folder / f"{by}.crt")]
            done = subprocess.run([*argv, "-out", "/dev/null"], capture_output=True, check=False, timeout=60)
            assert done.returncode == status, done.stderr


@pytest.mark.parametrize("length", [15, 100, -100])
def test_a_key_that_signs_nothing_is_named(keys: Path, length: int) -> None:
    """It is cut off."""
    place = keys / signing.FOLDER / "KEK.key"
    place.write_bytes(place.read_bytes()[:length])
    with pytest.raises(StateError, match=r"keys of Secure Boot: .*KEK\.key: is damaged"):
        signing.variables(keys)


def test_an_upgrade_keeps_the_keys(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_aside(tmp_path, monkeypatch)
    an_account(tmp_path, "al:x:1000:1000::/home/al:/bin/sh")
    (tmp_path / "etc/apk").mkdir()
    (tmp_path / "etc/apk/repositories").write_text("")
    before = {path.name: path.read_bytes() for path in (made / signing.FOLDER).iterdir()}
    shutil.copytree(made / "etc/tower", tmp_path / "etc/tower")
    existing.keep()
    shutil.rmtree(tmp_path / "etc/tower")
    existing.restore()
    place = tmp_path / signing.FOLDER
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
    assert place.stat().st_mode & 0o777 == 0o700


def test_an_upgrade_does_not_begin_with_keys_that_cannot_be_used(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_aside(keys, monkeypatch)
    an_account(keys, "al:x:1000:1000::/home/al:/bin/sh")
    (keys / signing.FOLDER / "db.key").unlink()
    with pytest.raises(StateError, match=r"keys of Secure Boot: .*db\.key"):
        existing.keep()
    assert not list((keys / "home").iterdir())


# --- what is signed -------------------------------------------------------------------------------------------

KERNEL = b"MZ kernel"
SHA1 = base64.b64encode(hashlib.sha1(KERNEL, usedforsecurity=False).digest()).decode()
SHA256 = base64.b64encode(hashlib.sha256(KERNEL).digest()).decode()
CUT = base64.b64encode(hashlib.sha256(KERNEL).digest()[:20]).decode()


def database(root: Path, checksum: str, place: str = "lib/apk/db") -> None:
    (root / place).mkdir(parents=True)
    (root / place / "installed").write_text(
        "C:Q1x\nP:other\nV:1-r0\nF:lib\nR:vmlinuz-lts\nZ:Q1AAAA\n\n"
        f"C:Q1y\nP:linux-lts\nV:2-r0\nF:boot\nR:config-2\nZ:Q1BBBB\nR:vmlinuz-lts\na:0:0:600\nZ:{checksum}\nF:lib/modules\n\n"
    )


@pytest.mark.parametrize("place", ["lib/apk/db", "usr/lib/apk/db"])
@pytest.mark.parametrize("checksum", [f"Q1{SHA1}", f"Q2{SHA256}", f"Q2{CUT}"])
def test_a_kernel_is_signed_only_as_apk_has_installed_it(tmp_path: Path, place: str, checksum: str) -> None:
    """The boot device that it lies on may have been in anybody's hands."""
    database(tmp_path, checksum, place)
    signing.check_kernel(tmp_path, "boot/vmlinuz-lts", KERNEL)
    with pytest.raises(ImageProblemError, match="/boot/vmlinuz-lts: is not what apk has installed") as caught:
        signing.check_kernel(tmp_path, "boot/vmlinuz-lts", KERNEL[:-1] + b"\0")
    assert "apk fix --reinstall linux-lts" in caught.value.hint


@pytest.mark.parametrize("checksum", [f"Q2{SHA256[:8]}", f"X1{SHA1}", "Q1", "Q2", ""])
def test_a_checksum_that_says_nothing_is_no_proof(tmp_path: Path, checksum: str) -> None:
    database(tmp_path, checksum)
    with pytest.raises(ImageProblemError):
        signing.check_kernel(tmp_path, "boot/vmlinuz-lts", KERNEL)


def test_a_kernel_that_apk_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ImageProblemError, match="apk knows no such file"):
        signing.check_kernel(tmp_path, "boot/vmlinuz-lts", KERNEL)


def start(*, magic: int = 0x20B, room: int = 1024, signed: int = 0) -> bytes:
    """A start as it is appended to: headers, and one section."""
    head = bytearray(0x40 + 24 + 240 + 40)
    head[:2] = b"MZ"
    struct.pack_into("<I", head, 0x3C, 0x40)
    struct.pack_into("<4s HHIIIHH", head, 0x40, b"PE\0\0", 0x8664, 1, 0, 0, 0, 240, 0x22E)
    optional = 0x40 + 24
    struct.pack_into("<H", head, optional, magic)
    struct.pack_into("<II", head, optional + 32, 4096, 512)
    struct.pack_into("<IIIHH", head, optional + 56, 8192, room, 0x1234, 10, 0)
    struct.pack_into("<I", head, optional + 108, 16)
    struct.pack_into("<II", head, optional + 144, signed, 0)
    struct.pack_into("<8s IIII IIHHI", head, optional + 240, b".text", 100, 4096, 512, 1024, 0, 0, 0, 0, 0x60000020)
    return bytes(head).ljust(1024, b"\0") + b"\xc3" * 512


SECTIONS = {".cmdline": b"quiet", ".initrd": b"i" * 5000, ".linux": b"k" * 700}


def test_sections_are_where_the_headers_say(tmp_path: Path) -> None:
    image = unified_image(start(), SECTIONS, "stub")
    table, end = 0x40 + 24 + 240, 4096
    for at, (name, data) in enumerate([(".text", b"\xc3" * 100), *SECTIONS.items()]):
        found, size, address, raw, place, *_ = struct.unpack_from("<8s IIII IIHHI", image, table + 40 * at)
        assert found.rstrip(b"\0").decode() == name
        assert image[place : place + size] == data
        assert (place % 512, raw % 512, address % 4096) == (0, 0, 0)
        assert address >= end
        end = address + size
    assert struct.unpack_from("<I", image, 0x40 + 24 + 56)[0] >= end
    assert len(image) % 512 == 0


def test_sbsign_signs_it_and_one_flipped_bit_is_found(keys: Path, tmp_path: Path) -> None:
    """In any section."""
    (tmp_path / "start").write_bytes(unified_image(start(), SECTIONS, "stub"))
    pair = ["--key", str(keys / signing.FOLDER / "db.key"), "--cert", str(keys / signing.FOLDER / "db.crt")]
    signed = tmp_path / "signed"
    subprocess.run(["sbsign", *pair, "--output", signed, tmp_path / "start"], check=True, capture_output=True, timeout=60)
    check = ["sbverify", "--cert", str(keys / signing.FOLDER / "db.crt"), str(signed)]
    assert subprocess.run(check, capture_output=True, check=False, timeout=60).returncode == 0
    whole = signed.read_bytes()
    for text in (b"quiet", b"iiii", b"kkkk"):
        data = bytearray(whole)
        data[whole.index(text)] ^= 1
        signed.write_bytes(data)
        assert subprocess.run(check, capture_output=True, check=False, timeout=60).returncode != 0


@pytest.mark.parametrize(
    ("stub", "said"),
    [
        (b"", ""),
        (b"MZ", ""),
        (b"\x7fELF" + start()[4:], "no program"),
        (start(magic=0x10B), "no unsigned program"),
        (start(signed=1024), "no unsigned program"),
        (start(room=0x40 + 24 + 240 + 80), "no room for 3 more sections"),
        (start().replace(b".text\0", b".linux"), "has one of the sections already"),
        *((start()[:length], "") for length in range(2, 0x40 + 24 + 240 + 40, 7)),
    ],
)
def test_a_start_that_is_none_is_refused(stub: bytes, said: str) -> None:
    with pytest.raises(ImageProblemError, match=f"^stub: cannot start a kernel by UEFI: .*{said}"):
        unified_image(stub, SECTIONS, "stub")


# --- the installation -----------------------------------------------------------------------------------------


def test_a_firmware_that_refuses_leaves_a_whole_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given its keys after everything is written; the error says how to try again."""
    watched(tmp_path, monkeypatch, "sda", "sdb")
    monkeypatch.setattr(installation, "LOG", tmp_path / "log")
    order: list[str] = []

    def step(name: str, result: object) -> Callable[..., object]:
        def done(*_: object, **__: object) -> object:
            order.append(name)
            return result

        return done

    def does(place: object, *names: str, result: object = None) -> None:
        for name in names:
            monkeypatch.setattr(place, name, step(name, result))

    does(live_medium, "check")
    does(disks, "release", "encrypt", "volumes", "file_systems", "mount", "close", "write_loader")
    does(disks, "partition", result=(Path("a"), Path("b")))
    does(
        system, "add_tools", "add_packages", "settings", "choices", "user", "desktop_at_login", "tower", "boot_files", "keep_log"
    )
    does(signing, "make_keys")
    does(signing, "variables", result={"PK": b"p", "KEK": b"k", "db": b"d"})

    def refuses(*_: object) -> None:
        order.append("enrol")
        raise DeviceError("the firmware does not take its variable PK: Invalid argument", hint="mend it")

    monkeypatch.setattr(firmware, "enrol", refuses)
    run = installation.SystemInstallation(plan_of(row("sda"), stick(), SECURE_BOOT="yes"), tmp_path, View())
    assert run.steps == 11
    with pytest.raises(TowerError, match="does not take its variable PK") as caught:
        run.run()
    assert caught.value.hint.startswith("mend it; the system is whole, and starts without Secure Boot")
    assert "doas tower setup --secure-boot" in caught.value.hint
    assert order.index("make_keys") < order.index("boot_files") < order.index("close") < order.index("enrol")
