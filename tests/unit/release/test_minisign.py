# SPDX-License-Identifier: Apache-2.0
"""minisign's formats, in both directions against the program itself, and everything that must be refused."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.image.minisign import (
    COMMENT,
    PublicKey,
    SignatureError,
    parse_public_key,
    parse_signature,
    read_public_key,
    read_small,
    signer_of,
    verify,
    verify_file,
)

from pipeline.base.errors import ConfigError, ReleaseError
from pipeline.supply.minisign import SecretKey, ask_passphrase, load_secret_key, parse_secret_key
from tests.unit.release.keys import LITTLE

DATA = b"what is signed\n"
KEY = SecretKey.generate()
SIGNED = KEY.sign_bytes(DATA, "file:a\tversion:1")


def never() -> str:
    raise AssertionError("asked for a passphrase")


@pytest.fixture(scope="module")
def minisign() -> str:
    program = shutil.which("minisign")
    if program is None:
        pytest.skip("minisign is not installed")
    return program


def run(*argv: str | Path, text: str = "", status: int = 0) -> str:
    done = subprocess.run([*argv], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def check(data: bytes, signature: bytes, *keys: PublicKey) -> PublicKey:
    return verify(io.BytesIO(data), parse_signature(signature, "s"), keys or (KEY.public_key,), "data", plain=True)


# --- against the program --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prehashed", [True, False])
def test_minisign_takes_ours(minisign: str, tmp_path: Path, prehashed: bool) -> None:
    file, public, other = (tmp_path / name for name in ("file", "a.pub", "b.pub"))
    file.write_bytes(DATA)
    public.write_bytes(KEY.public_key.dump())
    other.write_bytes(SecretKey.generate().public_key.dump())
    (tmp_path / "file.minisig").write_bytes(KEY.sign(io.BytesIO(DATA), "some words", prehashed=prehashed).dump())
    assert "Trusted comment: some words" in run(minisign, "-V", "-m", file, "-p", public)
    run(minisign, "-V", "-m", file, "-P", KEY.public_key.text)
    run(minisign, "-V", "-m", file, "-p", other, status=1)
    run(minisign, "-V", "-H", "-m", file, "-p", public, status=0 if prehashed else 1)


@pytest.mark.parametrize("passphrase", ["", "long words"])
def test_minisign_signs_with_our_key(minisign: str, tmp_path: Path, passphrase: str) -> None:
    file, secret = tmp_path / "file", tmp_path / "key"
    file.write_bytes(DATA)
    secret.write_bytes(KEY.dump(passphrase, memory=LITTLE))
    run(minisign, "-S", "-s", secret, "-m", file, "-t", "of theirs", text=f"{passphrase}\n")
    found = verify_file(file, [KEY.public_key])
    assert (found.trusted_comment, found.algorithm) == ("of theirs", b"ED")
    run(minisign, "-S", "-l", "-s", secret, "-m", file, text=f"{passphrase}\n")
    assert verify_file(file, [KEY.public_key]).algorithm == b"Ed"
    run(minisign, "-R", "-s", secret, "-p", tmp_path / "again.pub", text=f"{passphrase}\n")
    assert read_public_key(tmp_path / "again.pub") == KEY.public_key


def test_we_sign_with_a_key_of_minisign(minisign: str, tmp_path: Path) -> None:
    secret, public = tmp_path / "key", tmp_path / "key.pub"
    run(minisign, "-G", "-W", "-s", secret, "-p", public)
    secret.chmod(0o600)
    key = load_secret_key(secret, never)
    assert read_public_key(public) == key.public_key
    assert key.public_key.dump() == public.read_bytes()
    assert key.dump() == secret.read_bytes()
    check(DATA, key.sign_bytes(DATA, "x"), key.public_key)


_COMMENT, _LINE = (line.encode() for line in KEY.public_key.dump().decode().splitlines())
ODD_KEYS = {
    "as written": _COMMENT + b"\n" + _LINE + b"\n",
    "no newline at the end": _COMMENT + b"\n" + _LINE,
    "of Windows": _COMMENT + b"\r\n" + _LINE + b"\r\n",
    "of Windows, twice": _COMMENT + b"\r\r\n" + _LINE + b"\r\r\n",
    "blank lines behind": _COMMENT + b"\n" + _LINE + b"\n\n\r\n",
    "no comment": b"\n" + _LINE + b"\n",
    "any comment": b"key of the makers\n" + _LINE + b"\n",
    "mark of Notepad": b"\xef\xbb\xbf" + _COMMENT + b"\n" + _LINE + b"\n",
    "comment in Latin-1": b"untrusted comment: cl\xe9\n" + _LINE + b"\n",
    "comment that a terminal obeys": b"\x1b[2J\0\n" + _LINE + b"\n",
    "two keys": _COMMENT + b"\n" + _LINE + b"\n" + _COMMENT + b"\n" + SecretKey.generate().public_key.text.encode() + b"\n",
    "far too large": _COMMENT + b"\n" + _LINE + b"\n" + b"x" * 100_000,
    "zero behind": _COMMENT + b"\n" + _LINE + b"\0junk\n",
    "empty": b"",
    "only a comment": _COMMENT + b"\n",
    "blank": b"\n\n\n",
    "blank line in front": b"\n" + _COMMENT + b"\n" + _LINE + b"\n",
    "blank line between": _COMMENT + b"\n\n" + _LINE + b"\n",
    "space behind": _COMMENT + b"\n" + _LINE + b" \n",
    "space in front": _COMMENT + b"\n " + _LINE + b"\n",
    "too long": _COMMENT + b"\n" + _LINE + b"AAAA\n",
    "padded": _COMMENT + b"\n" + _LINE + b"=\n",
    "torn": _COMMENT + b"\n" + _LINE[:20] + b"\n" + _LINE[20:] + b"\n",
    "of ssh": b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ5dGVzIG9mIGFub3RoZXIga2V5IGVudGlyZWx5ISE al@home\n",
    "of another algorithm": _COMMENT + b"\n" + b"R" + _LINE[1:] + b"\n",
    "UTF-16": (_COMMENT + b"\n" + _LINE + b"\n").decode().encode("utf-16"),
    "binary": bytes(range(256)) * 4,
    "a signature": SIGNED,
}


@pytest.mark.parametrize("kind", ODD_KEYS)
def test_key_files_are_taken_as_minisign_takes_them(minisign: str, tmp_path: Path, kind: str) -> None:
    file, public = tmp_path / "file", tmp_path / "odd.pub"
    file.write_bytes(DATA)
    (tmp_path / "file.minisig").write_bytes(SIGNED)
    public.write_bytes(ODD_KEYS[kind])
    taken = (
        subprocess.run([minisign, "-V", "-m", file, "-p", public], capture_output=True, check=False, timeout=30).returncode == 0
    )
    try:
        found = read_public_key(public)
    except SignatureError as error:
        assert not taken, error
        assert str(public) in str(error)
    else:
        assert taken
        assert found == KEY.public_key


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n"])
def test_the_line_of_a_key_is_enough(tmp_path: Path, ending: bytes) -> None:
    (tmp_path / "key.pub").write_bytes(_LINE + ending)
    assert read_public_key(tmp_path / "key.pub") == KEY.public_key


# --- secret keys ----------------------------------------------------------------------------------------------


def test_passphrase(tmp_path: Path) -> None:
    data = KEY.dump("right", memory=LITTLE)
    assert parse_secret_key(data, "key", lambda: "right") == KEY
    with pytest.raises(ReleaseError, match=r"^key: wrong passphrase"):
        parse_secret_key(data, "key", lambda: "wrong")
    assert "seed" not in repr(KEY)
    assert KEY.seed.hex() not in repr(KEY)


def test_every_damage_to_a_secret_key_is_found() -> None:
    data = KEY.dump()
    start = data.index(b"\n") + 1
    for place in range(start, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 1
        try:
            key = parse_secret_key(bytes(flipped), "key", lambda: "")
        except (ConfigError, ReleaseError):
            continue
        # Salt and limits mean nothing in a key without passphrase; a key that opens is the right one or of another number.
        assert key.seed == KEY.seed


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_open_secret_key(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY.dump())
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others may read") as caught:
        load_secret_key(path, never)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("data", [b"", b"a\nb\n", b"untrusted comment: x\n\n", KEY.public_key.dump(), SIGNED, b"\xff\xfe"])
def test_not_a_secret_key(data: bytes) -> None:
    with pytest.raises(ConfigError, match="not a secret key"):
        parse_secret_key(data, "key", never)


def test_missing_secret_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_secret_key(tmp_path / "key", never)


def test_passphrase_by_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_text("some words\nmore\n")
    with path.open("rb") as stream:
        assert ask_passphrase("key", str(stream.fileno())) == "some words"
    for words in ("hunter2", "-1", "99999"):
        with pytest.raises(ConfigError) as caught:
            ask_passphrase("key", words)
        assert "hunter2" not in str(caught.value)


def test_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase is never read from a stdin that would show it."""

    def none(path: str, flags: int) -> int:
        raise OSError(6, "No such device or address", path)

    monkeypatch.setattr("pipeline.supply.minisign.os.open", none)
    with pytest.raises(ConfigError, match="there is no terminal") as caught:
        ask_passphrase("key", "")
    assert caught.value.hint == "passphrase=N reads it from file descriptor N"


# --- tampering ------------------------------------------------------------------------------------------------


def test_every_bit_of_a_signature_file() -> None:
    assert check(DATA, SIGNED) == KEY.public_key
    for place in range(len(SIGNED)):
        for bit in range(8):
            flipped = bytearray(SIGNED)
            flipped[place] ^= 1 << bit
            with pytest.raises(SignatureError):
                check(DATA, bytes(flipped))


def test_every_bit_of_a_public_key() -> None:
    data = KEY.public_key.text.encode()
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(SignatureError):
                check(DATA, SIGNED, parse_public_key(bytes(flipped), "key"))


def test_every_bit_of_the_data() -> None:
    for place in range(len(DATA)):
        for bit in range(8):
            flipped = bytearray(DATA)
            flipped[place] ^= 1 << bit
            with pytest.raises(SignatureError, match="is not what key"):
                check(bytes(flipped), SIGNED)


def test_every_length() -> None:
    for length in range(len(SIGNED)):
        with pytest.raises(SignatureError):
            check(DATA, SIGNED[:length])
    for more in (b"\n", b"x", SIGNED):
        with pytest.raises(SignatureError):
            check(DATA, SIGNED + more)
    for length in range(len(DATA)):
        with pytest.raises(SignatureError):
            check(DATA[:length], SIGNED)


def test_wrong_key() -> None:
    other = SecretKey.generate()
    with pytest.raises(SignatureError, match=f"signed by key {KEY.public_key.name}, which is not trusted"):
        check(DATA, SIGNED, other.public_key)
    with pytest.raises(SignatureError, match=r"trusted: none"):
        verify(io.BytesIO(DATA), parse_signature(SIGNED, "s"), (), "data")
    # A key that took the other's number.
    with pytest.raises(SignatureError, match="is not what key"):
        check(DATA, SIGNED, PublicKey(KEY.key_id, other.public))


def test_a_key_that_took_the_number_of_another_does_not_stand_in_its_way(tmp_path: Path) -> None:
    twin = PublicKey(KEY.key_id, SecretKey.generate().public)
    no_point = PublicKey(KEY.key_id, b"\xff" * 32)
    for keys in ((twin, no_point, KEY.public_key), (KEY.public_key, twin, no_point)):
        assert check(DATA, SIGNED, *keys) == KEY.public_key
    (tmp_path / "file").write_bytes(DATA)
    (tmp_path / "file.minisig").write_bytes(SIGNED)
    assert signer_of(tmp_path / "file", [twin, KEY.public_key])[0] == KEY.public_key


def test_parts_of_two_signatures() -> None:
    other = KEY.sign_bytes(b"other", "file:b\tversion:2").splitlines(keepends=True)
    mixed = b"".join([*SIGNED.splitlines(keepends=True)[:2], *other[2:]])
    with pytest.raises(SignatureError, match="the trusted comment is not what"):
        check(DATA, mixed)


def test_untrusted_comment() -> None:
    found = parse_signature(SIGNED.replace(COMMENT.encode(), b"words of anyone"), "s")
    verify(io.BytesIO(DATA), found, [KEY.public_key], "data")
    with pytest.raises(SignatureError, match="untrusted comment 'words of anyone'"):
        verify(io.BytesIO(DATA), found, [KEY.public_key], "data", plain=True)


def test_unsigned_and_oversized(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with pytest.raises(SignatureError, match=r"file\.minisig: No such file"):
        verify_file(path, [KEY.public_key])
    (tmp_path / "file.minisig").write_bytes(SIGNED + b"x" * 20_000)
    with pytest.raises(SignatureError, match="more than"):
        verify_file(path, [KEY.public_key])
    with pytest.raises(SignatureError, match="a folder, not a regular file"):
        read_small(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SignatureError, match="a pipe, not a regular file"):
        read_small(tmp_path / "fifo")


def test_control_characters_are_not_signed() -> None:
    for comment in ("a\nb", "a\rb", "\x1b[2J"):
        with pytest.raises(ReleaseError, match="control characters"):
            KEY.sign_bytes(DATA, comment)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Whatever it is: read, or refused by the one error."""
    for parse in (parse_signature, parse_public_key):
        try:
            parse(data, "x")
        except SignatureError as error:
            assert str(error).startswith("x: ")
