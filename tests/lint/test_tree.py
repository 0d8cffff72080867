# SPDX-License-Identifier: Apache-2.0
"""Rules of this checkout that no tool knows: licence lines, layers, secrets, sizes, links."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

_LARGEST = 1_000_000
_LONGEST_MODULE = 400
_STAYS = 20
"""Seconds from which on a sleeping program is one that stays until it is ended."""
_SHELL_SLEEP = re.compile(r"(?<![-\w'/])sleep ([0-9]+(?:\.[0-9]+)?)\b")
_SHELL_LOOP = re.compile(r"\b(?:while|until)\b.*?\bdone\b", re.DOTALL)
# Put together here, so that this file holds neither a key's first line nor a registry's name.
_PRIVATE_KEY = re.compile(
    "-----BEGIN " + r"([A-Z]+ )?" + "PRIVATE KEY-----|untrusted comment: (minisign|rsign) encrypted " + "secret"
)
_REGISTRIES = tuple(
    ".".join(words)
    for words in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("ftp", "debian", "org"),
        ("registry", "npmjs", "org"),
        ("proxy", "golang", "org"),
    )
)


def relative(path: Path, checkout: Path) -> str:
    return path.relative_to(checkout).as_posix()


def complain(faults: list[str]) -> None:
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


def test_licence_line(checkout: Path, texts: dict[Path, str]) -> None:
    """Code and configuration say their licence in one of the first lines."""
    complain(
        [
            f"{relative(path, checkout)}: no SPDX-License-Identifier in the first five lines"
            for path, text in texts.items()
            if (path.suffix in {".py", ".toml", ".sh", ".yml", ".yaml"} or text.startswith("#!"))
            and "SPDX-License-Identifier: Apache-2.0" not in "\n".join(text.splitlines()[:5])
        ]
    )


def imports(text: str) -> Iterator[str]:
    """Names of all modules that a Python source imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def sources(texts: dict[Path, str], *folders: Path) -> Iterator[tuple[Path, str]]:
    """Python files below the folders, but not the trees that are laid into packages (they are the device's programs)."""
    for path, text in texts.items():
        below = next((folder for folder in folders if path.is_relative_to(folder)), None)
        if path.suffix == ".py" and below is not None and "packages" not in path.relative_to(below).parts:
            yield path, text


def test_one_runner(checkout: Path, texts: dict[Path, str]) -> None:
    """Only pipeline/base/proc.py starts programs."""
    pipeline = checkout / "pipeline"
    complain(
        [
            f"{relative(path, checkout)}: imports {name}; programs are started by pipeline/base/proc.py"
            for path, text in sources(texts, pipeline)
            if path != pipeline / "base" / "proc.py"
            for name in imports(text)
            if name.split(".")[0] in {"subprocess", "pty"}
        ]
    )


def test_no_shell(checkout: Path, texts: dict[Path, str]) -> None:
    """No argument is ever read by a shell."""
    calls = re.compile(r"\bos\.(system|popen)\(|\bshell\s*=\s*" + "True")
    complain(
        [
            f"{relative(path, checkout)}: {match.group()}"
            for path, text in sources(texts, checkout / "pipeline", checkout / "runtime", checkout / "stages")
            for match in calls.finditer(text)
        ]
    )


def test_layers(checkout: Path, texts: dict[Path, str]) -> None:
    """The device's command knows nothing of the factory; stages know what they declare as their sources."""
    faults = []
    for path, text in sources(texts, checkout / "runtime", checkout / "stages"):
        declaration = path.parent / "stage.toml"
        declared = tomllib.loads(declaration.read_text()).get("sources", []) if declaration.is_file() else []
        for name in imports(text):
            place = name.replace(".", "/")
            if name.split(".")[0] in {"pipeline", "runtime"} and not any(
                f"{place}/".startswith(f"{one.removesuffix('.py')}/") for one in declared
            ):
                faults.append(f"{relative(path, checkout)}: imports {name}, which is not among the sources of its stage")
    complain(faults)


def test_sources_of_stages_are_whole(checkout: Path, texts: dict[Path, str]) -> None:
    """What a module imports that runs in a sandbox is among the sources of its stage, too; and nothing of the device's."""
    faults = []
    for declaration in sorted((checkout / "stages").glob("*/stage.toml")):
        declared = tomllib.loads(declaration.read_text()).get("sources", [])
        for source in declared:
            for node in (
                ast.parse(texts[checkout / source]).body if source.endswith(".py") and source.startswith("pipeline/") else []
            ):
                names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
                for name in names:
                    place = name.replace(".", "/")
                    there = {f"{place}.py", f"{place}/__init__.py"} & set(declared)
                    if name.split(".")[0] == "tower" or (name.split(".")[0] == "pipeline" and not there):
                        faults.append(f"{relative(declaration, checkout)}: {source} imports {name}, which is not there")
    complain(faults)


def test_apk_format_stands_alone(checkout: Path, texts: dict[Path, str]) -> None:
    """pipeline/apk also becomes part of stages: of the pipeline it uses itself, the reader of tars and the errors alone.

    Its command stands in the frame of all commands.
    """
    shared = ("pipeline.base.errors", "pipeline.base.record", "pipeline.base.streams", "pipeline.formats")
    complain(
        [
            f"{relative(path, checkout)}: imports {name}"
            for path, text in sources(texts, checkout / "pipeline" / "apk")
            for name in imports(text)
            if name.split(".")[0] == "pipeline" and not name.startswith(("pipeline.apk", *shared))
        ]
    )


def test_one_reader_of_tars(checkout: Path, texts: dict[Path, str]) -> None:
    """The standard one takes what is damaged for the end of the archive: with it tars are only written."""
    pipeline = checkout / "pipeline"
    faults = []
    for path, text in sources(texts, pipeline, checkout / "runtime"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tarfile.open", "tarfile.TarFile"):
                modes = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                if "w" not in modes:
                    faults.append(f"{relative(path, checkout)}:{node.lineno}: {ast.unparse(node)[:60]}")
    complain(faults)


def test_one_reader_of_json(checkout: Path, texts: dict[Path, str]) -> None:
    """The standard one raises what nobody expects where JSON is deep or odd: runtime/base/jsontext.py makes ValueErrors of it."""
    calls = re.compile(r"\bjson\.(load|loads|JSONDecoder)\((?!json\.dumps\()")
    own = checkout / "runtime" / "base" / "jsontext.py"
    complain(
        [
            f"{relative(path, checkout)}: {match.group()}"
            for path, text in sources(texts, checkout / "pipeline", checkout / "runtime")
            if path != own
            for match in calls.finditer(text)
        ]
    )


def test_no_private_keys(checkout: Path, texts: dict[Path, str]) -> None:
    complain([f"{relative(path, checkout)}: a private key" for path, text in texts.items() if _PRIVATE_KEY.search(text)])


def test_no_names_of_a_machine(checkout: Path, texts: dict[Path, str]) -> None:
    """Mirrors and registries come from the machine's settings, and no path of a machine is anyone else's."""
    home = Path.home()
    names = [*_REGISTRIES, f"{checkout}/", "/.pyenv" + "/", *([f"{home}/"] if len(home.parts) > 2 else [])]
    complain([f"{relative(path, checkout)}: names {name}" for path, text in texts.items() for name in names if name in text])


def test_no_large_files(checkout: Path, files: tuple[Path, ...]) -> None:
    complain([f"{relative(path, checkout)}: {path.stat().st_size} bytes" for path in files if path.stat().st_size > _LARGEST])


def test_no_binaries(checkout: Path, files: tuple[Path, ...], texts: dict[Path, str]) -> None:
    """What is built is not committed; pictures of the manual are the exception."""
    complain([relative(path, checkout) for path in files if path not in texts and path.suffix not in {".png", ".jpg", ".svg"}])


def test_toml_parses(checkout: Path, texts: dict[Path, str]) -> None:
    faults = []
    for path, text in texts.items():
        if path.suffix == ".toml":
            try:
                tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                faults.append(f"{relative(path, checkout)}: {error}")
    complain(faults)


def test_links_of_the_manual(checkout: Path, texts: dict[Path, str]) -> None:
    """Every relative link in a Markdown file leads to a file, or a folder, of this checkout."""
    faults = []
    for path, text in texts.items():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            place = target.partition("#")[0]
            if place and "://" not in place and not place.startswith("mailto:") and not (path.parent / place).exists():
                faults.append(f"{relative(path, checkout)}: link to {target}")
    complain(faults)


def test_requirements_are_those_of_the_project(checkout: Path) -> None:
    """ci/requirements.txt pins, by hash, all that pyproject.toml asks for, in versions that it allows."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    lines = (checkout / "ci" / "requirements.txt").read_text().replace("\\\n", " ").splitlines()
    pinned = {}
    faults = []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            pin, _, hashes = line.partition("--hash=")
            requirement = Requirement(pin.strip())
            pinned[requirement.name] = next(iter(requirement.specifier)).version
            if not hashes.startswith("sha256:"):
                faults.append(f"ci/requirements.txt: {requirement.name} has no hash")
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["factory"], *extras["test"]):
        wanted = Requirement(text)
        if wanted.name not in pinned or not wanted.specifier.contains(pinned[wanted.name]):
            faults.append(f"ci/requirements.txt: {text} is not there; renew it (its first lines say how)")
    complain(faults)


def waits(text: str) -> Iterator[tuple[int, str]]:
    """Lines where a Python source sleeps for a fixed time: Python's own sleeps, and those of shell scripts in its strings.

    A polling loop may sleep (a `while`, or a shell's loop in the same string). So may a program that stays until a test ends it:
    twenty seconds or more. A line that ends with `# sleeps: WHY` is an exception with a reason.
    """
    lines = text.splitlines()
    tree = ast.parse(text)
    loops = [(node.lineno, node.end_lineno or 0) for node in ast.walk(tree) if isinstance(node, ast.While)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep"):
            given = node.args[0] if node.args else None
            stays = isinstance(given, ast.Constant) and isinstance(given.value, int | float) and given.value >= _STAYS
            if stays or any(first <= node.lineno <= last for first, last in loops):
                continue
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            outside = _SHELL_LOOP.sub("", node.value)
            if all(float(found) >= _STAYS for found in _SHELL_SLEEP.findall(outside)):
                continue
        else:
            continue
        covered = lines[node.lineno - 1 : node.end_lineno]
        if not any("# sleeps: " in line for line in covered):
            yield node.lineno, ast.unparse(node)[:70]


def test_no_fixed_sleeps(checkout: Path, texts: dict[Path, str]) -> None:
    """A test waits for the thing itself, not for a time that is enough on one machine and not on another."""
    complain(
        [
            f"{relative(path, checkout)}:{line}: {what}: wait for the thing itself, in a loop with a time limit"
            for path, text in sources(texts, checkout / "tests")
            for line, what in waits(text)
        ]
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("time.sleep(1)", True),
        ("for delay in (1, 2): time.sleep(delay)", True),
        ("run('echo ready; sleep " + "2; echo done')", True),
        ("time.sleep(1)  # sleeps: the kernel tells nobody", False),
        ("while not there(): time.sleep(0.1)", False),
        ("run('while [ ! -e /go ]; do sleep 0.1; done')", False),
        ("time.sleep(300)", False),
        ("run('echo ready; exec sleep 60')", False),
    ],
)
def test_fixed_sleeps_are_found(line: str, found: bool) -> None:
    assert [number for number, _ in waits(line)] == [1] * found


def undocumented(text: str) -> Iterator[tuple[int, str]]:
    """Public functions and methods of a source without a docstring, or that raise an error themselves and do not say so."""
    todo: list[ast.AST] = [ast.parse(text)]
    while todo:
        for node in ast.iter_child_nodes(todo.pop()):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                told = ast.get_docstring(node)
                if isinstance(node, ast.ClassDef):
                    todo.append(node)
                elif told is None:
                    yield node.lineno, f"{node.name} has no docstring"
                elif not re.search(r"\b[Rr]aises?\b", told) and (kinds := raised(node)):
                    yield node.lineno, f"{node.name} does not say that it raises {', '.join(sorted(kinds))}"


def raised(function: ast.FunctionDef) -> set[str]:
    """Names of the errors that a function itself raises; `raise error`, of one that it was given, does not count."""
    found = set()
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            kind = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc).rpartition(".")[2]
            found |= {kind} if kind[:1].isupper() else set()
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return found


def test_public_functions_are_documented(checkout: Path, texts: dict[Path, str]) -> None:
    """Each says what it does, and which errors it raises itself."""
    complain(
        [
            f"{relative(path, checkout)}:{line}: {what}"
            for path, text in sources(texts, *(checkout / name for name in ("pipeline", "runtime", "stages", "ci")))
            for line, what in undocumented(text)
        ]
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(): pass", ["f has no docstring"]),
        ("class A:\n '''It.'''\n def f(self): pass", ["f has no docstring"]),
        ("def f():\n '''Do it.'''\n raise errors.OddError('x')", ["f does not say that it raises OddError"]),
        ("def f():\n '''Do it. Raises OddError.'''\n raise OddError", []),
        ("def f(error):\n '''Do it.'''\n raise error", []),
        ("def f():\n '''Do it.'''\n def g(): raise OddError\n return g", []),
        ("def _f(): pass", []),
    ],
)
def test_missing_docstrings_and_errors_are_found(text: str, found: list[str]) -> None:
    assert [what for _, what in undocumented(text)] == found


def test_size_of_modules(checkout: Path, texts: dict[Path, str]) -> None:
    """Modules have about 300 lines; one that passes this limit is split."""
    complain(
        [
            f"{relative(path, checkout)} has {lines} lines, {_LONGEST_MODULE} at most: split it"
            for path, text in sources(texts, checkout / "pipeline", checkout / "runtime", checkout / "stages")
            if (lines := len(text.splitlines())) > _LONGEST_MODULE
        ]
    )


def test_services_are_executable(checkout: Path) -> None:
    """OpenRC refuses those that are not, on the device."""
    found = [*checkout.glob("overlays/*/etc/init.d/*"), *checkout.glob("pipeline/channels/lab/packages/*/root/etc/init.d/*")]
    assert found
    assert not [str(path.relative_to(checkout)) for path in found if not path.stat().st_mode & 0o100]
