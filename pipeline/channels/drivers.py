# SPDX-License-Identifier: Apache-2.0
"""Choose the code for a channel: one driver for all, and the lab's mirror for a channel that makes its own."""

from __future__ import annotations

from pipeline.base.errors import ConfigError
from pipeline.base.paths import Paths
from pipeline.channels.alpine.driver import AlpineDriver
from pipeline.channels.alpine.settings import builder_worlds, read_settings
from pipeline.channels.driver import ChannelDriver, LocalMirror
from pipeline.channels.lab.mirror import LabMirror
from pipeline.config.channel import Channel
from pipeline.supply.lock import Worlds


def open_driver(channel: Channel, worlds: Worlds, paths: Paths) -> ChannelDriver:
    """Return the driver of `channel`, with a mirror of its own if the channel's file says so.

    Raises ConfigError for an unknown driver, or for wrong settings.
    """
    if channel.driver != "alpine":
        raise ConfigError(f"{channel.path}: driver: no driver is called {channel.driver!r}", hint="known drivers: alpine")
    settings = read_settings(channel)
    mirror: LocalMirror | None = None
    if settings.mirror is not None:
        builders = builder_worlds(channel, settings)
        wanted = {
            arch: worlds.union(arch) | builders.get(arch, frozenset()) | frozenset(settings.mirror.more[arch])
            for arch in channel.architectures
        }
        mirror = LabMirror(channel, settings.mirror, wanted, paths, apk_format=settings.apk_format)
    return AlpineDriver(channel, settings, worlds, paths, mirror)
