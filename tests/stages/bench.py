# SPDX-License-Identifier: Apache-2.0
"""Runs the real script of a stage, in the real sandbox and builder, on inputs that a test gives."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.base.errors import StageError
from pipeline.config.stage import LIBRARY, OptionValue, StageSpec, load_stage
from pipeline.config.toml import Problems
from pipeline.plan.keys import environment_of, plain
from pipeline.sandbox.engine import Engine
from pipeline.sandbox.spec import Sandbox
from pipeline.sandbox.stage_run import run_stage
from pipeline.sandbox.transfer import Input
from tests.stages.listing import listing

EPOCH = 1_700_000_000
VERSION = "1.2.3"
BRANCH = "v9.9"
KEY = "tests-1.rsa.pub"
GOLDEN = Path(__file__).parent / "golden"
RENEW = "--renew-golden"

Source = Path | Mapping[str, bytes]


@dataclass(frozen=True)
class Bench:
    """The builder, the channel's scripts of aports, and a signing key of the tests' own."""

    checkout: Path
    engine: Engine
    image: str
    aports: Path
    keys: Path
    """A folder: the private key without `.pub`, the public one with it."""
    renew: bool

    def spec(self, stage: str) -> StageSpec:
        """What stage.toml says."""
        problems = Problems()
        found = load_stage(self.checkout / "stages" / stage, problems)
        problems.check(f"stages/{stage}")
        return found

    def run(
        self,
        stage: str,
        output: Path,
        *,
        inputs: Mapping[str, Source] | None = None,
        sources: Mapping[str, Source] | None = None,
        options: Mapping[str, OptionValue] | None = None,
        locked: tuple[str, ...] = (),
        arch: str = "x86_64",
        target: str = "pc",
    ) -> str:
        """Run a stage's script; what it left lies in the folder `output`, which is made. What it said.

        `sources` take the place of those of the checkout; `locked` is the lock's choice. Raises StageError, as a build does.
        """
        spec = self.spec(stage)
        base: dict[str, OptionValue] = {
            "arch": arch, "branch": BRANCH, "channel": "lab", "epoch": EPOCH, "target": target, "version": VERSION,
        }  # fmt: skip
        if spec.secrets:
            base["signing_key_name"] = KEY
        if spec.locked:
            base["locked"] = locked
        given = dict(options or {})
        assert given.keys() <= spec.options.keys(), f"stage {stage} has no such option"
        chosen = {**base, **{name: option.default for name, option in spec.options.items() if not option.required}, **given}
        rows = {name: plain(value) for name, value in chosen.items()}
        places: dict[str, Source] = {
            "/stage-options": {"options.json": json.dumps(rows, sort_keys=True, indent=1).encode()},
            "/stage": spec.folder,
            "/stagelib": self.checkout / "stages" / LIBRARY,
            **{f"/src/{source}": self.checkout / source for source in spec.sources},
            **{f"/src/{source}": tree for source, tree in (sources or {}).items()},
            **{f"/in/{name}": tree for name, tree in (inputs or {}).items()},
        }
        private = (self.keys / KEY.removesuffix(".pub")).read_bytes()
        return self._sandbox(
            spec.command,
            output,
            places,
            environment_of(chosen),
            spec.outputs,
            spec.capabilities,
            dict.fromkeys(spec.secrets, private),
        )

    def make(self, output: Path, *argv: str, inputs: Mapping[str, Source] | None = None) -> str:
        """Run a program of the builder, to make material for a test; it writes to /out."""
        return self._sandbox(argv, output, {f"/in/{name}": tree for name, tree in (inputs or {}).items()}, {}, None, (), {})

    def _sandbox(
        self,
        argv: tuple[str, ...],
        output: Path,
        places: Mapping[str, Source],
        env: Mapping[str, str],
        outputs: tuple[str, ...] | None,
        capabilities: tuple[str, ...],
        secrets: Mapping[str, bytes],
    ) -> str:
        if output.exists():
            shutil.rmtree(output)
        output.mkdir(parents=True)
        sandbox = Sandbox(
            name="stage", image=self.image, argv=argv, epoch=EPOCH, env=env, capabilities=capabilities, secrets=secrets,
            inputs=tuple(Input(target, source) for target, source in places.items()), timeout=120,
        )  # fmt: skip
        log = io.BytesIO()
        run_stage(self.engine, sandbox, outputs=output, declared=outputs, log=log)
        return log.getvalue().decode(errors="replace")

    def compare(self, name: str, output: Path) -> None:
        """Fail unless the tree of `output` is the one that golden/<name>.txt has; with --renew-golden write it there."""
        found = "".join(f"{line}\n" for line in listing(output))
        file = GOLDEN / f"{name}.txt"
        if self.renew:
            file.write_text(found)
        assert file.is_file(), f"there is no {file.name}: ./ci/doit test tests/stages {RENEW}"
        assert found.splitlines() == file.read_text().splitlines(), f"renew it: ./ci/doit test tests/stages {RENEW}"

    def refused(self, stage: str, output: Path, *words: str, **given: object) -> None:
        """Run a stage that must fail: with an exit status of its script, and an error that has all the words."""
        with pytest.raises(StageError) as caught:
            self.run(stage, output, **given)  # type: ignore[arg-type]
        said = str(caught.value)
        assert re.search(r"exit status [1-9]", said), said
        missing = [word for word in words if word not in said]
        assert not missing, f"{missing} not said: {said}"
        assert "Traceback" not in said, said
