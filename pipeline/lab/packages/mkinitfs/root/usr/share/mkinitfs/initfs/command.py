# SPDX-License-Identifier: Apache-2.0
"""mkinitfs: the command line, and the steps from features to the archive.

The options are those of Alpine's mkinitfs. Everything is laid into a temporary folder first, so that
-t and -k show what the archive is made of.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from initfs import archive, features
from initfs.bytecode import compile_sources
from initfs.elf import Closure
from initfs.kmods import Modules
from initfs.root import RootTree

DATA = Path(os.environ.get("DATADIR", "/usr/share/mkinitfs"))
CONFIG = Path(os.environ.get("SYSCONFDIR", "/etc/mkinitfs"))
FOLDERS = ("dev", "proc", "sys", "run", "tmp", "sysroot", "etc/apk/keys", "var/cache/misc", "media/cdrom",
           "media/floppy", "media/usb", "usr/bin", "usr/sbin", "usr/lib/modules", ".modloop")  # fmt: skip
MERGED = ("bin", "sbin", "lib", "lib64")
LEVELS = {"gzip": "-9", "xz": "-6", "zstd": "-9", "none": ""}


@dataclass(frozen=True)
class Job:
    """What one run makes, all defaults filled in."""

    root: RootTree
    feature_names: tuple[str, ...]
    feature_folders: tuple[Path, ...]
    version: str
    out: Path
    compressor: tuple[str, ...]
    epoch: int
    options: Namespace
    custom_files: tuple[str, ...]


def parse_arguments(argv: Sequence[str]) -> Namespace:
    """The options of Alpine's mkinitfs."""
    parser = ArgumentParser(
        prog="mkinitfs",
        description="Make an initramfs.",
        formatter_class=RawDescriptionHelpFormatter,
        epilog="Example: mkinitfs -F 'base ext4 virtio' -o /boot/initramfs-lts 6.12.1-amd64",
    )
    add = parser.add_argument
    add("-b", dest="base", default="/", metavar="DIR", help="take programs and modules from the root at DIR")
    add("-c", dest="config", type=Path, default=CONFIG / "mkinitfs.conf", metavar="FILE", help="configuration file")
    add("-C", dest="compression", metavar="NAME", help="gzip, zstd, xz or none")
    add("-F", dest="features", metavar="NAMES", help="features, separated by spaces")
    add("-f", dest="fstab", type=Path, default=DATA / "fstab", metavar="FILE", help="fstab of the initramfs")
    add("-i", dest="init", type=Path, default=DATA / "initramfs-init", metavar="FILE", help="first program")
    add("-k", dest="keep", action="store_true", help="keep the temporary folder")
    add("-K", dest="hostkeys", action="store_true", help="take this machine's apk keys too")
    add("-L", dest="list_features", action="store_true", help="list the features there are")
    add("-l", dest="list_files", action="store_true", help="list what the initramfs would hold")
    add("-n", dest="no_kernel", action="store_true", help="no kernel modules, no firmware")
    add("-o", dest="out", type=Path, metavar="FILE", help="the file to write")
    add("-P", dest="folders", action="append", type=Path, default=[], metavar="DIR", help="look here for features first")
    add("-q", dest="quiet", action="store_true", help="say nothing")
    add("-s", dest="signature", type=Path, metavar="FILE", help="signature of the modloop")
    add("-t", dest="temporary", type=Path, metavar="DIR", help="temporary folder to use")
    add("version", nargs="?", metavar="KERNELVERSION", help="default: of the running kernel")
    return parser.parse_args(argv)


def prepare(options: Namespace) -> Job:
    """Fill in what the options leave open, from the configuration and from the root."""
    root = RootTree(options.base)
    config = features.read_config(options.config)
    folders = (
        *reversed(options.folders),
        *(Path(path) for path in config.get("features_dirs", "").split()),
        root.host("etc/mkinitfs/features.d"),
        CONFIG / "features.d",
    )
    version = options.version or os.uname().release
    flavor = "generic" if options.no_kernel else version.rpartition("-")[2]
    method = options.compression or config.get("initfscomp", "gzip")
    if method not in LEVELS:
        raise SystemExit(f"mkinitfs: compression {method} is not known: use {', '.join(sorted(LEVELS))}")
    level = config.get(f"complevel_{method}", LEVELS[method])
    extra = {"zstd": ("-q", "-T1", "-c"), "xz": ("-C", "crc32", "-c")}.get(method, ())
    return Job(
        root=root,
        feature_names=tuple((options.features or config.get("features", "base")).split()),
        feature_folders=folders,
        version=version,
        out=options.out or root.host(f"boot/initramfs-{flavor}"),
        compressor=(method, *filter(None, (level,)), *extra),
        epoch=int(os.environ.get("SOURCE_DATE_EPOCH", "0")),
        options=options,
        custom_files=tuple(config.get("custom_files", "").split()),
    )


def lay_files(job: Job, target: Path) -> None:
    """Folders, the programs of the features with their libraries, init, accounts, keys."""
    for folder in FOLDERS:
        (target / folder).mkdir(parents=True, exist_ok=True)
    for name in MERGED:
        if job.root.host(name).is_symlink():
            (target / "usr" / name).mkdir(exist_ok=True)
            (target / name).symlink_to(f"usr/{name}")
    closure = Closure(job.root)
    for pattern in [*features.patterns(job.feature_folders, job.feature_names, "files"), *job.custom_files]:
        for path in job.root.match(pattern):
            closure.add(path)
    for text in closure.missing:
        print(f"mkinitfs: warning: library not found: {text}", file=sys.stderr)
    for path in sorted(closure.links):
        if path not in MERGED:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).symlink_to(job.root.host(path).readlink())
    for path in sorted(closure.files):
        copy(job.root.host(path), target / path)
    compile_sources(target)
    copy(job.options.init, target / "init", 0o755)
    for source in (job.options.fstab, DATA / "passwd", DATA / "group"):
        copy(source, target / "etc" / source.name, 0o644)
    keys = [job.root.host("etc/apk/keys")] + ([Path("/etc/apk/keys")] if job.options.hostkeys else [])
    for key in sorted(path for folder in keys for path in folder.glob("*.pub")):
        copy(key, target / "etc/apk/keys" / key.name, 0o644)
    if job.options.signature:
        copy(job.options.signature, target / "var/cache/misc" / job.options.signature.name, 0o644)


def lay_modules(job: Job, target: Path) -> None:
    """The modules of the features with all they need, and the firmware these ask for."""
    source = job.root.host(f"usr/lib/modules/{job.version}")
    if not source.is_dir():
        source = job.root.host(f"lib/modules/{job.version}")
    if not source.is_dir():
        raise SystemExit(f"mkinitfs: there are no modules of the kernel {job.version} in {job.root.path}")
    modules = Modules(source)
    wanted: list[str] = []
    for pattern in features.patterns(job.feature_folders, job.feature_names, "modules"):
        wanted += modules.matching(pattern)
    firmware = modules.install(modules.closure(wanted), target / "usr/lib/modules" / job.version)
    for name in sorted(firmware):
        for suffix in ("", ".zst", ".xz"):
            lay_firmware(job.root, target, f"usr/lib/firmware/{name}{suffix}")


def lay_firmware(root: RootTree, target: Path, path: str) -> None:
    """One firmware file, links kept: many names often share one file."""
    real, followed = root.resolve(path)
    if not root.host(real).is_file():
        return
    for link in followed:
        place = target / link
        if not place.is_symlink() and link not in MERGED:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(root.host(link).readlink())
    if not (target / real).exists():
        copy(root.host(real), target / real)


def copy(source: Path, target: Path, mode: int | None = None) -> None:
    """Copy a file's content; the mode is 0755 or 0644 so that it does not depend on the maker's umask."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise SystemExit(f"mkinitfs: {source} does not exist") from error
    executable = source.stat().st_mode & 0o111
    target.chmod(mode if mode is not None else 0o755 if executable else 0o644)


def make(job: Job, target: Path) -> None:
    """Lay everything into `target`, then list it or write the archive."""
    lay_files(job, target)
    if not job.options.no_kernel:
        lay_modules(job, target)
    for path in target.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    (target / "tmp").chmod(0o1777)
    if job.options.list_files:
        print("\n".join(sorted(str(path.relative_to(target)) for path in target.rglob("*"))))
        return
    job.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mkinitfs.") as folder:
        plain = Path(folder) / "cpio"
        with plain.open("wb") as stream:
            archive.write_cpio(target, stream, job.epoch)
        # Written beside the target and renamed: an interrupted run leaves the old initramfs.
        unfinished = job.out.with_name(job.out.name + ".new")
        archive.compress(plain, unfinished, list(job.compressor))
        unfinished.chmod(0o600)
        unfinished.replace(job.out)


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is returned."""
    options = parse_arguments(argv)
    job = prepare(options)
    if options.list_features:
        print("\n".join(features.available(job.feature_folders)))
        return 0
    if not options.quiet and not options.list_files:
        print(f"==> initramfs: creating {job.out} for {'no kernel' if options.no_kernel else job.version}")
    if options.temporary:
        options.temporary.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="initfs.", dir=options.temporary))
    try:
        make(job, target)
    finally:
        if options.keep:
            print(f"mkinitfs: kept {target}", file=sys.stderr)
        else:
            shutil.rmtree(target)
    return 0
