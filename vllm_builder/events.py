"""What stages tell the outside world.

A stage knows no screen: it is handed one callable, ``emit``, and calls it with frozen events. The rich
display, the JSON stream and the log file are listeners (see :mod:`vllm_builder.listeners`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["debug", "info", "warning"]
What = Literal[
    "run", "scheduling", "ninja", "memory", "peak", "edges", "cache", "run-end", "attempt", "reused"
]
"""What is measured: see :mod:`vllm_builder.report.journal`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. ``stage`` is the folder name below ``vllm_builder/stages``."""

    stage: str

    def as_dict(self) -> dict[str, object]:
        return {"event": type(self).__name__, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(Event):
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished(Event):
    """``seconds`` is wall time; ``summary`` one line for a person."""

    seconds: float
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """Something that a person should know: a choice that was made, a thing left out, a retry."""

    message: str
    level: Level = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """``done`` of ``total`` in ``unit`` (``total`` None: unknown).

    ``rate`` is units per second, ``eta`` seconds, ``current`` what is being worked on right now.
    """

    task: str
    done: float
    total: float | None
    unit: str
    rate: float | None = None
    eta: float | None = None
    current: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Event):
    """One line that a tool printed, without its line end."""

    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Event):
    """Something for the journal of a build (see :mod:`vllm_builder.report.journal`), which screens leave out.

    ``what`` is the kind of line there, ``values`` what it holds besides, as JSON types.
    """

    what: What
    values: dict[str, Any]


Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An ``emit`` for callers that do not want to listen."""
