"""The build record that travels in a wheel's ``.dist-info``.

It holds what decides the wheel and nothing that differs from one run to the next (no times, no paths), so that the
same plan gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from vllm_builder.errors import WheelError
from vllm_builder.model import Model

BUILD_RECORD: Final = "vllm-builder.json"
"""File in ``.dist-info``."""
SBOM: Final = "sboms/vllm-builder.cdx.json"
"""File in ``.dist-info``, where PEP 770 wants it."""
SCHEMA: Final = 1


class BuildRecord(Model):
    """Who built a wheel, from what, for what, and what may be expected of it."""

    schema_version: int = SCHEMA
    builder: str
    """``vllm-builder 0.1.0``."""
    digest: str
    """Of the plan, 64 hexadecimal characters."""
    release: str
    version: str
    device: str
    archs: tuple[str, ...] = ()
    """``("10.0",)``."""
    torch: str = ""
    """With its build tag: ``2.11.0+cu130``; empty where the wheel does not depend on torch."""
    toolkit: str = ""
    """Version of CUDA, ``13.0``."""
    native: str = ""
    """Digest of all that went into what is compiled; wheels that share it share their extensions."""
    extensions: tuple[str, ...] = ()
    """The only extension modules that were built, for development; empty: the whole wheel."""
    left_out: Mapping[str, str] = {}
    """Extension modules that were left out on purpose: name -> reason."""
    full_headers: tuple[str, ...] = ()
    """Units for which the patch set lean-headers was not enough: compiled with torch's own headers."""
    inputs: Mapping[str, Any] = {}
    """All that the digest covers: sources, patches, toolchain."""
    tools: Mapping[str, str] = {}
    """Versions of cmake, ninja, setuptools, wheel."""
    expectations: Mapping[str, Any] = {}
    """:class:`vllm_builder.stages.verify.expectations.Expectations` as JSON types."""

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def parse_build_record(data: bytes) -> BuildRecord:
    """Read a build record.

    Raises:
        WheelError: it is no record, or a newer vllm-builder wrote it.
    """
    try:
        raw = json.loads(data)
        schema = raw.get("schema_version") if isinstance(raw, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise WheelError(
                f"The wheel's build record has the format {schema}, and this vllm-builder knows {SCHEMA}.",
                next="Upgrade vllm-builder.",
            )
        return BuildRecord.model_validate(raw)
    except (ValueError, RecursionError, ValidationError) as error:
        raise WheelError(
            "The wheel's build record cannot be read.",
            why=_reason(error),
            next=f"It was changed since it was built: fetch or build the wheel again. Without its file {BUILD_RECORD} "
            "(and the line of that in RECORD) it is held against its release.",
        ) from error


def _reason(error: Exception) -> str:
    """One line: of many faults the first, and where it is."""
    if isinstance(error, ValidationError):
        first, *others = error.errors()
        place = ".".join(map(str, first["loc"])) or "the whole"
        more = f" ({len(others)} more)" if others else ""
        return f"{place}: {first['msg']}{more}."
    return f"{str(error).splitlines()[0]}."
