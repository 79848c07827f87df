"""What an object file's functions and variables are, so that two objects can be held against each other.

Two objects of one source differ in where things lie as soon as one of them holds something more. So each function
and variable is taken by itself: its bytes, and what its relocations name. A name that only says where something
lies (``.LC12``, a section and an offset) is replaced by what lies there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_builder.errors import BuilderError
from vllm_builder.lean.layout import KINDS, Layout
from vllm_builder.lean.names import settled

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

_INITIALISER = re.compile(r"^_GLOBAL__sub_I_|^_Z\d+__static_initialization_and_destruction_\d")
_RESERVED = 0xFF00
_AT_LOAD = {"SHT_INIT_ARRAY", "SHT_FINI_ARRAY", "SHT_PREINIT_ARRAY"}


@dataclass(slots=True)
class Code:
    """What an object defines and wants, by name."""

    defined: dict[str, list[str]] = field(default_factory=dict)
    """Function or variable -> hashes of what it is; several where local things share a name."""
    needed_by_others: set[str] = field(default_factory=set)
    """Defined, and neither local nor an inline copy that any other object may have as well."""
    undefined: set[str] = field(default_factory=set)
    weak: set[str] = field(default_factory=set)
    """Undefined, and may stay so."""
    variables: set[str] = field(default_factory=set)
    initialisers: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    """Functions that run when the library is loaded, and the lists of them -> what they do, in order: each a list of
    instructions, and what the last one refers to."""


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
            return _read(ELFFile(file), path, module)
    except (ELFError, OSError, ValueError, KeyError, IndexError) as error:
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
    both = lean.undefined & full.undefined
    found += [f"{name} may be missing in one object only" for name in sorted(both & (lean.weak ^ full.weak))]
    for name in lean.initialisers | full.initialisers:
        rest = _without(full.initialisers.get(name, []), lean.initialisers.get(name, []))
        # What is left out concerns headers; a variable of both objects must be treated alike.
        if rest is None or any(_names(step[-1]) in lean.variables for step in rest):
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


def _without(all_: list[tuple[str, ...]], some: list[tuple[str, ...]]) -> list[tuple[str, ...]] | None:
    """What is left of ``all_`` without ``some``, which has to be in it in the same order; None where it is not."""
    rest, waiting = [], list(reversed(some))
    for step in all_:
        if waiting and step == waiting[-1]:
            waiting.pop()
        else:
            rest.append(step)
    return None if waiting else rest


def _names(target: str) -> str:
    return re.sub(r"([+-]\d+)+$", "", target)


def _read(elf: ELFFile, path: Path, module: str) -> Code:
    table: Any = elf.get_section_by_name(".symtab")
    if table is None:
        raise ValueError("it holds no table of symbols")
    layout = Layout(elf, table, path, module)
    code = Code()
    for index, section in enumerate(elf.iter_sections()):
        if section.name.startswith(".gnu.lto_"):
            raise ValueError("it holds what is left to do at link time (-flto) and no code")
        if section["sh_type"] in _AT_LOAD:
            found = [(target,) for _, _, target in layout.references(index, 0, section["sh_size"])]
            code.initialisers.setdefault(section.name, []).extend(found)
    for symbol in table.iter_symbols():
        name, info, index = settled(symbol.name, module), symbol["st_info"], symbol["st_shndx"]
        if index == "SHN_UNDEF":
            if name:
                code.undefined.add(name)
                if info["bind"] == "STB_WEAK":
                    code.weak.add(name)
            continue
        if index == "SHN_XINDEX" or (isinstance(index, int) and index >= _RESERVED):
            raise ValueError("it has more than 65,279 sections")
        if info["type"] not in KINDS or not isinstance(index, int) or name.startswith(".L"):
            continue
        start, size = symbol["st_value"], symbol["st_size"]
        if _INITIALISER.match(name):
            code.initialisers[name] = layout.steps(index, start, size)
            continue
        kind = f"{info['type']} {info['bind']} {symbol['st_other']['visibility']}"
        code.defined.setdefault(name, []).append(layout.hash(index, start, size, kind))
        if info["type"] in {"STT_OBJECT", "STT_TLS"}:
            code.variables.add(name)
        if info["bind"] == "STB_GLOBAL":
            code.needed_by_others.add(name)
    return code
