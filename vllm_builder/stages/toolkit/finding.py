"""Finding the CUDA toolkits of the machine, each with a verdict."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from vllm_builder.memo import Memo
from vllm_builder.processes import ask
from vllm_builder.stages.compile.toolchain import compiler_identity
from vllm_builder.stages.toolkit.model import Candidate

_NAMING = ("CUDA_HOME", "CUDA_PATH")
_HEADERS = ("cuda.h", "cuda_runtime.h", "cublas_v2.h", "cusparse.h", "cusolverDn.h", "nvrtc.h")
"""cuBLAS, cuSPARSE and cuSOLVER: torch's own ATen/cuda/CUDAContext.h includes them."""
_LIBRARIES = ("libcudart.so", "libnvrtc.so")
"""With the driver's libcuda, what torch's and vLLM's CMake code asks FindCUDAToolkit for."""
_DRIVER = tuple(
    Path(folder)
    for folder in (
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib/wsl/lib",
    )
)
_PROGRAMS = ("cicc", "cudafe++", "ptxas", "fatbinary")
_USUAL = ("usr/local/cuda", "usr/local/cuda-*", "usr/lib/cuda", "usr/lib/nvidia-cuda-toolkit", "opt/cuda")


def find_toolkits(environ: Mapping[str, str], memo: Memo, *, root: Path = Path("/")) -> tuple[Candidate, ...]:
    """All CUDA toolkits of the machine, in the order in which they would be taken.

    Looked at are: CUDA_HOME and CUDA_PATH, the nvcc on PATH, a conda environment, the usual folders. A place
    that a variable names is listed even if there is nothing; of the others those that have an nvcc. One
    toolkit that is reached by several ways is listed once.

    Args:
        environ: the person's environment variables.
        memo: remembers what an nvcc answered for as long as its file stays the same.
        root: where the usual folders are looked for.
    """
    found: list[Candidate] = []
    seen: set[str] = set()
    for origin, nvcc, named in _places(environ, root):
        candidate = examine(nvcc, origin, memo, environ=environ, named=named)
        if candidate.verdict == "missing" and not named:
            continue
        if candidate.home in seen:
            continue
        seen.add(candidate.home)
        found.append(candidate)
    return tuple(found)


def examine(
    nvcc: Path, origin: str, memo: Memo, *, environ: Mapping[str, str], named: bool = False
) -> Candidate:
    """The verdict on one nvcc and the toolkit that it belongs to."""
    folder = str(nvcc.parent.parent)
    try:
        nvcc.stat()
    except OSError:
        return Candidate(origin=origin, home=folder, verdict="missing", named=named)
    # A script (some distributions' nvcc is one) may come to run another nvcc.
    identity = compiler_identity(str(nvcc), environ)
    question = ["nvcc", str(nvcc), identity]
    answer = memo.get(question) if identity else None
    if not (isinstance(answer, list) and len(answer) == 4 and Path(answer[0]).is_dir()):
        first = ask([str(nvcc), "--version"], environ)
        version = re.search(r"release (\d+\.\d+)", first.said)
        if not first.good or version is None:
            last = [line.strip() for line in first.said.splitlines() if line.strip()][-1:]
            last = last or ["it says nothing"]
            return Candidate(
                origin=origin, home=folder, verdict="broken", lacking=(last[0][:200],), named=named
            )
        # nvcc may be a link or a script that stands elsewhere; it knows its own root itself.
        dry = ask([str(nvcc), "--dryrun", "-x", "cu", "/dev/null"], environ).said
        top = re.search(r"^#\$ TOP=(.+)$", dry, re.M)
        home = Path(top[1].strip() if top else nvcc.resolve().parent.parent).resolve()
        listed = ask([str(nvcc), "--list-gpu-arch"], environ)
        archs = re.findall(r"^compute_(\d+)(\d)$", listed.stdout, re.M) if listed.good else []
        programs = re.search(r"^#\$ PATH=(.+)$", dry, re.M)
        answer = [
            str(home),
            version[1],
            [f"{major}.{minor}" for major, minor in archs],
            programs[1] if programs else "",
        ]
        if identity:
            memo.put(question, answer)
    lacking = (*missing_parts(Path(answer[0])), *_missing_programs(answer[3]))
    return Candidate(
        origin=origin,
        home=answer[0],
        verdict="half" if lacking else "whole",
        version=answer[1],
        lacking=lacking,
        archs=tuple(answer[2]),
        named=named,
    )


def missing_parts(home: Path) -> tuple[str, ...]:
    """What a toolkit lacks of the parts without which no build of torch's extensions gets far.

    Distributions split the toolkit over packages, and an image for running has no headers.
    """
    includes = [home / "include", *home.glob("targets/*/include")]
    # A distribution's own packages put headers and libraries beside everybody else's.
    libraries = [
        home / "lib64",
        home / "lib",
        *home.glob("targets/*/lib"),
        *home.glob("lib/*-linux-gnu"),
    ]
    lacking = []
    if not (home / "bin" / "nvcc").exists():
        lacking.append("bin/nvcc")
    lacking += [name for name in _HEADERS if not any((folder / name).is_file() for folder in includes)]
    lacking += [name for name in _LIBRARIES if not any((folder / name).exists() for folder in libraries)]
    stubs = [folder / "stubs" for folder in libraries]
    if not any((folder / "libcuda.so").exists() for folder in (*stubs, *libraries, *_DRIVER)):
        lacking.append("libcuda.so")
    return tuple(lacking)


def _missing_programs(path: str) -> tuple[str, ...]:
    """The programs that nvcc runs for every unit and would not find where it looks; it says itself where that is."""
    return tuple(name for name in _PROGRAMS if shutil.which(name, path=path) is None) if path else ()


def _places(environ: Mapping[str, str], root: Path) -> Iterator[tuple[str, Path, bool]]:
    for variable in _NAMING:
        if value := environ.get(variable, "").strip():
            yield variable, Path(value) / "bin" / "nvcc", True
    if nvcc := shutil.which("nvcc", path=environ.get("PATH", "")):
        yield "PATH", Path(nvcc), False
    if conda := environ.get("CONDA_PREFIX", "").strip():
        yield "conda environment", Path(conda) / "bin" / "nvcc", False
    for pattern in _USUAL:
        homes = sorted(root.glob(pattern), key=_newest_first)
        for home in homes:
            yield "usual folder", home / "bin" / "nvcc", False


def _newest_first(home: Path) -> list[int]:
    return [-int(number) for number in re.findall(r"\d+", home.name)]
