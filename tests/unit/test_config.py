# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.errors import ConfigError
from pipeline.config.toml import Problems, Table, read_toml


def table(tmp_path: Path, text: str) -> tuple[Table, Problems]:
    path = tmp_path / "a.toml"
    path.write_text(text)
    problems = Problems()
    return read_toml(path, problems, shown="a.toml"), problems


def test_reads_every_type(tmp_path: Path) -> None:
    found, problems = table(
        tmp_path, 's="x"\ni=3\nb=true\nl=["a"]\nc="one"\n[t]\nk="v"\n[m]\na="b"\n[[r]]\nn="1"\n[[r]]\nn="2"\n'
    )
    assert found.text("s") == "x"
    assert found.integer("i") == 3
    assert found.boolean("b") is True
    assert found.strings("l") == ("a",)
    assert found.choice("c", ("one", "two")) == "one"
    assert found.table("t").text("k") == "v"
    assert found.mapping("m") == {"a": "b"}
    assert [row.text("n") for row in found.tables("r")] == ["1", "2"]
    found.close()
    problems.check("a.toml")


def test_defaults(tmp_path: Path) -> None:
    found, problems = table(tmp_path, "")
    assert found.text("s", "d") == "d"
    assert found.integer("i", 1) == 1
    assert found.strings("l", ("x",)) == ("x",)
    assert found.mapping("m") == {}
    assert found.tables("r") == []
    found.close()
    assert not problems


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        ("k = 1", lambda t: t.text("k"), "a.toml: k: must be a string, not an integer (1)"),
        ('k = ""', lambda t: t.text("k"), "a.toml: k: must not be empty"),
        ("", lambda t: t.text("k"), "a.toml: k: missing; it must be a string"),
        ('k = "1"', lambda t: t.integer("k"), "a.toml: k: must be an integer"),
        ("k = true", lambda t: t.integer("k"), "a.toml: k: must be an integer, not true or false (True)"),
        ("k = 1", lambda t: t.boolean("k"), "a.toml: k: must be true or false"),
        ('k = "a"', lambda t: t.strings("k"), "a.toml: k: must be a list"),
        ("k = [1]", lambda t: t.strings("k"), "a.toml: k[0]: must be a string"),
        ('k = "thre"', lambda t: t.choice("k", ("two", "three")), "'thre' is none of two, three; do you mean 'three'?"),
        ("k = 1", lambda t: t.table("k"), "a.toml: k: must be a table"),
        ("k = [1]", lambda t: t.tables("k"), "a.toml: k[0]: must be a table"),
        ("[k]\na = 1", lambda t: t.mapping("k"), "a.toml: k.a: must be a string"),
        ("[k]\na = 1", lambda t: t.table("k").text("a"), "a.toml: k.a: must be a string"),
        ("name = 1", lambda t: t.integer("names", 1), "a.toml: name: unknown key; do you mean 'names'?"),
        ("[t]\nx = 1", lambda t: t.table("t"), "a.toml: t.x: unknown key"),
    ],
)
def test_each_mistake_names_file_and_key(tmp_path: Path, text: str, read: Callable[[Table], object], message: str) -> None:
    found, problems = table(tmp_path, text)
    read(found)
    found.close()
    with pytest.raises(ConfigError) as caught:
        problems.check("test")
    assert message in caught.value.message


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    found, problems = table(tmp_path, 'a = 1\nb = "x"\nd = 1')
    found.text("a")
    found.integer("b")
    found.text("c")
    found.close()
    with pytest.raises(ConfigError) as caught:
        problems.check("test")
    assert caught.value.message.startswith("test: 4 mistakes")
    assert len(caught.value.message.splitlines()) == 5


@pytest.mark.parametrize(("data", "message"), [(b"a = ", "not TOML"), (b"\xff", "not TOML"), (b"a=1\na=2", "not TOML")])
def test_invalid_toml_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    problems = Problems()
    read_toml(path, problems, shown="a.toml")
    with pytest.raises(ConfigError, match=message):
        problems.check("test")


def test_no_file(tmp_path: Path) -> None:
    problems = Problems()
    read_toml(tmp_path / "none.toml", problems)
    with pytest.raises(ConfigError, match="no such file"):
        problems.check("test")
