# SPDX-License-Identifier: Apache-2.0
"""Every rule of every role: what it allows is allowed, what it refuses is refused, and none can be missed or altered."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.network.behaviour import connect_before, differences
from tests.network.bench import Bench, bench
from tests.network.logs import log_differences
from tests.network.machines import Machine, Tower

ROLES = {"thinclient": "thinclient", "router": "router", "online": "online1", "offline": "offline1"}
FAMILIES = {4: "ipv4", 6: "ipv6"}

# The parts of a rule that say what it is about; without one of them it is about more.
_PARTS = re.compile(
    r" -[sd] \S+| -[io] \S+| -m (?:tcp|udp) --[sd]port \d+| -m iprange --(?:src|dst)-range \S+"
    r"| -m conntrack --ctstate \S+| -m rpfilter --invert| -m limit --limit \S+ --limit-burst \d+"
)
_PROTOCOL = re.compile(r" -p \S+| -m (?:tcp|udp) --[sd]port \d+")
_STATES = re.compile(r"--ctstate (\S+)")


@pytest.fixture(params=list(ROLES))
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def on_bench(machines: Tower, role: str) -> Iterator[Bench]:
    """A machine of the role, alone, with the rules that the product gives it."""
    machine = machines[ROLES[role]]
    machines.open_firewall(machine)
    with bench(machines, machine.name) as made:
        connect_before(made)
        machine.firewall("set")
        made.forward()
        yield made
    machine.firewall("set")


@pytest.mark.qa("T14")
@pytest.mark.qa("H08")
@pytest.mark.qa("I03")
@pytest.mark.qa("I04")
def test_a_machine_does_what_the_model_says(on_bench: Bench, role: str) -> None:
    assert differences(on_bench, role) == []


@pytest.mark.parametrize("version", FAMILIES)
def test_refused_packets_are_logged_without_floods(on_bench: Bench, role: str, version: int) -> None:
    apply(on_bench.machine, version, rendered(on_bench.machine, version))
    assert log_differences(on_bench, role, version) == []


@pytest.mark.parametrize("version", FAMILIES)
def test_every_rule_matters(on_bench: Bench, role: str, version: int) -> None:
    """Each rule without which, or with which altered, no test would fail, is named."""
    rules = rendered(on_bench.machine, version)
    missed, tried = [], 0
    for what, altered in alterations(rules):
        tried += 1
        apply(on_bench.machine, version, altered)
        if not noticed(on_bench, role, version, altered, first_logs="-j LOG" in what):
            missed.append(what)
    apply(on_bench.machine, version, rules)
    assert tried >= 15
    if missed:
        pytest.fail("\n".join([f"{len(missed)} of {tried} alterations are not noticed", *missed]), pytrace=False)
    # What the last alterations let through may still be on its way.
    for _ in range(4):
        left = differences(on_bench, role)
        if not left:
            break
    assert left == []


def test_every_row_of_the_table_matters(on_bench: Bench, role: str) -> None:
    """The same for the rows of the table, through the product's own command."""
    machine = on_bench.machine
    table = f"usr/share/tower/firewall/{role}"
    text = machine.read(table)
    missed = []
    try:
        for row in [line for line in text.splitlines() if line and not line.startswith("#")]:
            machine.write(table, text.replace(row + "\n", "", 1))
            machine.firewall("set")
            on_bench.forward()
            if not noticed(on_bench, role, 4, machine.firewall("render", "ipv4").stdout):
                missed.append(row)
    finally:
        machine.write(table, text)
    if missed:
        pytest.fail("\n".join(["not noticed if left out:", *missed]), pytrace=False)


def noticed(on_bench: Bench, role: str, version: int, rules: str, *, first_logs: bool = False) -> bool:
    """Whether any of the tests above fails with the rules that act. `rules` are these, to set them anew."""

    def by_logs() -> bool:
        # Counters and limits start again with the rules.
        apply(on_bench.machine, version, rules)
        return bool(log_differences(on_bench, role, version))

    if first_logs and by_logs():
        return True
    if differences(on_bench, role, longest=0.15) or by_logs():
        return True
    return bool(differences(on_bench, role, patience=0.05))


def rendered(machine: Machine, version: int) -> str:
    return machine.firewall("render", FAMILIES[version]).stdout


def apply(machine: Machine, version: int, rules: str) -> None:
    """Set rules directly, as the product does in the end."""
    command = "iptables-restore" if version == 4 else "ip6tables-restore"
    subprocess.run(["nsenter", f"--target={machine.pid}", "--net", command], input=rules, text=True, check=True, timeout=30)


def alterations(rules: str) -> Iterator[tuple[str, str]]:
    """Every rule left out, widened by each of its parts, with fewer states, with the other verdict; every policy opened."""
    lines = rules.splitlines()
    for place, line in enumerate(lines):
        if re.match(r":(INPUT|FORWARD|OUTPUT) DROP", line):
            changed = [line.replace("DROP", "ACCEPT")]
        elif line.startswith("-A"):
            changed = ["", *_altered(line)]
        else:
            continue
        for other in dict.fromkeys(changed):
            if other != line:
                yield (
                    f"{line}  ->  {other or 'nothing'}",
                    "\n".join([*lines[:place], *[other] * bool(other), *lines[place + 1 :], ""]),
                )


def _altered(line: str) -> Iterator[str]:
    for part in _PARTS.findall(line):
        yield line.replace(part, "", 1)
    if " -p " in line:
        yield _PROTOCOL.sub("", line)
    if found := _STATES.search(line):
        states = found[1].split(",")
        if len(states) > 1:
            yield from (line.replace(found[1], ",".join(one for one in states if one != state)) for state in states)
    if line.endswith("-j ACCEPT"):
        yield line.replace("-j ACCEPT", "-j DROP")
    if line.endswith("-j DROP"):
        yield line.replace("-j DROP", "-j ACCEPT")
