"""The dynamic symbols of an ELF file and their versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final

from vllm_builder.binary.buffer import Buffer, Strings, decode
from vllm_builder.binary.model import Symbol

_SYMBOL: Final = Struct("<IBBHQQ")
_VERSION: Final = Struct("<H")
_NEED: Final = Struct("<HHIII")  # version of the format, entries, library, offset of the entries, of the next
_NEED_ENTRY: Final = Struct("<IHHII")  # hash, flags, index, name, offset of the next
_DEFINED: Final = Struct(
    "<HHHHIII"
)  # version of the format, flags, index, entries, hash, offset of them, of the next
_DEFINED_ENTRY: Final = Struct("<II")  # name, offset of the next

_UNDEFINED: Final = 0
_WEAK: Final = 2
_VISIBLE_BINDINGS: Final = frozenset((1, _WEAK, 10))  # global, weak, unique
_VISIBILITIES: Final = frozenset((0, 3))  # default, protected
_HIDDEN: Final = 0x8000
MOST_SYMBOLS: Final = 1_000_000
"""In one file; torch 2.11's libtorch_cpu.so has 80 thousand."""
MOST_IMPORTS: Final = 200_000
"""Of them wanted from elsewhere; torch 2.11's libtorch_python.so has 6 thousand."""

Range = tuple[int, int]
"""Offset and size."""
Versions = tuple[int, int, int, Strings]
"""Offset, size, number of entries and string table of a section."""


class DynamicSymbols:
    """What a library wants from others and gives to others."""

    def __init__(self, buffer: Buffer, symbols: Range, strings: Strings) -> None:
        offset, size = symbols
        if size % _SYMBOL.size or size > MOST_SYMBOLS * _SYMBOL.size:
            buffer.refuse(f"its table of dynamic symbols has {size} bytes")
        self._buffer = buffer
        self._table = buffer.copy(offset, size, "the dynamic symbols")
        self._strings = strings
        self._indices: list[int] = []
        self._names: dict[int, tuple[str, str]] = {}
        """Index -> version and library (empty for a version that is defined here)."""

    def add_versions(self, indices: Range, needed: Versions | None, defined: Versions | None) -> None:
        """Read the three sections about versions.

        Raises:
            WheelError
        """
        offset, size = indices
        if size != len(self._table) // _SYMBOL.size * _VERSION.size:
            self._buffer.refuse("its dynamic symbols and their versions differ in number")
        table = self._buffer.copy(offset, size, "the versions")
        self._indices = [index for (index,) in _VERSION.iter_unpack(table)]
        if needed:
            self._read_needed(needed)
        if defined:
            self._read_defined(defined)

    def _read_needed(self, versions: Versions) -> None:
        offset, size, count, strings = versions
        walk = _Walk(self._buffer, offset, size)
        for at, (_, entries, library, first, _) in walk.chain(offset, count, _NEED, lambda f: int(f[4])):
            name = strings.text(library)
            for _, (_, _, index, label, _) in walk.chain(
                at + first, entries, _NEED_ENTRY, lambda f: int(f[4])
            ):
                self._names[index & ~_HIDDEN] = (strings.text(label), name)

    def _read_defined(self, versions: Versions) -> None:
        offset, size, count, strings = versions
        walk = _Walk(self._buffer, offset, size)
        for at, (_, _, index, entries, _, first, _) in walk.chain(
            offset, count, _DEFINED, lambda f: int(f[6])
        ):
            # The first name is the version's own, the others are its parents'.
            for _, (label, _) in walk.chain(at + first, min(entries, 1), _DEFINED_ENTRY, lambda f: int(f[1])):
                self._names[index & ~_HIDDEN] = (strings.text(label), "")

    def summary(self) -> tuple[tuple[Symbol, ...], int, tuple[str, ...]]:
        """What it imports, how much it exports, and the functions by which Python imports it."""
        imports: list[Symbol] = []
        init: list[str] = []
        count = 0
        get = self._strings.get
        for number, (label, info, other, section, _, _) in enumerate(_SYMBOL.iter_unpack(self._table)):
            if not label or info >> 4 not in _VISIBLE_BINDINGS:
                continue
            if section == _UNDEFINED:
                if len(imports) == MOST_IMPORTS:
                    self._buffer.refuse(f"it wants more than {MOST_IMPORTS} symbols from others")
                version, library = self._version(number)
                imports.append(
                    Symbol(name=decode(get(label)), version=version, library=library, weak=info >> 4 == _WEAK)
                )
            elif other & 3 in _VISIBILITIES:
                count += 1
                name = get(label)
                if name.startswith((b"PyInit_", b"PyInitU_")):
                    init.append(decode(name))
        return tuple(imports), count, tuple(init)

    def exports(self) -> frozenset[str]:
        names = set()
        get = self._strings.get
        for number, (label, info, other, section, _, _) in enumerate(_SYMBOL.iter_unpack(self._table)):
            if (
                label
                and section != _UNDEFINED
                and info >> 4 in _VISIBLE_BINDINGS
                and other & 3 in _VISIBILITIES
            ):
                name = decode(get(label))
                names.add(name)
                if version := self._version(number)[0]:
                    names.add(f"{name}@{version}")
        return frozenset(names)

    def _version(self, number: int) -> tuple[str, str]:
        index = self._indices[number] & ~_HIDDEN if self._indices else 0
        if index < 2:  # local, or without a version
            return "", ""
        found = self._names.get(index)
        if found is None:
            self._buffer.refuse(f"dynamic symbol {number} has version {index}, which is not listed")
        return found


class _Walk:
    """Chains of entries in one section: forward only, and no more of them than the section has room for."""

    def __init__(self, buffer: Buffer, offset: int, size: int) -> None:
        self._buffer = buffer
        self._end = offset + size
        self._left = size // _DEFINED_ENTRY.size

    def chain(
        self, at: int, count: int, form: Struct, following: Callable[[tuple[int, ...]], int]
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """``count`` entries from ``at`` on, each with its place."""
        for remaining in range(count, 0, -1):
            self._left -= 1
            if self._left < 0 or at + form.size > self._end:
                self._buffer.refuse("its list of symbol versions leaves its section")
            fields = self._buffer.unpack(form, at, "a symbol version")
            yield at, fields
            step = following(fields)
            if remaining > 1 and step <= 0:
                self._buffer.refuse("its list of symbol versions ends too early")
            at += step
