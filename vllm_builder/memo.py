"""Small remembered answers: what a branch of the plan learnt from the network or from a process."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm_builder.errors import NoSpace, NotWritable
from vllm_builder.fs import write_atomic


class Memo:
    """One JSON file per question under ``folder``.

    A damaged or unreadable file counts as no answer: what is remembered can always be asked again.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder / kind

    def _path(self, question: Any) -> Path:
        text = json.dumps(question, sort_keys=True, separators=(",", ":"))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def get(self, question: Any, *, max_age: float | None = None) -> Any | None:
        """The remembered answer, or None. ``max_age`` is in seconds; None means for ever."""
        path = self._path(question)
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("question") != json.loads(json.dumps(question)):
            return None
        if max_age is not None and not 0 <= time.time() - float(found.get("time", 0)) <= max_age:
            return None
        return found.get("answer")

    def put(self, question: Any, answer: Any) -> None:
        """Remember ``answer`` (JSON types), where the folder can be written to.

        A cache that is read-only or full costs the question again next time, and nothing else.
        """
        value = {"question": question, "answer": answer, "time": time.time()}
        with suppress(NotWritable, NoSpace):
            write_atomic(self._path(question), json.dumps(value, indent=1, sort_keys=True))
