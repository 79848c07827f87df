"""Compile one unit both ways and hold everything that comes out against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vllm_builder.fs import make_dir, os_errors, remove_tree
from vllm_builder.lean import code, names, text
from vllm_builder.lean.model import UnitProof
from vllm_builder.lean.units import Run, Unit, run

_SHOWN = 20
_PTX, _TEXTS = "*.ptx", ("*.cpp1.ii", "*.cpp4.ii")
"""What nvcc keeps: PTX per architecture; what the preprocessor made for the device and for the host."""


def touches(unit: Unit, room: Path, environ: Mapping[str, str]) -> bool:
    """Whether the unit includes a lean header; one that cannot even be preprocessed so counts as if it did."""
    folder = make_dir(room / "lean")
    done = run(unit.preprocess(folder, lean=True), unit.directory, environ)
    if done.status:
        return True
    with _lines(folder / "unit.ii") as lines:
        return text.uses(lines, unit.include.removeprefix("-I"))


def prove_unit(unit: Unit, room: Path, environ: Mapping[str, str]) -> UnitProof:
    """Compile a unit both ways in a folder that is emptied first.

    Raises:
        BuilderError: an object or a preprocessed file cannot be read.
        NoSpace, NotWritable
    """
    remove_tree(room)
    if not touches(unit, room, environ):
        return UnitProof(unit=unit.name, verdict="untouched")
    lean = _compiled(unit, room, environ, lean=True)
    full = _compiled(unit, room, environ, lean=False)
    if full.status:
        return UnitProof(unit=unit.name, verdict="failed", error=full.error, full=full.way, lean=lean.way)
    if lean.status:
        return UnitProof(unit=unit.name, verdict="falls back", error=lean.error, full=full.way, lean=lean.way)
    found = _text(unit, room, environ)
    device, other = _device(room)
    lean_code, full_code = _object(room, "lean"), _object(room, "full")
    apart = code.differences(lean_code, full_code)
    inlined: list[str] = []
    if apart and found:
        found += apart
    elif apart or lean_code.initialisers or full_code.initialisers:
        # Without optimisation a function's code depends on nothing but what it says and on what that means. What runs
        # when the library is loaded is a list that a header may lengthen, and can be read only where nothing is inlined.
        for way in (True, False):
            command = unit.unoptimised(_folder(room, lean=way), environ, lean=way)
            done = run(command, unit.directory, environ)
            if done.status:
                found.append(f"does not compile without optimisation: {done.error}")
        if not found:
            found += code.differences(_object(room, "lean"), _object(room, "full"))
        if not found:
            inlined = [one.removesuffix(" differs") for one in apart if one.endswith(" differs")]
    found += other
    return UnitProof(
        unit=unit.name,
        verdict="different" if found else "same",
        differences=tuple(found[:_SHOWN]),
        device_code=device,
        functions=len(lean_code.defined),
        inlined_otherwise=tuple(inlined),
        left_out=len(code.left_out(lean_code, full_code)),
        full=full.way,
        lean=lean.way,
    )


def _folder(room: Path, *, lean: bool) -> Path:
    return make_dir(room / ("lean" if lean else "full"))


def _compiled(unit: Unit, room: Path, environ: Mapping[str, str], *, lean: bool) -> Run:
    return run(unit.compile(_folder(room, lean=lean), lean=lean), unit.directory, environ)


def _text(unit: Unit, room: Path, environ: Mapping[str, str]) -> list[str]:
    patterns: tuple[str, ...] = _TEXTS
    if not unit.is_cuda:
        patterns = ("unit.ii",)
        run(unit.preprocess(_folder(room, lean=False), lean=False), unit.directory, environ)
    found = []
    names = {path.name for way in ("lean", "full") for p in patterns for path in (room / way).glob(p)}
    if not names:
        found.append("there is no preprocessed text to compare")
    for name in sorted(names):
        with _lines(room / "lean" / name) as lean, _lines(room / "full" / name) as full:
            found += text.differences(lean, full, stands_in=unit.include.removeprefix("-I"))
    return list(dict.fromkeys(found))


def _object(room: Path, way: str) -> code.Code:
    return code.read(room / way / "unit.o", names.module_id(room / way))


def _hash(path: Path) -> str:
    """SHA-256 of PTX, without what a process put into its names; empty where there is no file."""
    if not path.is_file():
        return ""
    with os_errors(f"reading {path}"):
        found = names.settled(path.read_text("latin-1"), names.module_id(path.parent))
    return hashlib.sha256(found.encode("latin-1")).hexdigest()


def _device(room: Path) -> tuple[dict[str, str], list[str]]:
    """Hashes of PTX that is the same both ways, and what speaks against that."""
    same, found = {}, []
    for name in sorted({path.name for way in ("lean", "full") for path in (room / way).glob(_PTX)}):
        hashes = [_hash(room / way / name) for way in ("lean", "full")]
        if hashes[0] == hashes[1]:
            same[name] = hashes[0]
        else:
            found.append(f"{name} differs")
    return same, found


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[str]]:
    """A preprocessed file's lines; an error that says which file where there is none."""
    with os_errors(f"reading {path}"), path.open(encoding="utf-8", errors="replace") as file:
        yield file
