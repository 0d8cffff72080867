# SPDX-License-Identifier: Apache-2.0
"""`tower clipboard ACTION`: the policy of what crosses between machines, its log, and one transfer to a host."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tower.base import streams
from tower.base.errors import HostError, TowerError, ValueRefusedError
from tower.base.names import THIN_CLIENT
from tower.base.view import View

if TYPE_CHECKING:
    from tower.clipboard.policy import Policy

EXAMPLES: Final = """\
examples:
  tower clipboard log                        what crossed: time, from, to, kind, size
  tower clipboard send vault                 send vault what was copied last, once, even if it is from another host
  tower clipboard policy                     what may cross
  tower clipboard policy web vault on        what is copied on web may be pasted on vault
  tower clipboard policy web thinclient ask  ask before web sets the thin client's clipboard
  tower clipboard policy thinclient web off
  tower clipboard policy --clear 60          forget what crossed after a minute; 0: never
  tower clipboard policy share-all           one clipboard for all hosts with windows
  tower clipboard policy default             no rules of your own
  tower clipboard clear                      forget what was copied on a host, now

By default, the thin client and the host whose window has the keyboard exchange texts, HTML and pictures. What comes from
one host gets to another one by `send` alone, and from an offline host to an online one only if you confirm it. A rule for
two machines and one direction overrides these defaults.
"""
_ACTIONS: Final = ("policy", "log", "send", "clear")
_ANSWER: Final = 10.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=_ACTIONS, help="what to show or do")
    parser.add_argument(
        "words",
        metavar="HOST",
        nargs="*",
        help="with send: the host; with policy: FROM TO off|ask|on|none, or share-all, or default; thinclient is this machine",
    )
    parser.add_argument("--clear", type=_seconds, metavar="SECONDS", help="with policy: forget what crossed after this time")
    parser.add_argument("--lines", type=_count, metavar="NUMBER", help="with log: the last lines (default: all)")
    parser.add_argument("--yes", action="store_true", help="with send: do not ask for confirmation")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _seconds(text: str) -> int:
    from tower.clipboard.policy import MOST_CLEAR

    if not text.isascii() or not text.isdigit() or not 0 <= int(text[:20]) <= MOST_CLEAR:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of seconds from 0 to {MOST_CLEAR}")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of lines")
    return int(text)


def execute(args: argparse.Namespace) -> int:
    """Do it; return the exit status. Raises ValueRefusedError."""
    if args.action == "policy":
        return _policy(args)
    if args.action == "send":
        if len(args.words) != 1:
            raise ValueRefusedError("to which host?", hint="tower clipboard send HOST")
        return _send(args)
    if args.words:
        raise ValueRefusedError(f"{args.action} takes no {args.words[0]!r}", hint=f"tower clipboard {args.action}")
    return _log(args) if args.action == "log" else _clear(args)


def _policy(args: argparse.Namespace) -> int:
    from tower.clipboard import policy

    words, place = args.words, policy.folder()
    if words == ["default"]:
        made = policy.Policy()
    elif words == ["share-all"]:
        made = replace(policy.read(place), share_all=True)
    elif len(words) == 3:
        made = _with_rule(policy.read(place), *words)
    elif words:
        hint = "tower clipboard policy FROM TO off|ask|on|none, or share-all, or default"
        raise ValueRefusedError(f"{' '.join(words)!r} is not a policy", hint=hint)
    else:
        made = policy.read(place)
    if args.clear is not None:
        made = replace(made, clear=args.clear)
    if words or args.clear is not None:
        policy.write(place, made)
    _show(made, View(json=args.json))
    return 0


def _with_rule(old: Policy, origin: str, target: str, word: str) -> Policy:
    """Return a policy with a rule for two machines; `none`: with none of their own. Raises ValueRefusedError, HostError."""
    from tower.clipboard.policy import Rule, parse_machine
    from tower.hosts.registry import tower_of_user

    pair = parse_machine(origin), parse_machine(target)
    if pair[0] == pair[1]:
        raise ValueRefusedError(f"{origin} and {target} are one machine")
    if word not in (*Rule, "none"):
        raise ValueRefusedError(f"{word!r} is not a rule", hint="off, ask, on, or none to follow the default")
    if word == "none":
        return replace(old, pairs={one: rule for one, rule in old.pairs.items() if one != pair})
    for name in pair:
        if name != THIN_CLIENT:
            tower_of_user().host(name)  # type: ignore[arg-type]
    return replace(old, pairs={**old.pairs, pair: Rule(word)})


def _show(found: Policy, view: View) -> None:
    if view.json:
        pairs = [{"from": origin, "to": target, "rule": rule} for (origin, target), rule in sorted(found.pairs.items())]
        view.show({"share_all": found.share_all, "clear_seconds": found.clear, "pairs": pairs})
        return
    rows: dict[str, object] = {
        "thin client and host": "on, all of them" if found.share_all else "on, while its window has the keyboard",
        "host to another host": "on" if found.share_all else "only by: tower clipboard send HOST",
        "offline to online": "on" if found.share_all else "only so, and you are asked",
        "forgotten": f"after {found.clear} s" if found.clear else "never",
    }
    view.show(rows | {f"{origin} to {target}": rule for (origin, target), rule in sorted(found.pairs.items())})


def _log(args: argparse.Namespace) -> int:
    from tower.clipboard import journal, policy

    found = journal.read(policy.folder())
    found = found[-args.lines :] if args.lines else found
    if args.json:
        streams.show_json({"transfers": [one.row() for one in found]})
        return 0
    for one in found:
        streams.show(f"{one.time}  {one.origin} to {one.target}  {one.kind}  {one.size} bytes  {one.how}\n")
    return 0


def _send(args: argparse.Namespace) -> int:
    view = View(json=args.json)
    name = args.words[0]
    said = _told(do="send", to=name, sure=args.yes)
    if "ask" in said:
        view.confirm(str(said["ask"]), yes=False)
        said = _told(do="send", to=name, sure=True)
    if args.json:
        view.show({"from": said["from"], "to": said["to"], "kinds": said["kinds"]})
    else:
        view.say(f"{name}: its windows have what was copied on {said['from']}")
    return 0


def _clear(args: argparse.Namespace) -> int:
    try:
        _told(do="clear")
    except HostError:
        pass  # without a window, nothing is held
    if args.json:
        View(json=True).show({"cleared": True})
    return 0


def _told(**words: str | bool) -> dict[str, Any]:
    """Tell the broker something; return what it answers. Raises HostError if no window is open, and the broker's errors."""
    from tower.clipboard import messages, policy

    try:
        connection = messages.connected(policy.folder())
    except OSError:
        raise HostError("no window of a host is open", hint="start an application: tower run HOST APPLICATION") from None
    with connection:
        connection.settimeout(_ANSWER)
        held = bytearray()
        try:
            connection.sendall(messages.packed(**words))
            while data := connection.recv(1 << 16):
                held += data
            found, _ = next(messages.unpacked(held))
        except (OSError, StopIteration, messages.WireError):
            raise HostError("the clipboard's broker does not answer", hint="close all windows, and open them again") from None
    if "error" in found:
        error = TowerError(str(found["error"]), hint=str(found["hint"]))
        error.exit_status = int(found["status"])
        raise error
    return found
