"""Real releases whose wheel is packed around the extensions of another: no compiler, the same libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.realbuild

Sdist = Callable[[str], Path]


def _run(*arguments: str | Path, **variables: str) -> dict[str, Any]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "CCACHE_", "MAX_JOBS"))}
    kept |= variables
    command = [sys.executable, "-m", "vllm_builder", *map(str, arguments), "--json"]
    run = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def _options(source: Path, cache: Path, workspace: Path) -> list[str | Path]:
    return [
        *("--device", "cpu", "--torch", "2.13.0", "--source", source),
        *("--cache-dir", cache, "--workspace", workspace),
    ]


def _libraries(wheel: str) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}


def _is_packed(packed: dict[str, Any], base: dict[str, Any], workspace: Path) -> None:
    record = packed["record"]
    assert record["native"]["reused"], record["native"]
    assert record["native"]["compiled"]["plan"] == base["digest"]
    assert record["compile"]["units"] == 0
    log = (workspace / "logs" / f"{packed['digest'][:16]}.log").read_text()
    assert "-- build: from the native layer" in log
    assert "Building C" not in log
    assert "The CXX compiler identification" not in log
    assert "with torch itself" not in log
    assert not [f for f in record["verify"]["findings"] if f["severity"] == "error"]
    assert _libraries(packed["wheel"]) == _libraries(base["wheel"]) != {}


def test_one_line_of_python_in_a_real_release(
    real_cpu: dict[str, Any], real_cache: Path, sdist: Sdist, tmp_path: Path, cxx: str
) -> None:
    with tarfile.open(sdist("0.9.2")) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / "vllm-0.9.2"
    options = ["v0.9.2", *_options(tree, real_cache, tmp_path / "build")]
    module = tree / "vllm/sampling_params.py"
    module.write_text(module.read_text() + "\nHOT_FIX = True\n")
    assert _run("plan", *options)["native"]["outcome"] == "reuse"
    packed = _run("build", *options)
    _is_packed(packed, real_cpu, tmp_path / "build")
    with zipfile.ZipFile(packed["wheel"]) as archive:
        assert archive.read("vllm/sampling_params.py").endswith(b"HOT_FIX = True\n")

    told = _run("plan", *options, "--no-lean-headers")["native"]
    assert told["outcome"] == "compile"
    assert "CMakeLists.txt differs" in told["differing"]

    # The real compiler, calling itself another version.
    other = tmp_path / "g++"
    other.write_text(f'#!/bin/sh\nexec {cxx} -U__GNUC_MINOR__ -D__GNUC_MINOR__=77 "$@"\n')
    other.chmod(0o755)
    told = _run("plan", *options, CXX=str(other))["native"]
    assert told["outcome"] == "compile"
    assert [line for line in told["differing"] if ".77." in line]

    kernel = tree / "csrc/cpu/activation.cpp"
    kernel.write_text(kernel.read_text() + "\n// changed\n")
    told = _run("plan", *options)["native"]
    assert (told["outcome"], told["differing"]) == ("compile", ["csrc/cpu/activation.cpp differs"])
    kernel.write_text(kernel.read_text().removesuffix("\n// changed\n"))
    recipe = tree / "cmake/cpu_extension.cmake"
    recipe.write_text(recipe.read_text() + "\n# changed\n")
    told = _run("plan", *options)["native"]
    assert (told["outcome"], told["differing"]) == ("compile", ["cmake/cpu_extension.cmake differs"])


@pytest.mark.long
@pytest.mark.parametrize(("one", "two"), [("0.8.5", "0.8.5.post1"), ("0.10.1", "0.10.1.1")])
def test_a_release_after_the_one_before_it(
    real_cache: Path, sdist: Sdist, tmp_path: Path, one: str, two: str
) -> None:
    base = _run("build", f"v{one}", *_options(sdist(one), real_cache, tmp_path))
    packed = _run("build", f"v{two}", *_options(sdist(two), real_cache, tmp_path))
    _is_packed(packed, base, tmp_path)
    assert Path(packed["wheel"]).name.startswith(f"vllm-{two}+cpu-cp38-abi3-")
