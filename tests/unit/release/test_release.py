# SPDX-License-Identifier: Apache-2.0
"""What may become a release, what it holds, and every way in which one must fail its inspection."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tower.cli import main
from tower.image.minisign import SignatureError
from tower.image.verify import comment_of, dump_sums, parse_sums, sha256_of

from pipeline.base.canonical import digest_file
from pipeline.base.errors import BootError, ConfigError, ReleaseError, VerifyError
from pipeline.build.factory import Factory
from pipeline.cli import commands as factory_commands
from pipeline.cli import inputs
from pipeline.cli import releases as commands
from pipeline.cli.inputs import release_input
from pipeline.images import boot_record, publish
from pipeline.images.boot import BootResult
from pipeline.plan.nodes import Settings
from pipeline.release import folder as folder_module
from pipeline.release.attest import attest, own_statement
from pipeline.release.checks import check_rebuild, check_release
from pipeline.release.folder import folder_of, write_release
from pipeline.release.inspection import inspect_release
from pipeline.store.artifact import PULLED
from pipeline.supply.minisign import SecretKey
from tests.unit.release.keys import boot_all, git, opened, released

KEY = SecretKey.generate()
REBUILDERS = [SecretKey.generate() for _ in range(3)]
IMAGE = "host-1.2-stable-pc.img"
OTHER = "host-1.2-stable-rpi.img"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return opened(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def original(built: Factory) -> Path:
    return released(built, KEY)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A release that the test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "release"))


def inspect(folder: Path, *keys: SecretKey, need: int = 0) -> Any:
    rebuilders = [key.public_key for key in REBUILDERS]
    return inspect_release(folder, [key.public_key for key in keys or (KEY,)], rebuilders, need)


def sign_again(folder: Path, key: SecretKey = KEY) -> None:
    """Make sums and signatures fit what the folder now holds: what only the owner of the key could do."""
    names = [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("SHA256SUMS")]
    (folder / "SHA256SUMS").write_bytes(dump_sums({n: sha256_of(folder / n) for n in names if not n.endswith(".minisig")}))
    for name in (IMAGE, OTHER, "rebuild.json", "SHA256SUMS"):
        signed = key.sign_bytes((folder / name).read_bytes(), comment_of(name, "1.2", "stable"))
        (folder / f"{name}.minisig").write_bytes(signed)


# --- refusals -------------------------------------------------------------------------------------------------


def reasons(factory: Factory, version: str = "1.2") -> str:
    with pytest.raises(ReleaseError) as caught:
        check_release(release_input(factory), version)
    assert caught.value.exit_status == 18
    return caught.value.message


def test_lab_is_never_released(tmp_path: Path) -> None:
    factory = opened(tmp_path, Settings(channel="lab", compress="none"))
    boot_all(factory)
    assert reasons(factory) == "release 1.2: refused for a reason\n  channel lab: its images may not be released"


def test_every_reason_at_once(tmp_path: Path) -> None:
    factory = opened(tmp_path)
    (tmp_path / "overlay/etc/motd").write_text("changed\n")
    (tmp_path / "new").write_text("")
    publish.withdraw(inputs.destination(factory), factory.plan.images[0])
    said = reasons(factory, "1.3")
    assert "for 4 reasons" in said
    assert "version=1.3: pyproject.toml says 1.2" in said
    assert "checkout: differs from its commit in new, overlay/etc/motd" in said
    assert f"{OTHER}: is not built from the present checkout; run: ./ci/doit host" in said
    assert "pc.img: was not booted yet" in said or "pc.img: is not built" in said


def test_boot_tests(built: Factory, original: Path) -> None:
    boot_all(built, passed=False)
    assert reasons(built).count("did not come up in its last boot test; run: ./ci/doit boot:host-") == 2
    path = boot_record.record_path(built.paths, digest_file(original / IMAGE))
    other = boot_record.record_path(built.paths, digest_file(original / OTHER))
    other.write_text(other.read_text().replace("host-rpi", "host-pc").replace("false", "true"))
    for damaged in (b"damaged", other.read_bytes()):
        path.write_bytes(damaged)
        assert f"{IMAGE}: was not booted yet; run: ./ci/doit boot:host-pc" in reasons(built)
    boot_all(built)
    check_release(release_input(built), "1.2")


def test_an_image_that_was_edited(tmp_path: Path) -> None:
    factory = opened(tmp_path)
    boot_all(factory)
    path = publish.dist_folder(factory.paths) / IMAGE
    path.write_bytes(path.read_bytes().replace(b"end", b"END"))
    assert f"{IMAGE}: is not built from the present checkout" in reasons(factory)


@pytest.mark.parametrize("ending", ["", ".bmap", ".manifest.json"])
def test_a_file_that_is_replaced_after_the_check(tmp_path: Path, ending: str) -> None:
    """Another build may publish while a release is made: what was not checked is not released."""
    factory = opened(tmp_path)
    boot_all(factory)
    ready = check_release(release_input(factory), "1.2")
    path = publish.dist_folder(factory.paths) / f"{IMAGE}{ending}"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ReleaseError, match="was replaced while the release was made"):
        write_release(factory.paths, ready, KEY)
    assert not [name for name in path.parent.iterdir() if name.is_dir()]


def test_two_releases_of_a_version_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one was quicker: what it made stays, and nothing of ours is left."""
    factory = opened(tmp_path)
    boot_all(factory)
    ready, fill = check_release(release_input(factory), "1.2"), folder_module._fill

    def slower(work: Path, *rest: Any) -> None:
        fill(work, *rest)
        folder_of(factory.paths, factory.plan.channel.name, "1.2").mkdir()
        (folder_of(factory.paths, factory.plan.channel.name, "1.2") / "theirs").touch()

    monkeypatch.setattr(folder_module, "_fill", slower)
    with pytest.raises(ReleaseError, match="was made by another process meanwhile"):
        write_release(factory.paths, ready, KEY)
    assert [path.name for path in folder_of(factory.paths, factory.plan.channel.name, "1.2").iterdir()] == ["theirs"]
    assert not list(folder_of(factory.paths, factory.plan.channel.name, "1.2").parent.glob(".toweros-*"))


def test_an_artifact_pulled_from_a_cache_is_not_released(tmp_path: Path) -> None:
    """Who releases or attests says that it was built here."""
    factory = opened(tmp_path)
    boot_all(factory)
    artifact = factory.find(factory.plan.nodes["stage:root:pc"])
    assert artifact is not None
    (artifact.path.parent / PULLED).write_text("registry.example/cache 0123456789ABCDEF")
    said = r"stage:root:pc: was pulled from registry\.example/cache, not built here"
    with pytest.raises(ReleaseError, match=said):
        check_release(release_input(factory), "1.2")
    with pytest.raises(ReleaseError, match=said):
        check_rebuild(release_input(factory))


def test_without_git(tmp_path: Path) -> None:
    factory = opened(tmp_path)
    boot_all(factory)
    (tmp_path / ".git").rename(tmp_path / "dist" / "git")
    assert "checkout: git cannot tell its state" in reasons(factory)


def test_a_release_is_written_once(built: Factory, original: Path) -> None:
    boot_all(built)
    before = sorted(path.name for path in original.parent.iterdir())
    with pytest.raises(ReleaseError, match="exists already"):
        write_release(built.paths, check_release(release_input(built), "1.2"), KEY)
    assert sorted(path.name for path in original.parent.iterdir()) == before


def test_record_of_boots(tmp_path: Path) -> None:
    factory = opened(tmp_path)
    path = publish.dist_folder(factory.paths) / IMAGE
    digest = digest_file(path)
    with pytest.raises(BootError), boot_record.recorded(factory.paths, "host-pc", path):
        raise BootError("no login prompt")
    assert boot_record.read(factory.paths, digest) == {"host-pc": False}
    with pytest.raises(KeyboardInterrupt), boot_record.recorded(factory.paths, "host-pc", path):
        raise KeyboardInterrupt
    with boot_record.recorded(factory.paths, "host-pc", path):
        pass
    assert boot_record.read(factory.paths, digest) == {"host-pc": True}
    with boot_record.recorded(factory.paths, "again", path):
        path.write_text("changed meanwhile")
    assert boot_record.read(factory.paths, digest) == {"host-pc": True}


def test_boots_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the task of the boot test itself."""
    factory = opened(tmp_path)
    made = {row["basename"]: row for row in factory_commands.boot_tasks(factory)}
    assert set(made) == {"boot:host-pc", "boot:host-rpi"}
    monkeypatch.setattr("pipeline.images.boot.main_task", lambda name, path: BootResult(name, 1.0, None, path))
    for row in made.values():
        assert row["actions"][0]() is None
    check_release(release_input(factory), "1.2")


# --- what it holds --------------------------------------------------------------------------------------------


def test_release(original: Path) -> None:
    names = {path.name for path in original.iterdir()}
    each = ("", ".bmap", ".cdx.json", ".manifest.json", ".minisig", ".provenance.json")
    assert names == {f"{name}{ending}" for name in (IMAGE, OTHER) for ending in each} | {
        "SHA256SUMS", "SHA256SUMS.minisig", "rebuild.json", "rebuild.json.minisig"
    }  # fmt: skip
    assert original.name == "toweros-1.2-stable"
    found = inspect(original)
    assert (found.version, found.channel, found.images) == ("1.2", "stable", (IMAGE, OTHER))
    assert found.signer == KEY.public_key


def test_documents(original: Path, built: Factory) -> None:
    sbom = json.loads((original / f"{IMAGE}.cdx.json").read_bytes())
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    assert [row["purl"] for row in sbom["components"]] == ["pkg:apk/alpine/a@1?arch=x", "pkg:apk/alpine/b@1?arch=x"]
    assert {one["name"]: one["value"] for one in sbom["components"][0]["properties"]} == {
        "tower:apk:checksum": "Q1a",
        "tower:origin": "alpine edge",
    }
    assert sbom["metadata"]["timestamp"] == "1970-01-01T00:16:40+00:00"
    statement = json.loads((original / f"{IMAGE}.provenance.json").read_bytes())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    build = statement["predicate"]["buildDefinition"]
    assert build["internalParameters"]["lock"] == built.lock().digest
    assert build["resolvedDependencies"][1]["digest"] == {"sha256": "a" * 64}
    assert statement["predicate"]["runDetails"]["builder"]["id"].endswith(built.keys.builder())


def test_nothing_but_signatures_depends_on_the_key(original: Path, tmp_path: Path) -> None:
    """Another checkout at another place with another key: all other bytes are the same."""
    factory = opened(tmp_path)
    git(tmp_path, "commit", "-q", "--amend", "-m", "same", "--date=@1000")
    theirs = released(factory, SecretKey.generate())
    for path in original.iterdir():
        if path.suffix != ".minisig" and path.name not in {"SHA256SUMS", "rebuild.json"} and ".provenance." not in path.name:
            assert (theirs / path.name).read_bytes() == path.read_bytes(), path.name
    mine, other = (json.loads((place / "rebuild.json").read_bytes()) for place in (original, theirs))
    assert mine["subject"] == other["subject"]


def test_with_other_peoples_programs(original: Path, tmp_path: Path) -> None:
    """Who has only minisign and sha256sum can check a release too."""
    minisign = shutil.which("minisign")
    if minisign is None:
        pytest.skip("minisign is not installed")
    for name in ("SHA256SUMS", "rebuild.json", IMAGE):
        argv: list[str | Path] = [minisign, "-V", "-Q", "-m", original / name, "-P", KEY.public_key.text]
        assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout == f"{comment_of(name, '1.2', 'stable')}\n"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=original, check=True)


# --- tampering ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SHA256SUMS", "SHA256SUMS.minisig", f"{IMAGE}.minisig", "rebuild.json.minisig"])
def test_every_bit_of_sums_and_signatures(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(VerifyError):
            inspect(folder)


def test_every_file(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for changed in (b"", data[:-1], data + b"\n", data[:20] + bytes([data[20] ^ 1]) + data[21:]):
            path.write_bytes(changed)
            with pytest.raises(VerifyError):
                inspect(folder)
        path.unlink()
        with pytest.raises(VerifyError, match=r"is missing|No such file"):
            inspect(folder)
        path.write_bytes(data)
    inspect(folder)


def test_wrong_key(folder: Path) -> None:
    with pytest.raises(VerifyError, match="which is not trusted"):
        inspect(folder, SecretKey.generate())


def test_signed_by_two_keys(folder: Path) -> None:
    """All signatures are of the one who signed the sums, even if more keys are trusted."""
    other = SecretKey.generate()
    signed = other.sign_bytes((folder / IMAGE).read_bytes(), comment_of(IMAGE, "1.2", "stable"))
    (folder / f"{IMAGE}.minisig").write_bytes(signed)
    with pytest.raises(VerifyError, match="which is not trusted"):
        inspect(folder, KEY, other)


def unsigned_file(folder: Path) -> None:
    (folder / "README").write_text("run me")


def a_folder(folder: Path) -> None:
    (folder / "more").mkdir()


def a_link(folder: Path) -> None:
    (folder / IMAGE).rename(folder.parent / "elsewhere")
    (folder / IMAGE).symlink_to(folder.parent / "elsewhere")


def images_exchanged(folder: Path) -> None:
    for ending in ("", ".minisig"):
        (folder / f"{IMAGE}{ending}").rename(folder / "x")
        (folder / f"{OTHER}{ending}").rename(folder / f"{IMAGE}{ending}")
        (folder / "x").rename(folder / f"{OTHER}{ending}")


def sums_of_another_file(folder: Path) -> None:
    data = (folder / "SHA256SUMS").read_bytes()
    (folder / "SHA256SUMS.minisig").write_bytes(KEY.sign_bytes(data, comment_of("other", "1.2", "stable")))


def image_of_another_version(folder: Path) -> None:
    data = (folder / IMAGE).read_bytes()
    (folder / f"{IMAGE}.minisig").write_bytes(KEY.sign_bytes(data, comment_of(IMAGE, "1.1", "stable")))


def a_comment_of_nothing(folder: Path) -> None:
    data = (folder / "SHA256SUMS").read_bytes()
    (folder / "SHA256SUMS.minisig").write_bytes(KEY.sign_bytes(data, "timestamp:1\tfile:SHA256SUMS"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (unsigned_file, "README: is not in SHA256SUMS: nobody signed it"),
        (a_folder, "more: is not in SHA256SUMS"),
        (a_link, "is not a plain file"),
        (images_exchanged, "sha256 .*, expected"),
        (sums_of_another_file, "its signature is for a file with another name: other"),
        (image_of_another_version, "which is not this release"),
        (a_comment_of_nothing, "is not that of a file of a release"),
    ],
)
def test_spoiled(folder: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(folder)
    with pytest.raises(VerifyError, match=said):
        inspect(folder)


def edited(path: Path, edit: Callable[[Any], object]) -> None:
    data = json.loads(path.read_bytes())
    edit(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        (f"{IMAGE}.manifest.json", lambda d: d.update(version="1.1"), "version in its manifest: 1.1, expected 1.2"),
        (f"{IMAGE}.manifest.json", lambda d: d["channel"].update(releasable=False), "releasable in its manifest"),
        (f"{IMAGE}.manifest.json", lambda d: d["files"][IMAGE].update(sha256="0" * 64), "files in its manifest"),
        (f"{IMAGE}.manifest.json", lambda d: d["packages"].pop(), "packages in its SBOM"),
        (f"{IMAGE}.manifest.json", lambda d: d.pop("packages"), "lacks 'packages'"),
        (f"{IMAGE}.manifest.json", lambda d: d.update(builder="0" * 64), "builder in its provenance"),
        (f"{IMAGE}.manifest.json", lambda d: d["packages"][0].update(sha256="0" * 64), "packages in its SBOM"),
        (f"{IMAGE}.manifest.json", lambda d: d["packages"][0].update(origin="ours"), "packages in its SBOM"),
        (f"{IMAGE}.manifest.json", lambda d: d["packages"][0].pop("origin"), "lacks 'origin'"),
        (f"{IMAGE}.cdx.json", lambda d: d["components"].pop(), "packages in its SBOM"),
        (f"{IMAGE}.cdx.json", lambda d: d["components"][0]["hashes"].pop(), "lacks list index out of range"),
        (f"{IMAGE}.cdx.json", lambda d: d.update(metadata=[]), "lacks"),
        (f"{IMAGE}.provenance.json", lambda d: d["subject"].pop(), "subjects of its provenance"),
        (
            f"{IMAGE}.provenance.json",
            lambda d: d["predicate"]["buildDefinition"]["internalParameters"]["stages"].popitem(),
            "stage keys in its provenance",
        ),
        ("rebuild.json", lambda d: d["subject"][0]["digest"].update(sha256="0" * 64), "canonical digest"),
        ("rebuild.json", lambda d: d["subject"].pop(), "is not about this release"),
        ("rebuild.json", lambda d: d["predicate"].update(commit="0" * 40), "commit in its provenance"),
    ],
)
def test_documents_that_disagree(folder: Path, name: str, edit: Callable[[Any], object], said: str) -> None:
    """Even with the right key on everything."""
    edited(folder / name, edit)
    sign_again(folder)
    with pytest.raises(VerifyError, match=said):
        inspect(folder)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"x", b"0" * 64 + b"  a", b"0" * 64 + b" a\n", b"0" * 63 + b"  a\n", b"A" * 64 + b"  a\n",
        b"0" * 64 + b"  ../a\n", b"0" * 64 + b"  /a\n", b"0" * 64 + b"  .a\n", b"0" * 64 + b"  a\n\n", b"0" * 64 + b"  a\x00\n",
        b"0" * 64 + b"  b\n" + b"0" * 64 + b"  a\n", (b"0" * 64 + b"  a\n") * 2, b"\xff" * 80 + b"\n",
    ],
)  # fmt: skip
def test_bad_sums(text: bytes) -> None:
    with pytest.raises(SignatureError, match=r"^sums: "):
        parse_sums(text, "sums")


# --- attestations ---------------------------------------------------------------------------------------------


def test_k_of_n(folder: Path, built: Factory, tmp_path: Path) -> None:
    own = own_statement(check_rebuild(release_input(built)))
    with pytest.raises(VerifyError, match="0 of the 1 needed rebuilders attested it \\(nobody\\)"):
        inspect(folder, need=1)
    for key in (REBUILDERS[0], SecretKey.generate(), REBUILDERS[0], KEY):
        attest(folder, own, key)
    assert inspect(folder, need=1).rebuilders == (REBUILDERS[0].public_key,)
    with pytest.raises(VerifyError, match="1 of the 2 needed"):
        inspect(folder, need=2)
    # The same attestation under another name counts once.
    name = f"{REBUILDERS[0].public_key.name}.minisig"
    shutil.copy(folder / "attestations" / name, folder / "attestations" / "copy.minisig")
    with pytest.raises(VerifyError, match="1 of the 2 needed"):
        inspect(folder, need=2)
    attest(folder, own, REBUILDERS[1])
    assert len(inspect(folder, need=2).rebuilders) == 2


def test_one_key_with_two_numbers(folder: Path, built: Factory) -> None:
    """Whoever attests with one key under two numbers is one rebuilder."""
    first = REBUILDERS[0]
    again = SecretKey(b"12345678", first.seed, first.public)
    own = own_statement(check_rebuild(release_input(built)))
    for key in (first, again):
        attest(folder, own, key)
    with pytest.raises(VerifyError, match="1 of the 2 needed"):
        inspect_release(folder, [KEY.public_key], [first.public_key, again.public_key], 2)


def test_bad_attestations(folder: Path, built: Factory) -> None:
    own = own_statement(check_rebuild(release_input(built)))
    path = attest(folder, own, REBUILDERS[0])
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 2
        path.write_bytes(flipped)
        with pytest.raises(VerifyError):
            inspect(folder, need=1)
    path.write_bytes(REBUILDERS[0].sign_bytes(own, "for another purpose"))
    with pytest.raises(VerifyError, match="which is not an attestation"):
        inspect(folder)
    path.write_bytes(data)
    (folder / "attestations" / "notes.txt").write_text("x")
    with pytest.raises(VerifyError, match="is not an attestation"):
        inspect(folder)


def test_attest_what_differs(folder: Path, built: Factory) -> None:
    own = own_statement(check_rebuild(release_input(built)))
    edited(folder / "rebuild.json", lambda d: d["subject"][0]["digest"].update(sha256="0" * 64))
    with pytest.raises(VerifyError, match=rf"{IMAGE} has canonical digest 0000.*, our own build has") as caught:
        attest(folder, own, REBUILDERS[0])
    assert caught.value.hint == "nothing was signed"
    edited(folder / "rebuild.json", lambda d: d["predicate"].update(commit="x"))
    with pytest.raises(VerifyError, match="commit is x, here it is"):
        attest(folder, own, REBUILDERS[0])
    (folder / "rebuild.json").write_text("[]")
    with pytest.raises(VerifyError, match="not a statement"):
        attest(folder, own, REBUILDERS[0])
    assert not (folder / "attestations").exists()


# --- the commands ---------------------------------------------------------------------------------------------


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory = opened(tmp_path / "checkout")
    boot_all(factory)
    secret, public, phrase = tmp_path / "key", tmp_path / "key.pub", tmp_path / "phrase"
    secret.write_bytes(KEY.dump("words", memory=1 << 24))
    secret.chmod(0o600)
    public.write_bytes(KEY.public_key.dump())
    phrase.write_text("words\n")
    with phrase.open("rb") as stream:
        commands.release(factory, {"version": "1.2", "key": str(secret), "passphrase": str(stream.fileno())})
    folder = factory.paths.checkout / "dist" / "toweros-1.2-stable"
    with phrase.open("rb") as stream:
        commands.attest(factory, {"key": str(secret), "passphrase": str(stream.fileno())})
    given = {"dir": str(folder), "key": str(public), "rebuilders": f"{public},{KEY.public_key.text}", "need": "1"}
    commands.verify_release(factory, given)
    said = capsys.readouterr().out
    assert f"release 1.2 of channel stable: good, signed by {KEY.public_key.name}" in said
    assert f"rebuilt by {KEY.public_key.name}" in said
    assert main.main(["verify-image", "--key", str(public), str(folder / IMAGE)]) == 0
    assert "good: signature, SHA256SUMS, block map; version 1.2 channel stable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        (commands.release, {}, "release: version= is missing"),
        (commands.release, {"version": "1.2"}, "release: key= is missing"),
        (commands.attest, {}, "attest: key= is missing"),
        (commands.verify_release, {}, "verify:release: dir= is missing"),
        (commands.verify_release, {"dir": "x", "need": "two"}, "need=two: not a number"),
        (commands.verify_release, {"dir": "x"}, "no key to trust"),
        (commands.verify_release, {"dir": "x", "key": "nonsense"}, "key=: nonsense: the public key"),
    ],
)
def test_wrong_words(built: Factory, command: Callable[..., None], given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        command(built, given)


def test_a_release_that_fails_while_written_leaves_nothing_in_dist(
    built: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = opened(tmp_path)
    boot_all(factory)

    def full(_path: Path) -> str:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("pipeline.release.folder.canonical_digest", full)
    with pytest.raises(Exception, match="No space left"):
        write_release(factory.paths, check_release(release_input(factory), "1.2"), KEY)
    assert [path.name for path in (tmp_path / "dist").iterdir() if "toweros" in path.name] == []
