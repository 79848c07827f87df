"""A wheel on its way into an index: what it is by its own account, read without trusting it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vllm_builder.errors import PublishRefused
from vllm_builder.fs import sha256_file
from vllm_builder.index import layout
from vllm_builder.index.model import Checked, Facts
from vllm_builder.wheelfile import open_wheel

if TYPE_CHECKING:
    from vllm_builder.wheelfile.record import BuildRecord
    from vllm_builder.wheelfile.wheel import Wheel

_VARIANT: Final = re.compile(r"cu\d{2,4}|cpu|rocm[\d.]*|xpu|tpu|neuron|empty")
_COMMIT: Final = re.compile(r"git:([0-9a-f]{40})")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A wheel that was read. ``sidecar`` is its METADATA, byte by byte; ``provenance`` what goes beside it, if anything."""

    path: Path
    project: str
    version: str
    sha256: str
    size: int
    requires_python: str
    sidecar: bytes
    variant: str
    channels: tuple[str, ...]
    facts: Facts
    checked: Checked = field(default_factory=Checked)
    provenance: bytes = b""

    @property
    def filename(self) -> str:
        return self.path.name

    def key(self, generation: int = 0) -> str:
        return layout.wheel_key(self.project, self.version, self.sha256, self.filename, generation)


def read_candidate(path: Path, *, channels: Iterable[str] = (), variant: str = "") -> Candidate:
    """Read a wheel that is to be published.

    Args:
        channels: without one, ``release`` for a final version, ``nightly`` for a development or pre-release one.
            The channels of its public version and of its commit are added.
        variant: without one, what the build record or the local part of its version says.

    Raises:
        WheelError: it is no wheel, or its METADATA is of another name or version than its file name.
        PublishRefused: its version or name cannot be part of an address, the variant cannot be told, or a channel is
            that of another version.
        SettingsError: a channel or variant cannot be a folder.
    """
    with open_wheel(path) as wheel:
        metadata = wheel.metadata
        record = wheel.build_record
        sidecar = wheel.read(f"{wheel.dist_info}/METADATA")
        public = wheel.version.public
        facts = _facts(record, metadata.summary)
        wanted = tuple(layout.channel_name(one) for one in channels)
        for one in wanted:
            layout.suits(one, str(wheel.version), path.name)
        if not wanted:
            wanted = ("nightly" if wheel.version.is_prerelease else "release",)
        own = {layout.channel_name(public.replace("!", "-"))}
        if facts.commit:
            own.add(facts.commit)
        return Candidate(
            path=path,
            project=str(wheel.name),
            version=str(wheel.version),
            sha256=sha256_file(path),
            size=wheel.size,
            requires_python=metadata.requires_python,
            sidecar=sidecar,
            variant=layout.variant_name(variant) if variant else _variant(wheel, record),
            channels=tuple(sorted({*wanted, *own})),
            facts=facts,
        )


def _variant(wheel: Wheel, record: BuildRecord | None) -> str:
    if record is not None and record.device:
        if record.device != "cuda":
            return record.device
        return "cu" + "".join(record.toolkit.split(".")[:2])
    for part in (wheel.version.local or "").split("."):
        if _VARIANT.fullmatch(part):
            return part
    if all(tag.platform == "any" for tag in wheel.tags):
        return "any"
    raise PublishRefused(
        f"For which variant {wheel.filename} is cannot be told.",
        why="It has no build record, and the local part of its version (as in 0.9.2+cu130) does not say it.",
        next="Say it: --variant cu130 (or cpu, or a name of your own).",
    )


def _facts(record: BuildRecord | None, summary: str) -> Facts:
    if record is None:
        return Facts(summary=summary[:500])
    source = record.inputs.get("source", {})
    identity = source.get("identity", "") if isinstance(source, dict) else ""
    commit = _COMMIT.fullmatch(identity) if isinstance(identity, str) else None
    return Facts(
        release=record.release,
        commit=commit[1] if commit else "",
        device=record.device,
        archs=record.archs,
        cuda=record.toolkit,
        torch=record.torch,
        digest=record.digest,
        summary=summary[:500],
    )


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
