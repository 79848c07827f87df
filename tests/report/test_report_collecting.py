"""From a journal to the report: runs, units, phases, what was reused, and how the build ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from report_helpers import BEGAN, MEBIBYTE, Build, large, small, text

from vllm_builder.report.collecting import collect, described
from vllm_builder.report.model import Report
from vllm_builder.report.reading import builds


def report(*made: Build) -> Report:
    return collect(builds(text(*made).splitlines()))


def test_a_build_that_went_well() -> None:
    found = report(small())
    (run,) = found.runs
    assert (found.outcome, found.began, run.jobs, run.seconds) == (
        "built",
        "2025-10-09T08:53:20+00:00",
        2,
        37,
    )
    units = {unit.name: unit for unit in run.units}
    attention = units["csrc/cpu/attention.cpp"]
    assert (attention.start, attention.seconds, attention.extension, attention.cache) == (
        10.1,
        11.9,
        "_C",
        "miss",
    )
    assert attention.peak == 900 * MEBIBYTE
    assert [(phase.name, phase.seconds) for phase in attention.phases] == [("cc1plus", 10.5), ("as", 0.5)]
    assert (units["csrc/cpu/utils.cpp"].cache, units["csrc/cpu/utils.cpp"].slot) == (
        "hit",
        units["csrc/cpu/cache.cpp"].slot,
    )
    assert units["_C.abi3.so"].kind == "link"
    assert found.figures.stages == {
        "source": 1.5,
        "environment": 0.5,
        "compile": 37,
        "finish": 1,
        "verify": 2,
    }
    assert (found.figures.units, found.figures.hits, found.figures.misses) == (4, 1, 2)
    assert found.figures.peak_memory == 440 * MEBIBYTE
    assert found.remarks == ()


def test_phases_of_compiling_add_up() -> None:
    phases = {phase.name: phase for phase in report(small()).phases}
    assert phases["configure"].seconds == pytest.approx(10.1)
    assert (phases["compile _C"].units, phases["compile _C"].core_seconds) == (3, pytest.approx(20.3))
    assert phases["compile _C"].seconds == pytest.approx(11.9)
    assert phases["link"].seconds == pytest.approx(0.4)
    assert sum(
        phases[n].seconds for n in ("configure", "compile _C", "link", "install and pack")
    ) == pytest.approx(37)


def broken_off(*, began: float = BEGAN) -> Build:
    """Ended by SIGKILL in the middle; ninja's log has two units."""
    build = Build(began).stage(0, "source", 1).stage(1, "compile").line(1, "run", jobs=2).line(5, "ninja")
    return build.line(30, "m", m=300 * MEBIBYTE, n=2)


def resumed(*, began: float) -> Build:
    build = Build(began).stage(0, "compile").line(0, "run", jobs=1).line(3, "ninja")
    earlier, now = BEGAN + 5 - began, 3
    build.edges(
        60, (0.1, 10, "CMakeFiles/_C.dir/a.cpp.o"), (0.1, 12, "CMakeFiles/_C.dir/b.cpp.o"), zero=earlier
    )
    build.edges(60, (0.1, 40, "CMakeFiles/_C.dir/c.cpp.o"), (40, 41, "_C.abi3.so"), zero=now)
    build.line(60, "run-end").line(60, "stage-end", stage="compile", seconds=60)
    return build.end(61, resumed_from=2)


def test_a_resumed_build_has_the_runs_of_both() -> None:
    found = report(broken_off(), resumed(began=BEGAN + 90_000))
    first, second = found.runs
    assert (first.earlier, first.ended, [u.name for u in first.units]) == (
        True,
        "broken off",
        ["a.cpp", "b.cpp"],
    )
    assert (second.earlier, second.ended, [u.name for u in second.units]) == (
        False,
        "",
        ["c.cpp", "_C.abi3.so"],
    )
    # Its own figures are those of what it did itself.
    assert (found.figures.units, found.figures.core_seconds) == (2, pytest.approx(40.9))
    assert ("units of an earlier run", "2 were compiled already") in [
        (r.what, r.detail) for r in found.reused
    ]


def test_a_tree_that_was_made_anew_has_no_earlier_runs() -> None:
    again = resumed(began=BEGAN + 90_000)
    again.lines.insert(1, {"kind": "stage", "at": again.began, "stage": "source", "title": "Source"})
    assert [run.earlier for run in report(broken_off(), again).runs] == [False]


def test_a_build_after_one_that_ended_well_does_not_count_its_units() -> None:
    found = report(small(), small(BEGAN + 1000))
    assert [(run.earlier, len(run.units)) for run in found.runs] == [(False, 4)]


def test_a_log_that_was_recompacted_loses_nothing() -> None:
    """The second run compiles a.cpp again; ninja forgets that the first one did, the journal does not."""
    build = Build().stage(0, "compile").line(0, "run", jobs=2)
    build.edges(20, (0, 10, "CMakeFiles/_C.dir/a.cpp.o"), (0, 9, "CMakeFiles/_C.dir/b.cpp.o"), zero=5)
    build.line(21, "run-end").line(21, "attempt", reason="killed for memory", unit="c.cpp").line(
        22, "run", jobs=1
    )
    build.edges(60, (0, 20, "CMakeFiles/_C.dir/a.cpp.o"), (20, 30, "CMakeFiles/_C.dir/c.cpp.o"), zero=25)
    found = report(build.line(61, "run-end").end(62))
    assert [[(u.name, u.seconds) for u in run.units] for run in found.runs] == [
        [("b.cpp", 9), ("a.cpp", 10)],
        [("a.cpp", 20), ("c.cpp", 10)],
    ]
    assert found.runs[0].ended == "killed for memory (c.cpp)"


def test_the_end_that_was_not_written_is_said(tmp_path: Path) -> None:
    """What is in the tree by then is taken from there."""
    build = broken_off()
    build.lines[0]["tree"] = str(tmp_path)
    folder = tmp_path / "build" / "temp.linux"
    folder.mkdir(parents=True)
    stamp = int((BEGAN + 5) * 1e9)
    (folder / ".ninja_log").write_text(
        f"# ninja log v7\n0\t9000\t{stamp}\tCMakeFiles/_C.dir/csrc/a.cu.o\tab\n"
    )
    found = report(build)
    assert found.outcome == "broken off"
    assert [unit.name for run in found.runs for unit in run.units] == ["csrc/a.cu"]
    assert not found.stages[-1].finished
    assert "not written" in found.remarks[0]


def test_a_build_that_runs_now() -> None:
    build = broken_off(began=4_000_000_000)
    build.lines[0]["pid"] = os.getpid()
    assert report(build).outcome == "running"
    # The id of a process that was started after the build began is another's.
    build = broken_off()
    build.lines[0]["pid"] = os.getpid()
    assert report(build).outcome == "broken off"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("CMakeFiles/_C.dir/csrc/a.cu.o", ("csrc/a.cu", "_C", "compile")),
        (
            "vllm-flash-attn/CMakeFiles/_vllm_fa2_C.dir/csrc/flash.cu.o",
            ("csrc/flash.cu", "_vllm_fa2_C", "compile"),
        ),
        ("_deps/onednn-build/src/CMakeFiles/dnnl.dir/a.cpp.o", ("a.cpp", "dnnl", "compile")),
        ("_C.abi3.so", ("_C.abi3.so", "_C", "link")),
        ("_deps/onednn-build/src/libdnnl.a", ("libdnnl.a", "dnnl", "link")),
        ("rust/target/release/libthing.rlib", ("rust/target/release/libthing.rlib", "", "other")),
        ("CMakeFiles/install.util", ("CMakeFiles/install.util", "", "other")),
        ("a", ("a", "", "other")),
    ],
)
def test_what_ninja_made(output: str, expected: tuple[str, str, str]) -> None:
    assert described(output) == expected


def test_units_of_any_kind_have_a_place() -> None:
    build = Build().stage(0, "compile").line(0, "run", jobs=0)
    build.edges(20, (0, 5, "cargo-build"), (0, 6, "rust/x.rlib"), (6, 7, "CMakeFiles/x.util"), zero=5)
    found = report(build.line(21, "run-end").end(22))
    assert [(u.name, u.kind) for u in found.runs[0].units[:1]] == [("cargo-build", "other")]
    assert {phase.name for phase in found.phases} == {"configure", "other", "install and pack"}


def test_a_build_of_no_unit_at_all() -> None:
    found = report(Build().stage(0, "compile").line(0, "run", jobs=1).line(2, "run-end").end(3))
    assert (found.figures.units, found.figures.core_seconds) == (0, 0)
    assert [(phase.name, phase.seconds) for phase in found.phases] == [("runs that finished no unit", 2)]
    assert found.remarks == ("ninja's logs name no unit that this build compiled.",)


def test_units_never_overlap_in_a_slot() -> None:
    found = report(large(300, 7))
    for run in found.runs:
        ends: dict[int, float] = {}
        for unit in run.units:
            assert unit.start >= ends.get(unit.slot, 0) - 1e-9
            ends[unit.slot] = unit.start + unit.seconds
        assert len(ends) == 7


def test_json_is_the_model(tmp_path: Path) -> None:
    found = report(large(50, 3))
    again: Any = Report.model_validate_json(found.model_dump_json())
    assert again == found
