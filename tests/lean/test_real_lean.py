"""Lean headers in a real release, by the real torch. A minute or two: deselect with ``-m "not realbuild"``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.realbuild

UNITS = ("csrc/cpu/activation.cpp", "csrc/cpu/torch_bindings.cpp")
"""Kernels, and the registration of all operators."""


def test_the_wheel_is_built_with_them_and_no_unit_needs_more(real_cpu: dict[str, Any]) -> None:
    assert "lean-headers" in {entry["set"] for entry in real_cpu["record"]["patch_report"]["entries"]}
    assert real_cpu["record"]["compile"]["full_headers"] == {}
    with zipfile.ZipFile(real_cpu["wheel"]) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/vllm-builder.json"))
        assert json.loads(archive.read(name))["full_headers"] == []
        assert not [n for n in archive.namelist() if "lean" in n]


@pytest.mark.long
def test_units_are_the_same_code_both_ways(
    real_cpu: dict[str, Any], real_cache: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "vllm_builder", "prove-lean", *real_cpu["arguments"], "--json"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "CCACHE_", "MAX_JOBS"))}
    run = subprocess.run(
        [
            *(*command, "--workspace", str(tmp_path), "--cache-dir", str(real_cache)),
            *(word for unit in UNITS for word in ("--unit", unit)),
        ],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    found = json.loads(run.stdout)
    assert found["good"]
    assert found["total"] > len(UNITS)
    proofs = {proof["unit"]: proof for proof in found["units"]}
    assert set(proofs) == set(UNITS)
    for proof in proofs.values():
        assert (proof["verdict"], proof["differences"]) == ("same", [])
        assert proof["functions"] > 20
        assert proof["lean"]["cpu"] > 0
