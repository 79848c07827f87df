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
    """CUDA_HOME, CUDA_PATH, nvcc on PATH, then the usual folders; the first one that is whole.

    Raises:
        CompilerMissing: names every place that was looked at, and what it lacks.
    """
    looked = []
    for origin, nvcc in _candidates(environ):
        found, lacking = _examine(nvcc, memo)
        if found is not None:
            home, version = found
            return Toolkit(home=home, version=version, origin=origin)
        looked.append(f"{origin}: {nvcc} {lacking}")
        if origin in ("CUDA_HOME", "CUDA_PATH"):
            raise CompilerMissing(
                f"{origin} does not name a whole CUDA toolkit.",
                why=f"{nvcc} {lacking}. A toolkit that was named is used or refused, never passed over.",
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
            found.append((variable, Path(environ[variable]) / "bin" / "nvcc"))
    nvcc = shutil.which("nvcc", path=environ.get("PATH"))
    if nvcc:
        found.append(("PATH", Path(nvcc)))
    usual = Path("/usr/local")
    homes = [usual / "cuda", *sorted(usual.glob("cuda-*"), reverse=True)]
    return found + [("usual folder", home / "bin" / "nvcc") for home in homes if home.is_dir()]


def _examine(nvcc: Path, memo: Memo) -> tuple[tuple[str, str] | None, str]:
    """``((home, version), "")``, or None and what is wrong, in words."""
    try:
        stat = nvcc.stat()
    except OSError:
        return None, "does not exist"
    question = ["toolkit", str(nvcc), stat.st_mtime_ns, stat.st_size]
    answer = memo.get(question)
    if not (isinstance(answer, list) and _whole(Path(answer[0]))):
        said = _run([str(nvcc), "--version"])
        version = re.search(r"release (\d+\.\d+)", said)
        if version is None:
            return None, "does not run"
        # nvcc may be a link or a script that stands elsewhere; it knows its own root itself.
        top = re.search(r"^#\$ TOP=(.+)$", _run([str(nvcc), "--dryrun", "-x", "cu", "/dev/null"]), re.M)
        home = Path(top[1].strip() if top else nvcc.resolve().parent.parent).resolve()
        answer = [str(home), version[1]]
        if not _whole(home):
            return None, f"belongs to {home}, which has no cuda_runtime.h"
        memo.put(question, answer)
    return (answer[0], answer[1]), ""


def _whole(home: Path) -> bool:
    places = [home / "include", *home.glob("targets/*/include")]
    return (home / "bin" / "nvcc").exists() and any((p / "cuda_runtime.h").is_file() for p in places)


def _run(command: list[str]) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout + run.stderr
