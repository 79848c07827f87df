"""Which units were compiled with torch's own headers although the patch set ``lean-headers`` took part.

The patch set puts a short ``torch/all.h`` and a few more headers first on the include path and a script in front of
the compiler. Where a unit does not compile so, the script compiles it as upstream does and writes that down beside
build.ninja.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock

from vllm_builder.errors import BuilderError
from vllm_builder.fs import make_dir, write_atomic
from vllm_builder.model import digest
from vllm_builder.stages.compile import schedule
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import Environment

FOLDER = "cmake/lean-headers"
"""Relative to the tree; the headers are in its folder ``include``."""
NOTES = "lean-headers.tsv"


def include_option(tree: Path) -> str:
    """The compilers' option for the folder, as CMake writes it: what it adds is all that differs from upstream."""
    return f"-I{tree}/{FOLDER}/include"


def full_headers(tree: Path) -> dict[str, str]:
    """Source file, relative to the tree -> the first error that the short header led to. Sorted by name."""
    found: dict[str, str] = {}
    for notes in sorted((tree / "build").glob(f"temp*/{NOTES}")):
        try:
            lines = notes.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        for line in lines:
            source, tab, error = line.replace(f"{tree}/", "").partition("\t")
            if tab and source:
                found[source] = error.strip()
    return {source: error for source, error in sorted(found.items()) if error}


def foresee(spec: CompileSpec, tree: Path, environment: Environment) -> None:
    """Tell the script of units that are known to need more: trying them the lean way would take time for nothing.

    Known is what an earlier build found, of the same source file, short headers and torch. It changes no outcome: the
    unit would be compiled as upstream compiles it anyway.
    """
    place = tree / "build" / "vllm-builder" / "full-headers.tsv"
    known = _read(spec, tree, environment)
    lines = [
        f"{name}\t{error}\n"
        for name, (content, error) in sorted(known.items())
        if content and content == schedule.content(tree / name)
    ]
    place.unlink(missing_ok=True)
    if lines:
        write_atomic(place, "".join(lines))


def learn(spec: CompileSpec, tree: Path, environment: Environment, found: Mapping[str, str]) -> None:
    """Keep what :func:`full_headers` found, for the next build. Learning nothing is no error."""
    file = _file(spec, tree, environment)
    if file is None or not found:
        return
    with contextlib.suppress(BuilderError, OSError, TimeoutError):
        make_dir(file.parent)
        with FileLock(f"{file}.lock", timeout=10):
            units = _read(spec, tree, environment)
            units |= {name: (schedule.content(tree / name), error) for name, error in found.items()}
            write_atomic(file, json.dumps({"full_headers": units}, indent=0, sort_keys=True))


def _file(spec: CompileSpec, tree: Path, environment: Environment) -> Path | None:
    if not spec.learned_dir:
        return None
    folder = tree / FOLDER / "include"
    headers = {
        file.relative_to(folder).as_posix(): schedule.content(file) for file in sorted(folder.rglob("*.h"))
    }
    torch = [schedule.content(folder / "torch/version.py") for folder in environment.site_packages]
    return Path(spec.learned_dir) / f"full-headers-{digest([spec.device, headers, torch])[:16]}.json"


def _read(spec: CompileSpec, tree: Path, environment: Environment) -> dict[str, tuple[str, str]]:
    """Source file -> hash of its content, first error; a damaged file counts as empty."""
    file = _file(spec, tree, environment)
    try:
        units = json.loads(file.read_text())["full_headers"] if file else {}
        return dict(_sound(units))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _sound(units: Mapping[str, list[str]]) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, (content, error) in units.items():
        # A line of the script's list each.
        if not set("\t\n\r") & set(name + error) and error:
            yield name, (content, error)
