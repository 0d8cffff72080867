# SPDX-License-Identifier: Apache-2.0
"""A host's section of ssh's configuration, and the line by which the user's own configuration includes ours.

ssh takes the first value that it finds of each setting. Ours is included in front of the user's, and sets everything that
a `Host *` there could otherwise set to break a connection, or to lead back from an isolated host to this machine.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from pathlib import Path
from typing import Final

from tower.base.errors import StateError, TowerError
from tower.base.files import look, make_folder, read_file, write_file
from tower.base.refused import refused

SETTINGS: Final = {
    # Where to connect, and how.
    "Port": "22",
    "AddressFamily": "inet",
    "BindAddress": "0.0.0.0",  # noqa: S104  (of a client: from any address; it also makes ssh pass over BindInterface)
    "ProxyCommand": "none",
    "ProxyJump": "none",
    "CanonicalizeHostname": "no",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ControlPersist": "no",
    # Encryption: ssh's defaults. A list minus an unknown name is the default list.
    "Ciphers": "-none",
    "MACs": "-none",
    "KexAlgorithms": "-none",
    # The machine's identity.
    "HostKeyAlgorithms": "ssh-ed25519",
    "StrictHostKeyChecking": "yes",
    "GlobalKnownHostsFile": "none",
    "KnownHostsCommand": "none",
    "RevokedHostKeys": "none",
    "VerifyHostKeyDNS": "no",
    "CheckHostIP": "no",
    "NoHostAuthenticationForLocalhost": "no",
    "UpdateHostKeys": "no",
    # Who we are: by the one key that was made for it. Others cannot be kept off the list, but they come after it;
    # those of an agent, of certificates and of smart cards would come before, and a host takes three tries.
    "PreferredAuthentications": "publickey",
    "PubkeyAuthentication": "yes",
    "PubkeyAcceptedAlgorithms": "ssh-ed25519",
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "PKCS11Provider": "none",
    "AddKeysToAgent": "no",
    "HostbasedAuthentication": "no",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    # What the host is given, and may ask of this machine: nothing.
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ForwardX11Trusted": "no",
    "Tunnel": "no",
    # Run just the command that was typed.
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "auto",
    "SessionType": "default",
    "StdinNull": "no",
    "ForkAfterAuthentication": "no",
}
"""The same for every host. tests/unit/runtime/test_stanza.py explains each other word of ssh's that the user may set."""
_INCLUDE: Final = re.compile(r"^[ \t]*include[ \t=]", re.IGNORECASE)
_MOST: Final = 16 << 20
"""Bytes; enough for any file that a person writes."""


def stanza(name: str, address: str, user: str, *, key: Path, known_hosts: Path) -> str:
    """Return a host's section of ssh's configuration. Raises StateError if a path cannot be written there."""
    own = {
        "HostName": address,
        "User": user,
        "IdentityFile": quoted(key),
        "UserKnownHostsFile": quoted(known_hosts),
        "HostKeyAlias": name,  # the key belongs to the host, whatever its address becomes
    }
    return f"\nHost {name}\n" + "".join(f"    {word} {value}\n" for word, value in (own | SETTINGS).items())


def quoted(path: Path) -> str:
    """Return a path as ssh's configuration takes it. Raises StateError if it cannot."""
    text = os.fspath(path)
    if '"' in text or "\\" in text or not text.isprintable():
        raise StateError(f"{path}: a path with quotes or backslashes cannot stand in ssh's configuration")
    return '"' + text.replace("%", "%%") + '"'


def include_line(config: Path) -> str:
    """Return the line for the user's configuration. Raises StateError if there can be none."""
    # An Include expands patterns, and since OpenSSH 9.9 tokens: `?` stands for each character that is special there.
    return "Include " + re.sub(r"[*?\[\]%$]", "?", quoted(config).replace("%%", "%"))


def include(ssh_config: Path, config: Path) -> None:
    """Make the user's configuration include ours, by a line at its beginning: below a `Host` it would count for that host only.

    A line of ours that stands below other Includes, whose settings would count first, is moved. All other bytes, the mode
    and, if it is one, the link stay as they are. Raises StateError, with nothing changed, if it may not be written.
    """
    real, before = _read(ssh_config)
    if before is None:
        if not real.parent.is_dir():
            make_folder(real.parent)
        write_file(real, f"{include_line(config)}\n".encode())
        return
    after = _with_line(before, config)
    if after != before:
        _check_writable(real)
        write_file(real, after, mode=stat.S_IMODE(real.stat().st_mode))


def why_not_included(ssh_config: Path, config: Path, *, tried: bool = False) -> str:
    """Return why the line is missing and cannot be added; "" if it is there, or can be added and was not `tried`."""
    try:
        real, before = _read(ssh_config)
        if tried and (before is None or _with_line(before, config) != before):
            return "it could not be written"
        if before is None:
            there = next(folder for folder in real.parents if look(folder) is not None)
            if not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
                return f"you cannot write to {there}"
        elif _with_line(before, config) != before:
            _check_writable(real)
    except TowerError as error:
        return "; ".join(filter(None, (error.message, error.hint)))
    return ""


def _read(ssh_config: Path) -> tuple[Path, bytes | None]:
    """Return the file that links lead to, and its content; None if there is none. Raises StateError."""
    try:
        real = Path(os.path.realpath(ssh_config, strict=True))
    except FileNotFoundError:
        return Path(os.path.realpath(ssh_config)), None
    except OSError as error:
        raise refused(error, ssh_config) from error
    found = look(real)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise StateError(f"{ssh_config}: is not a regular file")
    return real, read_file(real, most=_MOST)


def _check_writable(real: Path) -> None:
    """Raise StateError if a file should not be changed, or cannot be replaced."""
    if not stat.S_IMODE(real.stat().st_mode) & 0o222:
        raise StateError(f"{real}: is write-protected")
    if not os.access(real.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise StateError(f"{real}: you cannot write to its folder")


def _with_line(data: bytes, config: Path) -> bytes:
    """Return the configuration with our line as the first one that is not a comment."""
    line = f"{include_line(config)}\n".encode()
    rows = re.findall(rb"[^\n]*\n|[^\n]+", data)
    leading = 0
    for row in rows:
        text = row.decode(errors="replace").strip()
        if text and not text.startswith("#") and not _INCLUDE.match(text):
            break
        leading += 1
    words = [row for row in rows[:leading] if _INCLUDE.match(row.decode(errors="replace"))]
    if words and _is_ours(words[0], config):
        return data
    kept = [row for row in rows[:leading] if row.strip() != line.strip()]
    return line + b"".join([*kept, *rows[leading:]])


def _is_ours(row: bytes, config: Path) -> bool:
    """Tell whether an Include begins with our configuration, in any spelling, such as `~/.local/tower/config`."""
    line = row.decode(errors="surrogateescape").strip()
    if line == include_line(config):
        return True
    try:
        first = shlex.split(_INCLUDE.sub("", line).lstrip(" \t="))[0]
        return Path(first).expanduser() == config
    except (ValueError, IndexError, RuntimeError):
        return False
