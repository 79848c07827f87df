"""Upstream's public wheels under verify: every finding here was judged by hand."""

from __future__ import annotations

import os

import pytest
from test_public_wheels import VLLM, local

from vllm_builder.cache import Cache
from vllm_builder.stages.verify.model import Report
from vllm_builder.stages.verify.verifying import verify

pytestmark = pytest.mark.corpus

NEWEST = "vllm-0.33.0-cp38-abi3-manylinux_2_28_x86_64.whl"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


def _found(report: Report, severity: str) -> set[str]:
    return {f.check for f in report.findings if f.severity == severity}


def test_0_33_0_is_sound(cache: Cache) -> None:
    archs = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
    report = verify(local(NEWEST), cache=cache, archs=archs, torch="2.14.0", environ=os.environ)
    assert report.expected == "the release 0.33.0, --arch 7.5,8.0,8.6,8.9,9.0,10.0,12.0"
    assert _found(report, "error") == set()
    # Renamed without its file WHEEL; DeepGEMM's module has debug info; Marlin is compiled for 8.0+PTX.
    assert _found(report, "warning") == {"stale-tag", "debug-info", "jit-kernels"}
    assert report.answers["10.0"]["vllm/_deepselect_C.abi3.so"] == {"native": 78}
    assert report.answers["9.0"]["vllm/_deepselect_C.abi3.so"] == {"dead": 78}


def test_0_9_2_promises_an_older_system_than_it_runs_on(cache: Cache) -> None:
    report = verify(local(VLLM), cache=cache, archs=("9.0", "10.0"), torch="2.7.0", environ=os.environ)
    # manylinux1 means glibc 2.5, and _moe_C wants log2 of 2.29: pip installs it where it cannot be loaded.
    (error,) = [f for f in report.findings if f.severity == "error"]
    assert error.check == "platform"
    assert "promises glibc 2.5" in error.what
    assert _found(report, "warning") == {"stale-tag", "jit-kernels"}
    forgotten = [f for f in report.findings if "MARLIN_PERMUTE_SRC" in f.why]
    assert len(forgotten) == 1
    assert "2 of 16 units of _moe_C answer 9.0, 10.0 by JIT" in forgotten[0].what
    assert forgotten[0].severity == "warning"


def test_0_9_2_with_a_torch_of_the_old_string_abi(cache: Cache) -> None:
    report = verify(local(VLLM), cache=cache, torch="2.6.0", environ=os.environ)
    (wrong,) = [f for f in report.findings if f.check == "torch-abi"]
    assert "compiled for a torch of the new std::string ABI" in wrong.what
    assert "_vllm_fa3_C" in wrong.what
    assert any(f.check == "not-checked" and "kernels" in f.what for f in report.findings)
