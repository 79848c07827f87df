"""The base of every typed value, and the digest over them.

Values are frozen and refuse unknown keys. A field that cannot change the wheel (a path, a number of
jobs) is annotated with :data:`Free`; everything else takes part in the digest. So whether a field
belongs to the cache key stands where the field is declared, and a new field is in the key by default:
forgetting the annotation costs a rebuild, never a wrong wheel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class _FreeMarker:
    """Marks a field that does not take part in the digest."""

    def __repr__(self) -> str:
        return "Free"


FREE: Final = _FreeMarker()
Free = Annotated[T, FREE]
"""``jobs: Free[int]``: the field is carried and printed, but is not part of the digest."""


class Model(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


def digest_view(value: Any) -> Any:
    """Return ``value`` as plain JSON types with every :data:`Free` field left out.

    Models become dicts, sets become sorted lists; mappings are ordered by key when serialised.
    """
    if isinstance(value, Model):
        out = {}
        for name, info in type(value).model_fields.items():
            if any(isinstance(m, _FreeMarker) for m in info.metadata):
                continue
            out[name] = digest_view(getattr(value, name))
        return out
    if isinstance(value, Mapping):
        return {str(k): digest_view(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(digest_view(v) for v in value)
    if isinstance(value, list | tuple):
        return [digest_view(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no insignificant space: equal values give equal text."""
    return json.dumps(digest_view(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """SHA-256 (hex, 64 characters) over :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()
