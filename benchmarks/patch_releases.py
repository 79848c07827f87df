"""Patch every release that has an sdist, and check the result with rules of its own.

    python benchmarks/patch_releases.py --sdists DIR      archives that are there already
    python benchmarks/patch_releases.py                   download them first (once, into the user cache)

Unpacks of each release only what patches read, applies the shipped sets twice, and prints one line per release.
The checks share no code with the patch stage: requirement files are compared line by line with a regular
expression, pyproject.toml through the standard library, CMake files through the bare grammar. Exit code 1 on any
violation, or when both applications to all releases together take longer than --limit seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from packaging.version import Version

FAMILY = ("torch", "torchvision", "torchaudio", "torchcodec", "xformers")
_PIN = re.compile(rf"\s*(?:{'|'.join(FAMILY)})\s*(?:$|[\[(<>=!~;@#,\\])", re.IGNORECASE)
_HASH = re.compile(r"\s+--hash=")
_CLASSIFIER = re.compile(r'\s*"License :: .*",?\s*$')
_NUMA = re.compile(r"\s*(?:set\s*\((?:ENABLE_NUMA\b|_C\w*_LIBS\b)|list\(APPEND LIBS\b)")
_OWN = ".vllm-builder-"
SPDX_SINCE = Version("77.0.3")


@dataclass
class Row:
    """What came of one release. ``first`` and ``second`` are the seconds of the two applications."""

    release: str
    unpack: float = 0.0
    first: float = 0.0
    second: float = 0.0
    files: int = 0
    removed: int = 0
    put_back: int = 0
    licence: str = ""
    numa: str = ""
    violations: list[str] = field(default_factory=list)


def main() -> int:
    arguments = _arguments()
    archives = sorted(_archives(arguments.sdists), key=_version)
    if not archives:
        print("There are no sdists.", file=sys.stderr)
        return 2
    check = partial(
        examine, setuptools=arguments.setuptools, device=arguments.device, numa=arguments.numa == "yes"
    )
    started = time.perf_counter()
    if arguments.workers == 1:
        rows = list(map(check, archives))
    else:
        with ProcessPoolExecutor(arguments.workers) as pool:
            rows = list(pool.map(check, archives))
    wall = time.perf_counter() - started
    _print(rows)
    patching = sum(row.first + row.second for row in rows)
    print(
        f"{len(rows)} releases: unpacking {sum(row.unpack for row in rows):.1f} s, first application "
        f"{sum(row.first for row in rows):.1f} s, second {sum(row.second for row in rows):.1f} s, "
        f"with the checks {wall:.1f} s of wall time in {arguments.workers or 'all'} processes"
    )
    bad = [f"{row.release}: {violation}" for row in rows for violation in row.violations]
    if patching > arguments.limit:
        bad.append(f"patching took {patching:.1f} s, more than {arguments.limit:g} s")
    for violation in bad:
        print(f"VIOLATION {violation}")
    print("no violation" if not bad else f"{len(bad)} violations")
    return 1 if bad else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sdists", type=Path, help="folder of vllm-*.tar.gz (default: download them)")
    parser.add_argument("--setuptools", default="80.9.0", help="the build environment's setuptools")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "empty"])
    parser.add_argument("--numa", default="no", choices=["yes", "no"], help="whether numa.h is there")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for all applications")
    parser.add_argument("--workers", type=int, default=1, help="processes (more of them blur the timings)")
    return parser.parse_args()


def _version(archive: Path) -> Version:
    return Version(archive.name.removeprefix("vllm-").removesuffix(".tar.gz"))


def _archives(folder: Path | None) -> list[Path]:
    if folder is not None:
        return list(folder.glob("vllm-*.tar.gz"))
    from platformdirs import user_cache_path

    from vllm_builder.cache import Cache
    from vllm_builder.events import ignore
    from vllm_builder.indexes import read_indexes
    from vllm_builder.stages.source.download import download
    from vllm_builder.stages.source.http import Http
    from vllm_builder.stages.source.listing import releases

    cache, indexes = Cache(user_cache_path("vllm-builder")), read_indexes()
    with Http(indexes) as http:
        return [
            download(file.url, file.filename, cache, ignore, http, sha256=file.sha256)[0]
            for file in releases(indexes, cache)
            if re.fullmatch(r"vllm-[0-9.]+(post[0-9]+)?\.tar\.gz", file.filename)
            and Version("0.6.0") <= _version(Path(file.filename)) <= Version("0.33.0")
        ]


def examine(archive: Path, *, setuptools: str, device: Any, numa: bool) -> Row:
    """Unpack, patch twice, compare."""
    from vllm_builder.resources import shipped
    from vllm_builder.stages.patch import READ_PATTERNS, apply, load, select
    from vllm_builder.stages.source.extraction import extract
    from vllm_builder.stages.source.surveying import matcher

    row = Row(str(_version(archive)))
    with tempfile.TemporaryDirectory(prefix="vllm-builder-patch-") as scratch:
        tree = Path(scratch) / "tree"
        started = time.perf_counter()
        extract(archive, tree, select=matcher(READ_PATTERNS))
        row.unpack = time.perf_counter() - started
        before = _contents(tree)
        started = time.perf_counter()
        selection = select(
            load([shipped("patches")]),
            release=row.release,
            device=device,
            facts={"setuptools": setuptools, "numa": numa},
        )
        report = apply(selection, tree)
        row.first = time.perf_counter() - started
        after = _contents(tree)
        started = time.perf_counter()
        again = apply(selection, tree)
        row.second = time.perf_counter() - started
        if again.changed or _contents(tree) != after:
            row.violations.append(f"the second application changed {', '.join(again.changed) or 'the tree'}")
    row.put_back = sum(len(entry.put_back) for entry in report.entries)
    compare(row, before, after, setuptools=setuptools, device=device, numa=numa)
    return row


def _contents(tree: Path) -> dict[str, bytes]:
    return {
        path.relative_to(tree).as_posix(): path.read_bytes()
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    }


def compare(
    row: Row, before: dict[str, bytes], after: dict[str, bytes], *, setuptools: str, device: str, numa: bool
) -> None:
    """Check everything that may be said of a patched tree, from the bytes alone."""
    if gone := sorted(set(before) - set(after)):
        row.violations.append(f"files are gone: {', '.join(gone)}")
    without_numa = device == "cpu" and not numa
    for name, now in after.items():
        was = before.get(name)
        if name.startswith(_OWN):
            continue
        if was is None:
            if not (without_numa and name == "csrc/numa.h"):
                row.violations.append(f"{name} is new")
        elif re.fullmatch(r"requirements[^/]*\.(txt|in)|requirements/.*\.(txt|in)", name):
            _requirements(row, name, was, now)
        elif name == "pyproject.toml":
            _pyproject(row, was, now, setuptools)
        elif name == "CMakeLists.txt" and _without_rpath(now) == _without_rpath(was):
            pass
        elif name == "cmake/cpu_extension.cmake" and without_numa:
            _cpu_extension(row, was, now)
        elif was != now:
            row.violations.append(f"{name} changed")
        row.files += was != now
        if name.endswith(".toml"):
            tomllib.loads(now.decode())
        if name.endswith((".cmake", "CMakeLists.txt")) and _cmake_error(now):
            row.violations.append(f"{name} is no longer valid CMake")
    if without_numa and _digest(before, "cmake/cpu_extension.cmake") == _digest(
        after, "cmake/cpu_extension.cmake"
    ):
        row.violations.append("numa was not switched off")


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "surrogateescape").splitlines(keepends=True)


def _missing(was: Iterable[str], now: list[str]) -> list[str] | None:
    """The lines that went; None when anything else changed too."""
    gone, left = [], iter([*now, None])
    expected = next(left)
    for line in was:
        if line == expected:
            expected = next(left)
        else:
            gone.append(line)
    return gone if expected is None else None


def _requirements(row: Row, name: str, was: bytes, now: bytes) -> None:
    gone = _missing(_lines(was), _lines(now))
    if gone is None:
        row.violations.append(f"{name}: a line changed or came")
        return
    row.removed += len(gone)
    for line in gone:
        if not _PIN.match(line) and not _HASH.match(line):
            row.violations.append(f"{name}: lost {line.strip()!r}")
    for line in _lines(now):
        if _PIN.match(line):
            row.violations.append(f"{name}: still has {line.strip()!r}")


def _pyproject(row: Row, was: bytes, now: bytes, setuptools: str) -> None:
    old, new = tomllib.loads(was.decode()), tomllib.loads(now.decode())
    wanted = [item for item in old["build-system"]["requires"] if not _PIN.match(item)]
    if new["build-system"]["requires"] != wanted or len(wanted) != len(old["build-system"]["requires"]) - 1:
        row.violations.append(f"pyproject.toml: build requirements are {new['build-system']['requires']}")
    old["build-system"]["requires"] = wanted
    project, present = old.get("project", {}), new.get("project", {})
    licence = project.get("license")
    row.licence = "-" if licence is None else "SPDX" if isinstance(present.get("license"), str) else "table"
    if licence is not None and Version(setuptools) >= SPDX_SINCE:
        project |= {"license": "Apache-2.0", "license-files": ["LICENSE"]}
        project["classifiers"] = [
            item for item in project["classifiers"] if not item.startswith("License ::")
        ]
    elif isinstance(licence, str):
        project["license"] = {"text": "Apache-2.0"}
        project.pop("license-files")
    if old != new:
        row.violations.append("pyproject.toml: another value changed")
    # Line by line: only the lines of these values may differ.
    may = re.compile(r"license(-files)?\s*=")
    kept = [line for line in _lines(was) if not may.match(line)]
    stays = [line for line in _lines(now) if not may.match(line)]
    for line in _missing(kept, stays) or ([] if kept == stays else ["a line changed or came"]):
        if not _PIN.match(line.strip().strip('",')) and not _CLASSIFIER.match(line):
            row.violations.append(f"pyproject.toml: lost {line.strip()!r}")


def _cpu_extension(row: Row, was: bytes, now: bytes) -> None:
    old, new = _lines(was), _lines(now)
    if len(old) != len(new):
        row.violations.append("cpu_extension.cmake: lines came or went")
        return
    changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    for a, b in changed:
        if not _NUMA.match(a) or re.sub(r"\s*\"?\bnuma\b\"?", "", a.replace("TRUE", "OFF")) != b:
            row.violations.append(f"cpu_extension.cmake: {a.strip()!r} became {b.strip()!r}")
    text = now.decode()
    switched = re.search(r"if\s*\(ENABLE_NUMA\)\s*list\(APPEND LIBS numa\)", text)
    linked = re.findall(r"(?:set|list)\s*\([^)]*\bnuma\b[^)]*\)", text)
    if re.search(r"set\s*\(ENABLE_NUMA TRUE\)", text) or len(linked) != (1 if switched else 0):
        row.violations.append("cpu_extension.cmake: numa is still linked")
    row.numa = f"{'switch' if switched else 'stand-in'}, {len(changed)} lines"


def _without_rpath(text: bytes) -> bytes:
    """A CMake file less the one line that the set ``rpath`` puts in, and less blank lines."""
    lines = (line.strip() for line in text.splitlines())
    return b"\n".join(x for x in lines if x and x != b"set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)")


def _cmake_error(data: bytes) -> bool:
    import tree_sitter_cmake
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_cmake.language())).parse(data).root_node.has_error


def _digest(files: dict[str, bytes], name: str) -> str:
    return hashlib.sha256(files.get(name, b"")).hexdigest()


def _print(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "release", "files", "pins removed", "lines put back", "licence", "numa", "1st ms", "2nd ms", ""
    )
    for row in rows:
        table.add_row(
            row.release,
            str(row.files),
            str(row.removed),
            str(row.put_back),
            row.licence,
            row.numa,
            f"{row.first * 1000:.0f}",
            f"{row.second * 1000:.0f}",
            "[red]" + row.violations[0] if row.violations else "ok",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
