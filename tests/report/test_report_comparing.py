"""Which build is compared with, and why; and which one a name means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from report_helpers import BEGAN, Build, plan, put, small

from vllm_builder.cache import Workspace
from vllm_builder.errors import ReportMissing
from vllm_builder.report import finding
from vllm_builder.report.comparing import choose
from vllm_builder.report.model import PlanFacts, Report

OTHER = "deadbeef" + "0" * 56


def facts(**changes: Any) -> PlanFacts:
    return PlanFacts.model_validate(plan(**changes))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "build")


def reported(workspace: Workspace, name: str = "latest") -> Report:
    return finding.report(workspace, finding.find(workspace, name))


CUDA = {"device": "cuda", "archs": ["10.0"]}


@pytest.mark.parametrize(
    ("now", "others", "chosen", "why"),
    [
        (facts(), [(9, facts(digest=OTHER)), (1, facts())], 1, "the last build of the same plan"),
        (facts(), [(1, facts()), (9, facts()), (3, facts())], 1, "the last build of the same plan"),
        (
            facts(),
            [(1, facts(digest=OTHER)), (9, facts(digest=OTHER, release="0.9.1"))],
            0,
            "the last build of 0.9.2 for cpu, by another plan",
        ),
        (
            facts(**CUDA),
            [
                (1, facts(digest=OTHER, release="0.9.1", **CUDA)),
                (9, facts(digest=OTHER, device="cuda", archs=["9.0"])),
            ],
            0,
            "the last build of another release for cuda 10.0; none of 0.9.2 is known",
        ),
        (
            facts(**CUDA),
            [(9, facts(digest=OTHER)), (1, facts(digest=OTHER, device="cuda", archs=["9.0"]))],
            1,
            "the last build for cuda; none for the same architectures is known",
        ),
    ],
)
def test_the_most_alike_and_of_those_the_latest(
    now: PlanFacts, others: list[tuple[float, PlanFacts]], chosen: int, why: str
) -> None:
    assert choose(now, others) == (chosen, why)


def test_a_part_is_not_compared_with_a_whole() -> None:
    assert choose(facts(extensions=["vllm._C"]), [(1, facts(digest=OTHER))]) is None
    assert choose(facts(), [(1, facts(digest=OTHER, device="cuda"))]) is None


def test_the_build_before_this_one(workspace: Workspace) -> None:
    put(workspace, small(BEGAN - 9000, slower=1.5), small())
    found = reported(workspace).comparison
    assert found is not None
    assert (found.why, found.began) == ("the last build of the same plan", "2025-10-09T06:23:20+00:00")
    (change,) = found.changes
    assert (change.name, change.before, change.now) == ("csrc/cpu/attention.cpp", 17.9, 11.9)
    # What came from the cache is no measurement.
    assert found.kept == 2
    assert found.differs == ()


def test_builds_that_failed_are_not_compared_with(workspace: Workspace) -> None:
    failed = small(BEGAN - 500, slower=2)
    failed.lines[-1]["outcome"] = "failed"
    put(workspace, small(BEGAN - 9000), failed, small())
    found = reported(workspace).comparison
    assert found is not None
    assert found.began == "2025-10-09T06:23:20+00:00"


def test_another_plan_and_what_else_differs(workspace: Workspace) -> None:
    put(workspace, small(BEGAN - 50, digest=OTHER, torch="2.12.0+cpu"))
    put(workspace, small(BEGAN + 90, digest="ab" * 32))
    put(workspace, small())
    found = reported(workspace, "c0ffee").comparison
    assert found is not None
    # The one that began later is no earlier build.
    assert (found.digest, found.differs) == (OTHER, ("torch: 2.12.0+cpu, now 2.13.0+cpu",))


def test_nothing_to_compare_with(workspace: Workspace) -> None:
    put(workspace, small())
    assert reported(workspace).comparison is None


def test_names(workspace: Workspace) -> None:
    first = put(workspace, small())
    second = put(workspace, small(digest=OTHER, version="0.9.2+cu130"))
    third = put(workspace, small(digest="ab" * 32, release="0.9.1", version="0.9.1+cpu"))
    for age, path in enumerate((second, third, first)):
        os.utime(path, (BEGAN - age, BEGAN - age))
    expected = {
        "latest": second, "v0.9.2": second, "0.9.2": second, "0.9.2+cpu": first, "0.9.1": third, "c0ff": first,
        "DEADBEEF": second, OTHER: second,
    }  # fmt: skip
    assert {name: finding.find(workspace, name) for name in expected} == expected


@pytest.mark.parametrize("name", ["0.9.3", "c0f", "", "../x", "nothing"])
def test_names_of_nothing(workspace: Workspace, name: str) -> None:
    put(workspace, small())
    with pytest.raises(ReportMissing) as caught:
        finding.find(workspace, name)
    assert any("c0ffee" in line for line in caught.value.details)


def test_an_ambiguous_digest(workspace: Workspace) -> None:
    put(workspace, small())
    put(workspace, small(digest="c0ffee" + "1" * 58))
    with pytest.raises(ReportMissing, match="beginning of 2 plans"):
        finding.find(workspace, "c0ffee")


def test_an_empty_workspace(workspace: Workspace) -> None:
    with pytest.raises(ReportMissing, match="Nothing was built"):
        finding.find(workspace, "latest")


def test_a_journal_of_rubbish_is_passed_over(workspace: Workspace) -> None:
    path = put(workspace, small())
    path.with_name("0123456789abcdef.journal.jsonl").write_bytes(b'{"kind":"build"\n\xff\x00')
    assert finding.find(workspace, "latest") == path
    assert reported(workspace).outcome == "built"


def test_a_link_to_nowhere_hides_no_journal(workspace: Workspace) -> None:
    path = put(workspace, small())
    path.with_name("0123456789abcdef.journal.jsonl").symlink_to("nowhere")
    assert finding.find(workspace, "latest") == path


def test_damaged_journals_are_not_called_no_build(workspace: Workspace) -> None:
    path = put(workspace, small())
    path.write_bytes(b"\0\0")
    for name in ("latest", "0.9.2"):
        with pytest.raises(ReportMissing, match="can be read") as caught:
            finding.find(workspace, name)
        assert list(caught.value.details) == [path.name]


def test_a_journal_whose_first_line_is_damaged_is_still_found(workspace: Workspace) -> None:
    path = put(workspace, small(), small(BEGAN + 90))
    path.write_text(path.read_text().replace("{", "{{", 1).replace("{{", '{"kind":"build"{', 1))
    assert finding.find(workspace, "c0ffee") == path
    assert reported(workspace).outcome == "built"


def test_a_build_without_memory_or_cache_compares_too(workspace: Workspace) -> None:
    bare = Build(BEGAN - 10).stage(0, "compile").line(0, "run", jobs=1).line(1, "run-end").end(1)
    put(workspace, bare, small())
    found = reported(workspace).comparison
    assert found is not None
    assert "jobs: 1, now 2" in found.differs
