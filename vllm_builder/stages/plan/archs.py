"""GPU architectures, as people write them and as TORCH_CUDA_ARCH_LIST wants them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping

from vllm_builder.errors import ArchError
from vllm_builder.stages.plan.compatibility import Architecture, compatibility

_SPELLING = re.compile(
    r"(?:sm_?|compute_)?(?P<digits>\d{2,3})(?P<suffix>[af]?)|(?P<major>\d{1,2})\.(?P<minor>\d)(?P<s>[af]?)",
    re.I,
)


def parse_arch(text: str) -> str:
    """``sm_100``, ``100``, ``10.0`` -> ``10.0``; ``sm_90a`` -> ``9.0a``.

    Raises:
        ArchError: misspelt, or no architecture of that number exists.
    """
    word = text.strip().removesuffix("+PTX")
    match = _SPELLING.fullmatch(word)
    if match is None:
        raise ArchError(
            f"{text!r} is not a GPU architecture.",
            why="An architecture is a compute capability, with an optional suffix a or f.",
            next=f"Write for example sm_100, 10.0, 90a or native. Known: {', '.join(_known())}.",
        )
    if match["digits"]:
        base = f"{int(match['digits'][:-1])}.{match['digits'][-1]}"
        suffix = match["suffix"].lower()
    else:
        base, suffix = f"{int(match['major'])}.{match['minor']}", match["s"].lower()
    if base not in compatibility().architectures:
        raise ArchError(
            f"There is no GPU architecture {base} (from {text!r}).",
            why=f"Known architectures: {', '.join(_known())}.",
            next="Check the GPU's compute capability (`nvidia-smi --query-gpu=compute_cap --format=csv`).",
        )
    return base + suffix


def parse_archs(texts: Iterable[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Several architectures, sorted, without duplicates; ``native`` asks the driver.

    Raises:
        ArchError: also for a base architecture together with its own suffixed form, of which CMake would
            silently drop one.
    """
    found: set[str] = set()
    for text in texts:
        found.update(native_archs(environ) if text.strip().lower() == "native" else [parse_arch(text)])
    for arch in found:
        if arch[-1] in "af" and arch[:-1] in found:
            raise ArchError(
                f"{arch[:-1]} and {arch} exclude each other.",
                why="CMake keeps only one of a base architecture and its own suffixed form, without a word.",
                next=f"Give only {arch} (for that GPU family alone) or only {arch[:-1]}.",
            )
    return tuple(sorted(found, key=_order))


def native_archs(environ: Mapping[str, str]) -> list[str]:
    """What the driver says is in this machine.

    Raises:
        ArchError
    """
    tool = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if tool is None:
        raise ArchError(
            "'native' needs a driver to ask, and there is no nvidia-smi on this machine.",
            next="Name the architecture, e.g. --arch sm_100.",
        )
    run = subprocess.run(
        [tool, "--query-gpu=compute_cap", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    caps = [line.strip() for line in run.stdout.splitlines() if re.fullmatch(r"\d+\.\d", line.strip())]
    if run.returncode or not caps:
        raise ArchError(
            "The driver did not say which GPU is in this machine.",
            why=(run.stderr or run.stdout).strip()[:200],
            next="Name the architecture, e.g. --arch sm_100.",
        )
    return sorted({parse_arch(c) for c in caps})


def check_toolkit(archs: Iterable[str], nvcc: str, where: str) -> None:
    """Every architecture must be one that this nvcc knows.

    Raises:
        ArchError: shows the chain from the architecture to the toolkit.
    """
    from packaging.specifiers import SpecifierSet

    for arch in archs:
        known = compatibility().architectures[arch.rstrip("af")]
        wanted = _nvcc_for(known, arch)
        if not SpecifierSet(wanted).contains(nvcc):
            raise ArchError(
                f"{known.gpu} cannot be compiled for with this toolkit.",
                why=f"sm_{arch.replace('.', '')} needs nvcc {wanted}; found {nvcc} only ({where}).",
                next="Point CUDA_HOME at another toolkit, or choose another --arch.",
            )


def _nvcc_for(known: Architecture, arch: str) -> str:
    if arch.endswith("f") and known.nvcc_family:
        return known.nvcc_family
    return known.nvcc


def _known() -> list[str]:
    return sorted(compatibility().architectures, key=_order)


def _order(arch: str) -> tuple[int, int, str]:
    major, _, rest = arch.partition(".")
    return int(major), int(rest[0]), rest[1:]
