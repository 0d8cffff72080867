# SPDX-License-Identifier: Apache-2.0
"""Every parser of foreign bytes, with a good sample, and a mutator: whatever comes, reading gives a value or our own error.

The test beside it takes a few hundred mutations of each sample. By hand, as long as one likes:

    python -m tests.unit.parsers --seconds 60 [--seed 1] [PARSER...]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tower.base.errors import TowerError
from tower.disk import receipt
from tower.hosts import env
from tower.image import blockmap as tower_map
from tower.image import minisign, verify
from tower.install import apkindex, repository
from tower.menu import applications, entries, icon, png
from tower.status import clock
from tower.status import report as host_report

from pipeline.apk.format import keyfile, pkginfo
from pipeline.apk.format.index import parse_index_text, read_index
from pipeline.apk.format.installed import parse_installed
from pipeline.apk.format.package import read_package
from pipeline.base.canonical import JsonValue, digest_json
from pipeline.base.errors import FactoryError
from pipeline.channels.alpine import media
from pipeline.config.recipe import load_recipe
from pipeline.config.stage import load_stage, load_stages
from pipeline.config.toml import Problems
from pipeline.formats.iso9660 import files as iso_files
from pipeline.images import blockmap
from pipeline.store.artifact import parse_record
from pipeline.supply import lockfile
from pipeline.supply.lock import LOCK_SCHEMA
from pipeline.supply.minisign import SecretKey, parse_secret_key
from pipeline.supply.trust import load_trust
from tests.unit.apk.forge import END, gz, item, package, raw_tar

CHECKOUT = Path(__file__).resolve().parents[2]
SHA = "9bf70a7f18ea44094cbb5f70c58f9af129c8214745743db0e68e5502cc2ce773"
KEY_FILE = next(iter(sorted((CHECKOUT / "keys/alpine").glob("*.pub"))))
_TABLE = (CHECKOUT / "keys/alpine/keys.toml").read_bytes()
_PAX = {"APK-TOOLS.checksum.SHA1": "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3", "mtime": "1.5", "SCHILY.xattr.user.x": "y"}
_DATA = raw_tar([item("usr/a", b"test", pax_headers=_PAX), item("usr/" + "b" * 120, b"more")]) + END
_INFO = (
    b"pkgname = a\npkgver = 1.2_rc1-r0\npkgdesc = x\nsize = 4096\narch = noarch\ndepend = so:libc.so.6 b>=1\n"
    b"provides = cmd:a=1-r0\ninstall_if = b c=1\nprovider_priority = -1\ntriggers = /usr/*\ndatahash = "
    + hashlib.sha256(gz(_DATA, 1)).hexdigest().encode()
    + b"\n"
)
_CONTROL = raw_tar([item(".PKGINFO", _INFO), item(".post-install", b"#!/bin/sh\n")])
_SUM = b"C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA="
_INDEX = _SUM + (
    b"\nP:a\nV:1.2-r0\nA:x86_64\nS:7\nI:4096\nT:a thing\nU:u\nL:MIT\no:a\nm:M <m@x>\nt:1700000000\nc:abc\nk:10\nD:b>=1 !c so:x\n"
    b"p:cmd:a=1.2-r0 v\ni:b c=1\n\n" + _SUM + b"\nP:b\nV:1-r0\nA:noarch\nS:7\nI:1\nT:b\nU:\nL:X\n\n"
)
_INSTALLED = _SUM + (
    b"\nP:a\nV:1.2-r0\nA:x86_64\nS:7\nI:4096\nT:a\nU:u\nL:MIT\nD:b\nr:c\nq:1\nF:etc\nM:0:0:1777\nR:passwd\na:0:0:600\n"
    b"Z" + _SUM[1:] + b"\nF:usr/bin\nR:a\n\n"
)
_LOCKED = {"name": "a", "version": "1-r0", "sha256": SHA, "size": 7, "location": "main/a.apk", "signer": "k", "made": 1}
_LOCK = json.dumps(
    {
        "schema": LOCK_SCHEMA, "channel": "lab", "made_from": SHA, "notes": {"a": "b"}, "builder": [_LOCKED],
        "packages": {"x86_64": [_LOCKED]}, "wheels": {"x86_64": []}, "indexes": {}, "media": [_LOCKED],
        "choices": {"x86_64": [{"world": ["a"], "packages": ["a=1-r0"]}]},
    }
).encode()  # fmt: skip
_RELEASES = f"""---
-
  title: "Mini root"
  desc: |
    Minimal
  branch: v3.24
  arch: aarch64
  version: 3.24.2
  flavor: alpine-minirootfs
  file: alpine-minirootfs-3.24.2-aarch64.tar.gz
  size: 4028030
  sha256: {SHA}
""".encode()
_ENV = b"HOSTNAME='web'\nUSERNAME='me'\nPUBLIC_KEY='ssh-ed25519 AAAA x'\nONLINE='true'\nTHIN_CLIENT_IP='192.168.2.100'\n"
_DOCUMENT: JsonValue = {"schema": 1, "name": "x"}
_KEY = digest_json(_DOCUMENT)
_RECORD = json.dumps(
    {"schema": 1, "key": _KEY, "document": _DOCUMENT, "outputs": {"a": {"sha256": SHA, "size": 1}}, "seconds": 1.0}
).encode()
_SECRET = SecretKey.generate()
_PUBLIC = _SECRET.public_key.dump()
_SIGNATURE = _SECRET.sign_bytes(b"data", "comment")
_STATUS = (
    b"tower-status 1\nboot b41b6078-c781-483d-9dc2-35e6cc57e10b\nuptime 12712.76\nload 7.08\nmemory 24684084\n"
    b'available 23396276\nsystem "TowerOS host 1.0 (lab)"\nversion "1.0"\ntemperature 41234\npackages 61\n'
    b"disk 264212084 55714100\nend\n"
)
_CLOCK = b"status: 8193 (PLL | NANO) time.tv_sec: 1795423675 time.tv_usec: 974673000"
_RECEIPT = receipt.Receipt(
    "a" * 32, "web", receipt.Stage.WRITTEN, "/x.img", SHA, "1", "lab", receipt.Target("/dev/sdb", 7, "s", "m", "disk"), "p"
)
_ENTRY = b"""[Desktop Entry]
Type=Application
Name=Editor
Name[de]=Texte
Icon=org.example.Editor
TryExec=editor
Exec=/usr/bin/editor --name %c "a word" %U
NotShowIn=GNOME;KDE;
Terminal=false
Categories=Utility;GTK;
"""
_RECORDS = b"file a 3\n[x]icon 0 4\nabcdgone 1\nend\n"
_ICON = png.encode(png.Picture(3, 2, bytes(range(24))))
_ISO_SECTOR = 2048


def _iso() -> bytes:
    """A volume with one folder, one file, and names of Rock Ridge."""

    def record(name: bytes, place: int, size: int, flags: int, extra: bytes = b"") -> bytes:
        body = bytes((0,)) + place.to_bytes(4, "little") + place.to_bytes(4, "big") + size.to_bytes(4, "little")
        body += size.to_bytes(4, "big") + bytes(7) + bytes((flags, 0, 0)) + b"\1\0\0\1" + bytes((len(name),)) + name
        body += b"" if len(name) % 2 else b"\0"
        return bytes((len(body) + len(extra) + 1,)) + body + extra

    root = record(b"\0", 18, _ISO_SECTOR, 2)
    volume = bytearray(b"\1CD001\1\0" + bytes(2040))
    volume[156 : 156 + len(root)] = root
    volume[80:88] = (20).to_bytes(4, "little") + (20).to_bytes(4, "big")
    end = b"\xffCD001\1" + bytes(2041)
    name = b"NM\x0a\1\0hello" + b"SL\x0a\1\0\0\3abc"
    folder = record(b"\0", 18, _ISO_SECTOR, 2) + record(b"\1", 18, _ISO_SECTOR, 2) + record(b"HELLO.;1", 19, 5, 0, name)
    return bytes(16 * _ISO_SECTOR) + bytes(volume) + end + folder.ljust(_ISO_SECTOR, b"\0") + b"hello".ljust(_ISO_SECTOR, b"\0")


def _map() -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x" * 5000 + bytes(8000) + b"y" * 4000)
        file.flush()
        return blockmap.dump(blockmap.read_image(Path(file.name)))


def _checked(data: bytes) -> bytes:
    """A PNG file with its checksums made right."""
    made, at = bytearray(data), 8
    while at + 12 <= len(made):
        end = at + 8 + int.from_bytes(made[at : at + 4])
        made[end : end + 4] = zlib.crc32(made[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(made[: len(data)])


def _read_map(data: bytes) -> object:
    """With its own checksum made right, so that what is behind it is reached."""
    if found := tower_map._CHECKSUM.search(data[: 64 << 10]):
        right = hashlib.sha256(data[: found.start(1)] + b"0" * 64 + data[found.end(1) :]).hexdigest().encode()
        data = data[: found.start(1)] + right + data[found.end(1) :]
    return tower_map.parse(data, "map").spans(4096)


def _read_package(data: bytes) -> None:
    read_package(io.BytesIO(data), None, name="p").verify_data()


def _read_releases(data: bytes) -> None:
    media.find_medium(media.read_list(_text(data), "list"), "alpine-minirootfs", "aarch64", "v3.24", "list")


def _read_data(data: bytes) -> None:
    for _entry, content in read_package(io.BytesIO(package(data=gz(_tars(data), 1))), None, name="p").iter_data():
        content.read()


def _read_control(data: bytes) -> None:
    read_package(io.BytesIO(gz(_tars(data), 1) + gz(_DATA, 1)), None, name="p").verify_data()


def _tars(data: bytes) -> bytes:
    """With the checksums of tar headers made right."""
    blocks = bytearray(data)
    for start in range(0, len(blocks) - 511, 512):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % (sum(blocks[start : start + 512]) & 0o777777)
    return bytes(blocks)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _in_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """A parser of bytes out of one of files."""

    def run(data: bytes) -> object:
        with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return read(path)

    return run


_SPECS = load_stages(CHECKOUT / "stages", Problems())
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def _read_stage(path: Path) -> None:
    problems = Problems()
    load_stage(path.parent, problems)
    problems.check("stage")


def _read_recipe(path: Path) -> None:
    problems = Problems()
    load_recipe(path, _SPECS, problems)
    problems.check("recipe")


def _read_keys(path: Path) -> None:
    for key in (CHECKOUT / "keys/alpine").glob("*.pub"):
        (path.parent / key.name).write_bytes(key.read_bytes())
    load_trust(path.parent)


def _read_iso(path: Path) -> None:
    with path.open("rb") as stream:
        iso_files(stream, path)


@dataclass(frozen=True, slots=True)
class Parser:
    """What reads foreign bytes, and bytes that it takes."""

    name: str
    sample: bytes
    read: Callable[[bytes], object]


_STAGE = (CHECKOUT / "stages/host-image/stage.toml").read_bytes()
_RECIPE = (CHECKOUT / "pipeline/recipes/host.toml").read_bytes()
_PACKED = raw_tar([item("DESCRIPTION", b"d"), item("APKINDEX", _INDEX)])
_LINES = b"https://a.test/alpine/v3.24/main\n@x http://b.test:80/y\n"
_PACKAGES = raw_tar(
    [
        item("arch", b"aarch64\n"), item("digest", b"0" * 64), item("installed", b"P:musl\nV:1.2-r0\n"), item("keys/a.pub", b"K"),
        item("repositories", _LINES), item("serial", b"7"), item("world", b"musl\n"),
    ]
) + END  # fmt: skip
PARSERS = (
    Parser("package", package([item("usr/a", b"test")]), _read_package),
    Parser("package: control", _CONTROL, _read_control),
    Parser("package: data", _DATA, _read_data),
    Parser("pkginfo", _INFO, pkginfo.parse),
    Parser("index", gz(_PACKED + END), lambda data: read_index(io.BytesIO(data), None)),
    Parser("index: tar", _PACKED, lambda data: read_index(io.BytesIO(gz(_tars(data), 1)), None)),
    Parser("index: text", _INDEX, lambda data: parse_index_text(_text(data))),
    Parser("installed", _INSTALLED, parse_installed),
    Parser("lock", _LOCK, lambda data: lockfile.parse(data, "lock")),
    Parser("key file", KEY_FILE.read_bytes(), lambda data: keyfile.read_modulus(data, "key")),
    Parser("keys.toml", _TABLE, _in_file(_read_keys, "alpine/keys.toml")),
    Parser("releases", _RELEASES, _read_releases),
    Parser("record", _RECORD, lambda data: parse_record(data, _KEY)),
    Parser("stage.toml", _STAGE, _in_file(_read_stage, "stages/x/stage.toml")),
    Parser("recipe", _RECIPE, _in_file(_read_recipe, "recipes/host.toml")),
    Parser("iso", _iso(), _in_file(_read_iso, "x.iso")),
    Parser("block map", _map(), _read_map),
    Parser("minisign: signature", _SIGNATURE, lambda data: minisign.parse_signature(data, "s")),
    Parser("minisign: key", _PUBLIC, lambda data: minisign.parse_public_key(data, "k")),
    Parser("minisign: secret key", _SECRET.dump(), lambda data: parse_secret_key(data, "k", lambda: "")),
    Parser("sums", f"{SHA}  a.img\n{SHA}  b.iso\n".encode(), lambda data: verify.parse_sums(data, "sums")),
    Parser("tower.env", _ENV, lambda data: env.read_values(data, "tower.env")),
    Parser("receipt", _RECEIPT.dump(), lambda data: receipt.parse(data, "receipt")),
    Parser("status of a host", _STATUS, host_report.parse),
    Parser("packages of a host", _PACKAGES, lambda data: repository.parse_state(data, "web")),
    Parser("index on the thin client", gz(END, 1) + gz(_PACKED + END, 2), _in_file(apkindex.read_index, "x")),
    Parser("package on the thin client", package([item("usr/a", b"test")]), _in_file(apkindex.control_checksum, "x")),
    Parser("menu entry of a host", _ENTRY, lambda data: entries.parse("a", data, ("de",))),
    Parser("menu entries of a host", _RECORDS, lambda data: list(applications.records(data, "web"))),
    Parser("icon", _ICON, lambda data: icon.framed(png.decode(data), "#4363d8")),
    Parser("icon: pixels", _ICON, lambda data: icon.framed(png.decode(_checked(data)), "#4363d8")),
    Parser("clock of a host", _CLOCK, lambda data: clock.parse_time(data.decode(errors="replace"), "web")),
)  # fmt: skip


def mutations(sample: bytes, seed: int) -> Iterator[bytes]:
    """The sample with bits flipped, pieces put over, in, out, doubled and moved, for ever."""
    chance = random.Random(seed)
    odd = (b"\0", b"\xff", b"\n", b" ", b"=", b"-1", b"9" * 30, b"1e999", b"..", b"/", b"\xe2\x80\xae", b"[", b"{", b'"', b"null")
    while True:
        data = bytearray(sample)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            at = chance.randrange(len(data) + 1)
            length = min(chance.choice((1, 1, 2, 4, 8, 40, 600)), len(data) - at)
            kind = chance.randrange(7)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                data[at : at + length] = chance.randbytes(length)
            elif kind == 2:
                data[at:at] = chance.choice(odd)
            elif kind == 3:
                del data[at : at + length]
            elif kind == 4:
                data[at:at] = data[at : at + length]
            elif kind == 5:
                start = chance.randrange(len(data) + 1)
                data[at : at + length] = data[start : start + length]
            elif chance.randrange(8) == 0:
                del data[at:]
            else:
                data[at : at + 1] = chance.choice(odd)
        yield bytes(data)


def fails(parser: Parser, data: bytes) -> str:
    """What went wrong that is not one of our errors; nothing if all is well."""
    try:
        parser.read(data)
    except (FactoryError, TowerError):
        pass
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> int:
    """Mutate for a time; print counts, and what falls over."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=10, help="for each parser")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("parser", nargs="*")
    given = options.parse_args()
    failed = False
    for parser in PARSERS:
        if given.parser and parser.name not in given.parser:
            continue
        count, seen, end = 0, dict[str, bytes](), time.monotonic() + given.seconds
        for data in mutations(parser.sample, given.seed):
            if time.monotonic() > end:
                break
            count += 1
            started = time.monotonic()
            if text := fails(parser, data):
                seen.setdefault(text.partition(":")[0], data)
            if time.monotonic() - started > 5:
                seen.setdefault("slow", data)
        print(f"{parser.name}: {count} mutations", flush=True)
        for text, data in seen.items():
            failed = True
            print(f"  {text}: {fails(parser, data)}: {data[:2000]!r}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
