"""What the checks look at: a wheel, read once, with what is expected of it and what surrounds it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from vllm_builder.architectures import Answer
from vllm_builder.binary import answer, exports, is_elf, kernels, read_library
from vllm_builder.binary.buffer import buffered
from vllm_builder.binary.elf import Elf
from vllm_builder.binary.model import Library, Unit
from vllm_builder.errors import WheelError
from vllm_builder.stages.verify.expectations import Expectations, ExpectedExtension
from vllm_builder.stages.verify.inspecting import (
    describe,
    foreign_libraries,
    may_be_library,
    no_library,
)
from vllm_builder.stages.verify.model import Module
from vllm_builder.stages.verify.surroundings import Surroundings
from vllm_builder.wheelfile.directory import Member
from vllm_builder.wheelfile.sources import Unreachable
from vllm_builder.wheelfile.wheel import Wheel

_PATH: Final = re.compile(rb"(?<![\w.+@/-])/(?:[\w.+@-]+/)+[\w.+-]+\.(?:cu|cuh|cc|cpp|cxx|c|h|hpp|inl)\b")
"""An absolute path of a source file, as ``__FILE__`` leaves it behind."""
_RODATA: Final = (".rodata", ".rodata.str1.1", ".rodata.str1.8")
_NAMED_UNITS: Final = 80
"""Of how many units of a library the kernels are named; unpacking costs."""


@dataclass(frozen=True, slots=True)
class Part:
    """A library or program of the wheel."""

    member: Member
    module: Module
    exports: frozenset[str]
    paths: tuple[str, ...] = ()
    """Absolute paths of source files in its read-only data."""
    answers: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)
    """GPU -> the answer of each unit, in order."""
    kernels: Mapping[int, tuple[str, ...] | None] = field(default_factory=dict)
    """Number of a unit -> its kernels' names (None: they cannot be read); of units that are not native for some
    wanted GPU."""

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def short(self) -> str:
        """``vllm/_C.abi3.so`` -> ``_C``."""
        return PurePosixPath(self.member.name).name.partition(".")[0]

    @property
    def library(self) -> Library:
        return self.module.library

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.module.library.units


@dataclass(frozen=True)
class Subject:
    """The wheel and all that the checks may ask of it."""

    wheel: Wheel
    expected: Expectations
    parts: tuple[Part, ...]
    unreadable: Mapping[str, str]
    """Member -> why it could not be read."""
    surroundings: Surroundings
    against: Subject | None = None
    exports_folder: Path | None = None
    """Where what torch builds define is kept."""
    not_checked: Mapping[str, str] = field(default_factory=dict)
    """Name of a check -> why it cannot be done."""

    @cached_property
    def machine(self) -> str:
        return next((part.library.machine for part in self.parts), "")

    def expected_for(self, part: Part) -> ExpectedExtension | None:
        for one in self.expected.extensions or ():
            if one.finds((part.name,)):
                return one
        return None

    def gpu_parts(self) -> Iterator[Part]:
        yield from (part for part in self.parts if part.units)


def read_parts(wheel: Wheel, archs: tuple[str, ...]) -> tuple[tuple[Part, ...], dict[str, str]]:
    """All libraries and programs of a wheel, and those that cannot be read with the reason.

    Raises:
        Unreachable: the wheel cannot be had any more, so nothing is said of it.
    """
    members = sorted((m for m in wheel.members.values() if may_be_library(m)), key=lambda m: -m.size)
    unreadable: dict[str, str] = {}
    linux = not foreign_libraries(wheel)

    def read(member: Member) -> Part | None:
        try:
            return _read(wheel, member, archs, unreadable if linux else {})
        except Unreachable:
            raise
        except WheelError as error:
            unreadable[member.name] = " ".join(filter(None, (error.what, error.why)))
            return None

    # Inflating runs beside Python.
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        found = [part for part in pool.map(read, members) if part is not None]
    return tuple(sorted(found, key=lambda part: part.name)), dict(sorted(unreadable.items()))


def _read(wheel: Wheel, member: Member, archs: tuple[str, ...], unreadable: dict[str, str]) -> Part | None:
    with wheel.mapped(member.name) as data:
        if not is_elf(data):
            if why := no_library(member, data):
                unreadable[member.name] = why
            return None
        library = read_library(data, name=member.name)
        answers = {gpu: tuple(answer(unit, gpu) for unit in library.units) for gpu in archs}
        lesser = sorted({n for one in answers.values() for n, a in enumerate(one) if a != "native"})
        return Part(
            member=member,
            module=describe(library, size=member.size, compressed=member.compressed),
            exports=exports(data, name=member.name),
            paths=_source_paths(data, member.name),
            answers=answers,
            kernels={n: _kernels(data, library.units[n], member.name) for n in lesser[:_NAMED_UNITS]},
        )


def _kernels(data: memoryview, unit: Unit, name: str) -> tuple[str, ...] | None:
    """Names of a unit's kernels, as the linker knows them, from its smallest code that can be read."""
    codes = sorted((c for c in unit.codes if c.kind != "ltoir"), key=lambda c: c.block[1] or c.size)
    for code in codes:
        try:
            return kernels(data, code, name=name)
        except WheelError:
            continue
    return None


def _source_paths(data: memoryview, name: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    with buffered(data, name) as buffer:
        for section in Elf(buffer).sections:
            if section.name in _RODATA and section.stored:
                text = buffer.copy(section.offset, section.size, section.name)
                found.update(dict.fromkeys(m[0].decode("utf-8", "replace") for m in _PATH.finditer(text)))
    return tuple(found)
