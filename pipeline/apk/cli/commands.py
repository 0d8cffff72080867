# SPDX-License-Identifier: Apache-2.0
"""The commands of `python -m pipeline.apk`: look at, verify, index, sign, pack and choose Alpine packages by hand."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.apk.adb.writer import convert_package
from pipeline.apk.adb.writer import write_index as write_third_index
from pipeline.apk.cli import verify
from pipeline.apk.cli.verify import is_third
from pipeline.apk.format import pkginfo
from pipeline.apk.format.index import entry_of, read_index, write_index
from pipeline.apk.format.package import read_package, sign_package, tree_entries, write_package
from pipeline.apk.format.pkginfo import SCRIPTS
from pipeline.apk.format.signature import ALGORITHMS, KeyRing, Signer
from pipeline.apk.format.tarstream import shown
from pipeline.base.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import SupportsWrite

    from pipeline.apk.format.package import Package

_EXAMPLES = """\
examples:
  python -m pipeline.apk info busybox-1.36.1-r15.apk
  python -m pipeline.apk verify --keys keys/alpine *.apk APKINDEX.tar.gz
  python -m pipeline.apk pack --info PKGINFO --root tree/ --script .post-install -o hello-1.0-r0.apk
  python -m pipeline.apk sign --key build/lab/keys/lab.rsa hello-1.0-r0.apk
  python -m pipeline.apk solve --keys keys/alpine --index main/APKINDEX.tar.gz --arch x86_64 alpine-base openssh
  python -m pipeline.apk index --key build/lab/keys/lab.rsa -o APKINDEX.tar.gz *.apk

exit status: 0 success, 1 a file cannot be read or written, or a world has no solution, 2 wrong usage, 10 wrong setting,
             13 damaged, hostile or not signed by a trusted key
"""
_EPILOGS = {
    "info": "Signatures are listed, not checked: use verify for that.",
    "verify": "Prints one line a file. Indexes (*.tar.gz, *.adb) are verified too. Exit status 13 if one file fails.",
    "index": "Every package is read to its end and checked. Without --key the index is not signed. An index whose name ends "
    "with .adb is of format 3; only such a one can list packages of format 3.",
    "convert": "Files keep names and times. Equal packages give equal bytes, which are those of apk mkpkg.",
    "sign": "Files are replaced, and so is a signature that they have.",
    "solve": "Prints name-version, sorted. PKG as in apk's world: foo, 'foo>=1.2', foo~1, !foo, so:libfoo.so.1, cmd:foo.",
    "pack": "PKGINFO holds 'pkgname = hello' and so on; size, builddate and datahash are filled in.",
}


def _signer(options: argparse.Namespace) -> Signer | None:
    if options.key is None:
        return None
    return Signer(options.key, options.key_name or f"{options.key.name}.pub", options.algorithm)


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, and move it to its place only if that succeeded."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _row(path: Path, package: Package) -> dict[str, object]:
    """Return the metadata of a package."""
    row: dict[str, object] = {name: getattr(package.info, name) for name in type(package.info).__slots__}
    row |= {"file": str(path), "format": package.format, "file_size": package.size, "checksum": package.checksum}
    row["scripts"] = sorted(package.scripts)
    row["signatures"] = [f"{item.algorithm}:{item.key_name}" for item in package.signatures]
    return row


def _info(options: argparse.Namespace) -> int:
    """Print packages. One may have a million files: they are printed one by one, after all packages have been verified."""
    for path in options.file:
        with path.open("rb") as stream:
            read_package(stream, None, name=str(path)).verify_data()
    for number, path in enumerate(options.file):
        with path.open("rb") as stream:
            package = read_package(stream, None, name=str(path))
            package.verify_data()
            if options.json:
                print(",\n" if number else "[", json.dumps(_row(path, package))[:-1], ', "files": [', sep="", end="")
            else:
                _show(_row(path, package))
            comma = "\n  "
            for entry, _content in package.iter_data():
                mode = f"{entry.mode:04o}"
                if options.json:
                    item = {"path": entry.name, "kind": entry.kind, "mode": mode, "size": entry.size}
                    print(comma, json.dumps(item), sep="", end="")
                    comma = ",\n  "
                else:
                    print(f"  {mode} {entry.size:>9} {shown(entry.name)}")
            if options.json:
                print("]}", end="")
    if options.json:
        print("]")
    return 0


def _show(row: dict[str, object]) -> None:
    for key, value in row.items():
        if value not in ("", (), [], None):
            print(f"{key}: {' '.join(value) if isinstance(value, (list, tuple)) else value}")
    print("files:")


def _verify(options: argparse.Namespace) -> int:
    return verify.run(verify.VerifyRequest(str(options.keys), tuple(map(str, options.file)), options.json))


def _solve(options: argparse.Namespace) -> int:
    from pipeline.apk.cli.solve import SolveRequest, run

    indexes, cache = tuple(map(str, options.index)), str(options.cache or "")
    return run(SolveRequest(str(options.keys), indexes, options.arch, tuple(options.package), cache, options.apk))


def _index(options: argparse.Namespace) -> int:
    signer = _signer(options)
    ring = KeyRing.load(options.keys) if options.keys else None
    entries = [entry_of(path, ring, arch=options.arch) for path in options.file]

    def write(path: Path) -> None:
        with path.open("wb") as out:
            if is_third(options.output.name):
                write_third_index(out, options.description, entries, signer)
            else:
                write_index(out, options.description, entries, signer, options.epoch)

    _replace(options.output, write)
    return 0


def _convert(options: argparse.Namespace) -> int:
    signer = _signer(options)
    for path in options.file:

        def write(target: Path, path: Path = path) -> None:
            with path.open("rb") as stream, target.open("wb") as out, tempfile.TemporaryFile() as scratch:
                convert_package(read_package(stream, None, name=path.name), out, signer, scratch)

        _replace(options.output / path.name, write)
    return 0


def _sign(options: argparse.Namespace) -> int:
    signer = _signer(options)
    if signer is None:
        raise ConfigError("sign: no key given", hint="--key FILE")
    for path in options.file:

        def write(target: Path, path: Path = path, signer: Signer = signer) -> None:
            with path.open("rb") as stream, target.open("wb") as out:
                if is_third(path.name):
                    raise ConfigError(f"sign: {path} is of format 3", hint="use: apk adbsign --sign-key KEY FILE")
                if verify.is_index(path.name):
                    index = read_index(stream, None, name=path.name)
                    write_index(out, index.description, index.entries, signer, options.epoch)
                else:
                    sign_package(stream, out, signer, name=path.name)

        _replace(path, write)
    return 0


def _pack(options: argparse.Namespace) -> int:
    info = pkginfo.parse(options.info.read_bytes(), str(options.info), strict=True)
    unknown = [path.name for path in options.script if path.name not in SCRIPTS]
    if unknown:
        raise ConfigError(f"pack: no script is called {', '.join(unknown)}", hint=f"one of {' '.join(SCRIPTS)}")
    scripts = {path.name: path.read_bytes() for path in options.script}
    output = options.output or Path(f"{info.name}-{info.version}.apk")
    signer = _signer(options)

    def write(path: Path) -> None:
        with path.open("wb") as out:
            write_package(out, info, scripts, tree_entries(options.root), epoch=options.epoch, signer=signer)

    _replace(output, write)
    return 0


def _add_signing(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument("--key", type=Path, required=required, metavar="FILE", help="private RSA key in PEM form")
    parser.add_argument("--key-name", metavar="NAME", help="file name of the public key on the device (default: KEY.pub)")
    parser.add_argument(
        "--algorithm", choices=ALGORITHMS, default="RSA", help="RSA is over SHA-1, RSA256 over SHA-256, RSA512 over SHA-512"
    )
    _add_epoch(parser)


def _add_epoch(parser: argparse.ArgumentParser) -> None:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
    parser.add_argument("--epoch", type=int, default=epoch, help="time of all files (default: SOURCE_DATE_EPOCH, or 0)")


class _Parser(argparse.ArgumentParser):
    """A parser that notices when its help cannot be written; argparse ignores that."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if message and file is not None and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="python -m pipeline.apk", description=__doc__, epilog=_EXAMPLES, formatter_class=style)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, *, files: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, epilog=_EPILOGS[name], formatter_class=style)
        command.set_defaults(run=run)
        if files:
            command.add_argument("file", nargs="+", type=Path)
        return command

    info = add("info", _info, "show the metadata and the files of a package")
    verify = add("verify", _verify, "check signatures and content of packages and indexes")
    verify.add_argument("--keys", type=Path, required=True, metavar="DIR", help="folder with the trusted keys (*.pub)")
    for command in (info, verify):
        command.add_argument("--json", action="store_true", help="write JSON")
    index = add("index", _index, "write the index of packages")
    index.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="output file: APKINDEX.tar.gz or Packages.adb"
    )
    index.add_argument("-d", "--description", default="", metavar="TEXT", help="name of the repository")
    index.add_argument("--keys", type=Path, metavar="DIR", help="take only packages signed by a key in this folder")
    index.add_argument("--arch", default="", help="list packages for every architecture (noarch) as packages for this one")
    _add_signing(index)
    convert = add("convert", _convert, "write packages of format 2 as packages of format 3")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the packages made")
    _add_signing(convert)
    _add_signing(add("sign", _sign, "sign packages and indexes"), required=True)
    solve = add("solve", _solve, "choose the packages for a world", files=False)
    solve.add_argument("--keys", type=Path, required=True, metavar="DIR", help="folder with the trusted keys (*.pub)")
    solve.add_argument(
        "--index",
        type=Path,
        required=True,
        action="append",
        metavar="FILE",
        help="APKINDEX.tar.gz or Packages.adb; may be repeated",
    )
    solve.add_argument("--arch", required=True, help="architecture to solve for")
    solve.add_argument(
        "--apk", type=int, choices=(2, 3), default=3, help="answer as apk 2 (Alpine before 3.23) or apk 3 (default: 3)"
    )
    solve.add_argument("--cache", type=Path, metavar="DIR", help="parsed indexes (default: ~/.cache/tower/solv)")
    solve.add_argument("package", nargs="+", metavar="PKG", help="a dependency of the world")
    pack = add("pack", _pack, "make a package of a folder", files=False)
    pack.add_argument("--info", type=Path, required=True, metavar="FILE", help="its .PKGINFO")
    pack.add_argument("--root", type=Path, required=True, metavar="DIR", help="the tree to pack; root will own all files")
    pack.add_argument("--script", type=Path, action="append", default=[], metavar="FILE", help="script, such as .post-install")
    pack.add_argument("-o", "--output", type=Path, metavar="FILE", help="output file (default: NAME-VERSION.apk)")
    _add_signing(pack)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit status. Raises FactoryError, OSError, SystemExit."""
    options = _parser().parse_args(arguments)
    return int(options.run(options))
