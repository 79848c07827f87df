"""The journal: what is written while a build runs, and what is read of it whatever ended it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from report_helpers import BEGAN, Build, plan, small, text

from vllm_builder.events import Measured, Note, StageFinished, StageStarted
from vllm_builder.report import journal as journals
from vllm_builder.report.collecting import collect
from vllm_builder.report.html import page
from vllm_builder.report.journal import Journal
from vllm_builder.report.reading import builds, read
from vllm_builder.report.trace import trace


class Clock:
    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


def begun(path: Path, clock: Clock) -> Journal:
    journal = Journal(path, clock)
    journal.begin({"plan": plan(), "builder": "0.1.0"})
    return journal


def test_what_is_told_is_read_again(tmp_path: Path) -> None:
    clock = Clock()
    journal = begun(tmp_path / "logs" / "j.jsonl", clock)
    journal(StageStarted(stage="compile", title="Compile"))
    journal(Measured(stage="compile", what="run", values={"jobs": 3}))
    clock.now += 10
    journal(Measured(stage="compile", what="ninja", values={"elapsed": 4.0}))
    journal(Measured(stage="compile", what="memory", values={"m": 5000, "n": 2}))
    journal(Measured(stage="compile", what="peak", values={"source": "/a.cu", "m": 4000}))
    journal(Note(stage="compile", message="Look out", level="warning"))
    journal(Note(stage="compile", message="Only so", level="info"))
    journal(StageFinished(stage="compile", seconds=10.0, summary="done"))
    journal.close()
    (build,) = read(tmp_path / "logs" / "j.jsonl")
    (run,) = build.runs
    assert (run.jobs, run.ninjas, run.samples, run.peaks) == (
        3,
        [BEGAN + 6],
        [(BEGAN + 10, 5000, 2)],
        {"/a.cu": 4000},
    )
    assert build.warnings == ["Look out"]
    assert [(s.name, s.seconds, s.summary) for s in build.stages] == [("compile", 10.0, "done")]


def test_samples_become_rarer_but_their_peaks_are_kept(tmp_path: Path) -> None:
    clock = Clock()
    journal = begun(tmp_path / "j", clock)
    journal.run(jobs=1)
    hours = 24
    for second in range(hours * 3600):
        clock.now += 1
        journal.sample(10**9 if second == 80_001 else 10**6, 1)
    journal.close()
    (build,) = read(tmp_path / "j")
    samples = build.runs[0].samples
    assert 3600 * 4 < len(samples) < 3600 * 6
    assert max(memory for _, memory, _ in samples) == 10**9
    assert [at - BEGAN for at, _, _ in samples[:3]] == [1, 2, 3]
    assert (tmp_path / "j").stat().st_size < 1 << 21


def test_old_builds_go_when_there_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    path.write_text(text(*(small(BEGAN + 100 * n) for n in range(40))))
    one = path.stat().st_size // 40
    monkeypatch.setattr(journals, "LARGEST", 10 * one)
    clock = Clock()
    clock.now += 10_000
    begun(path, clock).close()
    kept = [build.began for build in read(path)]
    assert kept == [*(BEGAN + 100 * n for n in range(40 - len(kept) + 1, 40)), BEGAN + 10_000]
    assert 3 <= len(kept) <= 7


def test_a_line_that_was_cut_off_does_not_spoil_the_next_build(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text(text(small())[:-25])
    begun(path, Clock()).close()
    assert [build.outcome for build in read(path)] == ["", ""]


def test_names_that_are_no_utf8_are_kept(tmp_path: Path) -> None:
    journal = begun(tmp_path / "j", Clock())
    journal.run(jobs=1)
    journal.write("peak", source="/tree/\udcff.cpp", m=1)
    journal.close()
    assert read(tmp_path / "j")[0].runs[0].peaks == {"/tree/\udcff.cpp": 1}


def test_a_journal_that_cannot_be_written_says_why_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = begun(tmp_path / "file" / "j", Clock())
    journal(StageStarted(stage="compile", title="Compile"))
    journal.sample(1, 1)
    journal.close()
    assert "file" in journal.reason


def test_a_disk_that_fills_up_switches_it_off(tmp_path: Path) -> None:
    journal = begun(tmp_path / "j", Clock())
    assert journal._file is not None
    journal._file.close()
    journal._file = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115
    journal.write("note", stage="x", message="y")
    assert "No space left" in journal.reason
    journal._file.close = lambda: None  # type: ignore[method-assign]


def test_nothing_is_read_of_what_is_not_there(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == []


def test_a_clock_that_is_set_back_makes_no_negative_time() -> None:
    build = Build().stage(0, "compile").line(1, "run", jobs=1).line(-500, "m", m=1, n=1).end(-400, "failed")
    report = collect(builds(text(build).splitlines()))
    assert report.figures.seconds is not None
    assert report.figures.seconds >= 0
    assert all(sample.at >= 0 for run in report.runs for sample in run.samples)


_LINES = [json.loads(line) for line in text(small()).splitlines()]


@settings(deadline=None)
@given(st.integers(0, len(_LINES) - 1), st.sampled_from(sorted({k for one in _LINES for k in one})), st.sampled_from(
    [None, "", "x", -1, 1e300, float("inf"), float("nan"), 10**400, [], {}, {"a": []}, {"hits": 1e999}, True, [1, 2],
     {"cores": 10**400, "memory": -1}]
))  # fmt: skip
@example(0, "machine", {"cores": 10**400})
@example(6, "jobs", float("inf"))
@example(len(_LINES) - 1, "resumed_from", "x")
def test_a_damaged_line_never_breaks_a_report(at: int, key: str, value: object) -> None:
    lines = [dict(one) for one in _LINES]
    lines[at][key] = value
    found = builds(json.dumps(one) for one in lines)
    if found:
        made = collect(found)
        assert page(made)
        json.dumps(trace(made), allow_nan=False)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3000))
def test_any_bytes_in_between_never_break_a_report(junk: bytes, at: int) -> None:
    whole = text(small()).encode()
    damaged = (whole[:at] + junk + whole[at:]).decode("utf-8", "replace")
    if found := builds(damaged.split("\n")):
        collect(found)
