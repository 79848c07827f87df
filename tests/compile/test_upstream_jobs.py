"""What real setup.py files make of the variables for the number of jobs."""

from __future__ import annotations

import ast
import logging
import os
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.version import Version

from vllm_builder.stages.compile.buildenv import job_variables
from vllm_builder.stages.compile.model import CompileSpec

pytestmark = pytest.mark.corpus


def compute_num_jobs(sdist: Path, version: str, device: str, variables: dict[str, str]) -> Any:
    """Run the release's own ``compute_num_jobs``, alone, as for ``device``."""
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(f"vllm-{version}/setup.py")
        assert member is not None
        source = member.read().decode()
    (function,) = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "compute_num_jobs"
    ]
    names: dict[str, Any] = {
        "os": os,
        "logger": logging.getLogger("setup"),
        "Version": Version,
        "parse": Version,
        "CUDA_HOME": "/cuda",
        "envs": SimpleNamespace(
            MAX_JOBS=variables.get("MAX_JOBS"), NVCC_THREADS=variables.get("NVCC_THREADS")
        ),
        "_is_cuda": lambda: device == "cuda",
        "get_nvcc_cuda_version": lambda: Version("13.0"),
    }
    text = ast.get_source_segment(source, function, padded=True)
    assert text is not None
    exec(textwrap.dedent(text), names)
    return names["compute_num_jobs"](None)


@pytest.mark.parametrize("version", ["0.6.0", "0.6.4.post1", "0.8.5.post1", "0.9.2", "0.11.0", "0.20.0"])
@pytest.mark.parametrize(("jobs", "threads"), [(1, 1), (3, 2), (8, 1), (5, 4)])
def test_setup_py_arrives_at_the_jobs_of_the_plan(
    sdist: Callable[[str], Path], version: str, jobs: int, threads: int
) -> None:
    for device in ("cuda", "cpu"):
        spec = CompileSpec(
            device=device,  # type: ignore[arg-type]
            version=version,
            scm_version=version,
            jobs=jobs,
            nvcc_threads=threads,
        )
        found = compute_num_jobs(sdist(version), version, device, job_variables(spec, jobs))
        assert found == (jobs, threads if device == "cuda" else None)
