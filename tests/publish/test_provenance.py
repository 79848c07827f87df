"""Statements about wheels: what they say, who signed them, and what is not believed."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from hypothesis import given
from hypothesis import strategies as st
from publish_helpers import CUTLASS, DIGEST, key_pair, record

from vllm_builder.errors import ProvenanceError
from vllm_builder.index.provenance.checking import check_provenance
from vllm_builder.index.provenance.signing import envelope, load_public_keys, load_signing_key
from vllm_builder.index.provenance.statement import BUILD_TYPE, check_predicate, statement

NAME = "vllm-1.0+cu130-cp38-abi3-linux_x86_64.whl"
SHA256 = "1" * 64
SBOM = json.dumps(
    {
        "metadata": {
            "component": {"properties": [{"name": "vllm-builder:patch-set:torch-pins", "value": "7" * 64}]}
        },
        "components": [
            {
                "bom-ref": f"external:cutlass@{CUTLASS}",
                "externalReferences": [{"type": "vcs", "url": "https://github.com/NVIDIA/cutlass.git"}],
            }
        ],
    }
).encode()


def made(**more: Any) -> dict[str, Any]:
    data = statement(record(**more), filename=NAME, sha256=SHA256, sbom=SBOM)
    found: dict[str, Any] = json.loads(data)
    return found


def dependencies(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in found["predicate"]["buildDefinition"]["resolvedDependencies"]}


def test_it_says_what_the_wheel_is_and_what_it_was_made_of() -> None:
    found = made()
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    assert found["subject"] == [{"name": NAME, "digest": {"sha256": SHA256}}]
    definition = found["predicate"]["buildDefinition"]
    assert definition["buildType"] == BUILD_TYPE
    asked = definition["externalParameters"]
    assert (asked["release"], asked["device"], asked["architectures"]) == ("1.0", "cuda", ["10.0"])
    assert (asked["torch"], asked["cuda"]) == ("2.11.0+cu130", "13.0")
    parts = dependencies(found)
    assert parts["source"]["digest"] == {"gitCommit": "a" * 40}
    assert parts["external:cutlass"]["uri"] == f"git+https://github.com/NVIDIA/cutlass.git@{CUTLASS}"
    assert parts["external:cutlass"]["digest"] == {"gitCommit": CUTLASS}
    assert parts["external:cutlass/csrc/inner"]["digest"] == {"gitCommit": "c" * 40}
    assert parts["patches:torch-pins"]["digest"] == {"sha256": "7" * 64}
    assert parts["torch"]["uri"] == "pkg:pypi/torch@2.11.0%2Bcu130"
    assert parts["cuda"]["uri"] == "pkg:generic/cuda@13.0"
    assert parts["compiler:CXX"]["uri"] == "pkg:generic/gcc@12.2.0"
    assert parts["compiler:CUDA"]["uri"] == "pkg:generic/nvcc@13.0.48"
    assert parts["compiler:rust"]["uri"] == "pkg:generic/cargo@1.95.0"
    run = found["predicate"]["runDetails"]
    assert run["builder"] == {"id": "urn:vllm-builder:0.1.0", "version": {"vllm-builder": "0.1.0"}}
    assert run["metadata"] == {"invocationId": DIGEST}


def test_the_builder_can_be_named() -> None:
    data = statement(record(), filename=NAME, sha256=SHA256, builder_id="https://ci.example/builders/1")
    assert json.loads(data)["predicate"]["runDetails"]["builder"]["id"] == "https://ci.example/builders/1"


def test_the_same_wheel_has_the_same_statement() -> None:
    assert made() == made()
    assert statement(record(), filename=NAME, sha256=SHA256) == statement(
        record(), filename=NAME, sha256=SHA256
    )


def test_no_secret_no_path_and_no_address_of_the_machine() -> None:
    text = json.dumps(made())
    assert "hunter2" not in text
    assert "/home" not in text
    assert "/usr" not in text
    assert "git.example" not in text
    # What is harmless stays.
    flags = made()["predicate"]["buildDefinition"]["internalParameters"]
    assert flags["variables"] == {
        "FLAG": "1",
        "CFLAGS": "(not shown)",
        "MIRROR": "(not shown)",
        "SOME_TOKEN": "(not shown)",
    }
    assert flags["finish"] == {"layout": 1, "torch": "torch~=2.11.0", "epoch": 315532800}


@pytest.mark.parametrize(
    ("kind", "digest"), [("git:" + "a" * 40, "gitCommit"), ("sha256:" + "b" * 64, "sha256")]
)
def test_sources(kind: str, digest: str) -> None:
    inputs = dict(record().inputs) | {"source": {"identity": kind, "release": "1.0"}}
    assert dependencies(made(inputs=inputs))["source"]["digest"] == {digest: kind.partition(":")[2]}


def test_a_record_that_says_little_makes_a_statement_that_says_little() -> None:
    found = made(inputs={}, torch="", toolkit="", archs=(), tools={}, left_out={})
    assert list(dependencies(found)) == ["patches:torch-pins"]
    check_predicate(found["predicate"])


@pytest.mark.parametrize("sbom", [b"", b"no json", b"[]", b'{"metadata": 1}', b"[" * 100_000])
def test_without_names_of_the_patch_sets_their_content_counts(sbom: bytes) -> None:
    data = statement(record(), filename=NAME, sha256=SHA256, sbom=sbom)
    assert re.fullmatch("[0-9a-f]{64}", dependencies(json.loads(data))["patches"]["digest"]["sha256"])


@pytest.mark.parametrize(
    "predicate",
    [
        {},
        {"buildDefinition": {"buildType": "x"}},
        {"buildDefinition": {}, "runDetails": {"builder": {"id": "x"}}},
        {"buildDefinition": {"buildType": "x", "made_up": 1}, "runDetails": {"builder": {"id": "x"}}},
        {
            "buildDefinition": {"buildType": "x", "resolvedDependencies": [{}]},
            "runDetails": {"builder": {"id": "x"}},
        },
        {"buildDefinition": {"buildType": 5}, "runDetails": {"builder": {"id": "x"}}},
    ],
)
def test_what_is_no_slsa_provenance(predicate: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        check_predicate(predicate)


# Signing -------------------------------------------------------------------------------------------
def signed(folder: Path, kind: str = "ed25519", name: str = "", **more: Any) -> tuple[bytes, Path]:
    private, public = key_pair(folder, kind, name=name)
    said = statement(record(**more), filename=NAME, sha256=SHA256, sbom=SBOM)
    return envelope(said, load_signing_key(private, {})), public


def found_by(data: bytes | None, *public: Path, **more: Any) -> list[tuple[str, str]]:
    options = {"filename": NAME, "sha256": SHA256} | more
    found = check_provenance(data, keys=load_public_keys(public), **options)
    return [(one.severity, one.what) for one in found]


@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384", "rsa"])
def test_a_signature_holds_for_others(tmp_path: Path, kind: str) -> None:
    """By the specification of DSSE alone: PAE over type and payload, and the key."""
    data, public = signed(tmp_path, kind)
    assert data.count(b"\n") == 1
    found = json.loads(data)
    assert found["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(found["payload"])
    kind_ = found["payloadType"].encode()
    pae = b" ".join([b"DSSEv1", str(len(kind_)).encode(), kind_, str(len(payload)).encode(), payload])
    (signature,) = (base64.b64decode(one["sig"]) for one in found["signatures"])
    key: Any = serialization.load_pem_public_key(public.read_bytes())

    def verify(text: bytes) -> None:
        if kind == "ed25519":
            key.verify(signature, text)
        elif kind == "rsa":
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
            key.verify(signature, text, pss, hashes.SHA256())
        else:
            key.verify(signature, text, ec.ECDSA(hashes.SHA256() if kind == "p256" else hashes.SHA384()))

    verify(pae)
    with pytest.raises(InvalidSignature):
        verify(pae + b" ")


@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384", "rsa"])
def test_a_signature_holds_by_the_other_way_of_the_library(tmp_path: Path, kind: str) -> None:
    from securesystemslib.dsse import Envelope

    data, public = signed(tmp_path, kind)
    keys = list(load_public_keys([public]))
    assert Envelope.from_dict(json.loads(data)).verify(keys, 1) == {keys[0].keyid: keys[0]}
    assert found_by(data, public) == []


def test_one_of_several_keys_is_enough(tmp_path: Path) -> None:
    data, public = signed(tmp_path)
    _, other = key_pair(tmp_path, "p256", name="other")
    assert found_by(data, other, public) == []
    ((severity, what),) = found_by(data, other)
    assert severity == "error"
    assert "none of the given keys" in what


def test_a_signature_without_a_key_id(tmp_path: Path) -> None:
    """The key id is a hint, which other tools leave out."""
    data, public = signed(tmp_path)
    found = json.loads(data)
    del found["signatures"][0]["keyid"]
    assert found_by(json.dumps(found).encode(), public) == []


def test_what_is_not_signed_or_not_checked_is_said(tmp_path: Path) -> None:
    data, public = signed(tmp_path)
    assert found_by(data) == [("info", "The signature was not checked.")]
    bare = envelope(statement(record(), filename=NAME, sha256=SHA256), None)
    assert found_by(bare) == [("info", "The provenance is not signed.")]
    assert found_by(bare, public) == [("error", "The provenance is not signed.")]
    assert found_by(None) == [("info", "There is no provenance.")]
    assert found_by(None, public) == [("error", "There is no provenance.")]


def test_a_statement_about_something_else(tmp_path: Path) -> None:
    data, public = signed(tmp_path)
    for more in ({"sha256": "2" * 64}, {"filename": "other.whl"}, {"plan_digest": "3" * 64}):
        ((severity, what),) = found_by(data, public, **more)
        assert severity == "error"
        assert "cannot be trusted" in what
    assert found_by(data, public, plan_digest=DIGEST) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("predicateType",), "https://slsa.dev/provenance/v0.2"),
        (("_type",), "https://in-toto.io/Statement/v0.1"),
        (("subject",), []),
        (("subject",), "x"),
        (("subject", 0, "digest"), {"sha512": SHA256}),
        (("predicate",), {}),
        (("predicate",), None),
        (("predicate", "runDetails"), {}),
        (("predicate", "buildDefinition", "buildType"), ""),
    ],
)
def test_a_statement_that_is_signed_and_wrong(tmp_path: Path, path: tuple[Any, ...], value: object) -> None:
    private, public = key_pair(tmp_path)
    said = made()
    place: Any = said
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    data = envelope(json.dumps(said).encode(), load_signing_key(private, {}))
    assert [severity for severity, _ in found_by(data, public)] == ["error"]


def test_a_changed_payload_is_found(tmp_path: Path) -> None:
    data, public = signed(tmp_path)
    found = json.loads(data)
    said = base64.b64decode(found["payload"]).replace(b'"device":"cuda"', b'"device":"cpu"')
    found["payload"] = base64.b64encode(said).decode()
    ((severity, what),) = found_by(json.dumps(found).encode(), public)
    assert severity == "error"
    assert "none of the given keys" in what


def test_a_second_envelope_about_something_else_spoils_the_file(tmp_path: Path) -> None:
    data, public = signed(tmp_path)
    other = envelope(statement(record(), filename="other.whl", sha256=SHA256), None)
    assert [severity for severity, _ in found_by(data + other, public)] == ["error"]
    assert found_by(data + b"\n" + data, public) == []


@given(st.binary(max_size=300))
def test_any_bytes_are_judged_and_none_is_good(data: bytes) -> None:
    expected = "error" if data else "info"
    assert [severity for severity, _ in found_by(data)] == [expected]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["payload", "payloadType", "signatures", "sig", "keyid", "_type", "subject", "predicate"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON, _JSON)
def test_any_json_is_judged_and_none_is_good(outer: object, inner: object) -> None:
    said = base64.b64encode(json.dumps(inner).encode()).decode()
    wrapped = {"payload": said, "payloadType": "application/vnd.in-toto+json", "signatures": outer}
    for value in (outer, wrapped, wrapped | {"signatures": []}):
        assert [severity for severity, _ in found_by(json.dumps(value).encode())] == ["error"]


def test_a_nest_of_brackets(tmp_path: Path) -> None:
    deep = b"[" * 200_000
    assert found_by(deep)[0][0] == "error"
    inside = base64.b64encode(deep).decode()
    wrapped = {"payload": inside, "payloadType": "application/vnd.in-toto+json", "signatures": []}
    assert found_by(json.dumps(wrapped).encode())[0][0] == "error"
    del tmp_path


# Keys ----------------------------------------------------------------------------------------------
def test_an_encrypted_key(tmp_path: Path) -> None:
    private, _ = key_pair(tmp_path, passphrase="open sesame")
    assert load_signing_key(private, {"VLLM_BUILDER_SIGN_PASSPHRASE": "open sesame"}).public_key
    for environ, said in (
        ({}, "encrypted"),
        ({"VLLM_BUILDER_SIGN_PASSPHRASE": "wrong-secret"}, "does not open"),
    ):
        with pytest.raises(ProvenanceError) as caught:
            load_signing_key(private, environ)
        assert caught.value.exit_code == 95
        assert said in caught.value.what + caught.value.why
        assert "wrong-secret" not in str(caught.value.as_dict())


def test_a_passphrase_that_is_not_needed(tmp_path: Path) -> None:
    private, _ = key_pair(tmp_path)
    assert load_signing_key(private, {"VLLM_BUILDER_SIGN_PASSPHRASE": "for another key"}).public_key


@pytest.mark.parametrize("kind", ["rsa1024", "secp256k1"])
def test_keys_that_are_too_weak_or_unknown(tmp_path: Path, kind: str) -> None:
    private, _ = key_pair(tmp_path, kind)
    with pytest.raises(ProvenanceError):
        load_signing_key(private, {})


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"x" * 100]
)
def test_files_that_are_no_key(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(text)
    with pytest.raises(ProvenanceError):
        load_signing_key(file, {})
    with pytest.raises(ProvenanceError):
        load_public_keys([file])


def test_the_two_halves_are_not_taken_for_each_other(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path)
    with pytest.raises(ProvenanceError, match="no private key"):
        load_signing_key(public, {})
    with pytest.raises(ProvenanceError, match="a private key"):
        load_public_keys([private])
    with pytest.raises(ProvenanceError, match="cannot be read"):
        load_signing_key(tmp_path, {})


def test_a_key_in_the_format_of_openssh(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    file = tmp_path / "id_ed25519"
    file.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    with pytest.raises(ProvenanceError, match="OpenSSH"):
        load_signing_key(file, {})
