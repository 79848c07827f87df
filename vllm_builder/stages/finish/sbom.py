"""What a wheel was made of, as CycloneDX 1.6 (ECMA-424): where PEP 770 wants it, ``.dist-info/sboms``.

PEP 770 asks for no newer Metadata-Version: the folder alone says it. The primary component is the package itself, and
each other one hangs below it. The same plan gives the same document: its serial number is made from the plan's
digest, and it has no time but one that was given (SOURCE_DATE_EPOCH).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Commit, Component, ComponentType, Pedigree
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from vllm_builder.indexes import redact
from vllm_builder.model import Model, digest
from vllm_builder.stages.finish.model import EPOCH
from vllm_builder.stages.patch.operations import PatchSelection
from vllm_builder.stages.source.model import SourcePin
from vllm_builder.stages.vendor.model import Lock, LockedExternal, LockedSubmodule
from vllm_builder.wheelfile.record import BuildRecord

_GITHUB: Final = re.compile(r"(?:https?|ssh|git)://(?:\w+@)?github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
_REMOTE: Final = re.compile(r"(?:https?|ssh|git)://")
_SCP: Final = re.compile(r"(\w+@[\w.-]+):(?!//)(.+)")
"""``git@host:owner/name``, which is no URI."""
_PREFIX: Final = "vllm-builder"


class Materials(Model):
    """What went into a wheel, besides what its record says."""

    source: SourcePin
    externals: Lock | None = None
    patches: PatchSelection = PatchSelection()


def sbom(record: BuildRecord, materials: Materials, *, epoch: int = EPOCH) -> str:
    """The document as JSON text.

    Args:
        epoch: seconds since 1970; the default stands for no time at all.
    """
    root = _package(record, materials)
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"urn:{_PREFIX}:{record.digest}"))
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    name, _, version = record.builder.partition(" ")
    bom.metadata.tools.components.add(
        Component(name=name, version=version or None, type=ComponentType.APPLICATION, bom_ref=f"tool:{name}")
    )
    externals = materials.externals.externals if materials.externals else ()
    bom.register_dependency(root, [_add(bom, one, one.name, one.name) for one in externals])
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    document: dict[str, Any] = json.loads(text)
    if epoch == EPOCH:
        del document["metadata"]["timestamp"]
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _package(record: BuildRecord, materials: Materials) -> Component:
    """The wheel itself: upstream's release, patched."""
    source = materials.source
    kind, _, value = source.identity.partition(":")
    upstream = Component(
        name="vllm",
        version=source.release,
        type=ComponentType.LIBRARY,
        bom_ref=f"source:{source.identity}",
        purl=PackageURL("pypi", None, "vllm", source.release),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=value)] if kind == "sha256" else None,
        properties=_properties({"source": source.identity}),
    )
    facts = {"plan": record.digest, "device": record.device}
    facts |= {f"tool:{name}": version for name, version in record.tools.items()}
    facts |= {f"patch-set:{name}": content for name, content in _patch_sets(materials.patches).items()}
    facts |= {"architectures": ", ".join(record.archs), "torch": record.torch, "cuda": record.toolkit}
    return Component(
        name="vllm",
        version=record.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"package:vllm@{record.version}",
        purl=PackageURL("pypi", None, "vllm", record.version),
        pedigree=Pedigree(
            ancestors=[upstream],
            commits=[Commit(uid=value)] if kind == "git" else None,
            notes="Upstream's source, changed by the patch sets that the properties name.",
        ),
        properties=_properties({key: value for key, value in facts.items() if value}),
    )


def _patch_sets(patches: PatchSelection) -> dict[str, str]:
    """Name -> SHA-256 over what the set's operations do."""
    steps: dict[str, list[object]] = {}
    for step in patches.steps:
        steps.setdefault(step.set, []).append(step.operation)
    return {name: digest(operations) for name, operations in steps.items()}


def _add(bom: Bom, source: LockedExternal | LockedSubmodule, name: str, trail: str) -> Component:
    component = _external(source, name, trail)
    bom.components.add(component)
    inner = [_add(bom, one, one.path.rpartition("/")[2], f"{trail}/{one.path}") for one in source.submodules]
    bom.register_dependency(component, inner)
    return component


def _external(source: LockedExternal | LockedSubmodule, name: str, trail: str) -> Component:
    url = _remote(source.url)
    facts = {"git-tree": source.tree, "place": trail}
    if source.without:
        facts["without"] = ", ".join(source.without)
    if isinstance(source, LockedExternal):
        facts["folder"] = source.folder
        facts["revision"] = source.revision
    return Component(
        name=name,
        version=source.commit,
        type=ComponentType.LIBRARY,
        bom_ref=f"external:{trail}@{source.commit}",
        purl=_purl(name, url, source.commit),
        pedigree=Pedigree(commits=[Commit(uid=source.commit)]),
        external_references=[ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(url))]
        if url
        else None,
        properties=_properties(facts),
    )


def _remote(url: str) -> str:
    """The address as a URI, without credentials; empty for a folder of this machine."""
    if found := _SCP.fullmatch(url):
        url = f"ssh://{found[1]}/{found[2]}"
    return redact(url) if _REMOTE.match(url) else ""


def _purl(name: str, url: str, commit: str) -> PackageURL:
    if found := _GITHUB.fullmatch(url):
        return PackageURL("github", found[1].lower(), found[2].lower(), commit)
    return PackageURL("generic", None, name, commit, {"vcs_url": f"git+{url}@{commit}"} if url else None)


def _properties(facts: Mapping[str, str]) -> Sequence[Property]:
    return [Property(name=f"{_PREFIX}:{name}", value=value) for name, value in facts.items()]
