"""The report of a real build: the one that other tests made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import Opener
from playwright.sync_api import expect

from vllm_builder.report.model import Report

pytestmark = pytest.mark.realbuild


def test_a_real_build_is_all_in_its_report(real_cpu: dict[str, Any], opened: Opener, tmp_path: Path) -> None:
    workspace = Path(real_cpu["workspace"])
    arguments = ["--workspace", str(workspace), "--trace", str(tmp_path / "trace.json"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "vllm_builder", "report", real_cpu["digest"][:12], *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith("VLLM_BUILDER")},
        capture_output=True,
        text=True,
        check=True,
    )
    report = Report.model_validate_json(done.stdout)
    compiled = real_cpu["record"]["compile"]
    units = [unit for run in report.runs for unit in run.units]
    assert (report.outcome, len(units)) == ("built", compiled["units"])
    assert {unit.extension for unit in units} == {"_C"}
    assert (report.figures.hits, report.figures.misses) == (
        compiled["cache"]["hits"],
        compiled["cache"]["misses"],
    )
    # Of each unit it is known what the cache said, and of those that were compiled how much memory they took.
    sources = [unit for unit in units if unit.kind == "compile"]
    assert all(unit.cache in {"hit", "miss"} for unit in sources)
    assert all(unit.peak > 100 << 20 for unit in sources if unit.cache == "miss" and unit.seconds > 5)
    (run,) = report.runs
    # Nearly all of what a compiler takes is one program of it.
    for unit in sources:
        if unit.cache == "miss" and unit.seconds > 5:
            assert unit.phases[0].name == "cc1plus"
            assert 0 < unit.phases[0].seconds <= unit.seconds + 1
    assert report.figures.peak_memory == compiled["peak_memory"]
    # About one sample a second; a machine that is busy with other things may be late.
    assert run.seconds / 10 < len(run.samples) <= run.seconds + 2
    assert all(unit.start + unit.seconds <= run.seconds + 0.01 for unit in units)
    assert sum(p.seconds for p in report.phases if p.name in {"configure", "install and pack"}) < run.seconds
    assert len(json.loads((tmp_path / "trace.json").read_text())["traceEvents"]) > len(units) + len(
        run.samples
    )

    page = opened(Path(real_cpu["report"]).as_uri())
    expect(page.locator("#chart rect[data-i]")).to_have_count(len(units))
