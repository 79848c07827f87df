"""Does every library find what it wants of others when it is loaded?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from vllm_builder.binary.model import Symbol
from vllm_builder.stages.verify.exports import kept_build, kept_versions, rules
from vllm_builder.stages.verify.model import Finding, count
from vllm_builder.stages.verify.spelling import Diagnosis, diagnose
from vllm_builder.stages.verify.subject import Part, Subject
from vllm_builder.stages.verify.surroundings import TORCHS_OWN, Closure
from vllm_builder.stages.verify.torch_abi import added_after, cxx_symbols, stable_symbols

PYTHON: Final = re.compile(r"_?Py[A-Z_]\w*")
_RUNTIME: Final = ("GLIBC_", "GLIBCXX_", "CXXABI_", "GCC_", "GOMP_", "LIBGCC_")
"""Versions of the C and C++ runtimes: whether the target has them is a question of the platform tag."""
_SHOWN: Final = 5


def undefined_symbols(subject: Subject) -> Iterator[Finding]:
    by_name: dict[str, set[str]] = {}
    torchs: dict[str, list[Part]] = {}
    for part in subject.parts:
        closure = subject.surroundings.closure(part.library.needed)
        wanted = [s for s in part.library.imports if not s.weak and not PYTHON.fullmatch(s.name)]
        missing = []
        for symbol in wanted:
            if _of_runtime(symbol) or closure.defines(symbol.name) or symbol.name in part.exports:
                continue
            if library := closure.may_define(symbol.name):
                by_name.setdefault(library, set()).add(symbol.name)
            else:
                missing.append(symbol.name)
        for name in _of_torch(subject, missing):
            torchs.setdefault(name, []).append(part)
        yield from _missing(
            subject, part, closure, [name for name in missing if part not in torchs.get(name, ())]
        )
    if torchs:
        yield from _torch_abi(subject, torchs)
    if by_name:
        counts = ", ".join(f"{len(names)} of {library}" for library, names in sorted(by_name.items()))
        yield Finding(
            check="undefined-symbol",
            severity="info",
            what=f"Symbols that were found by their names only: {counts}.",
            why="These libraries are not on this machine; which names they define is written in sonames.toml.",
        )


def _of_runtime(symbol: Symbol) -> bool:
    """Versioned symbols of the system's runtimes: the linker found them in a library that says this version."""
    return symbol.version.startswith(_RUNTIME)


def _of_torch(subject: Subject, names: Sequence[str]) -> list[str]:
    """Those that torch would have to define and does not."""
    torch = subject.surroundings.torch
    if torch is None:
        return []
    return [name for name in (*cxx_symbols(names), *stable_symbols(names)) if name not in torch.all_names]


def missing_libraries(subject: Subject) -> Iterator[Finding]:
    """Libraries that a given torch should have brought and does not have."""
    torch = subject.surroundings.torch
    if torch is None:
        return
    lacking: dict[str, list[Part]] = {}
    for part in subject.parts:
        for soname in part.library.needed:
            if TORCHS_OWN.fullmatch(soname) and subject.surroundings.find(soname) is None:
                lacking.setdefault(soname, []).append(part)
    groups: dict[str, list[str]] = {}
    for soname, parts in lacking.items():
        groups.setdefault(", ".join(part.short for part in parts), []).append(soname)
    for names, sonames in groups.items():
        yield Finding(
            check="missing-library",
            severity="error",
            what=f"torch {torch.version} does not have {', '.join(sonames)}, needed by {names}.",
            where=", ".join(part.name for part in lacking[sonames[0]]),
            why="They were compiled against another kind of torch (with or without CUDA), and cannot "
            "be loaded with this one.",
            cure="Use the torch that they were compiled against, or build again.",
        )


def _missing(subject: Subject, part: Part, closure: Closure, names: Sequence[str]) -> Iterator[Finding]:
    torch = subject.surroundings.torch
    driver = [n for n in names if (rule := _driver_rule(n)) and rule not in part.library.needed]
    if driver:
        library = _driver_rule(driver[0])
        yield Finding(
            check="driver-stub",
            severity="error",
            what=f"{part.short} calls {_some(driver)} and does not name {library} among the libraries that it needs.",
            where=part.name,
            why="It was linked against an empty stub of the driver's library: the loader finds these functions "
            "nowhere, and importing fails with 'undefined symbol'.",
            cure=f"Link against a {library} that defines them (the toolkit's lib64/stubs), then build again.",
        )
    rest = [n for n in names if n not in driver]
    if torch is None:
        # Said once, as not checked.
        rest = [n for n in rest if n not in {*cxx_symbols(rest), *stable_symbols(rest)}]
    if rest and not closure.missing:
        yield Finding(
            check="undefined-symbol",
            severity="error",
            what=f"{part.short} wants {count(len(rest), 'symbol')} that none of the libraries it needs "
            f"defines: {_some(rest)}.",
            where=part.name,
            why="Importing it fails with 'undefined symbol', at once or when the function is first called.",
            cure="Build against the libraries that it will run with; link what is missing.",
        )
    elif rest:
        unknown = torch is None and any(map(TORCHS_OWN.fullmatch, closure.missing))
        yield Finding(
            check="undefined-symbol",
            severity="info" if unknown else "warning",
            what=f"{count(len(rest), 'symbol')} of {part.short} could not be looked up: {_some(rest)}.",
            where=part.name,
            why=f"Not at hand: {', '.join(closure.missing)}.",
            cure="Give --torch, or verify on a machine that has these libraries."
            if unknown
            else "Verify on a machine that has these libraries.",
        )


def _driver_rule(name: str) -> str:
    for rule in rules():
        if rule.origin == "driver" and rule.names.fullmatch(name):
            return rule.soname.pattern.replace("\\", "")
    return ""


def _torch_abi(subject: Subject, missing: Mapping[str, Sequence[Part]]) -> Iterator[Finding]:
    """One finding for each way in which libraries and torch differ."""
    torch = subject.surroundings.torch
    assert torch is not None
    groups: dict[str, list[Diagnosis]] = {}
    # What came with a later torch is another check's to say.
    stable = stable_symbols(missing)
    late = added_after(stable, torch.version) if stable and torch.version else ()
    for one in diagnose((name for name in missing if name not in late), torch.all_names):
        groups.setdefault(one.kind, []).append(one)
    for kind, some in groups.items():
        which = {
            "old-string": "compiled for a torch of the old std::string ABI (_GLIBCXX_USE_CXX11_ABI=0)",
            "new-string": "compiled for a torch of the new std::string ABI (_GLIBCXX_USE_CXX11_ABI=1)",
            "signature": "compiled against another torch, where these functions have other parameters",
            "gone": "compiled against another torch, which has these functions",
        }[kind]
        parts = {part.name: part for one in some for part in missing[one.name]}
        instead = next((one.instead for one in some if one.instead), "")
        reasons = (
            _compiled_for(subject, [one.name for one in some]),
            f"There it is {_short(instead)}." if instead and kind == "signature" else "",
            "Importing fails with 'undefined symbol'.",
        )
        yield Finding(
            check="torch-abi",
            severity="error",
            what=f"{', '.join(part.short for part in parts.values())}: {which}. Not in torch {torch.version}: "
            f"{count(len(some), 'symbol')}: {_some([_short(one.readable) for one in some])}.",
            where=", ".join(parts),
            why=" ".join(filter(None, reasons)),
            cure=f"Build against torch {torch.version}, or use the torch that it was compiled against.",
        )


def _compiled_for(subject: Subject, names: Sequence[str]) -> str:
    """Which torch an extension was compiled for, as far as the record or torch builds that were read earlier tell."""
    said = subject.expected.torch
    torch = subject.surroundings.torch
    if said and torch is not None and said.split("+")[0] != torch.version.split("+")[0]:
        return f"By its record it was compiled against torch {said}."
    folder = subject.exports_folder
    fitting = []
    for version in kept_versions(folder, subject.machine) if folder else ():
        build = kept_build(folder, version, subject.machine) if folder else None
        if build is not None and build.all_names.issuperset(names):
            fitting.append(version)
    return f"All of them are in torch {', '.join(fitting)}." if fitting else ""


def _short(text: str) -> str:
    text = re.sub(
        r"std::(__cxx11::)?basic_string<char, std::char_traits<char>, std::allocator<char> ?>",
        "std::string",
        text,
    )
    return text if len(text) <= 160 else text[:157] + "..."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
