# SPDX-License-Identifier: Apache-2.0
"""What crosses by the clipboard, and what does not: one content at a time, whose origin is known.

A content is that of the thin client's clipboard. A host's becomes it if its window has the keyboard; a host gets it when an
application asks there, under the same condition or because the user sent it. What came from another host stays with those two,
unless the policy or the user says otherwise, even if a program of the thin client has copied it again meanwhile.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tower.base.errors import HostError, StateError, TowerError, ValueRefusedError
from tower.base.names import THIN_CLIENT
from tower.clipboard import journal, messages, policy
from tower.clipboard.content import SHORT, Content, Kind, UnfitError, clean
from tower.clipboard.desktop import Desktop
from tower.clipboard.peer import GRACE, Held, PasteRequest, Peer, give, tell
from tower.clipboard.policy import Policy, Rule
from tower.clipboard.selection import TOO_LARGE

_MOST_KNOWN: Final = 64
_MOST_WAITING: Final = 16


class Exchange:
    """The windows, and the content that is held for them."""

    desktop: Desktop

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peers: list[Peer] = []
        self.held: Held | None = None
        self._number = 0
        self._before: Content = {}
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, tuple[str, bool, float]] = {}
        self._read: tuple[object, Policy] = (None, Policy())

    def policy(self) -> Policy:
        """Return the policy as it is now. Raises StateError if its file is damaged."""
        try:
            found = (self.folder / "policy.json").stat()
            mark: object = (found.st_mtime_ns, found.st_ino, found.st_size)
        except OSError:
            mark = None
        if mark is None or mark != self._read[0]:
            self._read = (mark, policy.read(self.folder))
        return self._read[1]

    # Windows.

    def enter(self, peer: Peer) -> None:
        """Handle a new window."""
        self.peers.append(peer)

    def leave(self, peer: Peer) -> None:
        """Handle a window that is gone."""
        self.peers.remove(peer)

    def focus(self, peer: Peer, *, on: bool) -> None:
        """Handle a window that got or lost the keyboard."""
        if peer.focused and not on:
            peer.left = time.monotonic()
        peer.focused = on
        self.offer(peer)

    def offer(self, peer: Peer) -> None:
        """Offer the content to a window that may have it, once; withdraw an older one that was offered to it."""
        held = self.held
        if held is not None and peer.seen == held.number:
            return
        if held is not None and held.kinds and self._is_open(peer, held) and self._rule(peer, held) is not Rule.OFF:
            peer.seen, peer.offered = held.number, time.monotonic()
            peer.say(messages.packed(do="offer", number=held.number, kinds=held.kinds))
        else:
            self._withdraw(peer)

    def _withdraw(self, peer: Peer) -> None:
        if peer.offered is not None:
            peer.offered = None
            peer.say(messages.packed(do="offer", number=0, kinds=[]))

    def _is_open(self, peer: Peer, held: Held) -> bool:
        return peer.focused or peer.host in held.sent or self.policy().share_all

    def _rule(self, peer: Peer, held: Held) -> Rule:
        leaves = held.origin != THIN_CLIENT and not held.online and peer.online
        return self.policy().rule(held.origin, peer.host, sent=peer.host in held.sent, leaves=leaves)

    # From the thin client, and back.

    def copied_here(self, kinds: tuple[Kind, ...]) -> None:
        """Handle a new content of the thin client's own clipboard; it is fetched when a host asks for it."""
        self._hold(THIN_CLIENT, False, kinds, {})

    def _hold(
        self, origin: str, online: bool, kinds: tuple[Kind, ...], content: dict[Kind, bytes], by: Peer | None = None
    ) -> None:
        self._number += 1
        if by is not None:
            by.seen, by.offered = self._number, None
        self._before = self.held.content if self.held is not None else {}
        self.held = Held(self._number, origin, online, kinds, content, time.monotonic())
        for peer in self.peers:
            self._settle(peer, agreed=False)
            try:
                self.offer(peer)
            except StateError as error:
                tell(peer, error.message)

    def wants(self, wish: PasteRequest) -> None:
        """Handle an application of a host that asks for the content. Raises TowerError if it cannot be decided or logged."""
        held, peer, kind = self.held, wish.peer, wish.kind
        rule = Rule.OFF
        if held is not None and held.number == wish.number and kind in held.kinds and self._is_open(peer, held):
            rule = self._rule(peer, held)
            if rule is Rule.ASK and peer.host in held.agreed:
                rule = Rule.ON
        if held is None or rule is Rule.OFF or (rule is Rule.ASK and peer.host in held.refused):
            give(peer, wish.token, None)
        elif rule is Rule.ASK:
            self._ask_to_give(wish, held)
        elif kind not in held.content:
            self.desktop.fetch(kind, lambda data, problem: self._fetched(wish, held, data, problem))
        else:
            data = held.content[kind]
            if (peer.host, kind) not in held.told:
                self._log(held.origin, peer.host, kind, len(data), self._how(peer, held))
                held.told.add((peer.host, kind))
            give(peer, wish.token, data)

    def _how(self, peer: Peer, held: Held) -> str:
        if peer.host in held.agreed:
            return "asked"
        return "sent" if peer.host in held.sent else "window" if peer.focused else "shared"

    def _fetched(self, wish: PasteRequest, held: Held, data: bytes | None, problem: str) -> None:
        """Go on with a request when the content has come from the thin client's clipboard."""
        peer = wish.peer
        if problem == TOO_LARGE:
            tell(peer, f"The {SHORT[wish.kind]} in the clipboard is too large for {peer.host}.")
            self._log(THIN_CLIENT, peer.host, wish.kind, 0, "too large")
        if not data or held is not self.held:
            give(peer, wish.token, None)
            return
        held.content[wish.kind] = data
        known = self._known.get(self._digest(data))
        if known is not None:
            held.origin, held.online, _ = known  # a program here has copied again what came from a host
        try:
            self.wants(wish)
        except TowerError as error:
            give(peer, wish.token, None)
            tell(peer, error.message)

    def _ask_to_give(self, wish: PasteRequest, held: Held) -> None:
        peer = wish.peer
        if len(peer.waiting) >= _MOST_WAITING:
            give(peer, wish.token, None)
            return
        peer.waiting.append(wish)
        if len(peer.waiting) == 1:
            what = " and ".join(SHORT[one] for one in held.kinds)
            text = f"Give {peer.host} the {what} that was copied on {held.origin}?"
            self._ask(peer, text, lambda yes: self._decided(peer, agreed=yes))

    def _decided(self, peer: Peer, *, agreed: bool) -> None:
        if self.held is not None:
            (self.held.agreed if agreed else self.held.refused).add(peer.host)
        self._settle(peer, agreed=agreed)

    def _settle(self, peer: Peer, *, agreed: bool) -> None:
        """Answer the requests that waited for the user; take the question back if there was no answer."""
        waiting, peer.waiting = peer.waiting, []
        if waiting and peer.answered is not None:
            peer.answered = None
            peer.say(messages.packed(do="ask", number=0, text=""))
        for wish in waiting:
            if agreed:
                self.wants(wish)
            else:
                give(peer, wish.token, None)

    def _ask(self, peer: Peer, text: str, answered: Callable[[bool], None]) -> None:
        """Ask the user in a window. A new question takes the place of an open one, which counts as refused."""
        before, peer.answered = peer.answered, None
        if before is not None:
            before(False)
        peer.question, peer.answered = peer.question + 1, answered
        peer.say(messages.packed(do="ask", number=peer.question, text=text))

    # From a host.

    def may_take(self, peer: Peer) -> bool:
        """Return whether what an application of a window has copied may come here. Raises StateError."""
        rules = self.policy()
        recent = peer.focused or time.monotonic() - peer.left < GRACE or rules.share_all
        return recent and rules.rule(peer.host, THIN_CLIENT) is not Rule.OFF

    def copied(self, peer: Peer, found: Content, too_large: list[str]) -> None:
        """Handle what an application of a host has copied. Raises StateError."""
        fit: dict[Kind, bytes] = {}
        for name in too_large:
            self._refuse(peer, Kind(name), 0, "too large", "is too large")
        for kind, data in found.items():
            try:
                fit[kind] = clean(kind, data)
            except UnfitError as error:
                if data:
                    self._refuse(peer, kind, len(data), "unfit", str(error))
        if not fit or self._is_echo(peer, fit, found):
            return
        if self.policy().rule(peer.host, THIN_CLIENT) is Rule.ASK:
            what = " and ".join(f"{SHORT[kind]} of {len(data)} bytes" for kind, data in fit.items())
            text = f"Take the {what} that was copied on {peer.host}?"
            self._ask(peer, text, lambda yes: self._take(peer, fit) if yes else None)
        else:
            self._take(peer, fit)

    def _is_echo(self, peer: Peer, fit: Content, found: Content) -> bool:
        """Return whether a program there, such as a clipboard manager, has copied again what it got.

        It may have got what was held until a moment ago: then it gets the new content once more.
        """
        held = self.held
        if held is None:
            return False
        if all(held.content.get(kind) in (fit[kind], found[kind]) for kind in fit):
            return True
        old = self._before if time.monotonic() - held.since < GRACE else {}
        if all(old.get(kind) in (fit[kind], found[kind]) for kind in fit):
            peer.seen = 0
            self.offer(peer)
            return True
        return False

    def _take(self, peer: Peer, fit: dict[Kind, bytes]) -> None:
        asked = self.policy().rule(peer.host, THIN_CLIENT) is Rule.ASK
        how = "asked" if asked else "shared" if self.policy().share_all else "window"
        for kind, data in fit.items():
            self._log(peer.host, THIN_CLIENT, kind, len(data), how)
            self._known[self._digest(data)] = (peer.host, peer.online, time.monotonic())
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self.desktop.own(fit)
        self._hold(peer.host, peer.online, tuple(fit), fit, peer)

    def _refuse(self, peer: Peer, kind: Kind, size: int, how: str, why: str) -> None:
        tell(peer, f"The {SHORT[kind]} that was copied on {peer.host} {why}.")
        self._log(peer.host, THIN_CLIENT, kind, size, how)

    # What the user says.

    def send(self, name: str, *, sure: bool) -> dict[str, object]:
        """Give a host's windows the content, this once; return what is shown. Raises TowerError if that may not be."""
        held = self.held
        peers = [peer for peer in self.peers if peer.host == name]
        if not peers:
            raise HostError(f"{name}: no window of it is open here", hint=f"start an application: tower run {name} xterm")
        if held is None or not held.kinds:
            raise HostError("the clipboard is empty", hint="copy something first")
        before = name in held.sent
        held.sent.add(name)
        rule = self._rule(peers[0], held)
        if rule is Rule.OFF or (rule is Rule.ASK and not sure):
            if not before:
                held.sent.discard(name)
            if rule is Rule.ASK:
                return {"ask": f"{name}: may it have what was copied on {held.origin}?"}
            hint = f"allow it: tower clipboard policy {held.origin} {name} ask"
            raise ValueRefusedError(f"the policy forbids transfers from {held.origin} to {name}", hint=hint)
        if rule is Rule.ASK:
            held.agreed.add(name)
        held.since = time.monotonic()
        for peer in peers:
            peer.seen = 0
            self.offer(peer)
        return {"from": held.origin, "to": name, "kinds": held.kinds}

    def clear(self) -> None:
        """Forget the content, here and where it was offered. What a program of the thin client has copied stays with it."""
        if self.held is not None and self.held.origin != THIN_CLIENT:
            self.desktop.own({})
        self.held = None
        self._known.clear()
        for peer in self.peers:
            self._settle(peer, agreed=False)
            self._withdraw(peer)

    def state(self) -> dict[str, object]:
        """Return what is shown of the state."""
        held = self.held
        return {
            "windows": [peer.host for peer in self.peers],
            "keyboard": [peer.host for peer in self.peers if peer.focused],
            "origin": held.origin if held is not None and held.kinds else None,
            "kinds": list(held.kinds) if held is not None else [],
        }

    def tick(self) -> None:
        """Clear what is too old."""
        try:
            clear = self.policy().clear
        except StateError:
            return
        now = time.monotonic()
        if not clear:
            return
        self._known = {digest: one for digest, one in self._known.items() if now - one[2] < clear}
        if self.held is not None and self.held.origin != THIN_CLIENT and now - self.held.since >= clear:
            self.clear()
        for peer in self.peers:
            if peer.offered is not None and now - peer.offered >= clear:
                self._withdraw(peer)

    def _digest(self, data: bytes) -> bytes:
        return hmac.digest(self._secret, data, hashlib.sha256)

    def _log(self, origin: str, target: str, kind: Kind, size: int, how: str) -> None:
        journal.add(self.folder, journal.Transfer(journal.now(), origin, target, kind.value, size, how))
