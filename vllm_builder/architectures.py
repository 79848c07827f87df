"""Which GPU code runs on which GPU: the one rule that planning and verifying share."""

from __future__ import annotations

from typing import Literal

Answer = Literal["native", "jit", "dead"]
"""How GPU code answers a GPU: with binary code, by compiling its PTX when it is first used, or not at all."""


def runs_binary(arch: str, gpu: str) -> bool:
    """Whether binary code (SASS) of an architecture runs on a GPU.

    It runs on the same major version from its minor version on; with the suffix ``a`` on its own architecture
    alone, with ``f`` within its family, which is the same major version from its minor version on. (CUDA C++
    Programming Guide, "Binary Compatibility" and "Family-Specific Features".) Not told apart: Tegra chips (7.2,
    8.7, 10.1), for which NVIDIA promises no binary compatibility with the others of their major version.

    Args:
        arch: ``8.0``, ``9.0a``, ``10.0f``.
        gpu: ``10.0``. A suffix is without meaning: ``10.0a`` stands for the GPU that it is for.
    """
    own, wanted = number(arch), number(gpu)
    if arch.endswith("a"):
        return own == wanted
    return own <= wanted and own[0] == wanted[0]


def compiles_to(arch: str, gpu: str) -> bool:
    """Whether the driver can compile PTX of an architecture for a GPU: for every later one, unless its suffix forbids."""
    if arch[-1:] in "af":
        return runs_binary(arch, gpu)
    return number(arch) <= number(gpu)


def can_run(code: str, gpu: str) -> bool:
    """Whether code built for one architecture can run on a GPU, compiled at first use or not.

    Args:
        code: as CMake files spell it: ``8.0``, ``9.0a``, ``8.0+PTX``.
        gpu: as TORCH_CUDA_ARCH_LIST spells it: ``10.0``, ``9.0a``.
    """
    base, _, ptx = code.partition("+")
    return runs_binary(base, gpu) or (bool(ptx) and compiles_to(base, gpu))


def number(arch: str) -> tuple[int, int]:
    """``10.0a`` -> ``(10, 0)``."""
    major, _, minor = arch.rstrip("af").partition(".")
    return int(major), int(minor or 0)
