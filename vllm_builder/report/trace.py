"""A report in the Trace Event format, which https://ui.perfetto.dev and chrome://tracing open.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Times are microseconds. Each
run of setup.py is a process, each job slot a thread of it; memory is a counter. Runs follow each other with a second
between them, whatever lay between them in truth: their names say when they really began.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm_builder.fs import write_atomic
from vllm_builder.report.model import Report, Run, Unit

_GAP = 1.0
_STAGES = 1
"""Process id of the stages; runs follow."""


def write(report: Report, path: Path) -> Path:
    """Write the trace, whole or not at all.

    Raises:
        NoSpace, NotWritable
    """
    write_atomic(path, json.dumps(trace(report), separators=(",", ":")))
    return path


def trace(report: Report) -> dict[str, Any]:
    """The trace as JSON types."""
    events = _named(_STAGES, f"stages of {report.plan.version}")
    events += _thread(_STAGES, 1, "stages")
    for stage in report.stages:
        events.append(
            _span(_STAGES, 1, stage.name, "stage", stage.start, stage.seconds, {"summary": stage.summary})
        )
    compile_began = next((stage.start for stage in report.stages if stage.name == "compile"), 0.0)
    offset = compile_began if not any(run.earlier for run in report.runs) else 0.0
    for run in report.runs:
        events += _run(run, offset)
        offset += run.seconds + _GAP
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "builder": f"vllm-builder {report.builder}",
            "plan": report.plan.digest,
            "version": report.plan.version,
            "outcome": report.outcome,
            "began": report.began,
        },
    }


def _run(run: Run, offset: float) -> list[dict[str, Any]]:
    pid = _STAGES + run.number
    events = _named(pid, f"run {run.number} of setup.py, {run.jobs} jobs, {run.began}")
    for slot in sorted({unit.slot for unit in run.units}):
        events += _thread(pid, slot + 1, f"slot {slot + 1}")
    for unit in run.units:
        start = offset + unit.start
        events.append(
            _span(pid, unit.slot + 1, unit.name, _category(unit), start, unit.seconds, _arguments(unit))
        )
        # What the programs of a compiler took nests below the unit, one after the other.
        for phase in unit.phases:
            seconds = max(0.0, min(phase.seconds, offset + unit.start + unit.seconds - start))
            events.append(_span(pid, unit.slot + 1, phase.name, "phase", start, seconds, {}))
            start += seconds
    for sample in run.samples:
        values = {"memory of all compilers (bytes)": sample.memory}
        events.append(
            {"ph": "C", "pid": pid, "tid": 0, "ts": _us(offset + sample.at), "name": "memory", "args": values}
        )
        running = {"compilers": sample.compilers}
        events.append(
            {
                "ph": "C",
                "pid": pid,
                "tid": 0,
                "ts": _us(offset + sample.at),
                "name": "compilers",
                "args": running,
            }
        )
    return events


def _category(unit: Unit) -> str:
    return ",".join(filter(None, (unit.kind, unit.extension)))


def _arguments(unit: Unit) -> dict[str, Any]:
    found: dict[str, Any] = {"output": unit.output, "extension": unit.extension}
    if unit.peak:
        found["peak memory (bytes)"] = unit.peak
    if unit.cache:
        found["compiler cache"] = unit.cache
    return found


def _span(
    pid: int, tid: int, name: str, category: str, start: float, seconds: float, arguments: dict[str, Any]
) -> dict[str, Any]:
    # Rounded at both ends, so that what touches in truth does not overlap.
    began = _us(start)
    return {
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "ts": began,
        "dur": max(0, _us(start + seconds) - began),
        "name": name,
        "cat": category,
        "args": arguments,
    }


def _named(pid: int, name: str) -> list[dict[str, Any]]:
    return [
        {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name}},
        {"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": pid}},
    ]


def _thread(pid: int, tid: int, name: str) -> list[dict[str, Any]]:
    return [
        {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}},
        {"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}},
    ]


def _us(seconds: float) -> int:
    return max(0, round(seconds * 1e6))
