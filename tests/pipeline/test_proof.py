"""A wheel is verified before anybody gets it; one that fails is kept aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline_helpers import Toy

from vllm_builder.errors import VerifyFailed
from vllm_builder.events import Note
from vllm_builder.stages.store import Store
from vllm_builder.stages.verify.model import Finding, Report, Severity


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What verifying finds, until a test changes it."""
    found: list[Finding] = []

    def verify(wheel: Path, *arguments: Any, **options: Any) -> Report:
        return Report(
            wheel=str(wheel), sha256="", expected="its plan", findings=tuple(found), checks=("toy",)
        )

    monkeypatch.setattr("vllm_builder.proof._verify", verify)
    return found


def finding(severity: Severity) -> Finding:
    return Finding(check="toy", severity=severity, what="vllm._C is missing", where="vllm/", cure="Build it.")


def test_the_report_goes_into_the_record(toy: Toy, findings: list[Finding]) -> None:
    findings.append(finding("warning"))
    result = toy.build()
    assert result.record.verify["checks"] == ["toy"]
    assert result.record.finish["platform"] == "any"
    warnings = [e.message for e in toy.events if isinstance(e, Note) and e.level == "warning"]
    assert any("vllm._C is missing" in message for message in warnings)
    assert toy.build().record.verify == result.record.verify


def test_a_wheel_with_an_error_is_kept_aside_and_goes_nowhere(toy: Toy, findings: list[Finding]) -> None:
    findings += [finding("warning"), finding("error")]
    with pytest.raises(VerifyFailed) as error:
        toy.build()
    digest = toy.plan().digest
    folder = toy.workspace.root / "rejected" / digest[:16]
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.json",
        "vllm-1.2.3+empty-py3-none-any.whl",
    ]
    assert [one["severity"] for one in json.loads((folder / "report.json").read_text())["findings"]] == [
        "warning",
        "error",
    ]
    assert str(folder) in error.value.next
    assert any("vllm._C is missing" in line for line in error.value.details)
    assert Store(toy.folder / "cache" / "store").find(digest) is None
    assert not toy.workspace.out.exists()


def test_the_same_command_again_goes_on_in_the_tree(toy: Toy, findings: list[Finding]) -> None:
    findings.append(finding("error"))
    for _ in range(2):
        with pytest.raises(VerifyFailed):
            toy.build()
    left = toy.tree(toy.plan()) / "build" / "left"
    left.touch()
    findings.clear()
    result = toy.build()
    assert not result.from_store
    assert left.exists()
    # What was wrong with its forerunner is of no use any more.
    assert not (toy.workspace.root / "rejected" / result.digest[:16]).exists()


def test_a_forced_build_begins_anew(toy: Toy, findings: list[Finding]) -> None:
    findings.append(finding("error"))
    with pytest.raises(VerifyFailed):
        toy.build()
    left = toy.tree(toy.plan()) / "build" / "left"
    left.touch()
    findings.clear()
    assert not toy.build(force=True).from_store
    assert not left.exists()


def test_a_part_is_finished_and_verified_too(toy: Toy, findings: list[Finding]) -> None:
    plan = toy.plan(extensions=("vllm._C",))
    findings.append(finding("error"))
    with pytest.raises(VerifyFailed):
        toy.build(plan)
    assert not (toy.workspace.out / "partial").exists()
    findings.clear()
    assert toy.build(plan).record.verify["checks"] == ["toy"]


def test_two_folders_give_the_same_wheel(toy: Toy, tmp_path: Path) -> None:
    """Of pure Python; for compiled extensions a real build shows it."""
    first = toy.build()
    other = Toy(tmp_path / "other" / "deeper")
    assert other.plan().digest == first.digest
    second = other.build()
    assert second.sha256 == first.sha256
