"""The order of compilation: heavy units first, and never so many at once that memory runs out.

setup.py runs `cmake` for configuring and `cmake --build` for compiling, with nothing in between. So a script
called cmake, first on PATH, runs this file as

    python -I -S -B schedule.py SETTINGS.json REAL_CMAKE --build . -j=8 --target=_C ...

which rearranges the build.ninja that CMake has just written and then becomes the real cmake. ninja starts
units of equal rank in the order of their build statements, and a pool bounds how many of its units run at
once; both are plain text in build.ninja, and neither makes ninja compile anything again. Should anything be
unusual, the file is left as it is: the order is worth minutes, not a failed build.

It is also the moment to say how much of a broken-off build is done: nothing has been compiled yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

GIB = 1 << 30
POOL = "vllm_builder_heavy"
UNITS = Path(__file__).with_name("units.toml")

_STEP = GIB // 4
_BUILD = re.compile(
    r"^build (?P<object>(?:\$.|[^\s$:])+)(?: [^:\n]*)?: (?:C|CXX|CUDA|HIP)_COMPILER__\S+ (?P<source>(?:\$.|[^\s$])+)"
)
_JOBS = re.compile(r"^(-j=?|--parallel=?)(\d+)$")


@dataclass(frozen=True, slots=True)
class Unit:
    """What a translation unit is expected to take. ``known``: measured, not guessed by its kind."""

    seconds: float
    peak: int
    """Bytes."""
    known: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """``jobs`` compilers at once, of which at most ``depth`` on units with a peak over ``limit`` bytes.

    ``depth`` 0: there is no such unit.
    """

    jobs: int
    limit: int = 0
    depth: int = 0


def estimate(
    source: str, learned: Mapping[str, Any], table: Mapping[str, Any], threads: int, root: Path
) -> Unit:
    """What to expect of a source file: what was measured, else what the table says of it or of its kind.

    Args:
        source: path of the file.
        learned: see :mod:`.learned`.
        table: units.toml.
        threads: of each nvcc; every one needs the memory.
        root: the tree, which names are relative to.
    """
    name = unit_name(source, root)
    kind = next(k for k in table["kind"] if fnmatchcase(f"/{name}", k["match"]))
    peak = int(kind["peak"] * GIB) * (max(1, threads) if name.endswith(".cu") else 1)
    seconds = float(table["seconds"].get(name, kind["seconds"]))
    found = learned.get(name)
    if not isinstance(found, dict):
        return Unit(seconds, peak)
    seconds = float(found.get("seconds") or seconds)
    measured = int(found.get("peak") or 0)
    if not measured:
        return Unit(seconds, peak)
    # Another content of the same file is a good guess, not a measurement.
    return Unit(seconds, measured, known=found.get("content") == content(Path(source)))


def unit_name(source: str, root: Path) -> str:
    """A source file's name in tables: relative to the tree, or to where CMake keeps external sources."""
    path = Path(source)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def content(path: Path) -> str:
    """A short hash of a file; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def classed(unit: Unit, jobs: int, memory: int, *, fixed: bool) -> Unit:
    """A unit with its peak rounded up, so that there are few classes to try and a bound still holds.

    With ``fixed`` (``jobs`` was asked for) a peak that was only guessed is no reason to run fewer: it counts
    as a job's equal share of memory at most.
    """
    if fixed and not unit.known:
        return replace(unit, peak=min(unit.peak, memory // max(1, jobs)))
    return replace(unit, peak=math.ceil(unit.peak / _STEP) * _STEP)


def choose(units: Sequence[Unit], jobs: int, memory: int, *, fixed: bool = False) -> Schedule:
    """The schedule that ends first among those whose worst moment fits into ``memory``.

    In the worst moment ``depth`` of the largest units run beside light ones that are as large as light units
    may be. Where nothing fits, one heavy unit at a time is the least that can be done.

    Args:
        units: what is to be compiled, see :func:`classed`.
        jobs: most compilers at once.
        memory: bytes for all of them.
        fixed: ``jobs`` was asked for and stays.
    """
    total, longest = sum(u.seconds for u in units), max((u.seconds for u in units), default=0.0)
    largest = max((u.peak for u in units), default=0)
    best: tuple[float, bool, int, int] | None = None
    found = Schedule(jobs, memory // max(1, jobs), 1) if fixed else Schedule(1)
    limits = sorted({0, *(u.peak for u in units)})
    for count in [jobs] if fixed else range(jobs, 0, -1):
        for limit in limits:
            room = memory - count * limit
            if room < 0:
                break
            if limit >= largest:
                depth, cost = count, max(total / count, longest)
            else:
                depth = min(count, room // (largest - limit))
                if depth < 1:
                    continue
                heavy = sum(u.seconds for u in units if u.peak > limit)
                cost = max(total / (count if limit else depth), heavy / depth, longest)
            # Where fewer jobs and a pool come to the same, fewer jobs are the plainer words.
            rank = (cost, limit == 0, -count, -limit)
            if best is None or rank < best:
                best, found = rank, Schedule(count, limit, 0 if depth >= count else depth)
    return found


def rearrange(text: str, units: Mapping[str, Unit], schedule: Schedule) -> str:
    """build.ninja with its compile statements longest first and the heavy ones in a pool of their own.

    Args:
        text: the file as CMake wrote it, or as an earlier call of this function left it.
        units: object file -> what it takes.
        schedule: see :func:`choose`.
    """
    text = re.sub(rf"^pool {POOL}\n(?:  .*\n)*\n?", "", text, flags=re.MULTILINE)
    blocks = _blocks(text)
    places = [i for i, block in enumerate(blocks) if _object(block) in units]
    order = sorted(places, key=lambda i: -units[_object(blocks[i])].seconds)
    moved = [_pooled(blocks[i], units[_object(blocks[i])].peak > schedule.limit, schedule) for i in order]
    for place, block in zip(places, moved, strict=True):
        blocks[place] = block
    if schedule.depth and places:
        blocks.insert(places[0], f"pool {POOL}\n  depth = {schedule.depth}\n\n")
    return "".join(blocks)


def objects(text: str) -> dict[str, str]:
    """Object file -> source file of every compile statement."""
    found = {}
    for line in text.splitlines():
        if (match := _BUILD.match(line)) is not None:
            found[_plain(match["object"])] = _plain(match["source"])
    return found


def _plain(path: str) -> str:
    """A path without ninja's escapes."""
    return re.sub(r"\$(.)", r"\1", path)


def _blocks(text: str) -> list[str]:
    """Top-level statements with their indented lines; everything else line by line."""
    blocks: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("  ") and line.strip() and blocks and blocks[-1].startswith("build "):
            blocks[-1] += line
        else:
            blocks.append(line)
    return blocks


def _object(block: str) -> str:
    match = _BUILD.match(block)
    return _plain(match["object"]) if match else ""


def _pooled(block: str, heavy: bool, schedule: Schedule) -> str:
    # What CMake's own pool was stands beside ours, so that it can be put back.
    block = re.sub(rf"^  pool = {POOL}\n  {POOL} = (.*)\n", r"  pool = \1\n", block, flags=re.MULTILINE)
    if not heavy or not schedule.depth:
        return re.sub(r"^  pool = \n", "", block, flags=re.MULTILINE)
    own = re.search(r"^  pool = (.*)\n", block, re.MULTILINE)
    if own is None:
        return f"{block.rstrip(chr(10))}\n  pool = {POOL}\n  {POOL} = \n"
    return block.replace(own[0], f"  pool = {POOL}\n  {POOL} = {own[1]}\n")


def arranged(arguments: list[str], settings: Mapping[str, Any]) -> list[str]:
    """Rearrange the build file of ``cmake --build DIR ...``; return the arguments, with fewer jobs where needed."""
    file = Path(arguments[1]) / "build.ninja"
    text = file.read_text()
    table = tomllib.loads(UNITS.read_text())
    learned: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        learned = json.loads(Path(settings["learned"]).read_text())["units"]
    root = Path(settings["tree"])
    units = {o: estimate(s, learned, table, settings["threads"], root) for o, s in objects(text).items()}
    if not units:
        return arguments
    wanted = next((int(m[2]) for a in arguments if (m := _JOBS.match(a))), settings["jobs"])
    memory, fixed = settings["memory"], settings["fixed"]
    units = {o: classed(u, wanted, memory, fixed=fixed) for o, u in units.items()}
    # Only what will be compiled counts: setup.py names the targets, and an object lies in its target's folder.
    targets = [
        f"CMakeFiles/{a.removeprefix('--target=')}.dir/" for a in arguments if a.startswith("--target=")
    ]
    counted = [u for o, u in units.items() if not targets or any(t in o for t in targets)]
    schedule = choose(counted or list(units.values()), wanted, memory, fixed=fixed)
    new = rearrange(text, units, schedule)
    if new != text:
        fd, temporary = tempfile.mkstemp(prefix=".build.ninja.", dir=file.parent)
        with os.fdopen(fd, "w") as out:
            out.write(new)
        Path(temporary).chmod(file.stat().st_mode & 0o7777)
        Path(temporary).replace(file)
    if schedule.depth:
        heavy = sum(u.peak > schedule.limit for u in counted)
        # Without light units the limit is 0, and the line is about all of them.
        say(
            f"{heavy} of {len(counted)} units need over {schedule.limit / GIB:.2f} GiB: {schedule.depth} at once"
        )
    if schedule.jobs < wanted:
        say(f"{schedule.jobs} jobs instead of {wanted}: {memory / GIB:.1f} GiB of memory are free")
        arguments = [_JOBS.sub(rf"\g<1>{schedule.jobs}", a) for a in arguments]
    return arguments


def finished(arguments: list[str]) -> tuple[int, int] | None:
    """How many units of ``cmake --build DIR ...`` are done, and how many there are; None where ninja does not say.

    ninja itself is asked what it would run, so that what an edit, a torn file or another flag makes it compile
    again is not counted as done. The builds that FetchContent makes while configuring are in other folders.
    """
    folder = Path(arguments[1])
    cache = (folder / "CMakeCache.txt").read_text()
    program = re.search(r"^CMAKE_MAKE_PROGRAM:\w+=(.+)$", cache, re.MULTILINE)
    if program is None:
        return None
    targets = [a.removeprefix("--target=") for a in arguments if a.startswith("--target=")]
    for at, argument in enumerate(arguments):
        if argument in {"--target", "-t"}:
            targets += itertools.takewhile(lambda a: not a.startswith("-"), arguments[at + 1 :])

    def ask(*options: str) -> list[str]:
        run = subprocess.run(
            [program[1], *options, *targets],
            cwd=folder,
            env={**os.environ, "NINJA_STATUS": "[to do: %t] "},
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.splitlines()

    total = len(ask("-t", "commands"))
    plan = ask("-n")
    if any("Re-running CMake" in line for line in plan[:1]):
        return None
    counts = [int(m[1]) for line in plan if (m := re.match(r"\[to do: (\d+)\] ", line))]
    return max(0, total - max(counts, default=0)), total


def say(what: str) -> None:
    """One line in the log, in the manner of CMake's."""
    sys.stdout.write(f"-- Scheduling: {what}\n")
    sys.stdout.flush()


def main(argv: list[str]) -> None:
    """Become the real cmake, after rearranging."""
    settings_file, cmake, *arguments = argv
    try:
        arguments = arranged(arguments, json.loads(Path(settings_file).read_text()))
    except Exception as error:  # noqa: BLE001 (whatever it is, compiling in ninja's own order is better than none)
        say(f"in ninja's own order ({type(error).__name__}: {error})")
    with contextlib.suppress(Exception):
        if (found := finished(arguments)) is not None:
            # ninja.begun() reads it on the other side.
            sys.stdout.write(f"-- Compiling: {found[0]} of {found[1]} units are done\n")
            sys.stdout.flush()
    os.execv(cmake, [cmake, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
