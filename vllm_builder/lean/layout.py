"""Where things lie in an object file, and so what a place in it means.

An assembler writes down most places as "this section, so many bytes in". In another object of the same source the
same thing lies elsewhere, so a place is told by what lies there: a name and a distance from it, or, where it has no
name (a constant, a table of jumps), its content.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_builder.lean.names import settled

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

KINDS = {"STT_FUNC", "STT_OBJECT", "STT_TLS", "STT_GNU_IFUNC", "STT_LOOS", "STT_COMMON"}
_ALLOC, _CODE, _MERGE, _STRINGS = 0x2, 0x4, 0x10, 0x20
_DEVICE = ".nv_fatbin"
_PC_RELATIVE = {"EM_X86_64": {2, 4, 9, 19, 20, 22, 26, 34, 41, 42}}
"""Relocations to 32 bits of distance, from R_X86_64_PC32 to R_X86_64_REX_GOTPCRELX (System V ABI, AMD64, table 4.9)."""


class Relocation(NamedTuple):
    at: int
    kind: int
    symbol: int
    addend: int


class Layout:
    """One object's sections, names and relocations (with addends)."""

    def __init__(self, elf: ELFFile, table: SymbolTableSection, module: str) -> None:
        from elftools.elf.relocation import RelocationSection

        self._table: Any = table
        self._module = module
        self._machine = str(elf["e_machine"])
        self._sections: list[Any] = list(elf.iter_sections())
        self._relocations: dict[int, list[Relocation]] = {}
        self._named: dict[int, list[tuple[int, int, str]]] = {}
        for section in self._sections:
            if isinstance(section, RelocationSection):
                self._relocations[section["sh_info"]] = sorted(
                    Relocation(
                        r["r_offset"], r["r_info_type"], r["r_info_sym"], r["r_addend"] if r.is_RELA() else 0
                    )
                    for r in section.iter_relocations()
                )
        for symbol in self._table.iter_symbols():
            index = symbol["st_shndx"]
            if isinstance(index, int) and symbol["st_info"]["type"] in KINDS:
                named = (symbol["st_value"], symbol["st_size"], settled(symbol.name, module))
                self._named.setdefault(index, []).append(named)
        for places in self._named.values():
            places.sort()
        self._data: dict[int, bytes] = {}
        self._ends: dict[int, dict[int, int]] = {}
        self._cuts: dict[int, list[int]] | None = None
        self._contents: dict[tuple[int, int], str] = {}

    def hash(self, index: int, start: int, size: int, kind: str) -> str:
        """Of a function's or variable's bytes and references."""
        section = self._sections[index]
        body = b"" if section["sh_type"] == "SHT_NOBITS" else self._bytes(index)[start : start + size]
        told = repr((kind, size, section["sh_flags"], sorted(self.references(index, start, size))))
        return hashlib.sha256(body + told.encode()).hexdigest()

    def references(self, index: int, start: int, size: int) -> list[tuple[int, int, str]]:
        """Place, kind and target of the relocations in a range, in order."""
        found = []
        for relocation in self._within(index, start, start + size):
            found.append((relocation.at - start, relocation.kind, self._target(index, relocation)))
        return found

    def _within(self, index: int, start: int, end: int) -> Iterator[Relocation]:
        relocations = self._relocations.get(index, [])
        for relocation in relocations[bisect_left(relocations, (start,)) :]:
            if relocation.at >= end:
                return
            yield relocation

    def _target(self, index: int, relocation: Relocation) -> str:
        place = self._place(index, relocation)
        if place is None:
            symbol = self._table.get_symbol(relocation.symbol)
            return f"{settled(symbol.name, self._module)}{relocation.addend:+d}"
        where, at, rest = place
        section = self._sections[where]
        flags = section["sh_flags"]
        if flags & _MERGE and 0 <= at < section["sh_size"]:
            return f"{self._constant(where, at, flags)!r}{rest:+d}"
        named = self._named.get(where, [])
        before = bisect_right(named, (at, 1 << 63, "")) - 1
        if before >= 0:
            start, size, name = named[before]
            # Between functions there is nothing that could be meant; after a variable there may be a constant.
            if flags & _CODE or start == at or at < start + size:
                return f"{name}+{at - start}{rest:+d}"
        name = settled(section.name, self._module)
        return f"{name} {self._content(where, at)}{rest:+d}"

    def _place(self, index: int, relocation: Relocation) -> tuple[int, int, int] | None:
        """Section, offset and what is added of a place that is not told by a name that others share."""
        symbol = self._table.get_symbol(relocation.symbol)
        where, name = symbol["st_shndx"], symbol.name
        local = symbol["st_info"]["type"] == "STT_SECTION"
        if not isinstance(where, int) or (name and not local and not name.startswith(".L")):
            return None
        # Of a label the addend is the instruction's own; of a section it is the place, counted from where the
        # processor counts.
        if not local:
            return where, symbol["st_value"], relocation.addend
        return where, relocation.addend + self._counted_from(index, relocation), 0

    def _counted_from(self, index: int, relocation: Relocation) -> int:
        """Bytes between a relocation and the place from which a distance is counted: the instruction's end."""
        if relocation.kind not in _PC_RELATIVE.get(self._machine, set()):
            return 0
        if not self._sections[index]["sh_flags"] & _CODE:
            # In a table of jumps they are counted from its beginning, whichever entry it is.
            starts = self._starts().get(index, [])
            before = bisect_right(starts, relocation.at) - 1
            return starts[before] - relocation.at if before >= 0 else 0
        if index not in self._ends:
            self._ends[index] = dict(self._instructions(index))
        return self._ends[index].get(relocation.at, 4)

    def _instructions(self, index: int) -> Iterator[tuple[int, int]]:
        """Each relocation of a section with code -> bytes to the end of the instruction that it is in."""
        from capstone import CS_ARCH_X86, CS_MODE_64, Cs

        decoder = Cs(CS_ARCH_X86, CS_MODE_64)
        data = self._bytes(index)
        for start, size, _ in self._named.get(index, []):
            waiting = [r.at for r in self._within(index, start, start + size)]
            if not waiting:
                continue
            waiting.reverse()
            for address, length, _, _ in decoder.disasm_lite(data[start : start + size], start):
                while waiting and waiting[-1] < address + length:
                    at = waiting.pop()
                    yield at, address + length - at
                if not waiting:
                    break

    def _content(self, index: int, place: int) -> str:
        """Hash of what lies between a place without a name and the next one that anything refers to.

        Without zeros at its end, which may be there for the sake of what follows. Empty for device code, in which
        names are that :func:`settled` cannot mend: PTX stands for it.
        """
        if (index, place) not in self._contents:
            self._contents[index, place] = ""
            section = self._sections[index]
            if section["sh_flags"] & _ALLOC and section.name != _DEVICE:
                cuts = self._starts().get(index, [])
                following = bisect_right(cuts, place)
                end = cuts[following] if following < len(cuts) else section["sh_size"]
                body = b"" if section["sh_type"] == "SHT_NOBITS" else self._bytes(index)[max(place, 0) : end]
                told = repr((place < 0, section["sh_flags"], self.references(index, place, end - place)))
                self._contents[index, place] = hashlib.sha256(body.rstrip(b"\0") + told.encode()).hexdigest()
        return self._contents[index, place]

    def _starts(self) -> dict[int, list[int]]:
        """Places in each section that are named or referred to."""
        if self._cuts is None:
            self._cuts = {i: sorted({start for start, _, _ in named}) for i, named in self._named.items()}
            # Code first: where a table begins has to be known before its entries can be read. Tables for debugging
            # and unwinding speak of every line of code and do not count.
            for wanted in (_ALLOC | _CODE, _ALLOC):
                found: dict[int, set[int]] = {}
                for index, relocations in self._relocations.items():
                    section = self._sections[index]
                    if section["sh_flags"] & (_ALLOC | _CODE) == wanted and section.name != ".eh_frame":
                        places = [self._place(index, relocation) for relocation in relocations]
                        for where, at, _ in filter(None, places):
                            found.setdefault(where, set()).add(at)
                for where, more in found.items():
                    self._cuts[where] = sorted(more.union(self._cuts.get(where, ())))
        return self._cuts

    def _constant(self, index: int, place: int, flags: int) -> bytes:
        data = self._bytes(index)
        width = max(1, self._sections[index]["sh_entsize"])
        if not flags & _STRINGS:
            return data[place : place + width]
        end = place
        while any(data[end : end + width]):
            end += width
        if width == 1:
            return settled(data[place:end].decode("latin-1"), self._module).encode("latin-1")
        return data[place:end]

    def _bytes(self, index: int) -> bytes:
        if index not in self._data:
            self._data[index] = self._sections[index].data()
        return self._data[index]
