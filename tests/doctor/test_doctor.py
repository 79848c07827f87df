"""What the doctor says of a machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_builder.doctor import Report, examine_machine
from vllm_builder.doctor.machine import driver_for
from vllm_builder.settings.layers import gather
from vllm_builder.stages.toolkit import finding


@pytest.fixture(autouse=True)
def no_usual_toolkits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_USUAL", ())


def report(tmp_path: Path, environ: dict[str, str] | None = None, **options: object) -> Report:
    given = {"cache_dir": tmp_path / "cache", "workspace": tmp_path / "build", "offline": True, **options}
    base = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    whole = base | (environ or {})
    return examine_machine(gather(given, whole, cwd=tmp_path), whole, version=options.get("version"))  # type: ignore[arg-type]


def verdicts(found: Report) -> dict[str, str]:
    return {check.name: check.verdict for check in found.checks}


def test_every_part_is_looked_at_and_what_hinders_has_a_cure(tmp_path: Path) -> None:
    found = report(tmp_path)
    names = set(verdicts(found))
    assert {"driver", "toolkit", "python", "torch", "compilers", "cmake", "git"} <= names
    assert {"memory", "workspace", "cache folder", "caches", "network", "isolation"} <= names
    for check in found.checks:
        assert check.found
        assert check.cure or check.verdict in ("good", "note"), check


def test_no_compiler_is_a_problem(tmp_path: Path) -> None:
    found = report(tmp_path, {"PATH": "/nonexistent"})
    assert verdicts(found)["compilers"] == "problem"
    assert not found.healthy


def test_a_broken_toolkit_that_is_named_is_a_problem_and_another_is_not(tmp_path: Path) -> None:
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\nexit 3\n")
    nvcc.chmod(0o755)
    named = report(tmp_path, {"CUDA_HOME": str(tmp_path / "cuda")})
    assert [c.verdict for c in named.checks if c.name == "toolkit"] == ["problem", "note"]
    passed_over = report(tmp_path, {"PATH": f"{nvcc.parent}:/usr/bin:/bin"})
    assert [c.verdict for c in passed_over.checks if c.name == "toolkit"] == ["warning", "note"]
    assert passed_over.healthy


def test_torch_existing_without_torch(tmp_path: Path) -> None:
    assert verdicts(report(tmp_path, torch="existing"))["torch"] == "problem"


def test_a_folder_that_does_not_exist_is_judged_by_what_is_above_it(tmp_path: Path) -> None:
    found = report(tmp_path, workspace=tmp_path / "a" / "b" / "c")
    assert verdicts(found)["workspace"] in ("good", "warning")
    assert not (tmp_path / "a").exists()


def test_a_release_that_cannot_be_planned(tmp_path: Path) -> None:
    found = report(tmp_path, version="v0.9.2", arch=("sm_banana",), git_url=str(tmp_path / "none"))
    plan = next(c for c in found.checks if c.name == "plan")
    assert plan.verdict == "problem"
    assert plan.cure
    assert not found.healthy


def test_an_unreachable_index_and_repository(tmp_path: Path) -> None:
    environ = {"PIP_INDEX_URL": "file:///nonexistent/simple"}
    found = report(tmp_path, environ, offline=False, git_url=str(tmp_path / "none"))
    assert (verdicts(found)["index"], verdicts(found)["repository"]) == ("warning", "warning")
    needed = report(tmp_path, environ, offline=False, git_url=str(tmp_path / "none"), source="git")
    assert verdicts(needed)["repository"] == "problem"


def test_a_driver_that_answers(tmp_path: Path) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text('#!/bin/sh\necho "575.51.03, NVIDIA B200, 10.0"\n')
    smi.chmod(0o755)
    found = report(tmp_path, {"PATH": f"{smi.parent}:/usr/bin:/bin"})
    driver = next(c for c in found.checks if c.name == "driver")
    assert driver.verdict == "good"
    assert "runs CUDA 12" in driver.found
    environ = {"PATH": str(smi.parent)}
    assert list(driver_for("12.9", environ)) == []
    (too_old,) = driver_for("13.0", environ)
    assert (too_old.verdict, "580" in too_old.cure) == ("warning", True)
    assert list(driver_for("13.0", {"PATH": "/nonexistent"})) == []
    smi.write_text("#!/bin/sh\necho no devices >&2\nexit 9\n")
    driver = next(
        c for c in report(tmp_path, {"PATH": f"{smi.parent}:/usr/bin:/bin"}).checks if c.name == "driver"
    )
    assert (driver.verdict, "no devices" in driver.found) == ("warning", True)


@pytest.mark.parametrize(("path", "code"), [("/usr/bin:/bin", 0), ("/nonexistent", 1)])
def test_the_command_tells_by_its_exit_code(tmp_path: Path, path: str, code: int) -> None:
    environ = {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-m", "vllm_builder", "doctor", "--offline", "--cache-dir", str(tmp_path)]
    run = subprocess.run(
        [*command, "--json"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert run.returncode == code, run.stderr
    document = json.loads(run.stdout)
    assert document["healthy"] is (code == 0)
    assert {"name", "verdict", "found", "cure"} == set(document["checks"][0])
    shown = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert shown.returncode == code
    for check in document["checks"]:
        assert check["name"] in shown.stdout
