"""Real wheels, really used. The first shares its build with the other real builds; the second takes about four minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_builder.binary import read_library
from vllm_builder.wheelfile import open_wheel

pytestmark = pytest.mark.realbuild

OPS = {
    "_C::fused_add_rms_norm",
    "_C::gelu_and_mul",
    "_C::gelu_fast",
    "_C::gelu_new",
    "_C::gelu_quick",
    "_C::gelu_tanh_and_mul",
    "_C::rms_norm",
    "_C::rotary_embedding",
    "_C::silu_and_mul",
}


def run(command: str, *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """A command's exit code and its JSON document. Nothing of the repository is importable for it but vllm_builder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "CCACHE_", "MAX_JOBS"))}
    ran = subprocess.run(
        [sys.executable, "-m", "vllm_builder", command, *map(str, arguments), "--json"],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout, ran.stderr[-3000:]
    document: dict[str, Any] = json.loads(ran.stdout)
    return ran.returncode, document


def outcomes(report: dict[str, Any], level: str) -> dict[str, str]:
    return {t["name"]: t["outcome"] for t in report["trials"] if t["level"] == level}


def nothing_left(cache: Path) -> bool:
    return not list((cache / "smoke").glob("room-*"))


def test_0_9_2_imports_and_computes(real_cpu: dict[str, Any], real_cache: Path) -> None:
    code, report = run("smoke", real_cpu["wheel"], "--torch", "2.13.0", "--cache-dir", real_cache)
    assert code == 0, report
    assert outcomes(report, "import")["vllm._C"] == "passed"
    ops = outcomes(report, "ops")
    assert {name for name, outcome in ops.items() if outcome == "passed"} == OPS
    assert set(ops.values()) == {"passed", "not tried"}
    assert outcomes(report, "serve") == {"serving": "not tried"}
    assert report["torch"].startswith("2.13.0")
    assert nothing_left(real_cache)


def test_a_wheel_that_computes_wrongly_does_not_pass(
    real_cpu: dict[str, Any], real_cache: Path, tmp_path: Path
) -> None:
    """The constant of GELU is changed in the compiled library: gelu_quick multiplies by 1.702."""
    wheel = _changed(Path(real_cpu["wheel"]), tmp_path, _other_constant)
    code, report = run("smoke", wheel, "--torch", "2.13.0", "--cache-dir", real_cache)
    assert code == 83, report
    ops = outcomes(report, "ops")
    assert ops["_C::gelu_quick"] == "failed"
    assert ops["_C::silu_and_mul"] == "passed"
    assert "WRONG" in next(t["detail"] for t in report["trials"] if t["name"] == "_C::gelu_quick")


def _other_constant(library: bytes) -> bytes:
    import struct

    # -1.702f or 1.702f, as the compiler kept it.
    for value in (-1.702, 1.702):
        old, new = struct.pack("<f", value), struct.pack("<f", value * 0.5)
        library = library.replace(old, new)
    return library


def _changed(wheel: Path, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """The wheel with another _C in it."""
    import zipfile

    made = folder / wheel.name
    touched = False
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("_C.abi3.so"):
                changed = change(data)
                touched = changed != data
                data = changed
            new.writestr(info, data)
    assert touched
    return made


@pytest.mark.serve
def test_0_14_1_serves(real_cache: Path, sdist: Callable[[str], Path], tmp_path: Path) -> None:
    """Against the torch that it pins. Where the indexes have that for CUDA alone, no toolkit is needed all the same."""
    arguments = ("v0.14.1", "--device", "cpu", "--torch", "2.9.1", "--source", sdist("0.14.1"))
    code, built = run("build", *arguments, "--workspace", tmp_path, "--cache-dir", real_cache)
    assert code == 0, built
    with open_wheel(built["wheel"]) as wheel, wheel.mapped("vllm/_C.abi3.so") as data:
        needed = read_library(data, name="_C").needed
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if "cuda" in name]
    code, report = run("smoke", built["wheel"], "--serve", "--torch", "2.9.1", "--cache-dir", real_cache)
    assert code == 0, report
    names = ("tiny model", "server start", "models", "completion", "chat completion", "taken down")
    assert outcomes(report, "serve") == dict.fromkeys(names, "passed")
    assert outcomes(report, "import") == dict.fromkeys(("import torch", "vllm._C", "import vllm"), "passed")
    assert {name for name, outcome in outcomes(report, "ops").items() if outcome == "passed"} == OPS
    assert nothing_left(real_cache)
