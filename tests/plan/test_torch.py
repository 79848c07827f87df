"""Which torch: its CUDA version, and the order of choices."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_builder.stages.environment.lock import locked_version
from vllm_builder.stages.plan.explain import differences
from vllm_builder.stages.plan.torch import cuda_of


@pytest.mark.parametrize(
    ("version", "lock", "cuda"),
    [
        ("2.13.0+cpu", ("nvidia-cuda-runtime==13.0.96",), None),
        ("2.8.0+cu129", (), "12.9"),
        ("2.5.1+cu118", (), "11.8"),
        ("2.11.0", ("nvidia-cuda-runtime==13.0.96", "torch==2.11.0"), "13.0"),
        ("2.7.0", ("nvidia-cuda-runtime-cu12==12.6.77",), "12.6"),
        ("2.7.0", ("nvidia-cuda-runtime-extra==1.0",), None),
        ("2.9.0+xpu", (), None),
    ],
)
def test_the_cuda_version_of_a_torch_build(version: str, lock: tuple[str, ...], cuda: str | None) -> None:
    assert cuda_of(version, lock) == cuda


def test_locked_version_compares_canonical_names() -> None:
    assert locked_version(("Setuptools_SCM==8.1", "torch==2.13.0+cpu"), "setuptools-scm") == "8.1"
    assert locked_version(("torchvision==0.1",), "torch") is None


def test_differences_name_the_leaf() -> None:
    a = {"torch": {"version": "2.13.0"}, "archs": ["10.0"], "same": 1}
    b = {"torch": {"version": "2.14.0"}, "archs": ["10.0", "12.0"], "same": 1}
    found = {d.path: (d.this, d.other) for d in differences(a, b)}
    assert found == {"torch.version": ("2.13.0", "2.14.0"), "archs[1]": (None, "12.0")}


def test_existing_torch_is_read_from_its_files(tmp_path: Path) -> None:
    from vllm_builder.stages.environment.interpreter import torch_in
    from vllm_builder.stages.environment.model import Interpreter

    package = tmp_path / "site-packages" / "torch"
    package.mkdir(parents=True)
    (package / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n"
    )
    python = Interpreter(
        path="p", version="3.11.7", tag="cp311", site_packages=(str(tmp_path / "site-packages"),)
    )
    found = torch_in(python)
    assert found is not None
    assert (found.version, found.cuda) == ("2.11.0+cu130", "13.0")
    (package / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n")
    found = torch_in(python)
    assert found is not None
    assert found.cuda is None
