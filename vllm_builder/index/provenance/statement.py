"""An in-toto Statement v1 with SLSA provenance v1, made of what a wheel says of itself.

It holds what the build record and the SBOM in the wheel hold, and nothing besides: no time, no host, no folder of the
building machine. So the same wheel gives the same statement, wherever it is published from. A wheel without a build
record gets none: who built it from what is not known here, and SLSA's predicate has no way to leave that out.

Sources: in-toto/attestation spec/v1, slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from packageurl import PackageURL

from vllm_builder.model import digest
from vllm_builder.wheelfile.record import BuildRecord

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
BUILD_TYPE: Final = "urn:vllm-builder:build:1"
NOT_SHOWN: Final = "(not shown)"
"""In place of a value that may be a path of the building machine, an address or a secret; the plan's digest covers it."""

_SECRET: Final = re.compile(r"(?i)token|secret|passw|passphrase|credential|auth|key|cookie")
_DIGESTS: Final = {"git": "gitCommit", "sha256": "sha256", "tree": "vllmBuilderTree"}
"""Of ``SourcePin.identity``; the last is our own hash over a folder's files."""
_PATCH_SET: Final = "vllm-builder:patch-set:"
_TREE: Final = "gitTree"
_COMPILERS: Final = {"gnu": "gcc", "nvidia": "nvcc"}
"""CMake's ids -> what they are called."""


def statement(
    record: BuildRecord, *, filename: str, sha256: str, sbom: bytes = b"", builder_id: str = ""
) -> bytes:
    """The statement of a wheel of ours, as JSON; the same for the same arguments.

    Args:
        sbom: the wheel's own; names of patch sets and addresses of external sources are taken from it.
        builder_id: URI of who built; empty: ``urn:vllm-builder:VERSION``.

    Raises:
        ValueError: the result would be no valid statement.
    """
    from google.protobuf.json_format import MessageToDict
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    subject = ResourceDescriptor(name=filename, digest={"sha256": sha256})
    subject.validate()
    made = Statement([subject.pb], PREDICATE_TYPE, _predicate(record, _parts(sbom), builder_id))
    made.validate()
    found = _whole_numbers(MessageToDict(made.pb))
    check_predicate(found["predicate"])
    return json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_predicate(predicate: Mapping[str, Any]) -> None:
    """Hold a predicate against SLSA provenance v1: fields, types, and what must be there.

    Raises:
        ValueError: it is none.
    """
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor

    try:
        found = ParseDict(dict(predicate), provenance_pb2.Provenance())
    except ParseError as error:
        raise ValueError(f"no SLSA provenance v1: {error}") from error
    if not found.build_definition.build_type:
        raise ValueError("no SLSA provenance v1: buildDefinition.buildType is missing")
    if not found.run_details.builder.id:
        raise ValueError("no SLSA provenance v1: runDetails.builder.id is missing")
    for one in found.build_definition.resolved_dependencies:
        ResourceDescriptor.copy_from_pb(one).validate()


def _predicate(record: BuildRecord, parts: Mapping[str, Any], builder_id: str) -> dict[str, Any]:
    name, _, version = record.builder.partition(" ")
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": _asked(record),
            "internalParameters": _flags(record),
            "resolvedDependencies": list(_dependencies(record, parts)),
        },
        "runDetails": {
            "builder": {
                "id": builder_id or f"urn:{name}:{version}",
                "version": {name: version},
            },
            "metadata": {"invocationId": record.digest},
        },
    }


def _asked(record: BuildRecord) -> dict[str, Any]:
    recipe = _mapping(record.inputs.get("recipe"))
    asked: dict[str, Any] = {
        "release": record.release,
        "device": record.device,
        "architectures": list(record.archs),
        "torch": record.torch,
        "cuda": record.toolkit,
        "recipe": _clean(recipe.get("values", {})),
        "extensions": list(record.extensions),
    }
    return {name: value for name, value in asked.items() if value}


def _flags(record: BuildRecord) -> dict[str, Any]:
    compile_ = _mapping(record.inputs.get("compile"))
    flags: dict[str, Any] = {
        "version": record.version,
        "platform": record.inputs.get("platform"),
        "pythonAbi": record.inputs.get("python_abi"),
        "limitedApi": compile_.get("limited_api"),
        "cmakeBuildType": compile_.get("build_type"),
        "variables": _clean(compile_.get("variables", {})),
        "finish": _clean(record.inputs.get("finish", {})),
        "leftOut": _clean(dict(record.left_out)),
    }
    return {name: value for name, value in flags.items() if value}


def _dependencies(record: BuildRecord, parts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    inputs = record.inputs
    kind, _, value = str(_mapping(inputs.get("source")).get("identity", "")).partition(":")
    if value and kind in _DIGESTS:
        yield {
            "name": "source",
            "digest": {_DIGESTS[kind]: value},
            "annotations": {"release": record.release},
        }
    externals = _mapping(inputs.get("externals"))
    yield from _externals(externals.get("externals", ()), "", _addresses(parts))
    for variable, content in sorted(_mapping(inputs.get("folders")).items()):
        yield {"name": f"folder:{variable}", "digest": {"vllmBuilderTree": str(content)}}
    yield from _patches(inputs, parts)
    if record.torch:
        yield {"name": "torch", "uri": str(PackageURL("pypi", None, "torch", record.torch))}
    if record.toolkit:
        yield {"name": "cuda", "uri": str(PackageURL("generic", None, "cuda", record.toolkit))}
    for one in _mapping(inputs.get("compile")).get("compilers", ()):
        if compiler := _compiler(_mapping(one)):
            yield compiler
    if isinstance(rust := inputs.get("rust"), str) and rust != "absent":
        yield {"name": "compiler:rust", "uri": str(PackageURL("generic", None, "cargo", rust.split()[1]))}
    for tool, version in sorted(record.tools.items()):
        yield {"name": f"tool:{tool}", "uri": str(PackageURL("pypi", None, tool, version))}


def _externals(found: Any, above: str, addresses: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for one in found or ():
        name, commit = str(one.get("name") or one.get("path")), str(one.get("commit", ""))
        trail = f"{above}/{name}" if above else name
        made: dict[str, Any] = {"name": f"external:{trail}", "digest": {"gitCommit": commit}}
        if tree := one.get("tree"):
            # Not git's hash of the whole commit's tree where folders were left out.
            made["annotations"] = {_TREE: str(tree), "without": list(one.get("without", ()))}
        if url := addresses.get(f"external:{trail}@{commit}"):
            made["uri"] = f"git+{url}@{commit}"
        yield made
        yield from _externals(one.get("submodules", ()), trail, addresses)


def _patches(inputs: Mapping[str, Any], parts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    component = _mapping(_mapping(parts.get("metadata")).get("component"))
    named = {
        str(one.get("name", "")).removeprefix(_PATCH_SET): str(one.get("value", ""))
        for one in component.get("properties", ())
        if str(one.get("name", "")).startswith(_PATCH_SET)
    }
    for name, content in sorted(named.items()):
        yield {"name": f"patches:{name}", "digest": {"sha256": content}}
    steps = _mapping(inputs.get("patches")).get("steps", ())
    if steps and not named:
        yield {"name": "patches", "digest": {"sha256": digest(steps)}}


def _compiler(one: Mapping[str, Any]) -> dict[str, Any] | None:
    identity, version = str(one.get("id", "")).lower(), str(one.get("version", ""))
    if not identity or not version:
        return None
    return {
        "name": f"compiler:{one.get('language', identity)}",
        "uri": str(PackageURL("generic", None, _COMPILERS.get(identity, identity), version)),
        "annotations": {name: _clean(one[name]) for name in ("target", "arguments") if one.get(name)},
    }


def _addresses(parts: Mapping[str, Any]) -> dict[str, str]:
    """Repository of each external source by its name in the SBOM, which has no credentials and no local folder."""
    found = {}
    for one in parts.get("components", ()):
        for reference in one.get("externalReferences", ()):
            if reference.get("type") == "vcs":
                found[str(one.get("bom-ref", ""))] = str(reference.get("url", ""))
    return found


def _parts(sbom: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(sbom)) if sbom else {}
    except (ValueError, RecursionError):
        return {}


def _whole_numbers(value: Any) -> Any:
    """A protobuf's numbers are all floats: ``1.0`` is 1 again."""
    if isinstance(value, dict):
        return {key: _whole_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _clean(value: Any, name: str = "") -> Any:
    """Without what may be a path, an address or a secret: people write anything into a variable."""
    if isinstance(value, Mapping):
        return {str(key): _clean(one, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one, name) for one in value]
    if isinstance(value, str) and (_SECRET.search(name) or re.search(r"[/\\@~]", value)):
        # ``~=`` is how a requirement is written.
        return value if re.fullmatch(r"[\w.-]+~=[\w.+!*]+", value) else NOT_SHOWN
    return value
