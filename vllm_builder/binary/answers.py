"""How the GPU code of a translation unit answers a GPU."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_builder.architectures import Answer, compiles_to, runs_binary
from vllm_builder.binary.model import Unit


def loaded(units: Iterable[Unit]) -> tuple[Unit, ...]:
    """The units whose kernels a program launches.

    With ``nvcc -rdc=true`` a library keeps, in ``__nv_relfatbin``, what its linked unit was made of: to ask this for
    kernels would count everything twice. Only where nothing was linked it is all that there is.
    """
    units = tuple(units)
    return tuple(unit for unit in units if unit.section != "__nv_relfatbin") or units


def answer(unit: Unit, gpu: str) -> Answer:
    """The best that a unit has for a GPU.

    Args:
        gpu: as TORCH_CUDA_ARCH_LIST spells it, ``10.0``; a suffix is without meaning.
    """
    if any(code.kind == "sass" and runs_binary(code.arch, gpu) for code in unit.codes):
        return "native"
    if any(code.kind == "ptx" and compiles_to(code.arch, gpu) for code in unit.codes):
        return "jit"
    return "dead"
