"""What a release says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_builder.errors import SourceError
from vllm_builder.stages.plan.release import Release

X86 = {
    "python_version": "3.11",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "sys_platform": "linux",
}


def _tree(root: Path, files: dict[str, str]) -> Release:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Release(root)


def test_pin_comes_from_the_devices_file_with_markers_and_includes(tmp_path: Path) -> None:
    release = _tree(
        tmp_path,
        {
            "pyproject.toml": '[build-system]\nrequires = ["torch == 2.7.0", "cmake>=3.26"]\n',
            "requirements/cpu.txt": "-r common.txt\n--extra-index-url https://example.invalid/cpu\n"
            'torch==2.6.0+cpu; platform_machine == "x86_64" # why\ntorch==2.7.0; platform_system == "Darwin"\n',
            "requirements/common.txt": "torchvision\nnumpy\n",
        },
    )
    assert release.torch_pin("cpu", X86) == ("2.6.0+cpu", "requirements/cpu.txt")
    assert release.torch_pin("cuda", X86) == ("2.7.0", "pyproject.toml")


def test_old_layout(tmp_path: Path) -> None:
    release = _tree(
        tmp_path,
        {
            "pyproject.toml": '[build-system]\nrequires = ["torch == 2.4.0"]\n',
            "requirements-cpu.txt": "-r requirements-common.txt\ntorch == 2.4.0+cpu\n",
            "requirements-common.txt": "torch-xla\n",
            "setup.py": "from setuptools import setup\nsetup(python_requires='>=3.8')\n",
        },
    )
    assert release.torch_pin("cpu", X86) == ("2.4.0+cpu", "requirements-cpu.txt")
    assert release.requires_python() == ">=3.8"


def test_no_pin(tmp_path: Path) -> None:
    release = _tree(tmp_path, {"pyproject.toml": '[build-system]\nrequires = ["torch >= 2.4", "wheel"]\n'})
    assert release.torch_pin("cuda", X86) is None


@pytest.mark.parametrize("text", ["", "[build-system]\n", "not toml"])
def test_what_is_no_vllm_tree(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError):
        _tree(tmp_path, {"pyproject.toml": text}).build_requires()
    with pytest.raises(SourceError):
        Release(tmp_path / "nothing").build_requires()


def test_variables_are_those_that_the_build_files_name(tmp_path: Path) -> None:
    release = _tree(
        tmp_path,
        {
            "setup.py": 'import os\nx = os.environ.get("VLLM_SOMETHING")\n',
            "cmake/cpu_extension.cmake": "set(A $ENV{VLLM_CPU_DISABLE_AVX512})\n",
            "vllm/other.py": "VLLM_RUNTIME_ONLY = 1\n",
        },
    )
    named = release.build_variables()
    assert {"VLLM_SOMETHING", "VLLM_CPU_DISABLE_AVX512"} <= named
    assert "VLLM_RUNTIME_ONLY" not in named
