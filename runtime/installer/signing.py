# SPDX-License-Identifier: Apache-2.0
"""Secure Boot with keys of the machine's own: they are made here, sign what the firmware starts, and stay on the encrypted root.

What is started is one file: kernel, initramfs and command line, signed as a whole. No part of it is read from the boot device
unchecked, as that lies about: the initramfs is made anew on the encrypted root, and the kernel compared with apk's database.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import struct
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import ImageProblemError, StateError, ToolError
from tower.base.files import own_folder, read_file, sync_folder, write_file, write_folder
from tower.base.refused import in_our_words
from tower.installer import firmware
from tower.installer.unified import unified_image

FOLDER: Final = Path("etc/tower/secure-boot")
"""Of an installed system: PK, KEK and db, each with its certificate. There is one if, and only if, it signs what it starts."""
START: Final = "boot/EFI/BOOT/BOOTX64.EFI"
"""What firmware starts from a removable disk."""
_NAMES: Final = ("PK", "KEK", "db")
_SIGNED_BY: Final = {"db": "KEK", "KEK": "PK", "PK": "PK"}
_VERSION: Final = "version"
"""The file with the version of the kernel that was signed last; the hook of apk compares it."""
_STUB: Final = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_TOOLS: Final = ("usr/bin/sbsign", "usr/bin/sbverify", _STUB)
_UNSIGNED: Final = ("extlinux.conf", "ldlinux.sys", "ldlinux.c32", "grub")
_DATABASES: Final = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
_X509: Final = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_PKCS7: Final = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
_ATTRIBUTES: Final = 0x27
"""Of a variable: it stays, is seen by firmware and system, and whoever writes it signs with the time."""
_REVISION, _KIND = 0x200, 0xEF1
_LENGTH: Final = 2048
"""Bits of a key: what every firmware knows."""
_SECONDS: Final = 300
_AGAIN: Final = (
    "put the firmware into setup mode, start this system with Secure Boot off, remove /etc/tower/secure-boot, and run: "
    "doas tower setup --secure-boot"
)


def has_keys(root: Path) -> bool:
    """Tell whether the system below `root` signs what it starts."""
    return (root / FOLDER).is_dir()


def check_keys(root: Path) -> None:
    """Raise StateError unless all keys are there and can be read."""
    for name in _NAMES:
        for end in ("key", "crt"):
            place = root / FOLDER / f"{name}.{end}"
            try:
                whole = read_file(place).startswith(b"-----BEGIN ")
            except StateError as error:
                raise StateError(f"keys of Secure Boot: {error.message}", hint=_AGAIN) from error
            if not whole:
                raise StateError(f"keys of Secure Boot: {place}: is damaged", hint=_AGAIN)


def check_tools(root: Path) -> None:
    """Raise ToolError unless everything is installed below `root` that signing takes."""
    for name in _TOOLS:
        if not (root / name).is_file():
            raise ToolError(f"/{name}: is not there", hint="doas apk add sbsigntool systemd-efistub")


def make_keys(root: Path) -> None:
    """Make new keys, all or none, which only root can read. Raises StateError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    files = dict[str, bytes]()
    for name in _NAMES:
        key = rsa.generate_private_key(public_exponent=65537, key_size=_LENGTH)
        title = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"TowerOS {name}")])
        made = (
            x509.CertificateBuilder()
            .subject_name(title)
            .issuer_name(title)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # The firmware does not look at it, and this machine's clock may be wrong.
            .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2099, 12, 31, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        files[f"{name}.key"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files[f"{name}.crt"] = made.public_bytes(Encoding.PEM)
    write_folder(root / FOLDER, files)


def variables(root: Path) -> dict[str, bytes]:
    """Return what the firmware is given for each variable: its attributes, and the certificate, signed. Raises StateError."""
    return {name: _signed_variable(root, name, datetime.now(UTC)) for name in _SIGNED_BY}


def _signed_variable(root: Path, name: str, now: datetime) -> bytes:
    """Return a variable as UEFI wants it written: attributes, time, signature of all that and of the name, content.

    sbvarsign is not used: it asks for an addition to what the firmware has, begins the year with month 0, and signs with recent
    OpenSSL what firmware refuses.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
    from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7Options, PKCS7SignatureBuilder

    content, attributes = _signature_list(root, name), struct.pack("<I", _ATTRIBUTES)
    time = struct.pack("<HBBBBBxIhBx", now.year, now.month, now.day, now.hour, now.minute, now.second, 0, 0, 0)
    guid = firmware.PLACES[name].bytes_le
    place = root / FOLDER / f"{_SIGNED_BY[name]}.key"
    try:
        key = load_pem_private_key(read_file(place), None)
        certificate = x509.load_pem_x509_certificate(read_file(place.with_suffix(".crt")))
    except ValueError as error:
        raise StateError(f"keys of Secure Boot: {place}: is damaged", hint=_AGAIN) from error
    if not isinstance(key, RSAPrivateKey):
        raise StateError(f"keys of Secure Boot: {place}: is of another kind", hint=_AGAIN)
    signer = PKCS7SignatureBuilder().set_data(name.encode("utf-16-le") + guid + attributes + time + content)
    options = [PKCS7Options.DetachedSignature, PKCS7Options.Binary, PKCS7Options.NoAttributes]
    signature = _without_wrapping(signer.add_signer(certificate, key, SHA256()).sign(Encoding.DER, options))
    head = struct.pack("<IHH", 24 + len(signature), _REVISION, _KIND) + _PKCS7.bytes_le
    return attributes + time + head + signature + content


def _without_wrapping(data: bytes) -> bytes:
    """Return the signature inside of DER that first says what kind of signature it is: older firmware wants it without."""
    start, end = _element(data)
    kind = data[start:end]
    signature = kind[_element(kind)[1] :]
    return signature[slice(*_element(signature))]


def _element(data: bytes) -> tuple[int, int]:
    """Return where the content of the first element of DER begins and ends."""
    size, start = data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    return start, start + size


def _signature_list(root: Path, name: str) -> bytes:
    """Return a certificate as the firmware keeps it: in a list of one, with the UUID of its owner."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    def certificate(of: str) -> bytes:
        return x509.load_pem_x509_certificate(read_file(root / FOLDER / f"{of}.crt")).public_bytes(Encoding.DER)

    owner = uuid.UUID(bytes=hashlib.sha256(certificate("PK")).digest()[:16], version=4)
    entry = owner.bytes_le + certificate(name)
    return _X509.bytes_le + struct.pack("<III", 28 + len(entry), 0, len(entry)) + entry


def write_start(root: Path, words: Iterable[str], flavor: str, version: str) -> None:
    """Write what the firmware starts, signed, and remove from the boot device what would start unsigned things.

    `words` are the kernel's command line, `version` that of its package. The old file stays until the new one is whole. Raises
    ImageProblemError, StateError or ToolError.
    """
    check_tools(root)
    check_keys(root)
    release = read_file(root / f"usr/share/kernel/{flavor}/kernel.release").strip()
    kernel = root / f"boot/vmlinuz-{flavor}"
    stub = root / _STUB
    place = root / START
    with in_our_words(place), _scratch(root) as folder:
        inside = f"/{folder.relative_to(root)}"
        _inside(root, "mkinitfs", "-o", f"{inside}/initramfs", release.decode())
        image = kernel.read_bytes()
        check_kernel(root, f"boot/vmlinuz-{flavor}", image)
        sections = {
            ".osrel": (root / "etc/os-release").read_bytes(),
            ".cmdline": " ".join(words).encode(),
            ".uname": release,
            ".initrd": (folder / "initramfs").read_bytes(),
            ".linux": image,
        }
        (folder / "start").write_bytes(unified_image(stub.read_bytes(), sections, f"/{_STUB}"))
        pair = ("--key", f"/{FOLDER}/db.key", "--cert", f"/{FOLDER}/db.crt")
        _inside(root, "sbsign", *pair, "--output", f"{inside}/signed", f"{inside}/start")
        _inside(root, "sbverify", "--cert", f"/{FOLDER}/db.crt", f"{inside}/signed")
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_suffix(".NEW")
        with new.open("wb") as out:
            out.write((folder / "signed").read_bytes())
            out.flush()
            os.fsync(out.fileno())
        new.replace(place)
        sync_folder(place.parent)
        _remove_unsigned(root / "boot", flavor)
    write_file(root / FOLDER / _VERSION, f"{version}\n".encode())


def _remove_unsigned(boot: Path, flavor: str) -> None:
    for name in (*_UNSIGNED, f"initramfs-{flavor}"):
        shutil.rmtree(boot / name, ignore_errors=True)
        with suppress(FileNotFoundError, IsADirectoryError):
            (boot / name).unlink()


def check_kernel(root: Path, name: str, data: bytes) -> None:
    """Raise ImageProblemError unless a file is what apk has installed."""
    package = f"linux-{name.rpartition('-')[2]}"
    checksum = _checksum(root, name)
    if not checksum:
        raise ImageProblemError(f"/{name}: apk knows no such file", hint=f"is its package installed? apk info {package}")
    if not _fits(checksum, data):
        raise ImageProblemError(
            f"/{name}: is not what apk has installed: the boot device was changed, or is damaged",
            hint=f"who had it? to install the kernel again: doas apk fix --reinstall {package}",
        )


def _checksum(root: Path, name: str) -> str:
    """Return the checksum that apk's database has of a file; empty if it has none."""
    folder, _, file = name.rpartition("/")
    for database in _DATABASES:
        place = ("", "")
        with suppress(FileNotFoundError):
            for row in (root / database).read_text(encoding="utf-8", errors="replace").splitlines():
                if row.startswith("F:"):
                    place = (row[2:], "")
                elif row.startswith("R:"):
                    place = (place[0], row[2:])
                elif row.startswith("Z:") and place == (folder, file):
                    return row[2:]
    return ""


def _fits(checksum: str, data: bytes) -> bool:
    """Tell whether data has a checksum as apk writes it: Q1 is SHA-1, Q2 SHA-256, which the third format may cut."""
    kind, wanted = checksum[:2], base64.b64decode(checksum[2:])
    if kind == "Q1":
        return hashlib.sha1(data, usedforsecurity=False).digest() == wanted
    return kind == "Q2" and len(wanted) in (20, 32) and hashlib.sha256(data).digest().startswith(wanted)


def _scratch(root: Path) -> AbstractContextManager[Path]:
    """Make a folder on the encrypted root that only root may enter, and remove it at the end."""
    place = root / "var/lib/tower"
    place.mkdir(parents=True, exist_ok=True)
    return own_folder(place, "signing-")


def _inside(root: Path, *argv: str) -> None:
    """Run a program of the system below `root` in it."""
    proc.run(("chroot", root, *argv), timeout=_SECONDS)
