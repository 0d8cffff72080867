# SPDX-License-Identifier: Apache-2.0
"""The manual of `tower`, made from the sources of `--help`: the parser's texts, and the EXAMPLES of each command.

`pages` reads them; `markdown` and `man_page` write them. Each text has one source, so the two cannot differ.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tower.base import errors
from tower.cli.main import COMMANDS, make_parser

_WIDTH: Final = 80
_TITLE: Final = re.compile(r"([a-z][a-z ]*):")
_CODE: Final = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the text under a title (empty: the page's own): a paragraph, or literal lines."""

    title: str
    lines: tuple[str, ...]
    literal: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Arguments or options under a title, each with its help."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """The manual page of `tower` or of one of its commands."""

    words: tuple[str, ...]
    """The words of the command: tower, or tower and a command."""
    summary: str
    usage: str
    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        """Its name among man pages."""
        return "-".join(self.words)


def pages() -> tuple[Page, ...]:
    """Return the page of `tower`, then one for each command."""
    parser = make_parser(None)
    found = [_page(parser, ("tower",), (parser.description or "").removesuffix("."))]
    statuses = Group("exit status", tuple(_statuses()))
    commands = Group("commands", tuple(COMMANDS.items()))
    options = [group for group in found[0].groups if group.title == "options"]
    found[0] = replace(found[0], groups=(commands, *options, statuses))
    for action in parser._actions:  # noqa: SLF001  (argparse has no public list of them)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  (argparse has no public list of them)
            found += [_page(sub, ("tower", name), COMMANDS[name]) for name, sub in action.choices.items()]
    return tuple(found)


def _statuses() -> Iterator[tuple[str, str]]:
    yield from (("0", "Done."), ("1", "Not done; the message says why."), ("2", "The command line is wrong."))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TowerError)]
    own = {vars(kind)["exit_status"]: kind for kind in kinds if vars(kind).get("exit_status", 1) != 1}
    for status, kind in sorted(own.items()):
        yield str(status), " ".join((kind.__doc__ or "").split())
    yield "128+N", "Ended by signal N."


def _page(parser: argparse.ArgumentParser, words: tuple[str, ...], summary: str) -> Page:
    formatter = argparse.RawDescriptionHelpFormatter(" ".join(words), width=_WIDTH)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")  # noqa: SLF001  (argparse has no public list of them)
    groups = []
    for group in parser._action_groups:  # noqa: SLF001  (argparse has no public list of them)
        rows = [(_named(action), _help(action, parser)) for action in group._group_actions]  # noqa: SLF001  (argparse has no public list of them)
        if rows:
            title = "arguments" if group.title == "positional arguments" else group.title or "options"
            groups.append(Group(title, tuple(rows)))
    return Page(words, summary, formatter.format_help().strip(), tuple(groups), tuple(_blocks(parser.epilog or "")))


def _named(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if not metavar and action.choices is not None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return metavar or action.dest
    value = "" if action.nargs == 0 else f" {metavar or action.dest.upper()}"
    return ", ".join(f"{option}{value}" for option in action.option_strings)


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    if not action.help:
        return ""
    return action.help % {**vars(action), "prog": parser.prog}


def _blocks(text: str) -> Iterator[Block]:
    """Yield the paragraphs of an epilog; a line `examples:` is the title of the indented lines after it."""
    title = ""
    for piece in re.split(r"\n\s*\n", text.strip("\n")):
        lines = piece.splitlines()
        found = _TITLE.fullmatch(lines[0].strip()) if lines and not lines[0].startswith(" ") else None
        if found is not None and len(lines) > 1:
            title, lines = found[1], lines[1:]
        literal = all(line.startswith(" ") for line in lines)
        if lines:
            yield Block(title if literal else "", tuple(line[2:] if literal else line for line in lines), literal)
        title = title if literal else ""


def markdown(manual: Sequence[Page]) -> str:
    """Return the whole manual as one page of Markdown."""
    lines = ["# The command `tower`", ""]
    for page in manual:
        if len(page.words) > 1:
            lines += [f"## `{' '.join(page.words)}`", ""]
        lines += [f"{_sentence(page.summary)}", "", "```", page.usage, "```", ""]
        lines += [line for block in page.blocks if not block.literal for line in (" ".join(block.lines), "")]
        for group in page.groups:
            lines += [f"**{group.title.capitalize()}**", ""]
            lines += [f"* `{name}`" + (f": {text}" if text else "") for name, text in group.rows]
            lines.append("")
        for block in page.blocks:
            if block.literal:
                lines += [f"**{(block.title or 'notes').capitalize()}**", "", "```", *block.lines, "```", ""]
    return "\n".join(lines)


def man_page(page: Page, *, date: str, version: str) -> str:
    """Return a page of section 1, in the macros `man`; `date` is YYYY-MM-DD."""
    lines = [
        # This tells groff and mandoc not to hyphenate: names of options stay whole.
        f'.TH "{_roff(page.name.upper())}" 1 "{date}" "tower {_roff(version)}" "TowerOS"',
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{_roff(page.name)} \\- {_roff(page.summary)}",
        ".SH SYNOPSIS",
        ".nf",
        *(_line(line) for line in page.usage.splitlines()),
        ".fi",
    ]
    lines += [".SH DESCRIPTION", _line(_sentence(page.summary))]
    for block in page.blocks:
        if not block.literal:
            lines += [".PP", *(_line(line) for line in block.lines)]
    for group in page.groups:
        lines.append(f'.SH "{_roff(group.title.upper())}"')
        for name, text in group.rows:
            lines += [".TP", f"\\fB{_roff(name)}\\fR", _line(text) if text else "\\&"]
    title = ""
    for block in (block for block in page.blocks if block.literal):
        lines += [f'.SH "{_roff((block.title or "notes").upper())}"'] if block.title != title or not title else [".PP"]
        lines += [".EX", *(_line(line, code=False) for line in block.lines), ".EE"]
        title = block.title
    return "\n".join([*lines, ".SH SEE ALSO", *_see_also(page), ""])


def _see_also(page: Page) -> list[str]:
    others = ["tower"] if len(page.words) > 1 else [f"tower-{name}" for name in COMMANDS]
    rows = [f".BR {_roff(name)} (1)," for name in others]
    return [*rows[:-1], rows[-1].removesuffix(",")]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


_ESCAPES: Final = {
    "\\": "\\e",
    "-": "\\-",
    "'": "\\(aq",
    "`": "\\(ga",
    "^": "\\(ha",
    "~": "\\(ti",
    '"': "\\(dq",
}


def _roff(text: str) -> str:
    """Escape a text so that roff reads no request, no escape and no special character in it."""
    return "".join(_ESCAPES.get(char) or (char if char.isascii() else f"\\[u{ord(char):04X}]") for char in text)


def _line(text: str, *, code: bool = True) -> str:
    """Escape a line of text; words in backticks become bold."""
    if code:
        parts = _CODE.split(text)
        text = "".join(f"\\fB{_roff(part)}\\fR" if number % 2 else _roff(part) for number, part in enumerate(parts))
    else:
        text = _roff(text)
    return f"\\&{text}" if text.startswith((".", " ")) or not text else text
