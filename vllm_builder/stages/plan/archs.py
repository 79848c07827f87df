"""GPU architectures, as people write them and as TORCH_CUDA_ARCH_LIST wants them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping

from vllm_builder.errors import ArchError
from vllm_builder.processes import ask
from vllm_builder.stages.plan.compatibility import compatibility

_SPELLING = re.compile(
    r"(?:sm_?|compute_)?(?P<digits>\d{2,3})(?P<suffix>[af]?)|(?P<major>\d{1,2})\.(?P<minor>\d)(?P<s>[af]?)",
    re.I,
)


def parse_arch(text: str) -> str:
    """``sm_100``, ``100``, ``10.0`` -> ``10.0``; ``sm_90a`` -> ``9.0a``.

    Raises:
        ArchError: misspelt, no architecture of that number exists, or PTX is asked for besides.
    """
    word = text.strip()
    base, plus, _ = word.partition("+")
    if plus and _SPELLING.fullmatch(base) and word.upper().endswith("+PTX"):
        # Its CMake files boil torch's flags down to numbers (extract_unique_cuda_archs_ascending).
        raise ArchError(
            f"{text!r}: PTX cannot be asked for.",
            why="torch's own builds take +PTX, but from 0.6.3 on vLLM's CMake files keep only the number of each "
            "architecture and drop +PTX without a word; which kernels carry PTX is written in the release.",
            next=f"Give {base} alone, and besides it every other GPU that the wheel is for.",
        )
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
    if suffix and suffix not in compatibility().architectures[base].suffixes:
        having = [known for known in _known() if suffix in compatibility().architectures[known].suffixes]
        raise ArchError(
            f"There is no GPU architecture {base}{suffix} (from {text!r}).",
            why=f"nvcc knows the suffix {suffix} with {', '.join(having)} only.",
            next=f"Give {base}.",
        )
    return base + suffix


def parse_archs(texts: Iterable[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Several architectures, sorted, without duplicates; ``native`` asks the driver.

    Raises:
        ArchError: also for a base architecture together with its own suffixed form, of which CMake would
            silently drop one.
    """
    found: set[str] = set()
    # Also several in one, as TORCH_CUDA_ARCH_LIST has them, or with commas.
    words = [
        word for text in texts for word in (re.split(r"[\s,;]+", text.strip()) if text.strip() else [text])
    ]
    for text in filter(None, words) if any(words) else words:
        found.update(native_archs(environ) if text.strip().lower() == "native" else [parse_arch(text)])
    for arch in sorted(found):
        others = [
            other for other in sorted(found) if other != arch and other.rstrip("af") == arch.rstrip("af")
        ]
        if others:
            raise ArchError(
                f"{arch} and {others[0]} exclude each other.",
                why="CMake keeps only one form of an architecture, with or without a suffix, and drops the other "
                "without a word.",
                next=f"Give only {arch} or only {others[0]}.",
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
    run = ask([tool, "--query-gpu=compute_cap", "--format=csv,noheader"], environ)
    caps = [line.strip() for line in run.stdout.splitlines() if re.fullmatch(r"\d+\.\d", line.strip())]
    if not run.good or not caps:
        raise ArchError(
            "The driver did not say which GPU is in this machine.",
            why=(run.stderr or run.stdout).strip()[:200],
            next="Name the architecture, e.g. --arch sm_100.",
        )
    return sorted({parse_arch(c) for c in caps})


def nvcc_needed(arch: str) -> str:
    """The nvcc versions that compile for an architecture, as a PEP 440 specifier."""
    known = compatibility().architectures[arch.rstrip("af")]
    if arch.endswith("f") and known.nvcc_family:
        return known.nvcc_family
    return known.nvcc


def gpu_of(arch: str) -> str:
    """The GPU in words, ``V100``."""
    return compatibility().architectures[arch.rstrip("af")].gpu


def sm(arch: str) -> str:
    """``10.0a`` -> ``sm_100a``."""
    return f"sm_{arch.replace('.', '')}"


def _known() -> list[str]:
    return sorted(compatibility().architectures, key=_order)


def _order(arch: str) -> tuple[int, int, str]:
    major, _, rest = arch.partition(".")
    return int(major), int(rest[0]), rest[1:]
