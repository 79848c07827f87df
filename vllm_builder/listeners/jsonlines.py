"""Events as JSON, one object per line."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import IO, Any

from vllm_builder.events import Event, Measured
from vllm_builder.listeners.text import abandon


class JsonLines:
    """Write each event as one line of JSON: its fields, ``event`` (its kind) and ``time`` (UTC, ISO 8601).

    When the reader has gone it falls silent.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream: IO[str] | None = stream

    def __call__(self, event: Event) -> None:
        if self._stream is None or isinstance(event, Measured):
            return
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        fields = {"time": moment, **_finite(event.as_dict())}
        line = json.dumps(fields, separators=(",", ":"), ensure_ascii=True, default=str)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            # ValueError: the stream is closed.
            abandon(self._stream)
            self._stream = None


def _finite(value: Any) -> Any:
    """JSON knows no infinity: a rate or a time left that is none becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
