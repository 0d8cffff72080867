# SPDX-License-Identifier: Apache-2.0
"""Which modules a key covers: all that are imported, wherever the import stands, and no more than that."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base import code_digest as digests
from pipeline.base.code_digest import LEFT_OUT, code_digest, imported_by
from tests.conftest import CHECKOUT

USES = {
    "pipeline.channels.alpine.builder": "pipeline.sandbox.stage_run",
    "pipeline.channels.alpine.repository": "pipeline.apk.format.keyfile",
    "pipeline.channels.lab.convert": "pipeline.apk.format.keyfile",
    "pipeline.channels.lab.mirror": "pipeline.apk.format.keyfile",
    "pipeline.channels.lab.repack": "pipeline.apk.format.keyfile",
}
"""Each module whose digest is part of a key, with one that it reaches through an import inside a function only."""

ABOVE = ("build", "plan", "images", "release", "cli")


def reached(module: str) -> set[str]:
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imported_by(name)
    return seen


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(digests, "_ROOT", tmp_path)
    (tmp_path / "house").mkdir()
    return tmp_path / "house"


def digest_now() -> str:
    code_digest.cache_clear()
    try:
        return code_digest("house.top")
    finally:
        code_digest.cache_clear()


LAZY = {
    "function": "def f():\n    from house.late import x\n    return x\n",
    "method": "class C:\n    def f(self):\n        import house.late\n",
    "async": "async def f():\n    from house import late\n",
    "branch": "def f(a):\n    if a:\n        try:\n            from house.late import x\n        finally:\n            pass\n",
    "handler": "def f():\n    try:\n        pass\n    except OSError:\n        from house.late import x\n",
    "case": "def f(a):\n    match a:\n        case 1:\n            from house.late import x\n",
    "loop": "def f(a):\n    for _ in a:\n        pass\n    else:\n        with a:\n            from house.late import x\n",
    "else": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    from house.late import x\n",
}


@pytest.mark.parametrize("text", LAZY.values(), ids=LAZY)
def test_a_lazily_imported_module_counts(tree: Path, text: str) -> None:
    (tree / "top.py").write_text(text)
    (tree / "late.py").write_text("x = 1\n")
    before = digest_now()
    (tree / "late.py").write_text("x = 2\n")
    assert digest_now() != before


def test_imports_for_types_do_not_count(tree: Path) -> None:
    (tree / "top.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.late import x\n")
    (tree / "late.py").write_text("x = 1\n")
    before = digest_now()
    (tree / "late.py").write_text("x = 2\n")
    assert digest_now() == before


@pytest.mark.parametrize(("module", "lazy"), USES.items())
def test_a_key_covers_lazily_imported_modules_and_no_higher_layers(module: str, lazy: str) -> None:
    covered = reached(module)
    assert lazy in covered
    assert not [name for name in covered if not name.startswith("pipeline.") or name.split(".")[1] in ABOVE]


def test_the_uses_are_all_there_are() -> None:
    texts = [path.read_text() for path in (CHECKOUT / "pipeline").rglob("*.py") if path.name != "code_digest.py"]
    assert sum(text.count("code_digest(") for text in texts) == len(USES)
    assert all(any(f'code_digest("{module}")' in text for text in texts) for module in USES)


def test_every_name_in_left_out_is_really_imported() -> None:
    """A line of LEFT_OUT that means nothing any more is refused."""
    for module, names in LEFT_OUT.items():
        text = (CHECKOUT / Path(*module.split("."))).with_suffix(".py").read_text()
        assert all(f"from {name} import" in text for name in names)
