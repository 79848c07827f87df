"""Finding the CUDA toolkit on the machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vllm_builder.errors import CompilerMissing, ContradictionError
from vllm_builder.memo import Memo
from vllm_builder.model import Free, Model
from vllm_builder.stages.environment.model import Torch


class Toolkit(Model):
    """A CUDA toolkit: ``version`` is nvcc's, ``13.0``."""

    home: Free[str]
    version: str
    origin: Free[str]


def find_toolkit(environ: Mapping[str, str], memo: Memo) -> Toolkit:
    """CUDA_HOME, CUDA_PATH, nvcc on PATH, then the usual folders; the first one whose nvcc runs.

    Raises:
        CompilerMissing: names every place that was looked at.
    """
    looked = []
    for origin, home in _candidates(environ):
        nvcc = home / "bin" / "nvcc"
        looked.append(f"{origin}: {home}")
        version = _version(nvcc, memo)
        if version is not None:
            return Toolkit(home=str(home), version=version, origin=origin)
        if origin in ("CUDA_HOME", "CUDA_PATH"):
            raise CompilerMissing(
                f"{origin} is {home}, and there is no nvcc that runs in its bin/.",
                why="A toolkit that was named is used or refused, never passed over.",
                next=f"Point {origin} at a whole CUDA toolkit, or unset it.",
            )
    raise CompilerMissing(
        "There is no CUDA toolkit on this machine.",
        why="Looked at: " + ("; ".join(looked) or "CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda") + ".",
        next="Install one, or point CUDA_HOME at it.",
    )


def check_torch(torch: Torch, toolkit: Toolkit) -> None:
    """torch and nvcc must agree in the CUDA major version.

    Raises:
        ContradictionError: with the chain.
    """
    if torch.cuda is None:
        raise ContradictionError(
            f"torch {torch.version} is a build without CUDA.",
            why=f"--device cuda -> needs a torch built for CUDA {toolkit.version.split('.')[0]}.x; torch is: "
            f"{torch.origin}.",
            next="Choose another with --torch and --torch-index (e.g. --torch-index cu130).",
        )
    if torch.cuda.split(".")[0] != toolkit.version.split(".")[0]:
        raise ContradictionError(
            f"torch {torch.version} and the CUDA toolkit do not go together.",
            why=f"torch {torch.version} was built for CUDA {torch.cuda} ({torch.origin}) -> needs nvcc "
            f"{torch.cuda.split('.')[0]}.x; found nvcc {toolkit.version} only ({toolkit.origin}: {toolkit.home}).",
            next=f"Choose a torch for CUDA {toolkit.version.split('.')[0]} with --torch / --torch-index, or point "
            f"CUDA_HOME at a {torch.cuda.split('.')[0]}.x toolkit.",
        )


def _candidates(environ: Mapping[str, str]) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if environ.get(variable, "").strip():
            found.append((variable, Path(environ[variable])))
    nvcc = shutil.which("nvcc", path=environ.get("PATH"))
    if nvcc:
        found.append(("PATH", Path(nvcc).resolve().parent.parent))
    usual = Path("/usr/local")
    found += [
        ("usual folder", p)
        for p in [usual / "cuda", *sorted(usual.glob("cuda-*"), reverse=True)]
        if p.is_dir()
    ]
    return found


def _version(nvcc: Path, memo: Memo) -> str | None:
    try:
        stat = nvcc.stat()
    except OSError:
        return None
    question = ["nvcc", str(nvcc), stat.st_mtime_ns, stat.st_size]
    answer = memo.get(question)
    if isinstance(answer, str):
        return answer
    try:
        run = subprocess.run(
            [str(nvcc), "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"release (\d+\.\d+)", run.stdout)
    if run.returncode or not match:
        return None
    memo.put(question, match[1])
    return match[1]
