"""What the store holds and gives back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ValidationError, field_validator

from vllm_builder.errors import StoreError
from vllm_builder.fs import os_errors, sha256_file
from vllm_builder.model import Model

SCHEMA: Final = 1
RECORD: Final = "record.json"
USED: Final = "used"


class NewerRecord(StoreError):
    """A record was written by a later version of this program; the entry itself may well be sound."""


class WheelFile(Model):
    """A wheel, or the archive of a native layer, as it lies in the store: ``size`` in bytes, ``sha256`` as 64
    hexadecimal characters."""

    filename: str
    size: int
    sha256: str

    @field_validator("filename")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        # The name becomes a path below the store and below --out.
        if Path(value).name != value or not value.endswith((".whl", ".zip")):
            raise ValueError(f"{value!r} is not the file name of a wheel or a native layer")
        return value

    @classmethod
    def of(cls, path: Path) -> Self:
        """Measure a wheel on disk.

        Raises:
            BuilderError: it cannot be read.
        """
        with os_errors(f"reading the wheel {path}"):
            return cls(filename=path.name, size=path.stat().st_size, sha256=sha256_file(path))


class CompileFacts(Model):
    """What compiling took. ``seconds`` is wall time, ``peak_memory`` bytes, ``units`` ninja's edges."""

    seconds: float = 0
    units: int = 0
    resumed_from: int = 0
    cache: Mapping[str, int] = {}
    """``hits``, ``misses``, ``uncacheable`` of the compiler cache."""
    peak_memory: int = 0
    left_out: tuple[str, ...] = ()
    full_headers: Mapping[str, str] = {}
    """Units for which lean headers were not enough: source file -> first error. They are as upstream's."""
    isolated: bool = False
    """Configured and compiled with no network at all."""
    attempts: tuple[Mapping[str, Any], ...] = ()
    """Runs of setup.py: ``jobs``, ``reason`` and ``unit`` of each; more than one where memory ran out."""


class Record(Model):
    """The build record beside every wheel."""

    schema_version: int = SCHEMA
    digest: str
    """Of the plan, 64 hexadecimal characters."""
    release: str
    """``0.9.2``."""
    version: str
    """As the wheel carries it: ``0.9.2+cpu``."""
    device: str
    archs: tuple[str, ...] = ()
    torch: str = ""
    plan: Mapping[str, Any] = {}
    """The plan as JSON types, for ``plan --explain-against`` and for a person."""
    patch_report: Mapping[str, Any] = {}
    timings: Mapping[str, float] = {}
    """Stage -> seconds of wall time."""
    tools: Mapping[str, str] = {}
    compile: CompileFacts = CompileFacts()
    finish: Mapping[str, Any] = {}
    """``platform`` of the wheel's tags and its ``reason``, ``torch`` as it is required, ``compressor``."""
    verify: Mapping[str, Any] = {}
    """:class:`vllm_builder.stages.verify.model.Report` as JSON types."""
    native: Mapping[str, Any] = {}
    """Of a wheel: its native layer (``digest``), whether it was ``reused`` or why not (``reason``), and where it was
    ``compiled``. Of a native layer: its ``inputs``, and the ``plan`` and ``host`` that compiled it."""
    extensions: tuple[str, ...] = ()
    """The only extension modules that were built, for development; empty: the whole wheel."""
    shared: Mapping[str, str] = {}
    """Of what another machine has made: the shared cache that it was taken ``from``, and when (``taken``)."""
    wheel: WheelFile
    created: str
    """UTC, ISO 8601."""
    builder: str = ""
    """Version of vllm-builder that built it."""

    @field_validator("digest")
    @classmethod
    def _is_a_digest(cls, value: str) -> str:
        if not is_digest(value):
            raise ValueError(f"{value!r} is not a digest of 64 hexadecimal characters")
        return value

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def now() -> str:
    """The present moment as :attr:`Record.created` wants it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_record(path: Path) -> Record:
    """Read and check one ``record.json``.

    Raises:
        NewerRecord: a later version of this program wrote it.
        StoreError: it is missing, unreadable, no JSON, or not a record.
    """
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unusable(path, _reason(error)) from error
    if not isinstance(raw, dict):
        raise _unusable(path, "It does not hold a JSON object.")
    schema = raw.get("schema_version")
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerRecord(
            f"The build record {path} was written by a newer vllm-builder ({_writer(raw)}).",
            why=f"Its schema is {schema}; this version reads up to {SCHEMA}.",
            next="Upgrade vllm-builder, or build anew beside it with --force or another --cache-dir.",
        )
    try:
        return Record.model_validate(raw)
    except ValidationError as error:
        unknown = [str(e["loc"][-1]) for e in error.errors() if e["type"] == "extra_forbidden"]
        if unknown and len(unknown) == len(error.errors()):
            raise NewerRecord(
                f"The build record {path} has keys unknown to this vllm-builder: {', '.join(unknown)}.",
                why=f"Another version wrote it ({_writer(raw)}).",
                next="Upgrade vllm-builder, or build anew beside it with --force or another --cache-dir.",
            ) from error
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise _unusable(path, faults) from error


def _writer(raw: Mapping[str, Any]) -> str:
    return str(raw.get("builder") or "which one is unknown")


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else f"It is no JSON: {error}"


def _unusable(path: Path, why: str) -> StoreError:
    return StoreError(
        f"The build record {path} cannot be used.",
        why=why,
        next="`vllm-builder cache verify` lists what is damaged; the next build of that plan replaces it.",
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One wheel of the store: a generation of a plan's digest.

    A digest has one generation per time that it was built; the highest number is the newest.
    """

    digest: str
    generation: int
    folder: Path
    record: Record

    @property
    def wheel(self) -> Path:
        return self.folder / self.record.wheel.filename

    @property
    def last_used(self) -> float:
        """When it was last served (or added), in seconds since the epoch."""
        return last_used(self.folder)

    def as_dict(self) -> dict[str, object]:
        """Plain JSON types, without the bulk of the record (plan, patch report and findings)."""
        facts = self.record.model_dump(mode="json", exclude={"plan", "patch_report", "verify"})
        return facts | {
            "generation": self.generation,
            "path": str(self.wheel),
            "last_used": iso(self.last_used),
        }


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A generation whose record cannot be read, and why."""

    digest: str
    generation: int
    folder: Path
    error: StoreError

    @property
    def last_used(self) -> float:
        return last_used(self.folder)

    def as_dict(self) -> dict[str, object]:
        return {
            "digest": self.digest,
            "generation": self.generation,
            "path": str(self.folder),
            "error": self.error.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock of a plan. ``since`` is UTC, ISO 8601."""

    digest: str
    pid: int | None = None
    host: str = ""
    since: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return "another process"
        return f"process {self.pid} on {self.host or 'this machine'}, since {self.since or 'an unknown time'}"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def last_used(folder: Path) -> float:
    for path in (folder / USED, folder / RECORD, folder):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return 0.0


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    try:
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
    except OSError:
        return 0
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 (many files)
            except OSError:
                continue
    return total
