"""Shared libraries without running them: ELF, and the GPU code that nvcc puts into it.

    library = read_library(data, name="vllm/_C.abi3.so")      # any bytes-like object, a mapped file too
    library.needed, library.imports, library.units

Nothing here knows of wheels. What does not fit the formats raises :class:`~vllm_builder.errors.WheelError`:
half an answer about a kernel is worse than none.
"""

from vllm_builder.binary.answers import answer, loaded
from vllm_builder.binary.elf import exports, is_elf, read_library
from vllm_builder.binary.fatbin import read_fatbin
from vllm_builder.binary.kernels import demangle, kernels

__all__ = ["answer", "demangle", "exports", "is_elf", "kernels", "loaded", "read_fatbin", "read_library"]
