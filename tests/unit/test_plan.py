# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import ConfigError
from pipeline.plan.nodes import ChannelNode, Settings, StageNode
from pipeline.plan.planner import load_plan
from tests.unit.small import CHANNEL, HOST, PACK, ROOT, make_checkout, write


def test_the_plan_of_a_recipe(tmp_path: Path) -> None:
    plan = load_plan(make_checkout(tmp_path), Settings())
    names = list(plan.nodes)
    assert set(names) == {
        "channel:repository:aarch64",
        "channel:repository:x86_64",
        "channel:keys",
        "stage:root:rpi",
        "stage:root:pc",
        "stage:pack:rpi",
        "stage:pack:pc",
    }
    for name, node in plan.nodes.items():
        for needed in node.inputs.values() if isinstance(node, StageNode) else ():
            assert names.index(needed) < names.index(name)
    assert [image.output for image in plan.images] == ["host-1.2-lab-rpi.img.zst", "host-1.2-lab-pc.img.zst"]
    assert plan.worlds == {
        "aarch64": frozenset({"busybox", "apk-tools", "firmware"}),
        "x86_64": frozenset({"busybox", "apk-tools"}),
    }
    assert plan.stage_names == ("root", "pack")
    assert [node.target for node in plan.instances("root")] == ["rpi", "pc"]


def test_options_are_merged_and_expanded(tmp_path: Path) -> None:
    plan = load_plan(make_checkout(tmp_path), Settings(compress="none"))
    root = plan.nodes["stage:root:rpi"]
    assert isinstance(root, StageNode)
    assert root.options == {"world": ("busybox", "apk-tools", "firmware"), "size": 4}
    pack = plan.nodes["stage:pack:pc"]
    assert isinstance(pack, StageNode)
    assert pack.options == {"compress": "none"}
    assert plan.images[1].output == "host-1.2-lab-pc.img"


@pytest.mark.parametrize(("channel", "said"), [("true", "yes"), ("false", "no")])
def test_a_stage_can_be_told_whether_its_channel_makes_releases(tmp_path: Path, channel: str, said: str) -> None:
    paths = make_checkout(tmp_path)
    for path, old, new in (
        ("pipeline/channels/lab.toml", "releasable = false", f"releasable = {channel}"),
        ("pipeline/recipes/host.toml", '"@compress"', '"@releasable"'),
    ):
        (tmp_path / path).write_text((tmp_path / path).read_text().replace(old, new))
    pack = load_plan(paths, Settings()).nodes["stage:pack:pc"]
    assert isinstance(pack, StageNode)
    assert pack.options == {"compress": said}


def test_a_stage_is_given_the_package_servers_of_devices(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    host = tmp_path / "pipeline/recipes/host.toml"
    host.write_text(host.read_text().replace('world = ["@world:base"', 'world = ["@repositories", "@world:base"'))
    servers = [f"https://a.test/{load_plan(paths, Settings()).channel.branch}/{name}" for name in ("main", "community")]
    write(tmp_path, {"pipeline/channels/lab.toml": f"device_repositories = {servers}\n{CHANNEL}"})
    root = load_plan(paths, Settings()).nodes["stage:root:rpi"]
    assert isinstance(root, StageNode)
    assert root.options["world"][:2] == tuple(servers)  # type: ignore[index]
    for odd in ("/media/usb", "https://a.test/v1.1/main", f"ftp{servers[0][5:]}", f"{servers[0]} x", f"{servers[0]}\n"):
        write(tmp_path, {"pipeline/channels/lab.toml": f"device_repositories = {[odd]}\n{CHANNEL}"})
        with pytest.raises(ConfigError, match="is not the address of a repository of branch"):
            load_plan(paths, Settings())


def test_a_stage_needs_only_its_input_stages_and_channel_nodes(tmp_path: Path) -> None:
    plan = load_plan(make_checkout(tmp_path), Settings())
    assert [node.name for node in plan.needs(["stage:pack:pc"])] == [
        name for name in plan.nodes if name in {"stage:pack:pc", "stage:root:pc", "channel:keys", "channel:repository:x86_64"}
    ]
    assert plan.nodes["channel:repository:x86_64"] == ChannelNode("repository", "x86_64")


def test_a_common_stage_and_another_recipe_s_target(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    write(
        tmp_path,
        {
            "stages/doc/stage.toml": 'summary="d"\ncommand=["x"]\noutputs=["d"]\n',
            "stages/iso/stage.toml": 'summary="d"\ncommand=["x"]\noutputs=["d"]\ninputs=["host","doc"]\n',
            "pipeline/recipes/common.toml": '[[stages]]\nname="doc"\n',
            "pipeline/recipes/iso.toml": 'image="iso"\nfinal="iso"\n[targets.pc]\narch="x86_64"\noutput="a.iso"\n'
            '[[stages]]\nname="iso"\ninputs={host="stage:pack@rpi", doc="stage:doc"}\n',
        },
    )
    plan = load_plan(paths, Settings())
    iso, doc = plan.nodes["stage:iso"], plan.nodes["stage:doc"]
    assert isinstance(iso, StageNode)
    assert isinstance(doc, StageNode)
    assert iso.inputs == {"doc": "stage:doc", "host": "stage:pack:rpi"}
    assert (iso.arch, doc.arch) == ("x86_64", "noarch")


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("stages/root/stage.toml", "timeout", "timeuot = 3\n", "timeuot: unknown key; do you mean 'timeout'?"),
        ("stages/root/stage.toml", 'summary = "Makes a root"', "", "stages/root/stage.toml: summary: missing"),
        ("stages/root/stage.toml", '["overlay"]', '["no/such"]', "sources: no/such: no such file or folder"),
        ("stages/root/stage.toml", '["overlay"]', '["../x"]', "'../x' must be a path inside the checkout"),
        ("stages/root/stage.toml", '["root.tar"]', "[]", "outputs: must not be empty"),
        ("stages/root/stage.toml", "[options.size]", "[options.arch]", "options.arch: every stage is given this option"),
        ("stages/root/stage.toml", "default = 4", 'default = "x"', "options.size.default: must be integer, not 'x'"),
        ("stages/pack/stage.toml", '["signing-key"]', '["pasword"]', "'pasword' is unknown; known: signing-key"),
        ("stages/pack/stage.toml", "secrets =", "locked = true\nsecrets =", "it needs an architecture and a world"),
        ("pipeline/recipes/host.toml", 'name = "pack"', 'name = "root"', "two stages are called 'root'"),
        ("pipeline/recipes/host.toml", 'name = "pack"', 'name = "pakc"', "there is no stage stages/pakc"),
        ("pipeline/recipes/host.toml", 'final = "pack"', 'final = "x"', "final: no stage of this recipe is called 'x'"),
        ("pipeline/recipes/host.toml", '"stage:root"', '"stage:rot"', "no stage is called 'rot'"),
        ("pipeline/recipes/host.toml", '"stage:root"', '"rot"', "'rot' is none of stage:<name>"),
        ("pipeline/recipes/host.toml", '"stage:root"', '"stage:root@mac"', "say for which target: stage:root@rpi, stage:root@pc"),
        (
            "pipeline/recipes/host.toml",
            "inputs = { repository",
            "inputs = { repo",
            "inputs.repository: missing: stages/root needs it",
        ),
        ("pipeline/recipes/host.toml", "inputs = { repository", "inputs = { repo", "inputs.repo: stages/root has no such input"),
        (
            "pipeline/recipes/host.toml",
            'options = { world = ["@world:base"] }',
            "",
            "options.world: missing: stages/root asks for it",
        ),
        ("pipeline/recipes/host.toml", "@world:pi", "@world:pie", "there is no world 'pie'"),
        ("pipeline/recipes/host.toml", 'pi = ["f', 'unused = []\npi = ["f', "worlds.unused: no stage uses this world"),
        ("pipeline/recipes/host.toml", 'world = ["@world:base"] }', 'world = "x" }', "must be a list of strings, not 'x'"),
        ("pipeline/recipes/host.toml", "compress = ", "compres = ", "stages/pack has no such option; it has: compress"),
        (
            "pipeline/recipes/host.toml",
            "target_options.rpi",
            "target_options.mac",
            "target_options.mac: the recipe has no such target",
        ),
        ("pipeline/recipes/host.toml", '"aarch64"', '"mips"', "architecture 'mips' is not one of channel lab"),
        ("pipeline/recipes/host.toml", "{suffix}", "{date}", "unknown field {date}"),
        ("pipeline/recipes/host.toml", 'image = "host"', 'image = "hots"', "image: must be 'host', the name of the file"),
        ("pipeline/channels/lab.toml", "epoch = 1000", "", "pipeline/channels/lab.toml: epoch: missing"),
        ("pipeline/channels/lab.toml", "epoch", "epcoh", "epcoh: unknown key; do you mean 'epoch'?"),
    ],
)
def test_mistakes_are_found_at_load(tmp_path: Path, path: str, old: str, new: str, message: str) -> None:
    paths = make_checkout(tmp_path)
    text = (tmp_path / path).read_text()
    (tmp_path / path).write_text(text.replace(old, new) if old in text else new + text)
    with pytest.raises(ConfigError) as caught:
        load_plan(paths, Settings())
    assert message in caught.value.message


def test_mistakes_of_several_files_come_together(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    write(
        tmp_path,
        {
            "stages/root/stage.toml": ROOT.replace("inputs", "imputs"),
            "stages/pack/stage.toml": PACK.replace("summary", "sumary"),
            "pipeline/channels/lab.toml": CHANNEL.replace("false", "0"),
            "pipeline/recipes/host.toml": HOST.replace("per_target", "pre_target"),
        },
    )
    with pytest.raises(ConfigError) as caught:
        load_plan(paths, Settings())
    for words in ("imputs", "sumary", "releasable", "pre_target"):
        assert words in caught.value.message


def test_a_cycle(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    write(
        tmp_path,
        {
            "stages/a/stage.toml": 'summary="a"\ncommand=["x"]\noutputs=["d"]\ninputs=["i"]\n',
            "pipeline/recipes/common.toml": "".join(
                f'[[stages]]\nname="{name}"\nuse="a"\ninputs={{i="stage:{other}"}}\n'
                for name, other in (("a", "b"), ("b", "c"), ("c", "a"))
            ),
        },
    )
    with pytest.raises(ConfigError, match="in a ring: stage:a -> stage:b -> stage:c -> stage:a"):
        load_plan(paths, Settings())


def test_a_stage_that_needs_itself(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    write(tmp_path, {"pipeline/recipes/host.toml": HOST.replace("stage:root", "stage:pack")})
    with pytest.raises(ConfigError, match="stage:pack:rpi -> stage:pack:rpi"):
        load_plan(paths, Settings())


def test_two_recipes_with_one_name(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    other = HOST.replace('image = "host"', 'image = "other"')
    write(tmp_path, {"pipeline/recipes/other.toml": other})
    with pytest.raises(ConfigError, match=r"the name 'root' is taken by pipeline/recipes/host\.toml"):
        load_plan(paths, Settings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [(Settings(channel="x"), "channel=x: there is no such channel"), (Settings(compress="rar"), "compress=rar: unknown")],
)
def test_settings_that_do_not_exist(tmp_path: Path, settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_plan(make_checkout(tmp_path), settings)


def test_a_single_stage_may_not_ask_for_every_architecture_s_repository(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    common = '[[stages]]\nname="r"\nuse="root"\noptions={world=[]}\ninputs={repository="channel:repository"}\n'
    write(tmp_path, {"pipeline/recipes/common.toml": common})
    with pytest.raises(ConfigError, match="one for each architecture"):
        load_plan(paths, Settings())


def test_engines_of_architectures(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    channel = f'{CHANNEL}native_builders = ["aarch64"]\n[engines]\naarch64 = "box"\nx86_64 = "pc"\n'
    write(tmp_path, {"pipeline/channels/lab.toml": channel})
    plan = load_plan(paths, Settings(engines={"x86_64": "", "aarch64": "tcp://far:2376"}))
    assert [plan.engine_of(arch) for arch in ("x86_64", "aarch64", "noarch")] == ["", "tcp://far:2376", ""]
    assert [plan.builder_arch(arch) for arch in ("x86_64", "aarch64", "noarch")] == ["x86_64", "aarch64", "x86_64"]
    assert load_plan(paths, Settings()).engine_of("aarch64") == "box"
    assert plan.settings.words == ("channel=lab", "compress=zstd", "engine.aarch64=tcp://far:2376", "engine.x86_64=")
    # Without an engine for it, the usual builder does all.
    assert load_plan(paths, Settings(engines={"aarch64": ""})).builder_arch("aarch64") == "x86_64"
    write(
        tmp_path, {"pipeline/channels/lab.toml": channel.replace("aarch64 =", "armv7 =").replace('["aarch64"]', '["riscv"]', 1)}
    )
    with pytest.raises(ConfigError) as caught:
        load_plan(paths, Settings())
    for key, arch in (("engines", "armv7"), ("native_builders", "riscv")):
        assert f"pipeline/channels/lab.toml: {key}: '{arch}' is not one of the architectures" in caught.value.message
