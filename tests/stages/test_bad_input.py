# SPDX-License-Identifier: Apache-2.0
"""What a stage says about wrong input: a line that names the input or option, and an exit status; no traceback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.stages.bench import BRANCH, GOLDEN, Bench, Source
from tests.stages.material import LOCKED_BASE, LOCKED_MEDIUM, LOCKED_ROOT
from tests.stages.trees import DEVICE_WHEEL, tiny_overlays

NOTHING: Mapping[str, bytes] = {}
WORDS: Mapping[str, bytes] = {"words": b"words\n"}
_WORLD = ("alpine-base",)
_BOOT = {"loader": "rpi", "flavor": "tiny", "features": ("base",), "packages": ("linux-tiny",), "cmdline": ""}
_ISO = {"flavor": "tiny", "features": ("base",), "packages": _WORLD, "cmdline": "", "releasable": "no"}
_MODLOOP = {"flavor": "tiny", "features": ("base",), "packages": ("linux-tiny",)}
_ROOT = {"world": _WORLD, "kernel": ()}


@dataclass(frozen=True)
class Bad:
    """A run that must be refused: what is given in place of good inputs (None: left out), and words of the error."""

    stage: str
    words: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    instead: Mapping[str, Source | None] = field(default_factory=dict)
    locked: tuple[str, ...] = LOCKED_BASE


# Input -> the stages that need it; each is run without it, and with an empty one.
_NEEDED = {
    "host-root": ("repository", "keys"),
    "host-system": ("root", "packages", "repository", "keys"),
    "host-boot": ("root", "repository", "keys"),
    "host-image": ("boot", "system"),
    "host-compress": ("image",),
    "docs": ("manual",),
    "manual": ("device",),
    "wheels": ("device", "tower"),
    "repository": ("packages",),
    "modloop": ("repository", "keys", "aports"),
    "medium-packages": ("repository", "keys", "aports", "packages"),
    "iso": ("medium", "keys", "aports", "packages", "modloop", "wheels", "docs", "apkovl"),
}
_OPTIONS: dict[str, Mapping[str, Any]] = {
    "host-root": _ROOT, "host-system": {"world": ("toweros-tiny",), "repositories": ()}, "host-boot": _BOOT, "modloop": _MODLOOP,
    "iso": _ISO, "medium-packages": {"packages": _WORLD},
    "repository": {"architectures": ("x86_64",)}, "apkovl": {"world": _WORLD, "installed": ("lvm2",), "repositories": ()},
}  # fmt: skip

_ODD_WORLDS = [
    ((), "names no package"),
    (("--allow-untrusted",), "--allow-untrusted: not the name of a package"),
    (("alpine-base", "*"), "*: not the name of a package"),
    (("$(id)",), "not the name of a package"),
]
# The check is one function of all stages: each calls it, one is given all that it refuses.
_WORLDS = [
    *(("host-root", "world", odd) for odd in _ODD_WORLDS),
    *(
        (stage, option, _ODD_WORLDS[0])
        for stage, option in [
            ("host-system", "world"),
            ("host-boot", "packages"),
            ("medium-packages", "packages"),
            ("iso", "packages"),
        ]
    ),
    *(("apkovl", option, odd) for option in ("world", "installed") for odd in _ODD_WORLDS[:2]),
]

_ODD_SERVERS = ("/media/usb", "@edge", "http://", "http://a.test", "file:///etc/x", "http://a.test/$(id)", "http://a.test/*")

CASES = [
    *(
        Bad(stage, ("option repositories:", "not the address of a repository"), {"repositories": (odd,)})
        for stage in ("host-system", "apkovl")
        for odd in _ODD_SERVERS[: 1 if stage == "host-system" else None]
    ),
    *(Bad(stage, (f"input {name}:",), instead={name: None}) for stage, names in _NEEDED.items() for name in names),
    *(Bad(stage, (f"input {name}:",), instead={name: NOTHING}) for stage, names in _NEEDED.items() for name in names[:1]),
    *(Bad(stage, (f"option {option}:", said), {option: world}) for stage, option, (world, said) in _WORLDS),
    Bad("host-root", ("no-such-package",), {"world": ("no-such-package",)}),
    Bad("host-root", ("option kernel: -x: not the name",), {"kernel": ("-x",)}),
    Bad("host-root", ("option locked: names no package",), locked=()),
    Bad("host-root", ("option locked: tiny-users=1.0-r0 is installed",), locked=("alpine-base=1.0-r0", "tiny-system=1.0-r0")),
    Bad("host-root", ("alpine-base-1.0-r0", "breaks: world[alpine-base=0.9-r0]"), locked=("alpine-base=0.9-r0",)),
    Bad(
        "host-root",
        ("option locked: the world asks for other packages",),
        locked=(*LOCKED_ROOT[:1], *LOCKED_ROOT[4:], "linux-firmware=1.0-r0"),
    ),
    Bad("host-root", ("option locked: its packages do not make up the world",), {"world": ("!tiny-system", "alpine-base")}),
    Bad("host-system", ("would install linux-firmware=1.0-r0",), {"world": ("toweros-tiny", "linux-firmware")}),
    Bad("host-root", ("UNTRUSTED signature",), instead={"keys": WORDS}),
    Bad("host-root", ("APKINDEX.tar.gz",), instead={"repository": {f"{BRANCH}/main/x86_64/APKINDEX.tar.gz": b"damaged"}}),
    Bad("host-system", ("no-such-package",), {"world": ("no-such-package",)}),
    Bad("host-system", ("tar:",), instead={"root": {"root.tar": b"no tar" * 1000}}),
    Bad("host-boot", ("option loader: lilo",), {"loader": "lilo"}),
    Bad("host-boot", ("option flavor:", "linux-other"), {"flavor": "other"}),
    Bad("host-boot", ("option packages: the lock does not name no-such-package",), {"packages": ("no-such-package",)}),
    Bad("host-boot", ("option locked: names no package",), locked=()),
    Bad(
        "host-boot", ("option locked: the lock names linux-tiny=0.9-r0, and apk chooses another",), locked=("linux-tiny=0.9-r0",)
    ),
    Bad(
        "host-image",
        ("input boot: boot.fat is no FAT",),
        instead={"boot": {"boot.fat": b"no file system" * 100, "mbr.bin": b"", "core.bin": b""}},
    ),
    Bad("host-compress", ("option compress: gzip is none of",), {"compress": "gzip"}),
    Bad("wheels", ("no-wheel.whl: not the name of a wheel",), instead={"device": {"no-wheel.whl": b""}}),
    Bad("wheels", ("there is another wheel of tower",), instead={"device": {"tower-9-py3-none-any.whl": b""}}),
    Bad("manual", ("tower completion bash: exit status 16", "shtab"), instead={"device": {DEVICE_WHEEL: b"no archive"}}),
    Bad("repository", ("error: bad.apk",), instead={"packages": {"bad.apk": b"no package"}}),
    Bad("modloop", ("linux-other",), {"flavor": "other"}, locked=LOCKED_MEDIUM),
    Bad("modloop", ("option locked: names no package",), locked=()),
    Bad("modloop", ("option locked: the kernel's root has wireless-regdb=1.0-r0",), locked=LOCKED_MEDIUM[:-1]),
    Bad(
        "modloop",
        ("option locked: the kernel's root has linux-tiny=1.0-r0",),
        locked=tuple(one.replace("linux-tiny=1.0", "linux-tiny=1.1") for one in LOCKED_MEDIUM),
    ),
    Bad("medium-packages", ("no-such-package",), {"packages": ("no-such-package",)}),
    Bad("medium-packages", ("option locked: names no package",), locked=()),
    Bad("medium-packages", ("option locked: the repository of the medium has tiny-users=1.0-r0",), locked=LOCKED_BASE[:2]),
    Bad(
        "medium-packages",
        ("option locked: the repository of the medium has linux-firmware=1.0-r0",),
        {"packages": ("alpine-base", "linux-firmware")},
    ),
    Bad(
        "medium-packages", ("option locked: the repository of the medium has alpine-base=1.0-r0",), locked=("alpine-base=0.9-r0",)
    ),
    Bad(
        "medium-packages",
        ("option locked: the repository of the medium lacks linux-firmware=1.0-r0",),
        locked=(*LOCKED_BASE, "linux-firmware=1.0-r0"),
    ),
    Bad(
        "iso", ("inputs modloop and medium lack", "differ"), instead={"modloop": {"sections/kernel_x/boot/vmlinuz": b"kernel\n"}}
    ),
    Bad("wheel", ("source pyproject.toml:",), instead={"/src/pyproject.toml": NOTHING}),
    Bad("package-host", ("no owner and mode for nobody/knows",), instead={"/src/overlays/host": {"nobody/knows": b""}}),
    Bad("package-thinclient", ("owners.toml",), instead={"/src/overlays/owners.toml": NOTHING}),
]


@pytest.fixture(scope="session")
def good(
    bench: Bench,
    host_root: Callable[[str], Path],
    repository: Callable[[str], Path],
    own_packages: Path,
    keys: Path,
    medium: Path,
) -> Callable[[str], dict[str, Source]]:
    """Inputs of a stage that it would take."""
    everything: dict[str, Source] = {
        "repository": repository("x86_64"), "keys": keys, "root": host_root("x86_64"), "packages": own_packages,
        "aports": bench.aports, "medium": medium,
        "boot": {"boot.fat": b"x"}, "system": {"root.ext4": b"x"}, "image": {"image.img": b"x"}, "manual": {"commands.md": b"x"},
        "wheels": {"requirements.txt": b"x"}, "device": {DEVICE_WHEEL: b"x"}, "tower": {"tower-1-py3-none-any.whl": b"x"},
        "docs": {"docs/index.md": b"x"}, "modloop": {"sections/kernel/boot/vmlinuz": b"x"}, "apkovl": {"a.apkovl.tar.gz": b"x"},
    }  # fmt: skip
    return lambda stage: {name: everything[name] for name in bench.spec(stage).inputs}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.stage}-{case.words[-1][:40]}")
def test_bad_input_is_refused_with_its_name(
    bench: Bench, good: Callable[[str], dict[str, Source]], tmp_path: Path, case: Bad
) -> None:
    sources: dict[str, Source] = {}
    if case.stage.startswith("package-"):
        sources = tiny_overlays(tmp_path, case.stage.removeprefix("package-"))
    inputs = good(case.stage)
    for name, given in case.instead.items():
        table, place = (sources, name.removeprefix("/src/")) if name.startswith("/src/") else (inputs, name)
        if given is None:
            del table[place]
        else:
            table[place] = given
    options = {**_OPTIONS.get(case.stage, {}), **case.options}
    bench.refused(case.stage, tmp_path / "out", *case.words, inputs=inputs, sources=sources, options=options, locked=case.locked)


def test_every_stage_has_a_listing_and_bad_input(checkout: Path) -> None:
    """A new stage is refused until a test here compares what it makes, and another one gives it what it cannot take."""
    stages = {path.parent.name for path in (checkout / "stages").glob("*/stage.toml")}
    listings = [path.name.removesuffix(".txt") for path in GOLDEN.glob("*.txt")]
    assert {name.partition(".")[0] for name in listings} == stages
    assert {case.stage for case in CASES} == stages
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [
        name for name in listings if f'compare("{name}"' not in tests and f'compare(f"{name.partition(".")[0]}.' not in tests
    ] == []
