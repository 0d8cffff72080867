# SPDX-License-Identifier: Apache-2.0
"""Signed records and manifests, and what must not pass for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.base.canonical import Digest, canonical_json, digest_bytes, digest_json
from pipeline.base.errors import VerifyError
from pipeline.store.cache.signed_record import _places, check, comment_of, manifest_of, sign, tag_of
from pipeline.supply.minisign import SecretKey

SECRET = SecretKey.generate()
DOCUMENT: dict[str, Any] = {"stage": "image"}
KEY = digest_json(DOCUMENT)


def record(**changed: Any) -> bytes:
    row = {"sha256": digest_bytes(b"x"), "size": 1}
    whole: dict[str, Any] = {"schema": 1, "key": KEY, "document": DOCUMENT, "outputs": {"a/b": row}, "seconds": 1.5}
    return canonical_json({**whole, **changed})


def checked(data: bytes, key: Digest = KEY, document: Any = None) -> Any:
    return check(data, sign(data, key, SECRET), key, document or DOCUMENT, [SECRET.public_key])


def test_a_record_that_holds() -> None:
    found = checked(record())
    assert found.seconds == 1.5
    assert found.outputs["a/b"].size == 1
    assert found.signer == SECRET.public_key.name


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", ".", "a//b", "./a", "a/", "x" * 256, "nul\0", "\ud800"])
def test_names_that_lead_elsewhere(name: str) -> None:
    """Even a signer whom we trust gives no file a place outside its artifact."""
    outputs = {name: {"sha256": digest_bytes(b"x"), "size": 1}}
    data = json.dumps({**json.loads(record()), "outputs": outputs}).encode()
    with pytest.raises(VerifyError, match=r"cannot be a file of an artifact|not Unicode"):
        checked(data)


@pytest.mark.parametrize(
    "changed",
    [
        {"schema": 2},
        {"key": "0" * 64},
        {"document": {"stage": "other"}},
        {"outputs": []},
        {"outputs": {"a": {"sha256": "../../x", "size": 1}}},
        {"outputs": {"a": {"sha256": digest_bytes(b"x"), "size": -1}}},
        {"outputs": {"a": {"size": 1}}},
        {"seconds": "long"},
    ],
)
def test_records_that_are_wrong(changed: dict[str, Any]) -> None:
    with pytest.raises(VerifyError, match="record of"):
        checked(record(**changed))


def test_a_document_that_was_not_asked_for() -> None:
    with pytest.raises(VerifyError, match="another document"):
        checked(record(), document={"stage": "other"})


def test_a_signature_of_something_else() -> None:
    """A signature of a release by the same key says nothing about the cache."""
    data = record()
    with pytest.raises(VerifyError, match="something else"):
        check(data, SECRET.sign_bytes(data, "file:x\tversion:1\tchannel:stable"), KEY, DOCUMENT, [SECRET.public_key])
    with pytest.raises(VerifyError, match="not trusted"):
        check(data, sign(data, KEY, SECRET), KEY, DOCUMENT, [SecretKey.generate().public_key])
    assert KEY in comment_of(KEY)


def test_the_manifest_leads_to_record_and_signature() -> None:
    data = record()
    signature = sign(data, KEY, SECRET)
    outputs = checked(data).outputs
    assert _places(manifest_of(data, signature, outputs), "x") == (digest_bytes(data), digest_bytes(signature))
    assert len(tag_of(KEY, SECRET.public_key.name)) <= 128


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"config": {}, "layers": []}', b'{"config": 1, "layers": [{}]}'],
)
def test_manifests_of_something_else(manifest: bytes) -> None:
    with pytest.raises(VerifyError, match="manifest"):
        _places(manifest, "x")
