# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.base.errors import StageError
from pipeline.base.paths import Paths
from pipeline.build.factory import Factory
from pipeline.cli import inputs
from pipeline.images import manifest, publish
from pipeline.plan.nodes import Image
from tests.unit.small import Driver, make_checkout, make_factory, put, write

PACKAGES = json.dumps([{"name": name, "version": "1", "arch": "x", "checksum": f"Q1{name}"} for name in ("b", "a")])
NAME = "host-1.2-lab-pc.img.zst"
OUTPUTS = {"image.img.zst": "packed", "image.bmap": "<bmap/>", "packages.json": PACKAGES}


def opened(paths: Paths, outputs: dict[str, str] | None = None) -> Factory:
    """A factory in which the image for the PC is built."""
    factory = make_factory(paths, Driver())
    for name in ("channel:repository:x86_64", "channel:keys"):
        factory.need_by_name(name)
    put(factory, "stage:root:pc", {"root.tar": "root"})
    put(factory, "stage:pack:pc", outputs or OUTPUTS)
    return factory


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    return opened(make_checkout(tmp_path))


def image_of(factory: Factory) -> Image:
    (image,) = (image for image in factory.plan.images if image.target == "pc")
    return image


def is_published(factory: Factory) -> bool:
    return inputs.find_published(factory, image_of(factory)) is not None


def listing(folder: Path) -> list[str]:
    """What is in a folder of finished images, but for the note."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".published"))


def test_image_and_all_beside_it(factory: Factory) -> None:
    assert not is_published(factory)
    place = inputs.publish_image(factory, image_of(factory))
    dist = factory.paths.checkout / "dist"
    assert place == dist / NAME
    assert place.read_text() == "packed"
    assert (dist / f"{NAME}.bmap").read_text() == "<bmap/>"
    for line in (dist / f"{NAME}.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest
    assert listing(dist) == [".keep", *(f"{NAME}{end}" for end in sorted(publish.ENDINGS))]
    assert is_published(factory)
    assert is_published(opened(factory.paths))


def test_the_remains_of_killed_builds_are_removed(factory: Factory) -> None:
    dist = factory.paths.checkout / "dist"
    write(dist, {f".{NAME}.new/{NAME}": "half", f".{NAME}.lock": "", ".another.img.new/another.img": "half"})
    inputs.publish_image(factory, image_of(factory))
    assert [name for name in listing(dist) if name.startswith(".")] == [".another.img.new", ".keep"]
    write(dist, {f".{NAME}.new/{NAME}": "half"})
    publish.withdraw(inputs.destination(factory), image_of(factory))
    assert sorted(path.name for path in dist.iterdir()) == [".another.img.new", ".keep"]


def test_the_manifest(factory: Factory) -> None:
    inputs.publish_image(factory, image_of(factory))
    text = (factory.paths.checkout / "dist" / f"{NAME}.manifest.json").read_text()
    found = json.loads(text)
    sums = {name: hashlib.sha256(f"{name} for x86_64".encode()).hexdigest() for name in ("a", "b")}
    assert found["packages"] == [
        {"name": name, "version": "1", "arch": "x", "checksum": f"Q1{name}", "sha256": sums[name], "origin": "alpine edge"}
        for name in ("a", "b")
    ]
    assert found["files"][NAME] == {"sha256": hashlib.sha256(b"packed").hexdigest(), "size": 6}
    assert set(found["stages"]) == {"stage:root:pc", "stage:pack:pc"}
    assert set(found["channel_parts"]) == {"channel:keys", "channel:repository:x86_64"}
    assert (found["version"], found["target"], found["channel"]["name"]) == ("1.2", "pc", "lab")
    assert str(factory.paths.checkout) not in text


def test_equal_manifests_of_two_checkouts(factory: Factory, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = opened(make_checkout(tmp_path_factory.mktemp("elsewhere")))
    texts = []
    for one in (factory, other):
        inputs.publish_image(one, image_of(one))
        texts.append((one.paths.checkout / "dist" / f"{NAME}.manifest.json").read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("ending", publish.ENDINGS)
@pytest.mark.parametrize("gone", [True, False])
def test_an_edited_or_removed_file_is_written_again(factory: Factory, ending: str, gone: bool) -> None:
    image = image_of(factory)
    inputs.publish_image(factory, image)
    path = factory.paths.checkout / "dist" / f"{NAME}{ending}"
    before = path.read_bytes()
    if gone:
        path.unlink()
    else:
        path.write_bytes(before.swapcase())
    assert not is_published(factory)
    inputs.publish_image(factory, image)
    assert path.read_bytes() == before
    assert is_published(factory)
    artifact = factory.find(factory.plan.nodes[image.final])
    assert artifact is not None
    assert artifact.file("image.img.zst").read_text() == "packed"


def test_a_file_that_was_only_touched_stays(factory: Factory) -> None:
    inputs.publish_image(factory, image_of(factory))
    (factory.paths.checkout / "dist" / NAME).touch()
    assert is_published(factory)


def test_new_keys_behind_the_same_image_renew_the_manifest(factory: Factory) -> None:
    inputs.publish_image(factory, image_of(factory))
    write(factory.paths.checkout, {"stages/root/run.sh": "true # comment\n"})
    later = opened(factory.paths)
    assert not is_published(later)
    before = (factory.paths.checkout / "dist" / f"{NAME}.manifest.json").read_text()
    inputs.publish_image(later, image_of(later))
    assert (factory.paths.checkout / "dist" / f"{NAME}.manifest.json").read_text() != before


def test_a_manifest_of_another_form_is_written_anew(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of images that were published before their manifests named origins."""
    image = image_of(factory)
    with monkeypatch.context() as before:
        before.setattr(manifest, "SCHEMA", 1)
        inputs.publish_image(factory, image)
        assert is_published(factory)
    assert not is_published(factory)


def test_a_stage_without_block_map_gets_one(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    text = (tmp_path / "stages/pack/stage.toml").read_text()
    write(tmp_path, {"stages/pack/stage.toml": text.replace('"image.bmap", ', "")})
    factory = opened(paths, {"image.img": "x" * 5000, "packages.json": PACKAGES})
    inputs.publish_image(factory, image_of(factory))
    assert b"<ImageSize> 5000 </ImageSize>" in (tmp_path / "dist" / f"{NAME}.bmap").read_bytes()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"image.img": "", "image.img.zst": "", "image.bmap": "", "packages.json": "[]"}, "and not one image"),
        ({"image.img.zst": "", "image.bmap": ""}, "no stage of recipe host lists its packages"),
        ({"image.img.zst": "", "image.bmap": "", "packages.json": "{"}, "is not a list of objects"),
        ({"image.img.zst": "", "image.bmap": "", "packages.json": '[{"name": "a"}]'}, "is not a list of objects"),
        ({**OUTPUTS, "packages.json": PACKAGES.replace('"1"', '"2"')}, "lists b-2.apk, but no repository has it"),
        ({**OUTPUTS, "x86_64/a-1.apk": "x"}, "lists a-1.apk, but two of its repositories have it"),
    ],
)
def test_last_stages_that_made_something_else(tmp_path: Path, outputs: dict[str, str], message: str) -> None:
    factory = opened(make_checkout(tmp_path), outputs)
    with pytest.raises(StageError, match=message):
        inputs.publish_image(factory, image_of(factory))
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [".keep"]


def test_images_go_to_dist_builds_or_the_cache_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = Paths(tmp_path / "checkout")
    (paths.checkout / "build").mkdir(parents=True)
    assert publish.dist_folder(paths) == tmp_path / "cache/tower/builds"
    (paths.checkout / "builds").mkdir()
    assert publish.dist_folder(paths) == paths.checkout / "builds"
    (paths.checkout / "dist").mkdir()
    assert publish.dist_folder(paths) == paths.checkout / "dist"


def test_withdrawing(factory: Factory) -> None:
    inputs.publish_image(factory, image_of(factory))
    publish.withdraw(inputs.destination(factory), image_of(factory))
    assert [path.name for path in (factory.paths.checkout / "dist").iterdir()] == [".keep"]
    assert not is_published(factory)
