# SPDX-License-Identifier: Apache-2.0
"""The entry: reads the command line, runs the command, shows errors as apk does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from pipeline.errors import FactoryError
from pipeline.lab.apktool.errors import ApkError, error
from pipeline.lab.apktool.options import COMMANDS, Options, parse

VERSION = "2.14.9"
_SUMMARIES = (
    ("add", "Add packages to WORLD and commit changes"),
    ("del", "Remove packages from WORLD and commit changes"),
    ("fix", "Fix, reinstall or upgrade packages without modifying WORLD"),
    ("update", "Update repository indexes"),
    ("upgrade", "Install upgrades available from repositories"),
    ("cache", "Manage the local package cache"),
    ("info", "Give detailed information about packages or repositories"),
    ("list", "List packages matching a pattern or other criteria"),
    ("policy", "Show repository policy for packages"),
    ("search", "Search for packages by name or description"),
    ("audit", "Audit system for changes"),
    ("index", "Create repository index file from packages"),
    ("fetch", "Download packages from repositories to a local directory"),
    ("verify", "Verify package integrity and signature"),
    ("stats", "Show statistics about repositories and installations"),
    ("version", "Compare package versions or perform tests on version strings"),
)


def main(argv: Sequence[str]) -> int:
    """Run apk with a command line, its own name first; returns the exit status."""
    try:
        return _run(parse(argv[1:]))
    except ApkError as problem:
        if problem.message:
            error(problem.message)
        return problem.status
    except FactoryError as problem:
        error(problem.message)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        error("interrupted")
        return 130
    except OSError as problem:
        error(f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem))
        return 1


def _run(options: Options) -> int:
    from pipeline.lab.apktool.database import machine_arch

    if options.flag("print-arch"):
        print(options.value("arch") or machine_arch())
        return 0
    banner = f"apk-tools {VERSION}, compiled for {machine_arch()}."
    if options.flag("version") and not options.command:
        print(banner)
        return 0
    if options.flag("help") or not options.command:
        _usage(banner, options.command)
        return 0 if options.flag("help") else 1
    return _command(options.command)(options)


def _command(name: str) -> Callable[[Options], int]:
    """The function of a command; only its own module is imported."""
    if name in ("add", "del", "fix", "upgrade"):
        from pipeline.lab.apktool import apply

        return {"add": apply.add, "del": apply.delete, "fix": apply.fix, "upgrade": apply.upgrade}[name]
    if name in ("fetch", "index", "verify", "update", "cache"):
        from pipeline.lab.apktool import tools

        commands = {"fetch": tools.fetch, "index": tools.index, "verify": tools.verify, "update": tools.update}
        return {**commands, "cache": tools.cache}[name]
    if name == "audit":
        from pipeline.lab.apktool.audit import audit

        return audit
    if name == "info":
        from pipeline.lab.apktool.info import info

        return info
    from pipeline.lab.apktool import queries

    commands = {"list": queries.list_packages, "policy": queries.policy, "search": queries.search, "stats": queries.stats}
    return {**commands, "version": queries.version}[name]


def _usage(banner: str, command: str) -> None:
    print(f"{banner}\n")
    if command:
        print(f"usage: apk {command} [<OPTIONS>...] [<ARGUMENTS>...]\n\nOptions:")
        for spec in COMMANDS[command]:
            long, _, short = spec.rstrip("=").partition(",")
            value = f" {long.upper()}" if spec.endswith("=") else ""
            print(f"  {f'-{short}, ' if short else ''}--{long}{value}")
        return
    print("usage: apk [<OPTIONS>...] COMMAND [<ARGUMENTS>...]\n")
    for name, summary in _SUMMARIES:
        print(f"  {name:<10} {summary}")
