# SPDX-License-Identifier: Apache-2.0
"""What `ssh <host>` does, whatever the user's own configuration says of all machines: asked of the real ssh."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tower.audit import local
from tower.audit.checks import Verdict
from tower.base.errors import StateError
from tower.cli import main
from tower.hosts import stanza
from tower.hosts.env import TowerEnv
from tower.hosts.registry import USER_KEY, Tower, tower_of_user

from tests.unit.runtime.test_sshconf import add, ssh_sees

OWN = {"HostName", "User", "IdentityFile", "UserKnownHostsFile", "HostKeyAlias"}
"""What each host has of its own."""
_FORWARD = "SETTINGS has ClearAllForwardings, which clears it"
_OFF = "of a way to log in that SETTINGS switches off"
_PATIENCE = "how patient the user is, and with what the connection is kept up"
_SHOWN = "what is said on this side"
_X11 = "only with ForwardX11"
_CANONICAL = "only with CanonicalizeHostname"
_TYPED = "only for a forward that was asked for by hand"
_PART = "of the language: no setting"
HARMLESS = {
    "BatchMode": "nothing is ever asked: the key has no passphrase and the host is known",
    "BindInterface": "BindAddress, which SETTINGS has, goes before it",
    "CanonicalDomains": _CANONICAL,
    "CanonicalizeFallbackLocal": _CANONICAL,
    "CanonicalizeMaxDots": _CANONICAL,
    "CanonicalizePermittedCNAMEs": _CANONICAL,
    "CASignatureAlgorithms": "no host has a certificate: HostKeyAlgorithms takes none",
    "CertificateFile": "PubkeyAcceptedAlgorithms takes no certificate",
    "ChannelTimeout": _PATIENCE,
    "Compression": "what goes over is the same",
    "ConnectionAttempts": _PATIENCE,
    "ConnectTimeout": _PATIENCE,
    "DynamicForward": _FORWARD,
    "EnableEscapeCommandline": "the user's keys, at a terminal",
    "EnableSSHKeysign": _OFF,
    "EscapeChar": "the user's keys, at a terminal",
    "ExitOnForwardFailure": _TYPED,
    "FingerprintHash": _SHOWN,
    "ForwardX11Timeout": _X11,
    "GatewayPorts": _TYPED,
    "GSSAPIAuthentication": "PreferredAuthentications leaves it out; an ssh without it complains if it is named",
    "GSSAPIDelegateCredentials": "only with GSSAPIAuthentication",
    "HashKnownHosts": "nothing is ever added to the known hosts",
    "Host": _PART,
    "HostbasedAcceptedAlgorithms": _OFF,
    "IgnoreUnknown": "of other lines of the user's; one of ours would make those an error",
    "Include": _PART,
    "IPQoS": "what goes over is the same",
    "KbdInteractiveDevices": _OFF,
    "LocalCommand": "only with PermitLocalCommand",
    "LocalForward": _FORWARD,
    "LogLevel": _SHOWN,
    "LogVerbose": _SHOWN,
    "Match": _PART,
    "NumberOfPasswordPrompts": _OFF,
    "ObscureKeystrokeTiming": "what goes over is the same",
    "PermitRemoteOpen": _TYPED,
    "ProxyUseFdpass": "only with ProxyCommand",
    "RefuseConnection": "says of all machines that none may be connected to",
    "RekeyLimit": "what goes over is the same",
    "RemoteForward": _FORWARD,
    "RequiredRSASize": "there is no RSA key",
    "SecurityKeyProvider": "keys in hardware come after ours",
    "SendEnv": "a list that only grows. The user has every machine told of these, and no host takes any: no AcceptEnv there",
    "ServerAliveCountMax": _PATIENCE,
    "ServerAliveInterval": _PATIENCE,
    "SetEnv": "as SendEnv; and the terminal's name may be among them",
    "StreamLocalBindMask": _TYPED,
    "StreamLocalBindUnlink": _TYPED,
    "SyslogFacility": _SHOWN,
    "Tag": "a word for the user's own Match",
    "TCPKeepAlive": _PATIENCE,
    "TunnelDevice": "only with Tunnel",
    "VersionAddendum": "a comment",
    "VisualHostKey": _SHOWN,
    "WarnWeakCrypto": _SHOWN,
    "XAuthLocation": _X11,
}  # fmt: skip
DEBIANS = {"gssapikexalgorithms", "gssapikeyexchange", "gssapirenewalforcesrekey", "gssapitrustdns", "gssapiserveridentity",
           "gssapiclientidentity"}  # fmt: skip
"""What some distributions add: for a server with Kerberos, which no host is."""
KEYWORDS = """
AddKeysToAgent AddressFamily BatchMode BindAddress BindInterface CanonicalDomains CanonicalizeFallbackLocal
CanonicalizeHostname CanonicalizeMaxDots CanonicalizePermittedCNAMEs CASignatureAlgorithms CertificateFile ChannelTimeout
CheckHostIP Ciphers ClearAllForwardings Compression ConnectionAttempts ConnectTimeout ControlMaster ControlPath
ControlPersist DynamicForward EnableEscapeCommandline EnableSSHKeysign EscapeChar ExitOnForwardFailure FingerprintHash
ForkAfterAuthentication ForwardAgent ForwardX11 ForwardX11Timeout ForwardX11Trusted GatewayPorts GlobalKnownHostsFile
GSSAPIAuthentication GSSAPIDelegateCredentials HashKnownHosts Host HostbasedAcceptedAlgorithms HostbasedAuthentication
HostKeyAlgorithms HostKeyAlias HostName IdentitiesOnly IdentityAgent IdentityFile IgnoreUnknown Include IPQoS
KbdInteractiveAuthentication KbdInteractiveDevices KexAlgorithms KnownHostsCommand LocalCommand LocalForward LogLevel
LogVerbose MACs Match NoHostAuthenticationForLocalhost NumberOfPasswordPrompts ObscureKeystrokeTiming PasswordAuthentication
PermitLocalCommand PermitRemoteOpen PKCS11Provider Port PreferredAuthentications ProxyCommand ProxyJump ProxyUseFdpass
PubkeyAcceptedAlgorithms PubkeyAuthentication RefuseConnection RekeyLimit RemoteCommand RemoteForward RequestTTY
RequiredRSASize RevokedHostKeys SecurityKeyProvider SendEnv ServerAliveCountMax ServerAliveInterval SessionType SetEnv
StdinNull StreamLocalBindMask StreamLocalBindUnlink StrictHostKeyChecking SyslogFacility Tag TCPKeepAlive Tunnel TunnelDevice
UpdateHostKeys User UserKnownHostsFile VerifyHostKeyDNS VersionAddendum VisualHostKey WarnWeakCrypto XAuthLocation
""".split()  # noqa: SIM905  (a list would have a line a word)
"""The options of OpenSSH 10.5. An older version does not know all of them."""
HOSTILE = {
    "AddKeysToAgent": "yes", "AddressFamily": "inet6", "BindAddress": "198.51.100.1", "BindInterface": "tun0",
    "CanonicalizeHostname": "always", "CanonicalDomains": "example.org", "CertificateFile": "~/.ssh/id_rsa-cert.pub",
    "CheckHostIP": "yes", "Ciphers": "3des-cbc", "ClearAllForwardings": "no", "ControlMaster": "auto",
    "ControlPath": "~/.ssh/one-for-all", "ControlPersist": "yes", "DynamicForward": "1080", "ForkAfterAuthentication": "yes",
    "ForwardAgent": "yes", "ForwardX11": "yes", "ForwardX11Trusted": "yes", "GlobalKnownHostsFile": "/etc/other",
    "HostbasedAuthentication": "yes", "HostKeyAlgorithms": "ssh-rsa", "HostKeyAlias": "other", "HostName": "%h.example.org",
    "IdentitiesOnly": "no", "IdentityAgent": "~/agent", "IdentityFile": "~/.ssh/id_rsa", "KbdInteractiveAuthentication": "yes",
    "KexAlgorithms": "diffie-hellman-group1-sha1", "KnownHostsCommand": "/bin/true", "LocalCommand": "id",
    "LocalForward": "8080 localhost:80", "MACs": "hmac-md5", "NoHostAuthenticationForLocalhost": "yes",
    "PasswordAuthentication": "yes", "PermitLocalCommand": "yes", "PKCS11Provider": "/usr/lib/opensc.so", "Port": "2222",
    "PreferredAuthentications": "password", "ProxyCommand": "nc %h %p", "ProxyJump": "bastion",
    "PubkeyAcceptedAlgorithms": "ssh-rsa", "PubkeyAuthentication": "no", "RemoteCommand": "tmux",
    "RemoteForward": "9999 localhost:22",
    "RequestTTY": "force", "RevokedHostKeys": "/etc/shadow", "SessionType": "none", "StdinNull": "yes",
    "StrictHostKeyChecking": "no", "Tunnel": "yes", "UpdateHostKeys": "yes", "User": "root", "UserKnownHostsFile": "/dev/null",
    "VerifyHostKeyDNS": "yes",
}  # fmt: skip
LINES = "".join(f"{word} {value}\n" for word, value in HOSTILE.items())
PLACES = {
    "for all hosts": f"Host *\n{LINES}",
    "for none in particular": LINES,
    "for this one": f"Host vault\n{LINES}",
    "by Match": f"Match all\n{LINES}",
    "at the end of all": f"Match final all\n{LINES}",
    "included": "Include other\n",
    "included in front of ours": 'Include other\n# mine\nInclude "CONFIG"\n',
    "behind a mark of some editors": f"# x\r\n\tHost *\n{LINES}",
}


def test_every_word_of_sshs_is_set_or_harmless() -> None:
    ours = [*OWN, *stanza.SETTINGS, *HARMLESS]
    assert sorted(ours, key=str.lower) == sorted(KEYWORDS, key=str.lower)
    assert set(HOSTILE) >= OWN | set(stanza.SETTINGS)


def test_every_option_of_this_ssh_is_known(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    assert set(ssh_sees_all(empty)) - {word.lower() for word in KEYWORDS} <= DEBIANS


def ssh_sees_all(config: Path) -> dict[str, list[str]]:
    """What ssh says of a connection to vault; it must have nothing to complain of."""
    done = subprocess.run(["ssh", "-T", "-G", "-F", config, "vault"], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), []).append(value)
    return found


@pytest.mark.parametrize("place", PLACES)
def test_settings_for_all_machines_do_not_apply_to_hosts(
    tower: Tower, home: Path, settings: TowerEnv, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower.ssh_config.parent.mkdir(mode=0o700)
    other = home / "other"
    other.write_text(f"Host *\n{LINES}")
    other.chmod(0o600)
    text = PLACES[place].replace("Include other", f'Include "{other}"').replace("CONFIG", str(tower.config))
    tower.ssh_config.write_text(text)
    assert ssh_sees(tower, "vault", tower.ssh_config)["port"] == "2222"
    host = add(tower, settings, "vault")
    wanted, found = ssh_sees_all(tower.config), ssh_sees_all(tower.ssh_config)
    names = {word.lower() for word in (*OWN, *stanza.SETTINGS)}
    assert {name: found.get(name) for name in names - {"identityfile"}} == {
        name: wanted.get(name) for name in names - {"identityfile"}
    }
    assert found["identityfile"] == [str(host.file(USER_KEY)), "~/.ssh/id_rsa"]
    assert not {"localforward", "remoteforward", "dynamicforward", "proxyjump", "proxycommand"} & set(found)
    assert ssh_sees(tower, "elsewhere", tower.ssh_config)["port"] == ("22" if place == "for this one" else "2222")


def test_settings_without_a_reason_to_differ_are_sshs_defaults(tower: Tower, settings: TowerEnv, tmp_path: Path) -> None:
    """Where SETTINGS has no reason to differ: the ciphers of this ssh, and all that keeps a session usual."""
    add(tower, settings, "vault")
    empty = tmp_path / "empty"
    empty.write_text("")
    usual, found = ssh_sees_all(empty), ssh_sees_all(tower.config)
    for word in ("Ciphers", "MACs", "KexAlgorithms", "Port", "RequestTTY", "SessionType", "StdinNull", "ForkAfterAuthentication"):
        assert found[word.lower()] == usual[word.lower()]
    for name in ("bindaddress", "stricthostkeychecking"):
        assert found[name] != usual.get(name)


def test_no_host_takes_what_an_environment_sends(checkout: Path) -> None:
    for file in (checkout / "overlays").rglob("*"):
        if file.is_file() and "ssh" in str(file.relative_to(checkout)):
            assert "AcceptEnv" not in file.read_text()


# --- the line in the user's configuration ----------------------------------------------------------------------


def test_a_line_that_is_not_the_first_is_moved(tower: Tower, settings: TowerEnv) -> None:
    """What is included before it would count before it."""
    tower.ssh_config.parent.mkdir(mode=0o700)
    line = f'Include "{tower.config}"\n'
    for before, after in (
        (f"# mine\nInclude other\n{line}Host x\n", f"{line}# mine\nInclude other\nHost x\n"),
        (f"# mine\n\n{line}Include other\n", f"# mine\n\n{line}Include other\n"),
        (f"Include other\nHost x\n{line}", f"{line}Include other\nHost x\n{line}"),
        (f"Host x\n{line}", f"{line}Host x\n{line}"),
        (line.rstrip("\n"), line.rstrip("\n")),
    ):
        tower.ssh_config.write_text(before)
        stanza.include(tower.ssh_config, tower.config)
        assert tower.ssh_config.read_text() == after
        stanza.include(tower.ssh_config, tower.config)
        assert tower.ssh_config.read_text() == after


@pytest.mark.parametrize("name", ["a home", "100%d", "[a-z]", "what?", "${HOME}", "a*", "é"])
def test_odd_homes(tmp_path: Path, settings: TowerEnv, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    tower = tower_of_user(home)
    host = add(tower, settings, "vault")
    found = ssh_sees(tower, "vault", tower.ssh_config)
    assert found["hostname"] == "192.168.3.200"
    assert found["identityfile"].strip('"').replace("%%", "%") == str(host.file(USER_KEY))


def test_a_home_that_ssh_cannot_be_told_of_is_refused_first(tmp_path: Path, settings: TowerEnv) -> None:
    home = tmp_path / 'a"b'
    home.mkdir()
    with pytest.raises(StateError, match="quotes"):
        add(tower_of_user(home), settings, "vault")
    assert not list((home / ".local/tower/hosts").iterdir())


def read_only(config: Path) -> None:
    config.parent.mkdir(mode=0o700)
    config.write_text("Host x\n")
    config.chmod(0o444)


def linked(config: Path) -> None:
    store = config.parents[1] / "store"
    store.mkdir()
    (store / "config").write_text("Host x\n")
    (store / "config").chmod(0o444)
    store.chmod(0o555)
    config.parent.mkdir(mode=0o700)
    config.symlink_to(store / "config")


def circle(config: Path) -> None:
    config.parent.mkdir(mode=0o700)
    config.symlink_to(config)


def folder(config: Path) -> None:
    config.mkdir(parents=True)


def fifo(config: Path) -> None:
    config.parent.mkdir(mode=0o700)
    os.mkfifo(config)


def beside_a_file(config: Path) -> None:
    config.parent.write_text("not a folder")


def vast(config: Path) -> None:
    config.parent.mkdir(mode=0o700)
    with config.open("wb") as stream:
        stream.truncate(17 << 20)


UNWRITABLE = {
    "write-protected": read_only, "a link into a read-only store": linked, "a circle": circle, "a folder": folder, "a FIFO": fifo,
    "no folder": beside_a_file, "too large": vast,
}  # fmt: skip


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_a_configuration_that_cannot_be_changed_stops_nobody(
    tower: Tower, small_image: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    UNWRITABLE[kind](tower.ssh_config)
    before = sorted((path, path.lstat().st_mtime_ns) for path in tower.ssh_config.parents[1].rglob("*"))
    wish = ("--offline", "--username", "al", "--target", "pc", "--unsigned", "--image", str(small_image), "--device-file", "o")
    line = f'Include "{tower.config}"'
    assert main.main(["provision", "vault", *wish, "--dry-run"]) == 0
    assert line in capsys.readouterr().err
    assert sorted((path, path.lstat().st_mtime_ns) for path in tower.ssh_config.parents[1].rglob("*")) == before
    assert main.main(["provision", "vault", *wish, "--no-wait", "--yes"]) == 0
    said = capsys.readouterr()
    assert said.err.count(line) == 1
    assert main.main(["provision", "--resume", "vault", "--no-wait", "--json"]) == 0
    assert capsys.readouterr().err.count(line) == 1
    assert tower.ssh_to("vault") == f"ssh -F {tower.config} vault"
    assert ssh_sees(tower, "vault", tower.config)["hostname"] == "192.168.3.200"
    assert main.main(["deprovision", "vault", "--yes"]) == 0
    assert capsys.readouterr().err == ""
    assert set(before) <= {(path, path.lstat().st_mtime_ns) for path in tower.ssh_config.parents[1].rglob("*")} | {
        one for one in before if one[0] == tower.ssh_config.parents[1]
    }


@pytest.mark.parametrize("written", ['"{}"', "{}", "~/.local/tower/config", "={}", ' = "{}" other', "\t{} ~/other"])
def test_an_include_line_written_by_hand_is_recognized(tower: Tower, settings: TowerEnv, written: str) -> None:
    tower.ssh_config.parent.mkdir(mode=0o700)
    text = f"# mine\ninclude {written.format(tower.config)}\nHost x\n"
    tower.ssh_config.write_text(text)
    add(tower, settings, "vault")
    assert tower.ssh_config.read_text() == text
    assert tower.ssh_to("vault") == "ssh vault"


@pytest.mark.parametrize("written", ["~/other {}", "other", '"{}', ""])
def test_another_include_line_is_not_taken_for_ours(tower: Tower, settings: TowerEnv, written: str) -> None:
    tower.ssh_config.parent.mkdir(mode=0o700)
    text = f"include {written.format(tower.config)}\nHost x\n"
    tower.ssh_config.write_text(text)
    add(tower, settings, "vault")
    assert tower.ssh_config.read_text() == f'Include "{tower.config}"\n{text}'


def test_an_unexpected_failure_is_reported(tower: Tower, settings: TowerEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be replaced, whoever asks: it is mounted there, or immutable."""
    tower.ssh_config.parent.mkdir(mode=0o700)
    tower.ssh_config.write_text("Host x\n")
    assert tower.notice() == ""
    monkeypatch.setattr(stanza, "write_file", lambda *_, **__: raise_(StateError("Device or resource busy")))
    add(tower, settings, "vault")
    assert "it could not be written" in tower.notice(made=True)
    assert tower.ssh_to("vault") == f"ssh -F {tower.config} vault"


def raise_(error: Exception) -> None:
    raise error


def test_a_user_with_the_line_is_told_nothing(tower: Tower, settings: TowerEnv) -> None:
    assert tower.notice() == ""
    add(tower, settings, "vault")
    tower.ssh_config.chmod(0o444)
    assert tower.notice() == ""
    assert tower.ssh_to("vault") == "ssh vault"


# --- what `tower audit` says of it -----------------------------------------------------------------------------


def test_the_audit_sees_what_comes_from_the_user(tower: Tower, settings: TowerEnv) -> None:
    host = add(tower, settings, "vault")
    line = tower.ssh_config.read_text()
    tower.ssh_config.write_text(f"{line}Host *\n{LINES}")
    assert local.client(tower, host).outcome is Verdict.HELD
    tower.ssh_config.write_text(f"Host *\n  ProxyJump bastion\n  ControlMaster auto\n{line}Match all\n{line}")
    found = local.client(tower, host)
    assert found.outcome is Verdict.BROKEN
    assert "controlmaster is auto, not false" in found.detail
    tower.ssh_config.write_text(f"Host *\n  RemoteForward 9999 localhost:22\n  ClearAllForwardings no\nMatch all\n{line}")
    found = local.client(tower, host)
    assert "remoteforward is 9999 [localhost]:22, not set" in found.detail
