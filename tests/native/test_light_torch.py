"""setup.py is run without loading torch, and notices nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from native_helpers import NativeToy, members

from vllm_builder.cache import Cache
from vllm_builder.stages.environment.model import Environment
from vllm_builder.stages.native import lighttorch
from vllm_builder.stages.native.torchfacts import torch_facts

TORCH = {
    "torch/__init__.py": "print('torch is loaded')\nfrom torch.version import __version__\n",
    "torch/version.py": "__version__ = '2.13.0+cpu'\ncuda = None\nhip = None\n",
    "torch/utils/__init__.py": "",
    "torch/utils/cpp_extension.py": "import os, torch\nCUDA_HOME = os.environ.get('CUDA_HOME')\nROCM_HOME = None\n",
    "torch/cuda.py": "",
}
SETUP = "import torch\nfrom torch.utils.cpp_extension import CUDA_HOME, ROCM_HOME\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a setup.py, and a torch that it finds."""
    for name, text in {**TORCH, "setup.py": SETUP}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def _run(tree: Path, script: str, *, light: bool = True) -> subprocess.CompletedProcess[str]:
    (tree / "setup.py").write_text(script)
    (tree / "answers.json").write_text(json.dumps({"CUDA_HOME": "/cuda", "ROCM_HOME": None}))
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel"]
    if light:
        command[1:1] = [lighttorch.__file__, "answers.json"]
    return subprocess.run(
        command, cwd=tree, env={"CUDA_HOME": "/cuda"}, capture_output=True, text=True, check=False
    )


ALL = (
    SETUP
    + """
import importlib.util, os, sys, warnings
from pathlib import Path
warnings.warn("of setup.py")
print(torch.version.cuda, torch.version.__version__, torch.version.hip, CUDA_HOME, ROCM_HOME)
print(torch.__name__, Path(torch.__file__).name, torch.utils.cpp_extension.CUDA_HOME, torch.__spec__.name)
print(__name__, __file__, sys.argv, sys.path[0], Path(__file__).parent.resolve(), __package__)
print(importlib.util.find_spec("torch").submodule_search_locations)
def later():
    import torch
    return torch.version.cuda
print(later(), sys.modules["torch"] is torch)
"""
)


def test_it_sees_what_it_sees_with_torch(tree: Path) -> None:
    real, light = _run(tree, ALL, light=False), _run(tree, ALL)
    assert (real.returncode, light.returncode) == (0, 0), real.stderr + light.stderr
    assert real.stdout == "torch is loaded\n" + light.stdout
    assert light.stdout.startswith("None 2.13.0+cpu None /cuda None\n")
    assert light.stderr == real.stderr


@pytest.mark.parametrize(
    ("script", "asked"),
    [
        ("import torch\ntorch.cuda", "torch.cuda"),
        ("import torch\nhasattr(torch, 'compile')", "torch.compile"),
        ("import torch\ntorch.__version__", "torch.__version__"),
        ("from torch import nn", "torch.nn"),
        ("try:\n    import torch.nn\nexcept ImportError:\n    print('no torch')", "torch.nn"),
        ("from torch.utils import data", "torch.utils.data"),
        ("import torch.utils.hipify", "torch.utils.hipify"),
        (
            "from torch.utils.cpp_extension import BuildExtension",
            "torch.utils.cpp_extension.BuildExtension",
        ),
        ("from torch import *", "torch.__all__"),
    ],
)
def test_what_is_not_known_ends_the_run_at_once(tree: Path, script: str, asked: str) -> None:
    run = _run(tree, f"{script}\nprint('went on')")
    assert run.returncode == lighttorch.BEYOND
    assert run.stdout == f"setup.py asks for {asked}: once more, with torch itself\n"


def test_without_torch_there_is_none(tmp_path: Path) -> None:
    run = _run(tmp_path, "try:\n    import torch\nexcept ImportError as e:\n    print(e)")
    assert (run.returncode, run.stdout) == (0, "No module named 'torch'\n")


def test_how_setup_py_ends_is_handed_on(tree: Path) -> None:
    assert _run(tree, "import sys; sys.exit(3)").returncode == 3
    failed = _run(tree, "import torch\nraise RuntimeError('why')")
    assert failed.returncode == 1
    assert "RuntimeError: why" in failed.stderr


def _environment(tree: Path) -> Environment:
    """One whose Python is told of the torch, even when it listens to no variables."""
    python = tree / "python"
    python.write_text(
        f'#!/bin/sh\necho asked >>{tree}/asked\nshift\ncd {tree} && exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return Environment(python=python, bin=tree, packages={}, site_packages=(tree,))


def test_torch_is_asked_once_for_what_its_files_and_the_variables_are(tree: Path) -> None:
    cache, environment = Cache(tree / "cache"), _environment(tree)

    def facts(**variables: str) -> dict[str, str | None] | None:
        return torch_facts(cache, environment, {"PATH": "/usr/bin:/bin", **variables})

    def times() -> int:
        return len((tree / "asked").read_text().split())

    assert facts(CUDA_HOME="/cuda") == {"CUDA_HOME": "/cuda", "ROCM_HOME": None}
    assert facts(CUDA_HOME="/cuda", HOME="/elsewhere") == {"CUDA_HOME": "/cuda", "ROCM_HOME": None}
    assert times() == 1
    assert facts() == {"CUDA_HOME": None, "ROCM_HOME": None}
    assert times() == 2
    # Of an older torch.
    (tree / "torch/utils/cpp_extension.py").write_text("CUDA_HOME = '/usr/local/cuda'\n")
    assert facts() == {"CUDA_HOME": "/usr/local/cuda"}
    assert times() == 3


def test_a_torch_that_does_not_load_answers_nothing(tree: Path) -> None:
    (tree / "torch/__init__.py").write_text("raise ImportError('libgomp.so.1')")
    variables = {"PATH": "/usr/bin:/bin"}
    assert torch_facts(Cache(tree / "cache"), _environment(tree), variables) is None
    nowhere = _environment(tree).model_copy(update={"site_packages": ()})
    assert torch_facts(Cache(tree / "cache"), nowhere, variables) is None


def test_packing_does_not_load_torch_unless_it_must(toy: NativeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"CUDA_HOME": None, "ROCM_HOME": None}
    monkeypatch.setattr("vllm_builder.stages.native.torchfacts.torch_facts", lambda *_: answers)
    for name, text in TORCH.items():
        toy.write(name, text)
    toy.edit("setup.py", "import os, ", f"{SETUP}import os, ")
    toy.build()

    def log(digest: str) -> str:
        return (toy.folder / f"build/logs/{digest[:16]}.log").read_text()

    toy.edit("vllm/__init__.py", "42", "43")
    packed = toy.build()
    assert packed.record.native["reused"] is True
    assert "torch is loaded" not in log(packed.digest)
    compiled = toy.build(cache="other", workspace="elsewhere", reuse=False)
    assert members(compiled.wheel) == members(packed.wheel)

    toy.edit("vllm/envs.py", "FURTHER = []", "import torch\nFURTHER = [] if torch.cuda else ['-DMORE=1']")
    toy.write("torch/__init__.py", TORCH["torch/__init__.py"] + "import torch.cuda\n")
    further = toy.build()
    assert further.record.native["reused"] is True
    text = log(further.digest)
    first, asked, second = text.partition("setup.py asks for torch.cuda: once more, with torch itself\n")
    assert asked
    assert "torch is loaded" not in first
    assert "torch is loaded" in second
    assert toy.compiled == 4
