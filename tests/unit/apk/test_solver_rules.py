# SPDX-License-Identifier: Apache-2.0
"""The rules by which apk 3 and apk 2 choose, each by a small index that shows it; the answers are those of apk 3.0.8 and 2.14.10.

`ci/bench/solve.py rules` asks a real apk about them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.apk.format.index import IndexEntry
from pipeline.apk.format.signature import Signer
from pipeline.apk.solver.file_cache import FileCache
from pipeline.apk.solver.pool import read_keys
from pipeline.apk.solver.solve import UnsolvableError, generation_of, solve
from tests.unit.apk.worlds import index, package

P = package
NO = ""
"""No answer."""

A, B, X, Y = (P(f"{name}-1-r0") for name in "abxy")
C_V = P("c-1-r0", depends="v")
BARE = [P("a-1-r0", provides="v"), P("b-1-r0", depends="v<2"), P("c-1-r0", depends="v>=1"), P("d-1-r0", depends="v")]
SOUND = [
    P("canberra-1-r0"), P("alsa-1-r0"), P("pulse-1-r0"),
    P("canberra-alsa-1-r0", install_if="canberra=1-r0 alsa !pulse"), P("canberra-pulse-1-r0", install_if="canberra=1-r0 pulse"),
]  # fmt: skip
SHELL = [
    P("busybox-1-r0", provides="sh", provider_priority=100), P("dash-1-r0", provides="sh", provider_priority=60),
    P("a-1-r0", depends="sh"), P("b-1-r0", depends="dash"), P("c-1-r0", depends="so:dash"),
    P("libdash-1-r0", provides="so:dash=1 sh", provider_priority=10),
]  # fmt: skip

# The packages of each index; a world; what apk 3 installs, in its order; what apk 2 does if that is another.
CASES: dict[str, tuple[list[list[IndexEntry]], str, str, str | None]] = {
    "install_if of what is not there": ([SOUND], "canberra alsa", "alsa canberra canberra-alsa", "alsa canberra"),
    "install_if of what must not be there": ([SOUND], "canberra alsa pulse", "alsa canberra pulse canberra-pulse", None),
    "no version is older than any": ([BARE], "b a", "a b", NO),
    "no version is not newer than any": ([BARE], "c a", NO, None),
    "no version, none wanted": ([BARE], "d a", "a d", None),
    "no version, not by itself": ([BARE], "d", NO, None),
    "a version before none": (
        [[P("a-1-r0", provides="v", provider_priority=9), P("b-1-r0", provides="v=1"), C_V]], "c", "b c", "a c",
    ),
    "excluding a name of its own": ([[P("a-1-r0", depends="!v", provides="v=1"), P("b-1-r0", provides="v=2")]], "a", "a", NO),
    "the name of a package before one that is provided": (
        [[P("a-1-r0", depends="v x"), P("v1-1-r0", provides="v", provider_priority=2),
          P("v2-1-r0", provides="v", provider_priority=1),
          P("x-1-r0", provides="y=1"), P("x2-1-r0", provides="x=0", depends="v2")]], "a", "v1 x a", None,
    ),
    "a package that waits, and cannot come in": (
        [[P("c-1-r0", depends="g !g", install_if="z q"), P("h-2-r0", depends="c"), P("h-1-r0"), P("a-1-r0", provides="z=1 g"),
          P("g-2-r0"), P("q-1-r0")]], "z h", "a h", None,
    ),
    "a package that waits for itself, and cannot come in": (
        [[P("c-1-r0", depends="g !g", install_if="z c"), P("h-2-r0", depends="c"), P("h-1-r0"), P("a-1-r0", provides="z=1 g"),
          P("g-2-r0")]], "z h", "a h", None,
    ),
    "the better shell": ([SHELL], "a", "busybox a", None),
    "a shell that the world names": ([SHELL], "a dash", "dash a", None),
    "a shell that a package needs": ([SHELL], "a b", "dash a b", None),
    "a shell that comes by another name": ([SHELL], "a c", "busybox a libdash c", None),
    # apk 2 would take the foreign one; here nobody does.
    "a foreign package hides nothing": ([[P("a-2-r0", arch="aarch64"), A]], "a", "a", None),
    "a package with a broken dependency": ([[P("a-2-r0", depends="b=x.y b"), A, B]], "a", "a", "a-2-r0"),
    "a broken condition of install_if": (
        [[A, B, P("c-1-r0", install_if="a b>x.y")]], "a b", "a b", "a c b",
    ),
    "a broken version that is provided": ([[P("a-1-r0", provides="v=1.x"), P("b-1-r0", depends="v>0.5")]], "b", "a b", None),
    "~ takes what begins so": ([[P("a-1-r1"), P("b-1-r0", depends="a~1")]], "b", "a-1-r1 b", None),
    "~ of what is longer": ([[P("a-1.2-r1"), P("b-1-r0", depends="a~1.2.3")]], "b", NO, "a-1.2-r1 b"),
    "zeros after a dot": ([[P("a-1.00-r0"), P("a-1.0-r0")]], "a", "a-1.00-r0", "a-1.0-r0"),
    "the newer version of what both provide": (
        [[P("a-1-r0", provides="v=1", provider_priority=9), P("b-1-r0", provides="v=2"), C_V]], "c", "b c", None,
    ),
    "priority where versions are equal": (
        [[P("a-1-r0", provides="v=1"), P("b-1-r0", provides="v=1", provider_priority=2), C_V]], "c", "b c", None,
    ),
    "the first index where all is equal": ([[P("a-1-r0", depends="b"), B], [A]], "a", "b a", None),
    "a newer one in the second index": ([[A], [P("a-2-r0")]], "a", "a-2-r0", None),
    "what all candidates need": (
        [[P("a-1-r0", provides="v=1", depends="x"), P("b-1-r0", provides="v=2", depends="x y"), C_V,
          X, Y]], "c", "x y b c", None,
    ),
    "a candidate that needs what is excluded": (
        [[P("a-1-r0", provides="v=1"), P("b-1-r0", provides="v=2", depends="y"), C_V, Y]],
        "c !y", "a c", None,
    ),
    "no decision is taken back": ([[P("a-2-r0", depends="a<1"), A]], "a", NO, None),
    "install_if waits for a name that another gives": (
        [[P("a-1-r0", provides="v=1"), B, P("c-1-r0", install_if="v b")]], "a b", "a b c", None,
    ),
    "install_if of one version only": ([[P("a-1-r0", provides="v"), P("c-1-r0", install_if="v=1")]], "a", "a", None),
    "what comes in by install_if counts as wanted": (
        [[A, B, P("c-1-r0", install_if="a b", provides="v", depends="d"), P("d-1-r0", depends="v")]],
        "a b", "a b d c", None,
    ),
    "capitals do not count in the world's order": ([[P("B-1-r0"), A, P("C-1-r0")]], "C B a", "a B C", None),
}  # fmt: skip


@pytest.mark.parametrize("generation", [3, 2])
@pytest.mark.parametrize("case", CASES)
def test_rules(case: str, generation: int, signer: Signer, key_folder: Path, tmp_path: Path) -> None:
    indexes, world, newer, older = CASES[case]
    wanted = newer if generation > 2 or older is None else older
    files = [index(signer, *entries, name=str(number)) for number, entries in enumerate(indexes)]
    cache, keys = FileCache(str(tmp_path)), read_keys(str(key_folder))
    try:
        found = solve(files, world.split(), "x86_64", keys=keys, cache=cache, generation=generation)
    except UnsolvableError as error:
        assert (wanted, bool(error.message)) == (NO, True)
        return
    assert sorted(item.name if item.version == "1-r0" else str(item) for item in found.packages) == sorted(wanted.split())


def test_branches() -> None:
    found = {
        branch: generation_of(branch) for branch in ("v3.19", "v3.22", "v3.23", "v3.24", "v4.0", "v2.7", "edge", "lab", "3.22")
    }
    assert found == {"v3.19": 2, "v3.22": 2, "v3.23": 3, "v3.24": 3, "v4.0": 3, "v2.7": 2, "edge": 3, "lab": 3, "3.22": 2}
