# SPDX-License-Identifier: Apache-2.0
"""The channel's own settings: mirrors, repositories, media, and what the builder is made of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.channel import Channel
from pipeline.config import Problems, table_of
from pipeline.fetch import Source, check_mirrors
from pipeline.lockfile import lock_command

MIRROR = "TOWER_ALPINE_MIRROR"
"""Environment: mirrors, parted by spaces, that go before those of the channel's file."""


@dataclass(frozen=True, slots=True)
class AlpineSettings:
    """The table `[settings]` of the channel's file."""

    mirrors: tuple[str, ...]
    repositories: tuple[str, ...]
    aports: tuple[str, ...]
    """Where archives of aports come from: `<address>/<ref>/aports-<ref>.tar.gz?path=scripts`."""
    minirootfs: str
    """Flavor, in the list of releases, of the root that the builder starts from."""
    media: Mapping[str, tuple[str, ...]]
    """Further flavors to lock, by architecture."""
    builder: tuple[str, ...]
    """The builder's world."""
    builder_only: Mapping[str, tuple[str, ...]]
    """What a builder of that architecture has beside it."""
    warn_after_days: int

    def source(self, channel: Channel) -> Source:
        """The mirrors, with what to say when they fail."""
        return Source(self.mirrors, vanished_hint(channel), f"look at the network, or name another mirror ({MIRROR})")

    def aports_source(self, channel: Channel) -> Source:
        """The same for aports."""
        return Source(self.aports, vanished_hint(channel), "look at the network")


def vanished_hint(channel: Channel) -> str:
    """What to do about locked files that upstream has deleted."""
    return (
        "Alpine deletes what it supersedes. Import a vault that has it: ./ci/doit vault:import file=PATH; "
        f"or take the present versions: {lock_command(channel)}"
    )


def read_settings(channel: Channel, environ: Mapping[str, str] = os.environ) -> AlpineSettings:
    """The channel's own settings; ConfigError lists every mistake."""
    problems = Problems()
    where = f"pipeline/channels/{channel.path.name}"
    table = table_of(dict(channel.settings), where, "settings", problems)
    media, only = table.table("media"), table.table("builder_only")
    named = table.strings("mirrors")
    found = AlpineSettings(
        mirrors=(*environ.get(MIRROR, "").split(), *named),
        repositories=table.strings("repositories"),
        aports=table.strings("aports"),
        minirootfs=table.text("minirootfs"),
        media={arch: media.strings(arch, ()) for arch in channel.architectures},
        builder=table.strings("builder"),
        builder_only={arch: only.strings(arch, ()) for arch in channel.architectures},
        warn_after_days=table.integer("warn_after_days"),
    )
    table.close()
    problems.check(f"channel {channel.name}")
    check_mirrors(found.mirrors, f"{where}: settings.mirrors")
    check_mirrors(found.aports, f"{where}: settings.aports")
    return found
