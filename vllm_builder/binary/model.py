"""What was read from a shared library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vllm_builder.model import Model

CodeKind = Literal["sass", "ptx", "ltoir"]
"""``ltoir``: input of a link at run time (``-gencode code=lto_90``), which runs on no GPU as it is."""
Compression = Literal["none", "lz4", "zstd"]


class GpuCode(Model):
    """One entry of a fatbin container: binary code or PTX of one architecture."""

    kind: CodeKind
    arch: str
    """As TORCH_CUDA_ARCH_LIST spells it, with its suffix: ``10.0``, ``9.0a``, ``10.0f``."""
    version: tuple[int, int]
    """Of PTX its ISA version, ``(9, 0)``; of SASS that of the cubin, of LTO-IR that of NVVM's IR."""
    offset: int
    """Of the payload in the file, in bytes."""
    stored: int
    """Bytes in the file; of a block that it shares with others its part by size."""
    size: int
    """Bytes after decompression."""
    compression: Compression = "none"
    block: tuple[int, int] = (0, 0)
    """Bytes in the file and after decompression of the block that it shares with others (``nvcc --concat``)."""
    start: int = 0
    """Where in this block it begins, after decompression."""


class Unit(Model):
    """One fatbin container: what nvcc made of one translation unit, for every architecture that it was told."""

    section: str
    """``.nv_fatbin``; ``__nv_relfatbin`` for what ``nvcc -rdc=true`` made to be linked: what then runs is the linked
    unit in .nv_fatbin, if there is one."""
    offset: int
    """In the file, in bytes."""
    codes: tuple[GpuCode, ...]


class Symbol(Model):
    """A symbol that the library wants from another one."""

    name: str
    version: str = ""
    """``GLIBC_2.34``; empty without."""
    library: str = ""
    """The library that the version is of, as NEEDED names it; empty without a version."""
    weak: bool = False
    """Loading goes on without it."""


class Library(Model):
    """A shared library (ELF, 64 bit)."""

    name: str
    machine: str
    """``x86_64``, ``aarch64``."""
    soname: str = ""
    needed: tuple[str, ...] = ()
    """DT_NEEDED in order."""
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    """DT_RPATH and DT_RUNPATH, one folder each."""
    imports: tuple[Symbol, ...] = ()
    """Undefined dynamic symbols."""
    exports: int = 0
    """How many dynamic symbols it defines; :func:`vllm_builder.binary.exports` names them."""
    init: tuple[str, ...] = ()
    """``PyInit_*`` functions that it defines: the names under which Python imports it."""
    debug: int = 0
    """Bytes in .debug_* and .zdebug_* sections."""
    symtab: int = 0
    """Bytes of the static symbol table and its strings; 0 where it was stripped."""
    units: tuple[Unit, ...] = ()
    """GPU code in the order of the file; empty for host code alone."""
    sections: Mapping[str, int] = {}
    """Name -> bytes of the sections that take space in the file."""
    build_id: str = ""
    comments: tuple[str, ...] = ()
    """Of the section .comment: which compilers made it."""
