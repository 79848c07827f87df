"""Where things lie in an object file, and so what a place in it means.

An assembler writes down most places as "this section, so many bytes in". In another object of the same source the
same thing lies elsewhere, so a place is told by what lies there: a name and a distance from it, or, where it has no
name (a constant, a table of jumps), its content.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_builder.lean.instructions import Instruction, instructions
from vllm_builder.lean.names import settled

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

KINDS = {"STT_FUNC", "STT_OBJECT", "STT_TLS", "STT_GNU_IFUNC", "STT_LOOS", "STT_COMMON"}
_ALLOC, _CODE, _MERGE, _STRINGS = 0x2, 0x4, 0x10, 0x20
_DEVICE = ".nv_fatbin"
_PC_RELATIVE = {"EM_X86_64": {2, 4, 9, 19, 20, 22, 26, 34, 41, 42}}
"""Relocations to 32 bits of distance, from R_X86_64_PC32 to R_X86_64_REX_GOTPCRELX (System V ABI, AMD64, table 4.9).

Numbers, since pyelftools names only some of them."""


_UNWINDING, _HANDLERS = ".eh_frame", ".gcc_except_table"


class Relocation(NamedTuple):
    at: int
    kind: int
    symbol: int
    addend: int


class Layout:
    """One object's sections, names and relocations (with addends).

    Raises:
        BuilderError: binutils' objdump is not there.
    """

    def __init__(self, elf: ELFFile, table: SymbolTableSection, path: Path, module: str) -> None:
        from elftools.elf.relocation import RelocationSection

        self._table: Any = table
        self._path = path
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
        self._instructions: dict[int, list[Instruction]] | None = None
        self._cuts: dict[int, list[int]] | None = None
        self._contents: dict[tuple[int, int], str] = {}
        self._handlers = self._exception_tables()

    def hash(self, index: int, start: int, size: int, kind: str) -> str:
        """Of a function's or variable's bytes and references, and of the exceptions that it catches."""
        section = self._sections[index]
        body = b"" if section["sh_type"] == "SHT_NOBITS" else self._bytes(index)[start : start + size]
        caught = []
        for table, first, end in self._handlers.get((index, start), []):
            caught.append((self._bytes(table)[first:end], self.references(table, first, end - first)))
        # Where it has a section for itself (named .data.name), how that is aligned is its own matter.
        alone = start == 0 and size == section["sh_size"] and section.name.rfind(".") > 0
        aligned = section["sh_addralign"] if alone else 0
        told = (kind, size, section["sh_flags"], aligned, sorted(self.references(index, start, size)), caught)
        return hashlib.sha256(body + repr(told).encode()).hexdigest()

    def steps(self, index: int, start: int, size: int) -> list[tuple[str, ...]]:
        """What a function refers to, in order, each after the instructions since the last jump or call."""
        found = []
        waiting = list(self._within(index, start, start + size))[::-1]
        since: list[str] = []
        code = self._code(index)
        for here, following in zip(code, [*code[1:], None], strict=True):
            if not start <= here.at < start + size:
                continue
            since.append(here.meaning)
            end = following.at if following else start + size
            while waiting and waiting[-1].at < end:
                relocation = waiting.pop()
                found.append((*since, str(relocation.kind), self._target(index, relocation)))
            if here.jumps:
                since = []
        return found

    def references(self, index: int, start: int, size: int) -> list[tuple[int, int, str]]:
        """Place, kind and target of the relocations in a range, in order."""
        found = []
        for relocation in self._within(index, start, start + size):
            found.append((relocation.at - start, relocation.kind, self._target(index, relocation)))
        return found

    def _exception_tables(self) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
        """Section and offset of a function -> where its table of caught exceptions begins and ends.

        The unwinding tables have them side by side: each entry names its function, then that function's table.
        """
        pairs, function = [], (0, 0)
        for index, relocations in self._relocations.items():
            for relocation in relocations if self._sections[index].name == _UNWINDING else ():
                symbol = self._table.get_symbol(relocation.symbol)
                where, at = symbol["st_shndx"], symbol["st_value"] + relocation.addend
                if not isinstance(where, int) or where >= len(self._sections):
                    continue
                if self._sections[where]["sh_flags"] & _CODE:
                    function = (where, at)
                elif self._sections[where].name.startswith(_HANDLERS):
                    pairs.append((function, (where, at)))
        starts = sorted({place for _, place in pairs})
        found: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for function, (table, first) in pairs:
            following = bisect_right(starts, (table, first))
            last = following == len(starts) or starts[following][0] != table
            end = self._sections[table]["sh_size"] if last else starts[following][1]
            found.setdefault(function, []).append((table, first, end))
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
        outside = "" if 0 <= at < section["sh_size"] else f"{at:+d}"
        return f"{settled(section.name, self._module)} {self._content(where, at)}{outside}{rest:+d}"

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
        code = self._code(index)
        if not code:
            raise ValueError(f"objdump shows no instructions of {self._sections[index].name}")
        following = bisect_right(code, relocation.at, key=lambda one: one.at)
        end = code[following].at if following < len(code) else self._sections[index]["sh_size"]
        return int(end) - relocation.at

    def _code(self, index: int) -> list[Instruction]:
        if self._instructions is None:
            # Sections may share a name; both lists are in the order of the file.
            read: dict[str, list[list[Instruction]]] = {}
            for name, found in instructions(self._path):
                read.setdefault(name, []).append(found)
            self._instructions = {}
            for number, section in enumerate(self._sections):
                if section["sh_flags"] & _CODE and section["sh_size"] and read.get(section.name):
                    self._instructions[number] = read[section.name].pop(0)
        return self._instructions.get(index, [])

    def _content(self, index: int, place: int) -> str:
        """Hash of what lies between a place without a name and the next one that anything refers to.

        Without zeros at its end that may be there for the sake of what follows. Empty for device code, in which
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
                kept = max(len(body.rstrip(b"\0")), len(body) - max(0, section["sh_addralign"] - 1))
                self._contents[index, place] = hashlib.sha256(body[:kept] + told.encode()).hexdigest()
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
                    if section["sh_flags"] & (_ALLOC | _CODE) == wanted and section.name != _UNWINDING:
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
