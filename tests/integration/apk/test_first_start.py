# SPDX-License-Identifier: Apache-2.0
"""Scripts that could not run where a root was made run at its first start: the stage's steps, and the device's script.

Each root is made by Alpine's apk with --no-scripts, of packages with Alpine's busybox. Its first start is a chroot, which
needs root.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.apk.format.package import TarEntry
from tests.integration.apk.conftest import Shop

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot")

CHECKOUT = Path(__file__).resolve().parents[3]
PENDING = CHECKOUT / "stages/host-system/pending.py"
RUNNER = CHECKOUT / "overlays/host/usr/libexec/tower/scripts"
STEPS = "var/lib/tower/scripts"
APPLETS = (
    "sh", "addgroup", "adduser", "awk", "basename", "cat", "chmod", "chown", "cut", "date",
    "dirname", "echo", "env", "grep", "head", "kill", "logger", "ls", "mkdir", "mv",
    "ps", "printf", "readlink", "rm", "sed", "setsid", "sleep", "sort", "stat", "tail",
    "test", "timeout", "touch", "tr", "true", "wc",
)  # fmt: skip
USERS = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:2:2:daemon:/sbin:/sbin/nologin\n"
GROUPS = "root:x:0:\ndaemon:x:2:\n"


def script(text: str) -> bytes:
    return f"#!/bin/sh\n{text}\n".encode()


def noting(more: str = "") -> bytes:
    """A script that writes down its name, its arguments and what it finds, then does more."""
    return script(f'echo "${{0##*/}} $* user=$(sed -n s/^timed:.*/yes/p /etc/passwd)" >>/log\n{more}')


@pytest.fixture(scope="session")
def programs(alpine: Path) -> dict[str, bytes | str]:
    """Alpine's busybox and its C library."""
    files: dict[str, bytes | str] = {f"bin/{name}": "/bin/busybox" for name in APPLETS}
    # It would wait for all disks of this machine; a process that is killed, unlike a machine, loses nothing it wrote.
    files["bin/sync"] = script("exit 0")
    files |= {path: (alpine / path).read_bytes() for path in ("bin/busybox", "lib/ld-musl-x86_64.so.1")}
    files["lib/libc.musl-x86_64.so.1"] = "ld-musl-x86_64.so.1"
    return files


@pytest.fixture
def device(shop: Shop, programs: dict[str, bytes | str]) -> Shop:
    """A repository with a small system, and a service as Alpine packs one: with a user who is made by its script."""
    modes = dict.fromkeys(programs, 0o755)
    files = programs | {"etc/passwd": USERS.encode(), "etc/group": GROUPS.encode(), "etc/shadow": b"root:!::0:::::\n"}
    shop.package("zz-base", files=files, modes=modes, scripts={".post-install": noting()})
    mine = {"uid": 4321, "gid": 4321, "uname": "timed", "gname": "timed"}
    shop.package(
        "aa-timed",
        "4.5-r1",
        files={"usr/sbin/timed": b"1"},
        extra=[
            (TarEntry("var", "dir", 0o755, uname="root", gname="root"), None),
            (TarEntry("var/lib", "dir", 0o755, uname="root", gname="root"), None),
            (TarEntry("var/lib/timed", "dir", 0o750, **mine), None),  # type: ignore[arg-type]
            (TarEntry("var/lib/timed/drift", "file", 0o2755, **mine), b"0"),  # type: ignore[arg-type]
            (TarEntry("var/lib/timed/link", "symlink", 0o777, target="/etc/passwd", **mine), None),  # type: ignore[arg-type]
        ],
        depends=("zz-base",),
        scripts={
            ".pre-install": noting("addgroup -S timed && adduser -S -D -H -G timed timed"),
            ".post-install": noting("ls -ln /var/lib/timed/drift >>/log"),
        },
    )
    shop.package("mm-index", triggers=("/usr/sbin", "/var/*"), scripts={".trigger": noting()}, depends=("aa-timed",))
    shop.package("mkinitfs", triggers=("/usr/*",), scripts={".trigger": noting()})
    return shop


def make(shop: Shop, *names: str) -> None:
    """The stages' work: a root without scripts, and what it still has to run."""
    shop.publish()
    log = shop.root.parent / "installed"
    log.write_text(shop.add("--no-scripts", *names))
    (shop.root / "dev").mkdir(exist_ok=True)
    if not (shop.root / "dev/null").exists():
        os.mknod(shop.root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    lay(shop, log)
    shutil.copy(RUNNER, shop.root / "bin/scripts")


def lay(shop: Shop, log: Path, status: int = 0) -> str:
    """The stage's own program."""
    (shop.root.parent / "repositories").write_text(f"{shop.repository}\n")
    argv = [sys.executable, str(PENDING), str(shop.root), "x86_64", str(shop.root.parent / "repositories"), str(log)]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert done.returncode == status, done.stderr
    return done.stderr


def start(shop: Shop, *arguments: str, limit: int = 20) -> subprocess.CompletedProcess[str]:
    argv = ["chroot", str(shop.root), "/bin/scripts", *arguments]
    env = {"PATH": os.environ["PATH"], "SECRET": "of the starter", "SCRIPTS_LIMIT": str(limit)}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env=env)


def pending(shop: Shop) -> list[str]:
    return start(shop, "--list").stdout.splitlines()


def log_of(shop: Shop) -> list[str]:
    path = shop.root / "log"
    return path.read_text().splitlines() if path.exists() else []


def user_id(shop: Shop) -> int:
    return next(
        int(line.split(":")[2]) for line in (shop.root / "etc/passwd").read_text().splitlines() if line.startswith("timed:")
    )


STEPS_OF_DEVICE = [
    "zz-base-1.0-r0.post-install",
    "aa-timed-4.5-r1.pre-install",
    "aa-timed-4.5-r1.owners",
    "aa-timed-4.5-r1.post-install",
    "mm-index-1.0-r0.trigger",
]


def test_the_first_start_does_what_apk_would_have_done(device: Shop) -> None:
    make(device, "mm-index", "mkinitfs")
    assert log_of(device) == []
    assert pending(device) == STEPS_OF_DEVICE  # not by name, as the database is; the initramfs is another stage's
    folder, drift, link = (device.root / f"var/lib/timed{name}" for name in ("", "/drift", "/link"))
    for path in (folder, drift, link):  # until there is a user they are root's, not those of whoever has the number
        assert (path.lstat().st_uid, path.lstat().st_gid) == (0, 0)
    assert drift.stat().st_mode & 0o7777 == 0o755
    assert (device.root / STEPS).stat().st_mode & 0o777 == 0o700

    done = start(device)
    assert (done.returncode, done.stderr) == (0, "tower-scripts: nothing is pending; steps that ran: 5, that failed: 0\n")
    user = user_id(device)
    log = log_of(device)
    listed = log.pop(3)
    assert log == [
        "zz-base-1.0-r0.post-install 1.0-r0 user=",
        "aa-timed-4.5-r1.pre-install 4.5-r1 user=",
        "aa-timed-4.5-r1.post-install 4.5-r1 user=yes",
        "mm-index-1.0-r0.trigger /usr/sbin /var/lib user=yes",
    ]
    assert re.match(rf"-rwxr-sr-x +1 {user} ", listed), listed
    assert 100 <= user < 1000
    for path in (folder, drift, link):
        assert path.lstat().st_uid == user
    assert (folder.stat().st_mode & 0o7777, drift.stat().st_mode & 0o7777) == (0o750, 0o2755)
    assert (device.root / "etc/passwd").stat().st_uid == 0  # the link was not followed
    assert not (device.root / STEPS).exists()

    assert start(device).returncode == 0
    assert len(log_of(device)) == 5


def test_scripts_have_apks_environment_and_no_more(device: Shop) -> None:
    device.package("env", scripts={".post-install": script("cd . && env >/env; pwd >>/env")}, depends=("zz-base",))
    make(device, "env")
    assert start(device).returncode == 0
    found = {
        line for line in (device.root / "env").read_text().splitlines() if not line.startswith(("PWD=", "SHLVL=", "OLDPWD="))
    }
    assert found == {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "APK_SCRIPT=post-install", "APK_PACKAGE=env", "/"}


def test_a_package_keeps_its_name_whatever_its_version_is(device: Shop) -> None:
    versions = {"with-hash": "2022.12.27~7a0cda7f-r2", "no-release": "1.0", "r2": "1.2b_rc1-r0", "dash-r3": "4"}
    for name, version in versions.items():
        device.package(name, version, scripts={".post-install": script('echo "$APK_PACKAGE $1" >>/names')}, depends=("zz-base",))
    make(device, *versions)
    assert start(device).returncode == 0
    assert sorted((device.root / "names").read_text().splitlines()) == sorted(f"{name} {one}" for name, one in versions.items())


@pytest.fixture
def waiting(device: Shop) -> Iterator[Shop]:
    """Its first start was cut off in the middle of a script."""
    device.package("late", depends=("aa-timed",), scripts={".post-install": noting("touch /reached; [ -e /go ] || sleep 60")})
    make(device, "late", "mm-index")
    starting = subprocess.Popen(["chroot", str(device.root), "/bin/scripts"], start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not (device.root / "reached").exists():
            assert starting.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        os.killpg(starting.pid, signal.SIGKILL)
        starting.wait()
    (device.root / "go").touch()
    yield device


def test_a_start_after_a_power_cut_continues(waiting: Shop) -> None:
    assert pending(waiting) == ["late-1.0-r0.post-install", "mm-index-1.0-r0.trigger"]
    assert start(waiting).returncode == 0
    names = [line.split()[0] for line in log_of(waiting) if line.endswith(("user=", "user=yes"))]
    late = "late-1.0-r0.post-install"
    assert names == [STEPS_OF_DEVICE[0], STEPS_OF_DEVICE[1], STEPS_OF_DEVICE[3], late, late, STEPS_OF_DEVICE[4]]
    assert not (waiting.root / STEPS).exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo no such thing >&2; exit 7", "bad-1.0-r0.pre-install failed with status 7: no such thing"),
        ("sleep 30", r"bad-1.0-r0.pre-install failed with status (143|124)"),
    ],
)
def test_a_failure_is_reported_and_the_rest_runs(device: Shop, text: str, said: str) -> None:
    device.package("bad", depends=("zz-base",), scripts={".pre-install": script(text), ".post-install": noting()})
    make(device, "bad", "mm-index")
    began = time.monotonic()
    done = start(device, limit=1)
    assert time.monotonic() - began < 15  # nor is what the script leaves running waited for
    assert done.returncode == 1
    assert re.search(said, done.stderr), done.stderr
    assert {"bad-1.0-r0.post-install 1.0-r0 user=", "mm-index-1.0-r0.trigger /usr/sbin /var/lib user=yes"} <= {
        line if line.startswith("mm") else re.sub("user=.*", "user=", line) for line in log_of(device)
    }
    assert not (device.root / STEPS).exists()


def test_an_owner_whom_no_script_makes_is_reported(device: Shop) -> None:
    stranger = TarEntry("srv", "dir", 0o755, uid=555, gid=555, uname="stranger", gname="root")
    device.package("odd", depends=("zz-base",), extra=[(stranger, None)])
    make(device, "odd")
    done = start(device)
    assert done.returncode == 1
    assert "odd-1.0-r0.owners failed" in done.stderr
    assert (device.root / "srv").stat().st_uid == 0


def test_apk_2_keeps_scripts_in_another_way(device: Shop) -> None:
    make(device, "mm-index")
    database = device.root / "lib/apk/db"
    with tarfile.open(database / "scripts.tar.gz") as before, tarfile.open(database / "scripts.tar", "w") as after:
        for member in before:
            found = re.fullmatch(r"(.*\.)X1([0-9a-f]{40})(\..*)", member.name)
            assert found
            content = before.extractfile(member)
            member.name = f"{found[1]}Q1{base64.b64encode(bytes.fromhex(found[2])).decode()}{found[3]}"
            after.addfile(member, content)
    (database / "scripts.tar.gz").unlink()
    lay(device, device.root.parent / "installed")
    assert pending(device) == STEPS_OF_DEVICE


def without(lines: Sequence[str], word: str) -> str:
    return "\n".join(line for line in lines if word not in line)


def test_the_order_must_be_known_of_all(device: Shop) -> None:
    make(device, "mm-index")
    log = device.root.parent / "installed"
    log.write_text(without(log.read_text().splitlines(), "aa-timed"))
    assert "differ in: aa-timed-4.5-r1" in lay(device, log, status=1)


def test_a_path_out_of_the_root_is_refused(device: Shop) -> None:
    make(device, "mm-index")
    outside = device.root.parent / "outside"
    shutil.move(device.root / "var/lib/timed", outside)
    (device.root / "var/lib/timed").symlink_to(outside)
    assert "lies outside of the root" in lay(device, device.root.parent / "installed", status=1)


RELEASE = "6.18.56-0-virt"
KMOD_FILES = (
    "usr/lib/libkmod.so.2",
    "usr/lib/liblzma.so.5",
    "usr/lib/libzstd.so.1",
    "usr/lib/libz.so.1",
    "usr/lib/libcrypto.so.3",
)


def member(package: Path, name: str) -> bytes:
    """A file of a package, links followed."""
    with tarfile.open(package, ignore_zeros=True) as archive:
        content = archive.extractfile(name)
        assert content is not None, f"{package}: {name}"
        return content.read()


@pytest.fixture
def kernel(shop: Shop, alpine: Path, programs: dict[str, bytes | str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A kernel of a few of Alpine's modules, and Alpine's kmod; the factory's depmod is the same one."""
    base = alpine.parent / "base"

    def found(name: str) -> Path:
        (path,) = base.rglob(f"{name}-[0-9]*.apk")
        return path

    owners = ("kmod-libs", "xz-libs", "zstd-libs", "zlib", "libcrypto3")
    libraries = {path: member(found(owner), path) for path, owner in zip(KMOD_FILES, owners, strict=True)}
    kmod = found("kmod")
    files = programs | libraries | {"bin/kmod": member(kmod, "bin/kmod"), "sbin/depmod": "/bin/kmod"}
    files |= {"bin/uname": "/bin/busybox", "bin/rmdir": "/bin/busybox"}
    modes = dict.fromkeys(files, 0o755)
    shop.package("zz-base", files=files, modes=modes)
    trigger = member(kmod, ".trigger")
    shop.package("kmod", triggers=("/lib/modules/*",), scripts={".trigger": trigger}, depends=("zz-base",))
    with tarfile.open(found("linux-virt"), ignore_zeros=True) as archive:
        wanted = re.compile(r"lib/modules/[^/]*/(kernel/(fs/fat|drivers/block|lib)/.*|modules\.(order|builtin|builtin\.modinfo))")
        rows = {name: archive.extractfile(name) for name in archive.getnames() if wanted.fullmatch(name)}
        modules: dict[str, bytes | str] = {
            re.sub("modules/[^/]*", f"modules/{RELEASE}", name, count=1): stream.read() for name, stream in rows.items() if stream
        }
    assert sum(".ko" in name for name in modules) > 10
    shop.package("linux-virt", files=modules, depends=("kmod",))
    libs = tmp_path / "programs"
    for name, content in files.items():
        if isinstance(content, bytes):
            (libs / name).parent.mkdir(parents=True, exist_ok=True)
            (libs / name).write_bytes(content)
            (libs / name).chmod(0o755)
    called = libs / "depmod"
    loader = f"{libs}/lib/ld-musl-x86_64.so.1 --argv0 depmod --library-path {libs}/usr/lib {libs}/bin/kmod"
    called.write_text(f'#!/bin/sh\nexec {loader} "$@"\n')
    called.chmod(0o755)
    monkeypatch.setenv("PATH", f"{libs}:{os.environ['PATH']}")
    return shop


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Without it modules below updates/ come first; of two files of one name that in etc counts.
CONFIGURED = {
    "etc/depmod.d/order.conf": b"search built-in updates\n",
    "usr/lib/depmod.d/order.conf": b"search updates built-in\n",
}


@pytest.mark.parametrize("configured", [{}, CONFIGURED])
def test_the_image_has_the_same_depmod_files_as_kmods_trigger_makes(
    kernel: Shop, tmp_path: Path, configured: dict[str, bytes | str]
) -> None:
    """The same files, byte for byte, as kmod's own trigger makes on the device; nothing of it is left for the first start."""
    linux = next(kernel.repository.glob("*/linux-virt-*.apk"))
    with tarfile.open(linux, ignore_zeros=True) as archive:
        name = next(name for name in archive.getnames() if "/fat.ko" in name)
    again: dict[str, bytes | str] = {f"lib/modules/{RELEASE}/updates/{Path(name).name}": member(linux, name)}
    kernel.package("more", files={"etc/more": b"", **configured, **again}, depends=("linux-virt",))
    kernel.publish()
    make(kernel, "more")
    made = tree(kernel.root / "lib/modules")
    assert pending(kernel) == []
    assert {f"{RELEASE}/modules.{name}" for name in ("dep", "dep.bin", "alias.bin", "symbols.bin", "weakdep")} <= set(made)
    assert (b"\nupdates/fat.ko" in b"\n" + made[f"{RELEASE}/modules.dep"]) is not bool(configured)

    shutil.rmtree(kernel.root)
    (kernel.root / "dev").mkdir(parents=True)
    os.mknod(kernel.root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    kernel.run("add", "--initdb", "more")
    assert tree(kernel.root / "lib/modules") == made


def test_a_kernel_that_is_gone_is_left_to_the_trigger(kernel: Shop) -> None:
    kernel.package("gone", files={"lib/modules/5.1.0-0-gone/kernel-suffix": b"-gone"}, depends=("kmod",))
    kernel.package("odd", files={"lib/modules/odd/modules.order": b""}, depends=("kmod",))
    make(kernel, "linux-virt", "gone", "odd")
    assert pending(kernel) == ["kmod-1.0-r0.trigger"]
    (arguments,) = (kernel.root / STEPS).glob("*/arguments")
    assert arguments.read_text() == "/lib/modules/5.1.0-0-gone\n/lib/modules/odd\n"


def test_a_module_that_depmod_refuses_ends_the_stage(kernel: Shop) -> None:
    make(kernel, "linux-virt")
    log = kernel.root.parent / "installed"
    shutil.rmtree(kernel.root / "lib/modules" / RELEASE / "kernel")
    (kernel.root / "lib/modules" / RELEASE / "modules.dep").unlink()
    (kernel.root / "lib/modules" / RELEASE / "modules.dep").mkdir()
    assert f"depmod failed with status 1 for /lib/modules/{RELEASE}" in lay(kernel, log, status=1)


def test_modules_out_of_the_root_are_refused(kernel: Shop) -> None:
    make(kernel, "linux-virt")
    outside = kernel.root.parent / "outside"
    shutil.move(kernel.root / "lib/modules" / RELEASE, outside)
    (kernel.root / "lib/modules" / RELEASE).symlink_to(outside)
    assert "lies outside of the root" in lay(kernel, kernel.root.parent / "installed", status=1)
