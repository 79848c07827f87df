"""The journal read again: which builds there were, and what is known of each. Damaged lines count as nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vllm_builder.report.model import Fault, Machine, PlanFacts

_OUTCOMES: Final = {"built", "failed", "interrupted"}


@dataclass(slots=True)
class RawRun:
    """One run of setup.py; moments are seconds since 1970."""

    began: float
    jobs: int = 0
    last: float = 0.0
    """The last sign of life, or the end."""
    finished: bool = False
    reason: str = ""
    scheduling: list[str] = field(default_factory=list)
    ninjas: list[float] = field(default_factory=list)
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)
    steps: dict[str, dict[str, float]] = field(default_factory=dict)
    """Source file -> program below the compiler's driver -> CPU seconds."""
    logs: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class RawStage:
    name: str
    began: float
    seconds: float | None = None
    summary: str = ""


@dataclass(slots=True)
class RawBuild:
    """One invocation of ``build``; ``outcome`` is empty where its end was not written."""

    began: float
    plan: PlanFacts
    machine: Machine
    builder: str = ""
    pid: int = 0
    tree: str = ""
    last: float = 0.0
    outcome: str = ""
    fault: Fault | None = None
    totals: dict[str, int] = field(default_factory=dict)
    resumed_from: int | None = None
    left_out: list[str] = field(default_factory=list)
    stages: list[RawStage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reused: list[tuple[str, str]] = field(default_factory=list)
    runs: list[RawRun] = field(default_factory=list)


def read(path: Path) -> list[RawBuild]:
    """The builds of a journal, the oldest first; none where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return builds(file)
    except OSError:
        return []


def builds(lines: Iterable[str]) -> list[RawBuild]:
    found: list[RawBuild] = []
    for line in _objects(lines):
        try:
            if line["kind"] == "build":
                found.append(_begun(line))
            elif found:
                _take(found[-1], line)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            continue
    return found


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _begun(line: dict[str, Any]) -> RawBuild:
    at = _moment(line["at"])
    return RawBuild(
        began=at,
        last=at,
        plan=PlanFacts.model_validate(line["plan"]),
        machine=Machine.model_validate(line.get("machine") or {}),
        builder=str(line.get("builder", "")),
        pid=int(line.get("pid", 0)),
        tree=str(line.get("tree", "")),
    )


def _take(build: RawBuild, line: dict[str, Any]) -> None:
    at, kind = _moment(line["at"]), line["kind"]
    if kind != "ninja":
        # A clock that is set back must not make spans negative.
        build.last = max(build.last, at)
    match kind:
        case "stage":
            build.stages.append(RawStage(str(line["stage"]), at))
        case "stage-end":
            for stage in reversed(build.stages):
                if stage.name == line["stage"]:
                    stage.seconds, stage.summary = _seconds(line["seconds"]), str(line.get("summary", ""))
                    break
        case "note":
            build.warnings.append(str(line["message"]))
        case "reused":
            build.reused.append((str(line["what"]), str(line["detail"])))
        case "run":
            build.runs.append(RawRun(began=at, jobs=int(line.get("jobs", 0)), last=at))
        case "end":
            build.outcome = line["outcome"] if line["outcome"] in _OUTCOMES else "failed"
            build.fault = Fault.model_validate(line["fault"]) if line.get("fault") else None
            build.totals = {str(k): int(v) for k, v in (line.get("cache") or {}).items()}
            build.left_out = [str(part) for part in line.get("left_out") or ()]
            build.resumed_from = line.get("resumed_from")
        case _ if build.runs:
            _measured(build.runs[-1], line, at)


def _measured(run: RawRun, line: dict[str, Any], at: float) -> None:
    if line["kind"] != "ninja" and not run.finished:
        run.last = max(run.last, at)
    match line["kind"]:
        case "scheduling":
            run.scheduling.append(str(line["text"]))
        case "ninja":
            run.ninjas.append(at)
        case "m":
            run.samples.append((at, max(0, int(line["m"])), max(0, int(line["n"]))))
        case "peak":
            source = str(line["source"])
            run.peaks[source] = max(run.peaks.get(source, 0), int(line["m"]))
            steps = {str(name): _seconds(value) for name, value in (line.get("steps") or {}).items()}
            if steps:
                run.steps[source] = steps
        case "edges":
            sources = {str(k): str(v) for k, v in line["sources"].items()}
            run.logs.append(str(line["log"]))
            run.sources.update(sources)
        case "cache":
            run.answers.update({str(k): str(v) for k, v in line["files"].items()})
        case "attempt":
            run.reason = f"{line['reason']} ({line['unit']})" if line.get("unit") else str(line["reason"])
        case "run-end":
            run.finished = True


def _seconds(value: Any) -> float:
    found = float(value)
    if not 0 <= found < 1e8:
        raise ValueError(value)
    return found


def _moment(value: Any) -> float:
    found = float(value)
    if not 0 <= found < 1e11:
        raise ValueError(value)
    return found
