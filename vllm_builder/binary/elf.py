"""Shared libraries: what they need, what they define, and where their GPU code lies.

Own code over :mod:`struct`, since pyelftools takes 20 us for a symbol and torch's libraries have hundred thousands.
Layouts: System V ABI (gABI) chapters 4 and 5; symbol versions: Linux Standard Base, "Symbol Versioning".
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from vllm_builder.binary.buffer import Buffer, Data, Strings, buffered, decode
from vllm_builder.binary.fatbin import MAGIC, SECTIONS, read_units
from vllm_builder.binary.model import Library
from vllm_builder.binary.symbols import DynamicSymbols

_HEADER: Final = Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = Struct("<IIQQQQIIQQ")
_SEGMENT: Final = Struct("<IIQQQQQQ")
_DYNAMIC: Final = Struct("<QQ")
_NOTE: Final = Struct("<III")

_MACHINES: Final = {
    21: "ppc64le",
    62: "x86_64",
    183: "aarch64",
    190: "cuda",
    243: "riscv64",
    258: "loongarch64",
}
_RELOCATABLE, _SHARED = 1, 3
_NULL, _SYMTAB, _DYNAMIC_SECTION, _NOBITS, _DYNSYM = 0, 2, 6, 8, 11
_VERDEF, _VERNEED, _VERSYM = 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_ALLOC, _COMPRESSED = 0x2, 0x800
_LOAD, _PT_DYNAMIC = 1, 2
_NEEDED, _STRTAB, _DT_SYMTAB, _SONAME, _RPATH, _RUNPATH = 1, 5, 6, 14, 15, 29
_MOST_SECTIONS: Final = 1 << 16
_MOST_DYNAMIC: Final = 1 << 16
_LARGEST_COMMENT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int

    @property
    def stored(self) -> int:
        """Bytes in the file."""
        return 0 if self.type in (_NULL, _NOBITS) else self.size


def is_elf(data: Data) -> bool:
    """Whether it begins like an ELF file; linker scripts are named ``.so`` as well."""
    with memoryview(data) as view:
        return bytes(view[:4]) == b"\x7fELF"


def read_library(data: Data, *, name: str) -> Library:
    """Read a shared library (a program and an object file too).

    Args:
        data: its bytes; a mapped file costs no memory, and can be closed afterwards.
        name: for messages, and the result's ``name``.

    Raises:
        WheelError: it is no ELF file of 64 bits and little endian, is cut off, contradicts itself, or holds GPU code
            in a form that is not known.
    """
    with buffered(data, name) as buffer:
        elf = Elf(buffer)
        dynamic = elf.dynamic()
        symbols = elf.dynamic_symbols()
        imports, exported, init = symbols.summary() if symbols else ((), 0, ())
        sizes: dict[str, int] = {}
        for section in elf.sections:
            if section.stored:
                sizes[section.name] = sizes.get(section.name, 0) + section.size
        return Library(
            name=name,
            machine=elf.machine,
            soname=next(iter(dynamic.get(_SONAME, ())), ""),
            needed=dynamic.get(_NEEDED, ()),
            rpath=_folders(dynamic.get(_RPATH, ())),
            runpath=_folders(dynamic.get(_RUNPATH, ())),
            imports=imports,
            exports=exported,
            init=init,
            debug=sum(n for s, n in sizes.items() if s.startswith((".debug_", ".zdebug_"))),
            symtab=elf.symtab_size(),
            units=tuple(read_units(buffer, elf.gpu_sections())),
            sections=sizes,
            build_id=elf.build_id(),
            comments=elf.comments(),
        )


def exports(data: Data, *, name: str = "library") -> frozenset[str]:
    """Names of the dynamic symbols that a library defines.

    A symbol with a version is there twice: as ``memcpy`` and as ``memcpy@GLIBC_2.14``.

    Raises:
        WheelError
    """
    with buffered(data, name) as buffer:
        symbols = Elf(buffer).dynamic_symbols()
        return symbols.exports() if symbols else frozenset()


def _folders(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(folder for value in values for folder in value.split(":") if folder)


class Elf:
    """Headers and sections of an ELF file."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        (
            ident,
            kind,
            machine,
            _,
            _,
            self._phoff,
            shoff,
            _,
            _,
            phentsize,
            self._phnum,
            shentsize,
            shnum,
            names,
        ) = buffer.unpack(_HEADER, 0, "the ELF header")
        if ident[:4] != b"\x7fELF":
            buffer.refuse("it does not begin like an ELF file")
        if ident[4] != 2 or ident[5] != 1:
            buffer.refuse("it is not an ELF file of 64 bits, little endian")
        if not _RELOCATABLE <= kind <= _SHARED:
            buffer.refuse(f"it is an ELF file of type {kind}, neither a library nor a program")
        self.machine = _MACHINES.get(machine, f"machine {machine}")
        if (self._phnum and phentsize != _SEGMENT.size) or (shoff and shentsize != _SECTION.size):
            buffer.refuse("its headers have an unknown size")
        self.sections = self._sections(shoff, shnum, names)
        self._hold_segments()

    def _sections(self, offset: int, count: int, names: int) -> list[Section]:
        buffer, what = self._buffer, "the table of sections"
        if not offset:
            buffer.refuse("it has no table of sections, so its GPU code cannot be found")
        # Numbers that do not fit the ELF header stand in the first section (gABI, "Extended Section Header").
        first = buffer.unpack(_SECTION, offset, what)
        count = count or first[5]
        names = first[6] if names == 0xFFFF else names
        if not names < count <= _MOST_SECTIONS:
            buffer.refuse(f"its {count} sections cannot have their names in number {names}")
        raw = list(_SECTION.iter_unpack(buffer.copy(offset, count * _SECTION.size, what)))
        strings = Strings(buffer, raw[names][4], raw[names][5], "section names")
        sections = []
        for label, kind, flags, address, start, size, link, info, _, _ in raw:
            section = Section(
                strings.text(label) if kind else "", kind, flags, address, start, size, link, info
            )
            if (
                self.machine != "cuda"
            ):  # whose shared memory has section types of its own, without bytes in the file
                buffer.hold(start, section.stored, f"section {section.name}")
            sections.append(section)
        return sections

    def _hold_segments(self) -> None:
        """What the loader maps lies in the file, and is the dynamic section that will be read here."""
        buffer, what = self._buffer, "the table of segments"
        table = buffer.copy(self._phoff, self._phnum * _SEGMENT.size, what) if self._phnum else b""
        section = self._only(_DYNAMIC_SECTION)
        for kind, _, offset, _, _, size, _, _ in _SEGMENT.iter_unpack(table):
            if kind == _LOAD:
                buffer.hold(offset, size, "a segment")
            if kind == _PT_DYNAMIC and size and (not section or section.offset != offset):
                buffer.refuse("the loader and the table of sections see different dynamic sections")

    def _only(self, kind: int) -> Section | None:
        """The section of a kind of which there may be one."""
        found = [section for section in self.sections if section.type == kind]
        if len(found) > 1:
            self._buffer.refuse(f"it has {len(found)} sections of type {kind:#x}")
        return found[0] if found else None

    def _linked(self, section: Section) -> Section:
        if section.link >= len(self.sections):
            self._buffer.refuse(f"section {section.name} refers to a section that does not exist")
        return self.sections[section.link]

    def strings(self, section: Section) -> Strings:
        """The string table that a section refers to."""
        table = self._linked(section)
        return Strings(self._buffer, table.offset, table.stored, table.name)

    def dynamic(self) -> dict[int, tuple[str, ...]]:
        """Texts of the dynamic section: tag -> values in order."""
        section = self._only(_DYNAMIC_SECTION)
        if not section:
            return {}
        if section.size > _MOST_DYNAMIC * _DYNAMIC.size or section.size % _DYNAMIC.size:
            self._buffer.refuse(f"its dynamic section has {section.size} bytes")
        table = self._buffer.copy(section.offset, section.size, "the dynamic section")
        strings = self.strings(section)
        values: dict[int, list[str]] = {}
        for tag, value in _DYNAMIC.iter_unpack(table):
            if tag == 0:
                break
            if tag in (_NEEDED, _SONAME, _RPATH, _RUNPATH):
                values.setdefault(tag, []).append(strings.text(value))
            elif tag in (_STRTAB, _DT_SYMTAB):
                self._hold_table(tag, value, section)
        return {tag: tuple(texts) for tag, texts in values.items()}

    def _hold_table(self, tag: int, address: int, dynamic: Section) -> None:
        """The table that the loader uses is the one that the sections name."""
        table = self._linked(dynamic) if tag == _STRTAB else self._only(_DYNSYM)
        if table is None or table.address != address:
            self._buffer.refuse("the loader and the table of sections see different symbols")

    def dynamic_symbols(self) -> DynamicSymbols | None:
        """None for a file that is not linked dynamically."""
        section = self._only(_DYNSYM)
        if not section:
            return None
        versions = self._only(_VERSYM)
        symbols = DynamicSymbols(self._buffer, (section.offset, section.stored), self.strings(section))
        if versions:
            needed, defined = self._only(_VERNEED), self._only(_VERDEF)
            symbols.add_versions(
                (versions.offset, versions.stored),
                (needed.offset, needed.stored, needed.info, self.strings(needed)) if needed else None,
                (defined.offset, defined.stored, defined.info, self.strings(defined)) if defined else None,
            )
        return symbols

    def symtab_size(self) -> int:
        return sum(s.stored + self._linked(s).stored for s in self.sections if s.type == _SYMTAB)

    def symbol_table(self) -> tuple[int, int, Strings] | None:
        """Offset, size and strings of the static symbol table."""
        section = self._only(_SYMTAB)
        return (section.offset, section.stored, self.strings(section)) if section else None

    def gpu_sections(self) -> list[tuple[str, int, int]]:
        """Name, offset and size of the sections with GPU code; by their contents too, should there be other names."""
        found = []
        for s in self.sections:
            if not s.stored or (s.name not in SECTIONS and not self._looks_like_fatbin(s)):
                continue
            if s.flags & _COMPRESSED:
                self._buffer.refuse(f"section {s.name} is compressed, and the CUDA runtime would not find it")
            found.append((s.name, s.offset, s.size))
        return sorted(found, key=lambda one: one[1])

    def _looks_like_fatbin(self, section: Section) -> bool:
        if not section.flags & _ALLOC or section.size < 16 or "fatbin" not in section.name:
            return False
        return self._buffer.copy(section.offset, 4, section.name) == MAGIC

    def build_id(self) -> str:
        """Hexadecimal; empty without one."""
        section = next((s for s in self.sections if s.name == ".note.gnu.build-id" and s.stored), None)
        if not section:
            return ""
        name, size, _ = self._buffer.unpack(_NOTE, section.offset, "the build id")
        start = _NOTE.size + (name + 3) // 4 * 4
        if start + size > section.size:
            self._buffer.refuse("the build id lies beyond its section")
        return self._buffer.copy(section.offset + start, size, "the build id").hex()

    def comments(self) -> tuple[str, ...]:
        section = next((s for s in self.sections if s.name == ".comment" and s.stored), None)
        if not section:
            return ()
        if section.size > _LARGEST_COMMENT:
            self._buffer.refuse(f".comment has {section.size} bytes")
        data = self._buffer.copy(section.offset, section.size, ".comment")
        return tuple(dict.fromkeys(decode(text) for text in data.split(b"\0") if text))
