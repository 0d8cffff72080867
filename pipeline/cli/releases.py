# SPDX-License-Identifier: Apache-2.0
"""`doit release`, `doit attest` and `doit verify:release`: one function for each, which a task calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.base.canonical import JsonValue
from pipeline.base.errors import ConfigError
from pipeline.supply.keyfiles import public_keys, secret_key

if TYPE_CHECKING:
    from pipeline.build.factory import Factory

TRUSTED: Final = Path("keys/release")
REBUILDERS: Final = Path("keys/rebuilders")
"""The folders of a checkout with the public keys of those who release, and of those who build again."""


def release(factory: Factory, given: Mapping[str, str]) -> None:
    """Sign and write the release of what was built and tested (`doit release version=… key=…`). Raises ReleaseError."""
    from pipeline.cli.inputs import release_input
    from pipeline.release.checks import check_release
    from pipeline.release.folder import write_release

    version = _wanted(given, "version", "release", "version=X.Y.Z, the version of pyproject.toml")
    _wanted(given, "key", "release", "key=FILE, a secret key of minisign")
    ready = check_release(release_input(factory), version)
    folder = write_release(factory.paths, ready, secret_key(given))
    factory.progress.say(f"{folder}: {len(ready.images)} images, signed; check it with: ./ci/doit verify:release dir={folder}")
    factory.progress.result("release", {"folder": str(folder), "images": [one.image.output for one in ready.images]})


def attest(factory: Factory, given: Mapping[str, str]) -> None:
    """Sign the statement of a release that our own build confirms (`doit attest key=… [dir=…]`)."""
    from pipeline.cli.inputs import release_input
    from pipeline.release.attest import attest as attest_folder
    from pipeline.release.attest import own_statement
    from pipeline.release.checks import check_rebuild
    from pipeline.release.folder import folder_of

    _wanted(given, "key", "attest", "key=FILE, a secret key of minisign")
    folder = Path(given["dir"]) if "dir" in given else folder_of(factory.paths, factory.plan.channel.name, factory.plan.version)
    own = own_statement(check_rebuild(release_input(factory)))
    made = attest_folder(folder, own, secret_key(given))
    factory.progress.say(f"{made}: attested")
    factory.progress.result("attest", {"file": str(made)})


def verify_release(factory: Factory, given: Mapping[str, str]) -> None:
    """Check a release with public keys alone (`doit verify:release dir=… [key=…] [need=K rebuilders=…]`). Raises ConfigError."""
    from pipeline.release.inspection import inspect_release

    folder = Path(_wanted(given, "dir", "verify:release", "dir=FOLDER, the folder of a release"))
    need = given.get("need", "0")
    if not need.isdecimal():
        raise ConfigError(f"need={need}: not a number of rebuilders", hint="for example: need=2")
    checkout = factory.paths.checkout
    keys = public_keys("key", given.get("key", ""), checkout / TRUSTED)
    if not keys:
        raise ConfigError("verify:release: no key to trust", hint=f"key=FILE, or put public keys into {TRUSTED}/")
    rebuilders = public_keys("rebuilders", given.get("rebuilders", ""), checkout / REBUILDERS)
    found = inspect_release(folder, keys, rebuilders, int(need))
    rows = [
        f"release {found.version} of channel {found.channel}: good, signed by {found.signer.name}",
        *(f"  {name}: image, block map, manifest, SBOM and provenance agree" for name in found.images),
        *(f"  rebuilt by {key.name}" for key in found.rebuilders),
    ]
    data: dict[str, JsonValue] = {"version": found.version, "channel": found.channel, "images": list(found.images)}
    signers: dict[str, JsonValue] = {"signer": found.signer.name, "rebuilders": [key.name for key in found.rebuilders]}
    factory.progress.result("verify:release", {**data, **signers}, rows)


def _wanted(given: Mapping[str, str], name: str, command: str, hint: str) -> str:
    if not given.get(name):
        raise ConfigError(f"{command}: {name}= is missing", hint=hint)
    return given[name]
