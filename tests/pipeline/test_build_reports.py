"""The report after a build: there when it went well and when it did not, and never the reason why it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pipeline_helpers import Toy

from vllm_builder.errors import BuilderError
from vllm_builder.events import Measured, Note
from vllm_builder.listeners import format_error
from vllm_builder.report import finding, html
from vllm_builder.report.model import Report


def of(toy: Toy) -> Report:
    return finding.report(toy.workspace, finding.find(toy.workspace, "latest"))


def warnings(toy: Toy) -> list[str]:
    return [e.message for e in toy.events if isinstance(e, Note) and e.level == "warning"]


def test_a_build_leaves_its_report_beside_the_log(toy: Toy) -> None:
    result = toy.build()
    assert result.report == toy.workspace.report(result.digest)
    assert result.report.parent == toy.workspace.log(result.digest).parent
    assert "vLLM 1.2.3+empty" in result.report.read_text()
    report = of(toy)
    assert (report.outcome, report.plan.digest) == ("built", result.digest)
    assert [stage.name for stage in report.stages] == [
        "source",
        "patch",
        "environment",
        "compile",
        "finish",
        "verify",
    ]
    assert len(report.runs) == 1
    # What is for the journal alone reaches no screen.
    assert not [e for e in toy.events if isinstance(e, Measured)]


def test_a_wheel_from_the_store_has_no_report_of_its_own(toy: Toy) -> None:
    toy.build()
    before = toy.workspace.journal(toy.plan().digest).read_bytes()
    assert toy.build().report is None
    assert toy.workspace.journal(toy.plan().digest).read_bytes() == before


def test_a_second_build_is_compared_with_the_first(toy: Toy) -> None:
    toy.build()
    toy.build(force=True)
    report = of(toy)
    assert report.comparison is not None
    assert report.comparison.why == "the last build of the same plan"


def test_a_failed_build_has_a_report_and_its_error_says_where(toy: Toy) -> None:
    (toy.told / "fail").touch()
    with pytest.raises(BuilderError) as caught:
        toy.build()
    path = toy.workspace.report(toy.plan().digest)
    assert caught.value.report == str(path)
    assert f"report: {path}" in format_error(caught.value)
    assert caught.value.as_dict()["report"] == str(path)
    report = of(toy)
    assert report.outcome == "failed"
    assert report.fault is not None
    assert (report.fault.name, report.fault.exit_code) == (
        type(caught.value).__name__,
        caught.value.exit_code,
    )
    assert [(stage.name, stage.finished) for stage in report.stages][-1] == ("compile", False)
    assert report.fault.what.split("<")[0] in path.read_text()


def test_the_build_after_a_failed_one_shows_both_runs(toy: Toy) -> None:
    (toy.told / "fail").touch()
    with pytest.raises(BuilderError):
        toy.build()
    (toy.told / "fail").unlink()
    toy.build()
    assert [(run.earlier, run.ended) for run in of(toy).runs] == [(True, "failed"), (False, "")]


def test_an_interrupted_build(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vllm_builder.stages.finish.finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        toy.build()
    assert of(toy).outcome == "interrupted"
    assert toy.workspace.report(toy.plan().digest).is_file()


def test_a_fault_in_reporting_is_a_warning(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(html, "page", fail)
    result = toy.build()
    assert (result.report, result.wheel.is_file()) == (None, True)
    assert "There is no report of this build. ZeroDivisionError: oh" in warnings(toy)


def test_a_fault_in_reporting_does_not_hide_the_builds_own_error(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(html, "page", fail)
    (toy.told / "fail").touch()
    with pytest.raises(BuilderError) as caught:
        toy.build()
    assert caught.value.report == ""


def test_a_journal_that_cannot_be_written_is_a_warning(toy: Toy) -> None:
    toy.workspace.journal(toy.plan().digest).mkdir(parents=True)
    result = toy.build()
    assert (result.report, result.wheel.is_file()) == (None, True)
    assert any("Is a directory" in text for text in warnings(toy))


def test_a_part_for_development_has_a_report_too(toy: Toy) -> None:
    assert toy.build(toy.plan(extensions=("vllm._C",))).report is not None


def command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vllm_builder", "report", *map(str, arguments)],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("VLLM_BUILDER")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command(toy: Toy, tmp_path: Path) -> None:
    result = toy.build()
    assert result.report is not None
    result.report.unlink()
    done = command(cwd=toy.folder)
    assert (done.returncode, done.stdout) == (0, f"{result.report}\n")
    assert result.report.is_file()
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    done = command(
        "v1.2.3", "--workspace", toy.workspace.root, "-o", page, "--trace", trace, "--json", cwd=tmp_path
    )
    printed = json.loads(done.stdout)
    assert printed.pop("page") == str(page)
    assert Report.model_validate(printed) == of(toy)
    assert page.read_text() == result.report.read_text()
    assert json.loads(trace.read_text())["otherData"]["plan"] == result.digest


def test_the_command_names_what_there_is(toy: Toy) -> None:
    toy.build()
    done = command("9.9.9", cwd=toy.folder)
    assert done.returncode == 61
    assert "1.2.3+empty" in done.stderr
    assert json.loads(command("9.9.9", "--json", cwd=toy.folder).stdout)["error"] == "ReportMissing"


def test_the_command_writes_over_nothing_that_it_needs(toy: Toy, tmp_path: Path) -> None:
    digest = toy.build().digest
    journal = toy.workspace.journal(digest)
    before = journal.read_bytes()
    for arguments, code in (
        (("--trace", journal), 14),
        (("-o", journal), 14),
        (("-o", tmp_path / "x", "--trace", tmp_path / "x"), 14),
        (("-o", ""), 2),
        (("--trace", "-"), 2),
        (("-o", tmp_path), 71),
    ):
        done = command(*arguments, cwd=toy.folder)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert "file" in done.stderr
    assert journal.read_bytes() == before
    assert not (tmp_path / "x").exists()
    assert not (toy.folder / "-").exists()


def test_the_command_writes_through_a_link_and_into_a_pipe(toy: Toy, tmp_path: Path) -> None:
    toy.build()
    (tmp_path / "page.html").touch()
    (tmp_path / "link").symlink_to("page.html")
    command("-o", tmp_path / "link", cwd=toy.folder)
    assert (tmp_path / "link").is_symlink()
    assert "vLLM 1.2.3+empty" in (tmp_path / "page.html").read_text()
    done = command("-o", "/dev/stdout", cwd=toy.folder)
    assert done.returncode == 0
    assert "vLLM 1.2.3+empty" in done.stdout


def test_the_command_says_that_a_damaged_journal_was_passed_over(toy: Toy) -> None:
    digest = toy.build().digest
    later = toy.workspace.journal("f" * 64)
    later.write_bytes(b"\0")
    os.utime(later, (4e9, 4e9))
    done = command(cwd=toy.folder)
    assert (done.returncode, str(later) in done.stderr) == (0, True)
    remarks = json.loads(command("--json", cwd=toy.folder).stdout)["remarks"]
    assert sum(str(later) in remark for remark in remarks) == 1
    assert str(later) not in command(digest[:8], cwd=toy.folder).stderr
