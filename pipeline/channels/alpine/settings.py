# SPDX-License-Identifier: Apache-2.0
"""The channel's own settings: mirrors, repositories, media, and the builder's packages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.channel import Channel
from pipeline.config.toml import Problems, Table, table_of
from pipeline.supply.fetch import Mirrors, check_mirrors
from pipeline.supply.lockfile import lock_command
from pipeline.supply.wheels import GLIBC, MUSL

MIRROR = "TOWER_ALPINE_MIRROR"
"""Environment: mirrors, separated by spaces, that are tried before those of the channel's file."""


INDEX_FILES: Mapping[int, str] = {2: "APKINDEX.tar.gz", 3: "Packages.adb"}
"""The names of indexes, by the format of packages."""
_PLATFORMS: Mapping[str, tuple[str, ...]] = {"musl": MUSL, "glibc": GLIBC}


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """The table `[settings.mirror]` of a channel that makes its mirror: the source of Debian's packages."""

    suite: str
    components: tuple[str, ...]
    debian: str
    """Address of a Debian mirror; empty for the one in this machine's apt configuration."""
    more: Mapping[str, tuple[str, ...]]
    """Packages that no recipe names, by architecture: what hosts can install from the mirror."""


@dataclass(frozen=True, slots=True)
class AlpineSettings:
    """The table `[settings]` of the channel's file."""

    mirrors: tuple[str, ...]
    repositories: tuple[str, ...]
    aports: tuple[str, ...]
    """Addresses for archives of aports: `<address>/<ref>/aports-<ref>.tar.gz?path=scripts`."""
    minirootfs: str
    """The flavor, in the list of releases, of the root that the builder starts from."""
    media: Mapping[str, tuple[str, ...]]
    """Further flavors to lock, by architecture."""
    builder: tuple[str, ...]
    """The builder's world."""
    builder_only: Mapping[str, tuple[str, ...]]
    """Additional packages of the builder for an architecture."""
    warn_after_days: int
    wheels: tuple[str, ...]
    """Platforms of Python wheels for the device, without the architecture, best first."""
    apk_format: int
    """The format of the mirrors' indexes and packages: 2, or 3 (`Packages.adb`)."""
    mirror: MirrorSettings | None
    """The sources of the channel's own mirror; None if its mirrors are somebody else's."""

    @property
    def index_file(self) -> str:
        """The name of a repository's index."""
        return INDEX_FILES[self.apk_format]

    def source(self, channel: Channel, folder: Path | None = None) -> Mirrors:
        """Return the mirrors, or the channel's own in `folder`, with the hints for failures."""
        unreachable = f"check the network, or name another mirror ({MIRROR})"
        return Mirrors(self.mirrors, vanished_hint(channel), unreachable, folder=folder)

    def aports_source(self, channel: Channel, folder: Path | None = None) -> Mirrors:
        """Return the mirrors for aports; the channel's own mirror has them in a folder `aports`."""
        return Mirrors(self.aports, vanished_hint(channel), "check the network", folder=folder / "aports" if folder else None)


def vanished_hint(channel: Channel) -> str:
    """Return the hint about locked files that upstream has deleted."""
    if not channel.releasable:
        return f"use the present versions: {lock_command(channel)}"
    return (
        "Alpine deletes what it supersedes. Import a vault that has it: ./ci/doit vault:import file=PATH; "
        f"or use the present versions: {lock_command(channel)}"
    )


def read_settings(channel: Channel, environ: Mapping[str, str] = os.environ) -> AlpineSettings:
    """Read the channel's own settings. Raises a ConfigError that lists every mistake."""
    problems = Problems()
    where = f"pipeline/channels/{channel.path.name}"
    table = table_of(dict(channel.settings), where, "settings", problems)
    media, only = table.table("media"), table.table("builder_only")
    own = _read_mirror(table.table("mirror"), channel) if "mirror" in table else None
    # A channel that makes its mirror has no other mirrors.
    addresses = () if own else (*environ.get(MIRROR, "").split(), *table.strings("mirrors"))
    libc = table.text("libc")
    if libc and libc not in _PLATFORMS:
        table.problem("libc", f"must be one of {', '.join(_PLATFORMS)}, not {libc!r}")
    apk_format = table.integer("apk_format", 2)
    if apk_format not in INDEX_FILES:
        table.problem("apk_format", f"must be one of {', '.join(map(str, INDEX_FILES))}, not {apk_format}")
    found = AlpineSettings(
        mirrors=addresses,
        repositories=table.strings("repositories"),
        aports=() if own else table.strings("aports"),
        minirootfs=table.text("minirootfs"),
        media={arch: media.strings(arch, ()) for arch in channel.architectures},
        builder=table.strings("builder"),
        builder_only={arch: only.strings(arch, ()) for arch in channel.architectures},
        warn_after_days=0 if own else table.integer("warn_after_days"),
        wheels=_PLATFORMS.get(libc, ()),
        apk_format=apk_format,
        mirror=own,
    )
    table.close()
    problems.check(f"channel {channel.name}")
    if own is None:
        check_mirrors(found.mirrors, f"{where}: settings.mirrors")
        check_mirrors(found.aports, f"{where}: settings.aports")
    return found


def _read_mirror(table: Table, channel: Channel) -> MirrorSettings:
    more = table.table("more")
    return MirrorSettings(
        table.text("suite"),
        table.strings("components"),
        table.text("debian", ""),
        {arch: more.strings(arch, ()) for arch in channel.architectures},
    )


def builder_worlds(channel: Channel, settings: AlpineSettings) -> Mapping[str, frozenset[str]]:
    """Return the worlds of all builders that the channel can make, by architecture."""
    return {
        arch: frozenset({*settings.builder, *settings.builder_only.get(arch, ())})
        for arch in (channel.builder_arch, *channel.native_builders)
    }
