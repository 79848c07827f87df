"""What nobody expected: standard output that takes nothing, faults of the program, and bytes that are no text."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_builder import errors
from vllm_builder.cli import main, screen

ROOT = Path(__file__).parents[2]


def shell(line: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a line in which ``VB`` is the program."""
    return subprocess.run(
        ["bash", "-c", line.replace("VB", f"{sys.executable} -m vllm_builder")],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "command", ["recipes list", "recipes list --json", "recipes show cpu --json", "--help"]
)
def test_a_result_that_cannot_be_written_is_no_success(command: str, tmp_path: Path) -> None:
    run = shell(f"VB {command} > /dev/full", tmp_path)
    assert run.returncode == errors.NoSpace.exit_code, run.stderr
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    assert "No space left" in run.stderr
    assert "next:" in run.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_error_that_cannot_be_written_keeps_its_exit_code_and_is_said_elsewhere(tmp_path: Path) -> None:
    run = shell("VB recipes show nothing --json > /dev/full", tmp_path)
    assert run.returncode == errors.RecipeError.exit_code
    assert "There is no recipe 'nothing'" in run.stderr
    assert "Exception ignored" not in run.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("recipes list", "recipes list --json", "patches list", "patches show torch-pins"),
        "doctor --offline --device empty",
    ],
)
def test_a_reader_that_has_gone_is_like_sigpipe(command: str, tmp_path: Path) -> None:
    # The reader is gone before anything is written.
    run = shell(f"{{ sleep 0.2; VB {command}; echo status $? >&2; }} | true", tmp_path)
    assert run.stderr.strip() == "status 141"


def test_a_standard_output_that_is_closed_breaks_nothing(tmp_path: Path) -> None:
    run = shell("VB recipes list --json >&-", tmp_path)
    assert run.returncode in (0, errors.NoSpace.exit_code)
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", ["", "--json"])
def test_an_interruption_is_said_wherever_it_comes(number: int, way: str, tmp_path: Path) -> None:
    code = "import signal, vllm_builder.cli.data as d; d.available = lambda *a: signal.raise_signal({}); "
    code += "from vllm_builder.cli import main; main(['recipes', 'list'{}])"
    given = repr(["", way][bool(way)])
    run = subprocess.run(
        [sys.executable, "-c", code.format(int(number), f", {given}" if way else "")],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == errors.Interrupted.exit_code, run.stderr
    if way:
        assert json.loads(run.stdout)["error"] == "Interrupted"
    else:
        assert "Interrupted" in run.stderr
        assert "next:" in run.stderr


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A command that fails in a way that nobody thought of; the folder where the report goes."""

    def broken(*arguments: object) -> None:
        raise KeyError("https://someone:sekrit@index.invalid/simple")

    monkeypatch.setattr("vllm_builder.cli.data.available", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("VLLM_BUILDER_TRACEBACK", raising=False)
    screen.use_json(False)
    return tmp_path


def _status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    screen.use_json(False)
    return end.value.code


def test_a_fault_is_said_with_the_place_of_its_report(
    fault: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status("recipes", "list") == errors.InternalError.exit_code == 99
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "KeyError" in said
    (report,) = fault.glob("vllm-builder-internal-error-*.txt")
    assert str(report) in said
    text = report.read_text()
    assert "Traceback" in text
    assert "command: recipes list" in text
    assert re.search(r"Python \d", text)
    assert "sekrit" not in text + said


@pytest.mark.parametrize("way", ["variable", "json"])
def test_the_traceback_is_shown_to_who_asks(
    fault: Path, way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_BUILDER_TRACEBACK", "1" if way == "variable" else "0")
    assert _status("recipes", "list", *(["--json"] if way == "json" else [])) == 99
    said = capsys.readouterr()
    if way == "json":
        document = json.loads(said.out)
        assert (document["error"], document["exit_code"]) == ("InternalError", 99)
        assert document["details"] == []
    else:
        assert "Traceback (most recent call last)" in said.err


def test_a_report_that_cannot_be_written_is_shown(
    fault: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(fault / "none"))
    assert _status("recipes", "list") == 99
    said = capsys.readouterr().err
    assert "could not be written" in said
    assert "Traceback (most recent call last)" in said


def test_an_unexpected_refusal_of_the_system_has_a_report_too(
    fault: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError(40, "Too many levels of symbolic links", "/a/loop")

    monkeypatch.setattr("vllm_builder.cli.data.available", broken)
    assert _status("recipes", "list") == 99
    assert "/a/loop" in capsys.readouterr().err


# -- bytes that are no UTF-8 -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("CXXFLAGS", errors.SettingsError),
        ("CXX", errors.CompilerMissing),
        ("VLLM_BUILDER_TORCH", errors.SettingsError),
        ("VLLM_BUILDER_VARIABLES", errors.SettingsError),
        ("VLLM_BUILDER_BANANA", errors.SettingsError),
        ("UNRELATED", None),
    ],
)
def test_a_variable_that_is_no_utf8(
    name: str, error: type[errors.BuilderError] | None, tmp_path: Path
) -> None:
    from test_errors import Machine, _fake_torch

    machine = Machine(tmp_path)
    python = _fake_torch(machine)
    value = os.fsdecode(b"\xff\xfe=1")
    arguments = ("plan", "0.9.2", "--device", "cpu", "--python", python)
    if error is None:
        run = machine.run(*arguments, **{name: value})
        assert run.returncode == 0, run.stderr
    else:
        assert name in machine.fails(error, *arguments, **{name: value})


def test_a_folder_that_is_no_utf8(tmp_path: Path) -> None:
    from test_errors import Machine, _fake_torch

    machine = Machine(tmp_path)
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/cach\xe9")
    for further in ([], ["--json"]):
        run = subprocess.run(
            [sys.executable, "-m", "vllm_builder", "plan", "0.9.2", "--device", "cpu", "--python", _fake_torch(machine)
             if not further else str(tmp_path / "withtorch"), "--source", "pypi", "--cache-dir", folder, *further],
            cwd=tmp_path, env=machine.environ, capture_output=True, check=False,
        )  # fmt: skip
        assert b"Traceback" not in run.stderr
        assert run.returncode in (0, errors.SettingsError.exit_code), run.stderr
        if further:
            json.loads(run.stdout)
