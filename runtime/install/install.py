# SPDX-License-Identifier: Apache-2.0
"""`tower install` by the machine's own apk, with its own repositories and keys; through tunnels if it has no Internet.

    an online host      asks its repositories itself
    an offline host     a port of its 127.0.0.1 -> this machine -> the router -> the repository's server
    the thin client     a port of its 127.0.0.1 -> the router -> the server

Only apk sees those ports, under the names of its repositories: see overlays/common/usr/libexec/tower/packages, which
also undoes interrupted installations. Bytes pass through here unchanged; apk verifies them with its keys.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tower.base import proc
from tower.base.errors import PackageError, StoppedError, TowerError, ValueRefusedError
from tower.base.names import ROUTER, THIN_CLIENT, parse_host_name
from tower.base.view import View
from tower.hosts.registry import WORLD, Host, Tower
from tower.install.apk import PROGRAM, Talk
from tower.install.apkwords import Transaction
from tower.install.choose import check_names
from tower.install.connection import connect
from tower.install.outcome import Outcome
from tower.install.repository import Repository, parse_repositories
from tower.install.servers import check_servers, servers_of
from tower.install.wanted import read_wanted, record_wanted
from tower.ssh.sessions import Session, as_root

if TYPE_CHECKING:
    import subprocess

OWN_WORLD: Final = "thinclient.world"
"""In ~/.local/tower: the packages that were installed on the thin client itself."""


class ApkMachine(Protocol):
    """A machine to install packages on."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def online(self) -> bool:
        """Whether it reaches the Internet by itself."""

    @property
    def world(self) -> Path:
        """The file that lists the packages installed on it."""

    def repositories(self) -> str:
        """Return its list of repositories, one a line."""

    def start(self, words: Sequence[str]) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Start the program `packages` as root, with pipes to its input and errors."""

    def lead(self, port: int) -> AbstractContextManager[int]:
        """Open a port of its 127.0.0.1 that leads to one of ours."""

    def alive(self) -> bool:
        """Tell whether the machine can still be reached."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A host."""

    session: Session

    @property
    def name(self) -> str:
        """Its name."""
        return self.session.host.name

    @property
    def online(self) -> bool:
        """Whether it reaches the Internet by itself."""
        return self.session.host.env.online

    @property
    def world(self) -> Path:
        """The file that lists the packages installed on it."""
        return self.session.host.file(WORLD)

    def repositories(self) -> str:
        """Return its list of repositories, one a line."""
        return self.session.run([PROGRAM, "repositories"], timeout=20, most=1 << 20).stdout.decode(errors="replace")

    def start(self, words: Sequence[str]) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Start the program `packages` as root, with pipes to its input and errors."""
        return self.session.popen(as_root([PROGRAM, *words]))

    def lead(self, port: int) -> AbstractContextManager[int]:
        """Open a tunnel back to us."""
        return self.session.reverse(port)

    def alive(self) -> bool:
        """Tell whether the connection is up."""
        return self.session.alive()


@dataclass(frozen=True, slots=True)
class Here:
    """The thin client."""

    world: Path
    name: str = THIN_CLIENT
    online: bool = False

    def repositories(self) -> str:
        """Return its list of repositories, one a line."""
        return proc.run([PROGRAM, "repositories"], timeout=20, most=1 << 20).stdout.decode(errors="replace")

    def start(self, words: Sequence[str]) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Start the program `packages` as root, with pipes to its input and errors."""
        return proc.running(as_root([PROGRAM, *words]), stdin=proc.PIPE, stderr=proc.PIPE, missing="install doas")

    @contextmanager
    def lead(self, port: int) -> Iterator[int]:
        """Yield the port itself: without a connection, nothing needs a tunnel."""
        yield port

    def alive(self) -> bool:
        """Return true: this machine is always there."""
        return True


@dataclass(slots=True)
class Installation:
    """One `tower install`: its packages, and the connection to the servers, opened when it is first needed."""

    tower: Tower
    view: View
    words: tuple[str, ...]
    yes: bool = False
    dry_run: bool = False
    servers: Collection[tuple[str, int]] = ()
    """Servers that the user has allowed."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _router: Session | None = None
    _ports: dict[tuple[str, int], int] = field(default_factory=dict)

    def close(self) -> None:
        """Close the connection to the servers."""
        self._stack.close()

    def on(self, place: ApkMachine) -> tuple[str, ...]:
        """Install on one machine; return the steps of its apk. Raises a TowerError."""
        with ExitStack() as stack:
            request = [] if place.online else self._lead(place, stack)
            child = stack.enter_context(place.start(["add", *self.words]))
            bar = stack.enter_context(self.view.amount(place.name))
            talk = Talk(place.name, child, place.alive, self.view.say, bar, lambda words: record_wanted(place.world, words))
            talk.ask(request)
            if self.dry_run:
                if talk.plan.doubt:
                    self.view.say(f"{place.name}: its apk {talk.plan.doubt}, which tower does not understand")
            else:
                self._ask_user(place.name, talk.plan)
                talk.go()
                record_wanted(place.world, self.words)
                talk.write("kept")
                proc.ended(child, 60)
        return tuple(talk.steps) or ((f"its apk {talk.plan.doubt}",) if talk.plan.doubt else ())

    def _ask_user(self, name: str, plan: Transaction) -> None:
        """Return if there is nothing to do, or the user agrees. Raises a TowerError."""
        if plan.doubt and self.yes:
            raise PackageError(
                f"{name}: its apk {plan.doubt}, which tower does not understand; nothing was changed",
                hint="look at what --dry-run shows; without --yes tower asks you",
            )
        if plan.doubt:
            self.view.confirm(f"{name}: its apk {plan.doubt}, which tower does not understand; install anyway?", yes=False)
        elif plan.steps:
            self.view.confirm(f"{name}: install this?", yes=self.yes)

    def _lead(self, place: ApkMachine, stack: ExitStack) -> list[str]:
        """Open a tunnel to each server of the machine's repositories; return the request that tells `packages` about them."""
        found, left_out = parse_repositories(place.repositories())
        for line in left_out:
            self.view.say(f"{place.name}: ignoring its repository {line[:100]!r}, which is not on a server")
        check_servers(self.tower, place.name, found, self.view, allowed=self.servers, yes=self.yes or self.dry_run)
        ports = {server: stack.enter_context(place.lead(self._port(*server))) for server in servers_of(found)}
        names = dict.fromkeys(server for server, _ in ports)
        return [*(f"name {name}" for name in names), *(f"repository {_through(one, ports)}" for one in found)]

    def _port(self, server: str, port: int) -> int:
        """Return a port here that leads to a server through the router."""
        if self._router is None:
            with self.view.step("connecting to the router"):
                self._router = self._stack.enter_context(connect(self.tower, self.tower.host(ROUTER)))
        if (server, port) not in self._ports:
            self._ports[server, port] = self._stack.enter_context(self._router.forward(server, port))
        return self._ports[server, port]


def _through(repository: Repository, ports: dict[tuple[str, int], int]) -> str:
    """Return the line of a repository with the tunnel's port; the name stays, and with it certificate and Host header."""
    port = ports[repository.server, repository.port]
    address = f"{repository.scheme}://{repository.server}:{port}{repository.path}"
    return repository.kind + f"{repository.tag} {address}".strip()


def install(
    tower: Tower,
    names: Sequence[str],
    words: Sequence[str],
    view: View,
    *,
    yes: bool = False,
    dry_run: bool = False,
    servers: Collection[tuple[str, int]] = (),
) -> Outcome:
    """Install packages on machines, one after the other; trouble with one does not stop the others.

    Raises a TowerError if a name is not valid, and StoppedError.
    """
    check_names(words)
    hosts = {name: None if name == THIN_CLIENT else tower.host(parse_host_name(name)) for name in names}
    report = Outcome(tuple(dict.fromkeys(words)))
    job = Installation(tower, view, report.words, yes, dry_run, servers)
    try:
        for name, host in hosts.items():
            try:
                report.steps[name] = _install_on(job, host)
            except StoppedError:
                raise
            except TowerError as error:
                report.problems[name] = error
    except (KeyboardInterrupt, StoppedError) as stop:
        number = stop.exit_status - 128 if isinstance(stop, StoppedError) else signal.SIGINT
        raise StoppedError(number, hint="each machine finishes or undoes what it has begun; run the same command again") from None
    finally:
        job.close()
    return report


def _install_on(job: Installation, host: Host | None) -> tuple[str, ...]:
    if host is None:
        return job.on(Here(job.tower.folder / OWN_WORLD))
    with connect(job.tower, host) as session:
        return job.on(Remote(session))


def install_by_choice(
    tower: Tower,
    names: Sequence[str],
    words: Sequence[str],
    view: View,
    *,
    bundle: bool = False,
    tunnel: bool = False,
    yes: bool = False,
    dry_run: bool = False,
    servers: Collection[tuple[str, int]] = (),
) -> Outcome:
    """Install packages on machines: offline hosts get a bundle, with `bundle` all hosts, with `tunnel` none.

    Raises a TowerError if a name is not valid, and StoppedError; trouble with a machine is in the report.
    """
    hosts = {name: tower.host(parse_host_name(name)) for name in names if name != THIN_CLIENT}
    bundled = [name for name, host in hosts.items() if not tunnel and (bundle or not host.env.online)]
    report = Outcome(tuple(dict.fromkeys(words)))
    if bundled:
        from tower.install.bundle_install import install_by_bundle

        try:
            report = install_by_bundle(tower, bundled, words, view, yes=yes, dry_run=dry_run, servers=servers)
        except StoppedError:
            raise
        except TowerError as error:
            report.problems |= dict.fromkeys(bundled, error)
    if rest := [name for name in names if name not in bundled]:
        own = install(tower, rest, words, view, yes=yes, dry_run=dry_run, servers=servers)
        report.steps |= own.steps
        report.problems |= own.problems
    return report


def reinstall(tower: Tower, name: str, view: View) -> Outcome:
    """Install again the packages that `tower install` had installed on a machine. Raises a TowerError if that fails."""
    file = tower.folder / OWN_WORLD if name == THIN_CLIENT else tower.host(parse_host_name(name)).file(WORLD)
    words = read_wanted(file)
    report = install_by_choice(tower, [name], words, view, yes=True) if words else Outcome(())
    for error in report.problems.values():
        raise error
    return report


def parse_names(text: str) -> tuple[str, ...]:
    """Parse the machines of a command line: `web`, `web,vault`, `thinclient`. Raises ValueRefusedError."""
    names = tuple(text.split(","))
    for name in names:
        if name != THIN_CLIENT:
            parse_host_name(name)
    if len(set(names)) != len(names):
        raise ValueRefusedError(f"{text!r} names a machine twice")
    return names
