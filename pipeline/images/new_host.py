# SPDX-License-Identifier: Apache-2.0
"""The files that `tower provision` would put onto the boot partition of a new host, for booting one in QEMU."""

from __future__ import annotations

import json
from typing import Final

from tower.base.names import HostName, UserName
from tower.base.networks import OFFLINE
from tower.hosts import env, secret
from tower.hosts.env import Encryption, InstallationType, TowerEnv
from tower.hosts.registry import ENV, HOST_KEY, KEY_FILE, RECEIPT_ON_BOOT

ADDRESS: Final = OFFLINE.hosts[0]
THIN_CLIENT: Final = OFFLINE.thin_client
NETWORK: Final = OFFLINE.addresses
"""The network of such a host."""
_NAME: Final = HostName("trial")


def new_host(encryption: Encryption = Encryption.NONE) -> dict[str, bytes]:
    """Return the files by name; keys and numbers are made up, and nobody knows a password."""
    key = secret.new_key_pair(_NAME)
    settings = TowerEnv(
        hostname=_NAME,
        username=UserName("trial"),
        public_key=secret.new_key_pair(f"trial@{_NAME}").public,
        password_hash=secret.no_password(),
        keyboard_layout="us",
        keyboard_variant="us",
        timezone="UTC",
        lang="C.UTF-8",
        online=False,
        wlan=None,
        address=ADDRESS,
        installation_type=InstallationType.INSTALL,
        color="#4363d8",
        alpine_branch="lab",
        encryption=encryption,
    )
    receipt = {"schema": 1, "id": "0" * 32, "host": _NAME, "version": "0", "channel": "lab", "image_sha256": "0" * 64}
    return {
        ENV: env.dump(settings),
        HOST_KEY: key.private,
        f"{HOST_KEY}.pub": key.public.encode() + b"\n",
        KEY_FILE: secret.new_key_file(),
        RECEIPT_ON_BOOT: json.dumps(receipt, indent=1).encode() + b"\n",
    }
