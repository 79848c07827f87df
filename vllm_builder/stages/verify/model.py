"""What inspecting, verifying and comparing give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vllm_builder.architectures import Answer as Answer
from vllm_builder.binary.model import Library
from vllm_builder.model import Model
from vllm_builder.wheelfile.record import BuildRecord

Severity = Literal["error", "warning", "info"]
"""``error``: the wheel does not do what was asked for. ``warning``: it works, worse than was asked for or only in
part. ``info``: worth knowing; also what could not be checked."""


class MemberSize(Model):
    name: str
    size: int
    compressed: int


class Module(Model):
    """A shared library of a wheel, as a person wants to know it. Sizes in bytes."""

    library: Library
    size: int
    compressed: int
    sass: Mapping[str, int] = {}
    """Architecture -> units that hold binary code for it."""
    ptx: Mapping[str, int] = {}
    """Architecture -> units that hold PTX for it."""
    bytes_by_arch: Mapping[str, int] = {}
    """``sm_100a``, ``compute_90`` -> bytes in the file."""
    ptx_isa: str = ""
    """Highest PTX ISA version, ``9.0``."""
    compression: tuple[str, ...] = ()
    cuda_runtime: str = ""
    """``13`` from NEEDED libcudart.so.13; ``static`` where the runtime is inside; empty without."""
    abi3: bool | None = None
    """Whether its name claims the stable ABI of Python; None for a library that Python does not import."""
    stable_torch: str = ""
    """Oldest torch that has all functions of the stable ABI that are used, ``2.9``; empty where torch's C++ is used."""
    torch_symbols: int = 0
    """Undefined symbols that torch has to define."""


class Inspection(Model):
    """What is in a wheel."""

    location: str
    """Path or address, without credentials."""
    filename: str
    size: int
    name: str
    version: str
    tags: tuple[str, ...]
    """Of the file WHEEL."""
    filename_tags: tuple[str, ...]
    requires_dist: tuple[str, ...] = ()
    requires_python: str = ""
    modules: tuple[Module, ...] = ()
    unreadable: Mapping[str, str] = {}
    """Members that should be libraries -> why they cannot be read as such."""
    size_by_kind: Mapping[str, int] = {}
    """``gpu code``, ``host code``, ``python``, ``data``, ``metadata`` -> bytes uncompressed."""
    largest: tuple[MemberSize, ...] = ()
    """The ten largest members."""
    members: int = 0
    unpacked: int = 0
    platform_floor: str = ""
    """``manylinux_2_34_x86_64``, from the symbol versions that are wanted; empty for a wheel without libraries."""
    floor_reason: str = ""
    """The symbol that sets the floor: ``_C.abi3.so wants GLIBC_2.34 (pthread_create)``."""
    outside: tuple[str, ...] = ()
    """Libraries that neither the wheel, its requirements nor the manylinux policy provide: ``libnuma.so.1``."""
    record: BuildRecord | None = None
    sbom: bool = False
    not_read: tuple[str, ...] = ()
    """What was left out (a remote wheel's libraries on purpose, those for Windows), in words."""


class Finding(Model):
    """One thing that is wrong, or could not be looked at."""

    check: str
    """Stable name: ``missing-extension``, ``dead-kernels``, ``undefined-symbol``, ``record``, ..."""
    severity: Severity
    what: str
    where: str = ""
    """Member, and symbol or unit."""
    why: str = ""
    """Why it matters."""
    cure: str = ""


class Report(Model):
    """``findings`` worst first. A wheel is good when no finding is an error."""

    wheel: str
    sha256: str
    expected: str
    """Where the expectations come from, in words: ``its build record``, ``--arch 10.0``, ``the release's source``."""
    torch: str = ""
    """Version and place of the torch that its symbols were held against; empty without one."""
    findings: tuple[Finding, ...] = ()
    checks: tuple[str, ...] = ()
    """Names of the checks that ran."""
    answers: Mapping[str, Mapping[str, Mapping[Answer, int]]] = {}
    """GPU -> module -> answer -> units."""
    seconds: float = 0

    @property
    def good(self) -> bool:
        return not any(f.severity == "error" for f in self.findings)


class Difference(Model):
    """One thing that two wheels do not have in common. A side that lacks it is empty."""

    kind: str
    """``name``, ``version``, ``tag``, ``requirement``, ``metadata``, ``record`` (the build record), ``floor``,
    ``readable`` (why a library is none), ``member`` (content, or there at all), ``mode``; of a library ``arch``,
    ``cuda``, ``torch``, ``needed``, ``rpath``, ``import``, ``export``, ``section``; ``size`` by kind; ``method``,
    ``timestamp``, ``order``, ``container``."""
    where: str
    """Member, field or section. Folder names of ``.dist-info`` are left out: ``.dist-info/METADATA``."""
    a: str = ""
    b: str = ""


class Comparison(Model):
    """``identical``: the two files have the same bytes. ``same_content``: unpacked they are the same."""

    a: str
    b: str
    identical: bool
    same_content: bool
    differences: tuple[Difference, ...] = ()
    """Most important first."""


def count(number: int, word: str, words: str = "") -> str:
    """``1 symbol``, ``2 symbols``; ``words`` is the plural where it has no s."""
    return f"{number} {word if number == 1 else words or f'{word}s'}"
