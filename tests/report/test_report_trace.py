"""The trace, held against the rules of the Trace Event format and of Perfetto's reader of it.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU and
https://perfetto.dev/docs/getting-started/other-formats: spans of a thread must nest, counters are numbers.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from report_helpers import BEGAN, Build, large, small, text

from vllm_builder.report import trace
from vllm_builder.report.collecting import collect
from vllm_builder.report.model import Report, UnitPhase
from vllm_builder.report.reading import builds


def report(*made: Build) -> Report:
    return collect(builds(text(*made).splitlines()))


def check(found: dict[str, Any]) -> None:
    assert found["displayTimeUnit"] in {"ms", "ns"}
    threads: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    named: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for event in found["traceEvents"]:
        assert isinstance(event["name"], str)
        assert event["name"]
        assert all(type(event[key]) is int for key in ("pid", "tid"))
        where = (event["pid"], event["tid"])
        match event["ph"]:
            case "X":
                assert type(event["ts"]) is int
                assert type(event["dur"]) is int
                assert event["ts"] >= 0 <= event["dur"]
                threads[where].append((event["ts"], event["ts"] + event["dur"]))
            case "C":
                assert event["ts"] >= 0
                assert event["args"]
                assert all(isinstance(v, int | float) and math.isfinite(v) for v in event["args"].values())
            case "M":
                key = {"process_name": "name", "thread_name": "name"}.get(event["name"], "sort_index")
                assert event["name"] in {
                    "process_name",
                    "process_sort_index",
                    "thread_name",
                    "thread_sort_index",
                }
                assert list(event["args"]) == [key]
                named[event["name"]].add(where)
            case other:
                pytest.fail(f"phase {other!r}")
    assert set(threads) <= named["thread_name"]
    assert {(pid, 0) for pid, _ in threads} <= named["process_name"]
    for spans in threads.values():
        open_until: list[int] = []
        # Of spans that begin at once the longer one is the outer one.
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)


@pytest.mark.parametrize(
    "made",
    [
        [small()],
        [small(BEGAN - 5000), small()],
        [large(400, 16)],
        [Build().stage(0, "source").end(2, "failed")],
        [Build()],
        # Lengths are of another clock than beginnings.
        [Build().stage(0, "finish", 1.746).stage(1.745, "verify", 1.9).end(5)],
    ],
)
def test_the_trace_obeys_the_format(made: list[Build], tmp_path: Path) -> None:
    found = report(*made)
    path = trace.write(found, tmp_path / "trace.json")

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    check(json.loads(path.read_text(), parse_constant=refuse))


def test_spans_are_the_units() -> None:
    found = report(small())
    spans = {e["name"]: e for e in trace.trace(found)["traceEvents"] if e["ph"] == "X"}
    unit = spans["csrc/cpu/attention.cpp"]
    # On one line with the stages: compiling began after three seconds.
    assert (unit["ts"], unit["dur"], unit["cat"]) == (13_100_000, 11_900_000, "compile,_C")
    assert unit["args"]["compiler cache"] == "miss"
    assert spans["compile"]["ts"] == 3_000_000
    counters = [e for e in trace.trace(found)["traceEvents"] if e["ph"] == "C" and e["name"] == "memory"]
    assert len(counters) == len(found.runs[0].samples)


def test_phases_of_a_compiler_nest_in_their_unit() -> None:
    found = report(small())
    run = found.runs[0]
    phases = (UnitPhase(name="cicc", seconds=7), UnitPhase(name="ptxas sm_100", seconds=90))
    units = tuple(unit.model_copy(update={"phases": phases}) for unit in run.units)
    found = found.model_copy(update={"runs": (run.model_copy(update={"units": units}),)})
    made = trace.trace(found)
    check(made)
    spans = [e for e in made["traceEvents"] if e.get("cat") == "phase"]
    assert len(spans) == 2 * len(units)
