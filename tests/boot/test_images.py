# SPDX-License-Identifier: Apache-2.0
"""The finished images: what is in them, read without mounting, and that they start.

The images are those of `./ci/doit`, from the folder where it leaves them.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.images.boot import LOGIN, SSH, MachineType, check_banner, started
from pipeline.images.disk import boot_file, boot_files, partitions, root_file, root_stat, unpacked
from pipeline.images.new_host import new_host

MIB = 1 << 20
PROMPT = r"\[root@thinclient [^\]]*\][#$] $"
HOSTS = ("pc", "rpi")
SCRIPTS = r"tower-scripts: (.*?)[1-9]\d*, that failed: (.*?)\r?\n"
"""What the service says on the console that has run scripts of packages."""


def image(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    assert len(found) == 1, f"{folder} holds {len(found)} files that fit {pattern}"
    return found[0]


@pytest.fixture(scope="session")
def iso(images: Path) -> Path:
    return image(images, "toweros-thinclient-*-lab-x86_64.iso")


@pytest.fixture(scope="module", params=HOSTS)
def disk(request: pytest.FixtureRequest, images: Path, large_files: Path) -> Path:
    """The unpacked image of each host."""
    return unpacked(image(images, f"toweros-host-*-lab-{request.param}.img.zst"), large_files)


@pytest.fixture
def log(request: pytest.FixtureRequest, checkout: Path) -> Path:
    """Where the console's log goes: it stays when the test is over."""
    return checkout / "build" / "log" / f"{request.node.name.replace('/', '-')}.log"


# --- without starting them ----------------------------------------------------------------------------------


def on_iso(iso: Path, name: str, tmp_path: Path) -> bytes:
    target = tmp_path / "member"
    argv = ["xorriso", "-osirrox", "on", "-indev", str(iso), "-extract", name, str(target)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return target.read_bytes()


@pytest.mark.parametrize(
    ("menu", "entry"), [("/boot/syslinux/syslinux.cfg", "MENU LABEL {}"), ("/boot/grub/grub.cfg", 'menuentry "{}"')]
)
def test_both_menus_of_the_medium_offer_the_live_system_and_the_installer(
    iso: Path, tmp_path: Path, menu: str, entry: str
) -> None:
    text = on_iso(iso, menu, tmp_path).decode()
    assert re.findall(re.escape(entry).replace(r"\{\}", "(.*)"), text) == ["TowerOS", "Install TowerOS"]
    # What asks the questions in the live system looks for that word.
    assert len(re.findall(r" tower\.setup$", text, re.MULTILINE)) == 1


def test_the_medium_carries_hosts_wheels_and_manual(iso: Path, tmp_path: Path) -> None:
    argv = ["xorriso", "-indev", str(iso), "-find", "/toweros", "-type", "f"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    names = [line.strip("'").removeprefix("/toweros/") for line in done.stdout.splitlines()]
    assert {"docs/index.md", "docs/commands.md", "images/SHA256SUMS", "wheels/requirements.txt"} <= set(names)
    for target in HOSTS:
        assert any(name.startswith("images/toweros-host-") and name.endswith(f"-{target}.img.zst") for name in names)
    assert any(name.startswith("wheels/tower-") for name in names)
    assert b"tower==" in on_iso(iso, "/toweros/wheels/requirements.txt", tmp_path)


@pytest.mark.parametrize("name", ["host-*-lab-pc.img.zst", "host-*-lab-rpi.img.zst", "thinclient-*-lab-x86_64.iso"])
def test_an_image_has_checksums_a_manifest_and_a_block_map(images: Path, name: str) -> None:
    packed = image(images, f"toweros-{name}")
    beside = {ending: packed.with_name(packed.name + ending) for ending in (".bmap", ".manifest.json", ".sha256")}
    subprocess.run(["sha256sum", "--check", "--strict", beside[".sha256"].name], cwd=images, check=True, timeout=300)
    sums = {line[66:]: line[:64] for line in beside[".sha256"].read_text().splitlines()}
    assert set(sums) == {packed.name, beside[".bmap"].name, beside[".manifest.json"].name}
    manifest = json.loads(beside[".manifest.json"].read_text())
    assert manifest["files"][packed.name] == {"sha256": sums[packed.name], "size": packed.stat().st_size}
    packages = {row["name"]: row for row in manifest["packages"]}
    assert {"alpine-base", "iptables", f"toweros-{manifest['recipe']}"} <= set(packages)
    assert all(row["version"] and row["checksum"].startswith("Q1") and len(row["sha256"]) == 64 for row in packages.values())
    origins = [packages[name]["origin"] for name in (f"toweros-{manifest['recipe']}", "iptables", "musl")]
    assert origins == ["ours", "debian trixie", f"alpine {packages['alpine-release']['version'].partition('-')[0]}"]
    assert all(len(stage["key"]) == 64 and stage["outputs"] for stage in manifest["stages"].values())
    assert b"<bmap " in beside[".bmap"].read_bytes()


def test_partitions_are_as_planned(disk: Path) -> None:
    boot, root = partitions(disk)
    assert boot.kind == (0xEF if disk.stem.endswith("pc") else 0x0C)
    assert root.kind == 0x83
    assert boot.start == 4 * MIB
    assert root.start == boot.start + boot.size
    assert root.start % (4 * MIB) == 0
    assert root.start + root.size == disk.stat().st_size


def test_a_raspberry_pi_finds_all_it_needs(disk: Path) -> None:
    if not disk.stem.endswith("rpi"):
        assert {"/EFI/BOOT/BOOTX64.EFI", "/grub/grub.cfg", "/vmlinuz-lts", "/initramfs-lts"} <= set(boot_files(disk))
        return
    assert {"/bootcode.bin", "/start.elf", "/fixup.dat", "/vmlinuz-rpi", "/initramfs-rpi"} <= set(boot_files(disk))
    assert b"arm_64bit=1\n" in boot_file(disk, "/config.txt")
    assert b"root=LABEL=tower-root" in boot_file(disk, "/cmdline.txt")


def test_the_initramfs_finds_a_second_disk_by_usb(disk: Path) -> None:
    """Also at the USB of a Raspberry Pi 3, whose driver is a module of the lab's kernel."""
    name, wanted = (
        ("rpi", {"dwc2", "phy-generic", "sd_mod", "usb-storage"})
        if disk.stem.endswith("rpi")
        else ("lts", {"sd_mod", "xhci-pci", "usb-storage"})
    )
    archive = gzip.decompress(boot_file(disk, f"/initramfs-{name}"))
    listed = subprocess.run(
        ["cpio", "-t", "--quiet"], input=archive, capture_output=True, check=True, timeout=120
    ).stdout.decode()
    assert wanted <= {Path(line).name.partition(".")[0] for line in listed.splitlines()}


def test_links_of_the_initramfs_lead_to_files(disk: Path) -> None:
    """One that does not, that to the loader of the lab's libraries, left a Raspberry Pi without LVM, and so without its root."""
    archive = gzip.decompress(boot_file(disk, f"/initramfs-{'rpi' if disk.stem.endswith('rpi') else 'lts'}"))
    listed = subprocess.run(["cpio", "-tv", "--quiet"], input=archive, capture_output=True, check=True, timeout=120).stdout
    rows = [line.split(maxsplit=8) for line in listed.decode().splitlines()]
    links = dict(row[8].split(" -> ", 1) for row in rows if row[0].startswith("l"))
    names = {row[8] for row in rows if not row[0].startswith("l")}
    # What the init mounts is not in the archive.
    mounted = ("proc/", "sys/", "dev/", "run/")
    found = {name: real_path(name, links) for name in links}
    assert {"lib", "sbin"} <= links.keys()
    assert {name: place for name, place in found.items() if place not in names and not place.startswith(mounted)} == {}


def real_path(name: str, links: dict[str, str]) -> str:
    """A path of an archive without its links."""
    todo, place = name.split("/")[::-1], list[str]()
    while todo:
        part = todo.pop()
        if part == "..":
            place = place[:-1]
        elif part not in ("", "."):
            place.append(part)
            if (target := links.get("/".join(place))) is not None:
                place = [] if target.startswith("/") else place[:-1]
                todo += target.split("/")[::-1]
    return "/".join(place)


def test_the_boot_partition_can_be_changed_to_start_an_encrypted_root(disk: Path, checkout: Path, tmp_path: Path) -> None:
    """By the program of the host, on the files of its image; a second time changes nothing, and no other file is taken."""
    names = {name for name in boot_files(disk) if name in ("/config.txt", "/cmdline.txt", "/grub/grub.cfg")}
    boot = tmp_path / "boot"
    for name in names:
        (boot / name[1:]).parent.mkdir(parents=True, exist_ok=True)
        (boot / name[1:]).write_bytes(boot_file(disk, name))
    usr = checkout / "overlays/host/usr"
    own = {"SETUP_SHARE": str(usr / "share/tower"), "SETUP_BOOT": str(boot), "SETUP_WORK": str(tmp_path)}
    argv = ["busybox", "sh", str(usr / "libexec/tower/encrypt"), "start", "01234567-89ab-8cde-8f01-23456789abcd"]

    def changed() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, env=own, capture_output=True, text=True, check=False, timeout=60)

    options = "root=/dev/tower/root cryptroot=UUID=01234567-89ab-8cde-8f01-23456789abcd cryptdm=tower-crypt cryptkey=yes"
    for _ in range(2):
        done = changed()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert {f"/{path.relative_to(boot)}" for path in boot.rglob("*") if path.is_file()} == names
        for name in names:
            before = boot_file(disk, name).decode()
            after = before.replace("root=LABEL=tower-root", options)
            after = after.replace("initramfs-rpi followkernel", "initramfs-rpi,initramfs-key followkernel")
            after = after.replace("initrd /initramfs-lts\n", "initrd /initramfs-lts /initramfs-key\n")
            assert after != before
            assert (boot / name[1:]).read_text() == after
    last = boot / ("config.txt" if "/config.txt" in names else "grub/grub.cfg")
    last.write_text("# another loader\n")
    done = changed()
    assert (done.returncode, last.read_text()) == (1, "# another loader\n")
    assert "is not what this version lays there" in done.stderr


def test_the_root_is_ours(disk: Path) -> None:
    release = root_file(disk, "/etc/os-release").decode()
    assert "ID=toweros\n" in release
    assert "TOWER_CHANNEL=lab\n" in release
    assert "VARIANT_ID=host\n" in release
    assert "toweros-host\n" in root_file(disk, "/etc/apk/world").decode()


def test_no_account_has_a_password(disk: Path) -> None:
    accounts = [line.split(":") for line in root_file(disk, "/etc/shadow").decode().splitlines()]
    assert "root" in {account[0] for account in accounts}
    assert {account[1] for account in accounts} <= {"!", "*"}


def test_owners_and_modes_are_those_of_the_table(disk: Path) -> None:
    assert "Mode:  0400" in root_stat(disk, "/etc/doas.conf")
    assert "Mode:  0600" in root_stat(disk, "/etc/ssh/sshd_config.d/tower.conf")
    assert "Mode:  0755" in root_stat(disk, "/usr/libexec/tower/serial-login")
    assert '"/etc/init.d/sshd"' in root_stat(disk, "/etc/runlevels/default/sshd")


# --- started ------------------------------------------------------------------------------------------------


@pytest.mark.qa("T06")
@pytest.mark.qa("T11")
@pytest.mark.qa("T12")
@pytest.mark.qa("T14")
@pytest.mark.qa("T19")
def test_the_thin_client_starts(iso: Path, log: Path, checkout: Path) -> None:
    """By BIOS; test_installer.py starts it by UEFI."""
    with started(MachineType.THINCLIENT_BIOS, iso, log=log) as guest:
        guest.wait(LOGIN, MachineType.THINCLIENT_BIOS.limit)
        guest.login("root", prompt=PROMPT)
        found = guest.command("tower version --json", timeout=120)
        assert found.status == 0, found.text
        version = json.loads(found.text)
        assert version["channel"] == "lab"
        assert version["variant"] == "thinclient"
        assert version["tower"] == version["version"]
        addresses = guest.command("ip -o -4 addr show").text
        assert "192.168.2.100/24" in addresses
        assert "192.168.3.100/24" in addresses
        listening = guest.command("netstat -lntu | grep -v '127.0.0.1\\|::1' | grep -c 'LISTEN\\|^udp'").text
        assert listening.strip() == "0", guest.command("netstat -lntup").text
        assert guest.command("ls /media/*/toweros/docs/index.md").status == 0
        page = guest.command("man tower-provision | grep -c 'first answer'")
        assert page.status == 0, page.text
        assert guest.command("ls /usr/share/bash-completion/completions/tower").status == 0
        rules = guest.command("rc-service firewall status && /usr/libexec/tower/firewall check")
        assert rules.status == 0, rules.text
        # What the rules load, the service has loaded at once.
        service = (checkout / "overlays/common/etc/init.d/firewall").read_text()
        (wanted,) = re.findall(r'^modules="(.*)"$', service, re.MULTILINE)
        loaded = guest.command("lsmod").text
        of_rules = r"(?:xt|ipt|ip6t|nft)_\w+"
        assert set(re.findall(rf"(?m)^{of_rules}", loaded)) == set(re.findall(rf"\b{of_rules}", wanted)), loaded
        assert guest.command("start-stop-daemon --test --stop --exec /sbin/mdev").status == 0, guest.command("ps").text
        failed = guest.command("rc-status --crashed").text
        assert not failed.strip(), failed


def test_a_raspberry_pi_starts_and_answers(images: Path, log: Path) -> None:
    """test_provision.py starts the host for a PC, by BIOS and by UEFI."""
    machine = MachineType.HOST_RPI
    for last in (False, True):
        with started(machine, image(images, "toweros-host-*-lab-rpi.img.zst"), log=log, files=new_host()) as guest:
            guest.wait(LOGIN, machine.limit)
            if "cdc_ether" not in guest.text and not last:
                continue  # QEMU's USB did not come up: once more
            check_banner(guest, guest.banner(SSH, machine.limit / 2))
            # The scripts of packages ran at this start: none failed, none is left.
            said = re.findall(SCRIPTS, guest.text)
            assert said == [("nothing is pending; steps that ran: ", "0")], guest.text[-4000:]
            return
