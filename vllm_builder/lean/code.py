"""What an object file's functions and variables are, so that two objects can be held against each other.

Two objects of one source differ in where things lie as soon as one of them holds something more. So each function
and variable is taken by itself: its bytes, and what its relocations name. A name that only says where something
lies (``.LC12``, a section and an offset) is replaced by what lies there.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_builder.errors import BuilderError
from vllm_builder.lean.names import settled

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import Section, SymbolTableSection

_INITIALISER = re.compile(r"^_GLOBAL__sub_I_|^_Z\d+__static_initialization_and_destruction_\d")
_KINDS = {"STT_FUNC", "STT_OBJECT", "STT_TLS", "STT_GNU_IFUNC", "STT_LOOS", "STT_COMMON"}
_AT_LOAD = {"SHT_INIT_ARRAY", "SHT_FINI_ARRAY", "SHT_PREINIT_ARRAY"}
_ALLOC, _CODE, _MERGE, _STRINGS = 0x2, 0x4, 0x10, 0x20
_DEVICE = ".nv_fatbin"


@dataclass(slots=True)
class Code:
    """What an object defines and wants, by name."""

    defined: dict[str, list[str]] = field(default_factory=dict)
    """Function or variable -> hashes of what it is; several where local things share a name."""
    needed_by_others: set[str] = field(default_factory=set)
    """Defined, and neither local nor an inline copy that any other object may have as well."""
    undefined: set[str] = field(default_factory=set)
    initialisers: dict[str, list[str]] = field(default_factory=dict)
    """Functions that run when the library is loaded, and the lists of them -> what they refer to, in order."""


def read(path: Path, module: str = "") -> Code:
    """Read an object file (ELF, relocations with addends).

    Args:
        path: the object.
        module: what :func:`.names.module_id` says of it.

    Raises:
        BuilderError: it is no such file.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            return _read(ELFFile(file), module)
    except (ELFError, OSError, ValueError, KeyError) as error:
        raise BuilderError(f"The object {path.name} cannot be read.", why=str(error)) from error


def differences(lean: Code, full: Code) -> list[str]:
    """Why the lean object is not the full one less what headers brought that nothing uses; empty where it is."""
    found = []
    for name, hashes in sorted(lean.defined.items()):
        others = full.defined.get(name)
        if others is None:
            # What the full object does not even mention, nothing refers to that is the same in both: the compiler
            # keeps an inline function that it needed for a constant in one and drops it in the other.
            if name in full.undefined or name in lean.needed_by_others:
                found.append(f"{name} is only in the lean object")
        elif not _contained(hashes, others):
            found.append(f"{name} differs")
    # A header's own inline functions and local variables may go; what other objects ask this one for may not.
    found += [f"{name} is missing" for name in sorted(full.needed_by_others - lean.needed_by_others)]
    found += [f"{name} became visible" for name in sorted(lean.needed_by_others - full.needed_by_others)]
    found += [f"{name} is wanted from elsewhere" for name in sorted(lean.undefined - full.undefined)]
    for name, wanted in lean.initialisers.items():
        steps = iter(full.initialisers.get(name, []))
        if not all(step in steps for step in wanted):
            found.append(f"{name} does something else when the library is loaded")
    return found


def left_out(lean: Code, full: Code) -> list[str]:
    """Functions and variables that only the full object holds."""
    return sorted(set(full.defined) - set(lean.defined))


def _contained(some: list[str], all_: list[str]) -> bool:
    rest = list(all_)
    for one in some:
        if one not in rest:
            return False
        rest.remove(one)
    return True


def _read(elf: ELFFile, module: str) -> Code:
    table: Any = elf.get_section_by_name(".symtab")
    if table is None:
        return Code()
    layout = _Layout(elf, table, module)
    code = Code()
    for index, section in enumerate(elf.iter_sections()):
        if section["sh_type"] in _AT_LOAD:
            found = [target for _, _, target in layout.references(index, 0, section["sh_size"])]
            code.initialisers.setdefault(section.name, []).extend(found)
    for symbol in table.iter_symbols():
        name, info, index = settled(symbol.name, module), symbol["st_info"], symbol["st_shndx"]
        if index == "SHN_UNDEF":
            if name:
                code.undefined.add(name)
            continue
        if info["type"] not in _KINDS or not isinstance(index, int) or name.startswith(".L"):
            continue
        start, size = symbol["st_value"], symbol["st_size"]
        if _INITIALISER.match(name):
            code.initialisers[name] = [target for _, _, target in layout.references(index, start, size)]
            continue
        code.defined.setdefault(name, []).append(layout.hash(index, start, size, info["type"]))
        if info["bind"] == "STB_GLOBAL":
            code.needed_by_others.add(name)
    return code


class _Layout:
    """Where things lie in one object, and so what a place in it means."""

    def __init__(self, elf: ELFFile, table: SymbolTableSection, module: str) -> None:
        from elftools.elf.relocation import RelocationSection

        self._table: Any = table
        self._module = module
        self._sections: list[Any] = list(elf.iter_sections())
        self._relocations: dict[int, list[tuple[int, int, int, int]]] = {}
        self._named: dict[int, list[tuple[int, str]]] = {}
        for section in self._sections:
            if isinstance(section, RelocationSection):
                self._relocations[section["sh_info"]] = sorted(
                    (r["r_offset"], r["r_info_type"], r["r_info_sym"], r["r_addend"] if r.is_RELA() else 0)
                    for r in section.iter_relocations()
                )
        for symbol in self._table.iter_symbols():
            index = symbol["st_shndx"]
            if isinstance(index, int) and symbol["st_info"]["type"] in _KINDS:
                name = settled(symbol.name, module)
                self._named.setdefault(index, []).append((symbol["st_value"], name))
        for places in self._named.values():
            places.sort()
        self._data: dict[int, bytes] = {}
        self._wholes: dict[int, str] = {}

    def hash(self, index: int, start: int, size: int, kind: str) -> str:
        """Of a function's or variable's bytes and references."""
        section = self._sections[index]
        body = b"" if section["sh_type"] == "SHT_NOBITS" else self._bytes(index)[start : start + size]
        told = repr((kind, size, section["sh_flags"], sorted(self.references(index, start, size))))
        return hashlib.sha256(body + told.encode()).hexdigest()

    def references(self, index: int, start: int, size: int) -> list[tuple[int, int, str]]:
        """Place, kind and target of the relocations in a range, in order."""
        return [(at - start, kind, target) for at, kind, target in self._targets(index, start, start + size)]

    def _targets(self, index: int, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        relocations = self._relocations.get(index, [])
        for at, kind, number, addend in relocations[bisect_right(relocations, (start, -1, -1, 0)) :]:
            if at >= end:
                return
            yield at, kind, self._target(number, addend)

    def _target(self, number: int, addend: int) -> str:
        symbol = self._table.get_symbol(number)
        index, name = symbol["st_shndx"], settled(symbol.name, self._module)
        local = symbol["st_info"]["type"] == "STT_SECTION"
        if not isinstance(index, int) or (name and not local and not name.startswith(".L")):
            return f"{name}{addend:+d}"
        # To a place in a section; for a label the addend is the instruction's own, for a section it is the place.
        section = self._sections[index]
        place, rest = (addend, 0) if local else (symbol["st_value"], addend)
        flags = section["sh_flags"]
        if flags & _MERGE and 0 <= place < section["sh_size"]:
            return f"{self._constant(index, place, flags)!r}{rest:+d}"
        named = self._named.get(index, [])
        before = bisect_right(named, (place, "\U0010ffff")) - 1
        if before >= 0:
            return f"{named[before][1]}+{place - named[before][0]}{rest:+d}"
        # A constant or a table of jumps without a name: where it ends is not said, so all of the section counts.
        return f"{settled(section.name, self._module)}+{place}{rest:+d} {self._whole(index)}"

    def _whole(self, index: int) -> str:
        """Hash of a section; empty for code, whose section is named after it, and while it is being made.

        Empty for device code as well, in which names are that :func:`settled` cannot mend: PTX stands for it.
        """
        if index not in self._wholes:
            section = self._sections[index]
            self._wholes[index] = ""
            if section["sh_flags"] & _ALLOC and not section["sh_flags"] & _CODE and section.name != _DEVICE:
                size = section["sh_size"]
                self._wholes[index] = self.hash(index, 0, size, "section")
        return self._wholes[index]

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
            section: Section = self._sections[index]
            self._data[index] = section.data()
        return self._data[index]
