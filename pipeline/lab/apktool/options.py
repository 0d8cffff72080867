# SPDX-License-Identifier: Apache-2.0
"""The command line of apk: one table of options per command, parsed the way getopt_long does.

Options and arguments may be mixed, long options may be shortened while they stay unique, and `--` ends the options.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.lab.apktool.errors import ApkError

# "name[,short][=]": a `=` says that the option takes a value.
GLOBAL = (
    "force,f", "interactive,i", "root,p=", "quiet,q", "update-cache,U", "verbose,v", "version,V", "repository,X=", "arch=",
    "cache-dir=", "cache-max-age=", "force-binary-stdout", "force-broken-world", "force-missing-repositories",
    "force-non-repository", "force-old-apk", "force-overwrite", "force-refresh", "help,h", "keys-dir=", "no-cache",
    "no-interactive", "no-network", "no-progress", "print-arch", "progress", "progress-fd=", "purge", "repositories-file=",
    "timeout=", "wait=", "from=",
)  # fmt: skip
_COMMIT = (
    "simulate,s", "clean-protected", "overlay-from-stdin", "no-scripts", "no-commit-hooks", "initramfs-diskless-boot",
)  # fmt: skip
COMMANDS: dict[str, tuple[str, ...]] = {
    "add": (*_COMMIT, "initdb", "latest,l", "upgrade,u", "virtual,t=", "no-chown"),
    "audit": ("backup", "check-permissions", "packages", "recursive,r", "system"),
    "cache": (*_COMMIT, "add-dependencies", "available,a", "latest,l", "upgrade,u"),
    "del": (*_COMMIT, "rdepends,r"),
    "fetch": ("built-after=", "link,l", "output,o=", "recursive,R", "stdout,s", "world,w", "simulate", "url"),
    "fix": (*_COMMIT, "depends,d", "reinstall,r", "upgrade,u", "xattr,x", "directory-permissions"),
    "index": ("description,d=", "merge", "output,o=", "prune-origin", "index,x=", "no-warnings", "rewrite-arch="),
    "info": (
        "all,a", "description,d", "installed,e", "contents,L", "provides,P", "rdepends,r", "depends,R", "size,s", "webpage,w",
        "who-owns,W", "install-if", "license", "replaces", "rinstall-if", "triggers,t",
    ),
    "list": (
        "installed,I", "orphaned,O", "available,a", "upgradable,u", "upgradeable", "origin,o", "depends,d", "providers,P",
    ),
    "policy": (),
    "search": ("all,a", "description,d", "exact,e", "exact,x", "has-origin", "origin,o", "rdepends,r"),
    "stats": (),
    "update": (),
    "upgrade": (*_COMMIT, "available,a", "ignore", "latest,l", "no-self-upgrade", "prune", "self-upgrade-only"),
    "verify": (),
    "version": ("all,a", "check,c", "indexes,I", "limit,l=", "test,t"),
}  # fmt: skip


class Options:
    """What a command line said: the command, its arguments, and every option with its values in order."""

    def __init__(self, command: str = "") -> None:
        self.command = command
        self.arguments: list[str] = []
        self.values: dict[str, list[str]] = {}

    def flag(self, name: str) -> bool:
        """Whether the option was given."""
        return name in self.values

    def value(self, name: str, default: str = "") -> str:
        """The last value given to the option."""
        return self.values[name][-1] if self.values.get(name) else default

    def all(self, name: str) -> tuple[str, ...]:
        """Every value given to the option."""
        return tuple(self.values.get(name, ()))

    @property
    def verbosity(self) -> int:
        """1 as apk counts it, less for each --quiet, more for each --verbose."""
        return 1 + len(self.all("verbose")) - len(self.all("quiet"))


def parse(argv: Sequence[str]) -> Options:
    """Sort a command line into command, options and arguments; unknown options end it as a usage error."""
    command = _find_command(argv)
    if command and command not in COMMANDS:
        raise ApkError(f"'{command}' is not an apk command. See 'apk --help'.")
    options = Options(command=command)
    longs, shorts = _tables(command)
    rest = list(argv)
    command_seen = False
    while rest:
        word = rest.pop(0)
        if word == "--":
            options.arguments += rest
            break
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            full, takes = _long(name, longs)
            if has_value and not takes:
                raise ApkError(f"option --{full} takes no value")
            _store(options, full, value if has_value else None, rest if takes else None)
        elif word.startswith("-") and word != "-":
            letters = word[1:]
            while letters:
                letter, letters = letters[0], letters[1:]
                if letter not in shorts:
                    raise ApkError(f"unrecognized option: {letter}")
                full, takes = shorts[letter]
                _store(options, full, letters or None if takes else None, rest if takes else None)
                if takes:
                    break
        elif word == command and not command_seen:
            command_seen = True
        else:
            options.arguments.append(word)
    # A system that is made anew at each boot must come up as far as it can.
    for name in ("initdb", "force-overwrite", "force-broken-world") if options.flag("initramfs-diskless-boot") else ():
        options.values.setdefault(name, [""])
    return options


def _find_command(argv: Sequence[str]) -> str:
    """The first word that is a command's name and no option's value; without one the first word that is no option."""
    longs, shorts = _tables("", *COMMANDS)
    first = ""
    words = iter(argv)
    for word in words:
        if word == "--":
            break
        if word.startswith("--"):
            if longs.get(word[2:]):
                next(words, None)
        elif word.startswith("-") and word != "-":
            # The first letter that takes a value ends the word: the rest is its value, or else the next word.
            at = next((at for at, letter in enumerate(word) if letter in shorts and shorts[letter][1]), 0)
            if at == len(word) - 1:
                next(words, None)
        elif word in COMMANDS:
            return word
        else:
            first = first or word
    return first


def _tables(*commands: str) -> tuple[dict[str, bool], dict[str, tuple[str, bool]]]:
    longs: dict[str, bool] = {}
    shorts: dict[str, tuple[str, bool]] = {}
    for spec in (*GLOBAL, *(spec for command in commands for spec in COMMANDS.get(command, ()))):
        names, takes = spec.rstrip("="), spec.endswith("=")
        long, _, short = names.partition(",")
        longs[long] = takes
        if short and (len(commands) == 1 or short not in shorts):
            shorts[short] = (long, takes)
    return longs, shorts


def _long(name: str, longs: dict[str, bool]) -> tuple[str, bool]:
    if name in longs:
        return name, longs[name]
    close = [long for long in longs if long.startswith(name)]
    if len(close) != 1 or not name:
        raise ApkError(f"unrecognized option: {name}")
    return close[0], longs[close[0]]


def _store(options: Options, name: str, value: str | None, rest: list[str] | None) -> None:
    """Note an option; one that takes a value (then `rest` is given) without having it takes the next word."""
    if rest is not None and value is None:
        if not rest:
            raise ApkError(f"option requires an argument: {name}")
        value = rest.pop(0)
    options.values.setdefault(name, []).append(value or "")
