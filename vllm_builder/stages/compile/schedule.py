"""The order of compilation: heavy units first, and never so many at once that memory runs out.

setup.py runs `cmake` for configuring and `cmake --build` for compiling, with nothing in between. So a script
called cmake, first on PATH, runs this file as

    python -I -S -B schedule.py SETTINGS.json REAL_CMAKE --build . -j=8 --target=_C ...

which rearranges the build.ninja that CMake has just written and then becomes the real cmake. ninja starts
units of equal rank in the order of their build statements, a pool bounds how many of its units run at once, and
a unit does not start before what stands behind ``||`` in its statement; all three are plain text in build.ninja, and
none makes ninja compile anything again. Should anything be unusual, the file is left as it is: the order is worth
minutes, not a failed build.

ninja 1.13 would also take its turns from a GNU make jobserver, where setup.py did not pass -j. But whoever gives
turns can neither tell which unit takes one nor keep one from being taken again by the ninja that just gave it back,
so memory would not be safe; and in the replay even a perfect jobserver ends later than what is done here.

It is also the moment to say how much of a broken-off build is done: nothing has been compiled yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

if __package__:
    from vllm_builder.stages.compile import packing
    from vllm_builder.stages.compile.buildfile import objects, rearrange
    from vllm_builder.stages.compile.packing import GIB, Schedule, Unit, choose, classed
else:  # By path, as above: with the standard library and the two files beside this one.
    sys.path.append(str(Path(__file__).parent))
    import packing  # type: ignore[import-not-found, no-redef]
    from buildfile import objects, rearrange  # type: ignore[import-not-found, no-redef]
    from packing import GIB, Schedule, Unit, choose, classed  # type: ignore[no-redef]

UNITS = Path(__file__).with_name("units.toml")

_MARGIN = 1.25
"""What another content of the same file may need, over what this one did."""
_FINE = 1 << 25
"""Bytes that peaks are rounded up to, where units are packed."""
_TIMED = 0.8
"""Share of the work whose time must have been measured here, before it is settled beforehand what waits for what."""
_GOOD = 1.05
"""A pool that comes as near to the bound as this is left alone: it minds wrong times less."""
_BETTER = 0.97
"""Of the pool's time, what a packing has to end in."""
_JOBS = re.compile(r"^(-j=?|--parallel=?)(\d+)$")


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
        return Unit(seconds, peak, timed=True)
    if found.get("content") == content(Path(source)):
        return Unit(seconds, measured, known=True, timed=True)
    # Another content of the same file is a good guess, not a measurement.
    return Unit(seconds, min(int(_MARGIN * measured), max(peak, measured)), timed=True)


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


def arranged(arguments: list[str], settings: Mapping[str, Any]) -> list[str]:
    """Rearrange the build file of ``cmake --build DIR ...``; return the arguments, with fewer jobs where needed."""
    file = Path(arguments[1]) / "build.ninja"
    text = file.read_text()
    table = tomllib.loads(UNITS.read_text())
    learned: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        learned = json.loads(Path(settings["learned"]).read_text())["units"]
    root = Path(settings["tree"])
    expected = {o: estimate(s, learned, table, settings["threads"], root) for o, s in objects(text).items()}
    if not expected:
        return arguments
    wanted = next((int(m[2]) for a in arguments if (m := _JOBS.match(a))), settings["jobs"])
    memory, fixed = settings["memory"], settings["fixed"]
    units = {o: classed(u, wanted, memory, fixed=fixed) for o, u in expected.items()}
    # Only what will be compiled counts: setup.py names the targets, and an object lies in its target's folder.
    targets = [
        f"CMakeFiles/{a.removeprefix('--target=')}.dir/" for a in arguments if a.startswith("--target=")
    ]
    counted = [o for o in units if not targets or any(t in o for t in targets)] or list(units)
    schedule = choose([units[o] for o in counted], wanted, memory, fixed=fixed)
    if schedule.depth or schedule.jobs < wanted:
        fine = {o: classed(expected[o], wanted, memory, fixed=fixed, step=_FINE) for o in counted}
        if _packed(file, text, units, fine, schedule, wanted, memory, arguments):
            return arguments
    _write(file, rearrange(text, units, schedule))
    if schedule.depth:
        heavy = sum(units[o].peak > schedule.limit for o in counted)
        # Without light units the limit is 0, and the line is about all of them.
        say(
            f"{heavy} of {len(counted)} units need over {schedule.limit / GIB:.2f} GiB: {schedule.depth} at once"
        )
    if schedule.jobs < wanted:
        say(f"{schedule.jobs} jobs instead of {wanted}: {memory / GIB:.1f} GiB of memory are free")
        arguments = [_JOBS.sub(rf"\g<1>{schedule.jobs}", a) for a in arguments]
    return arguments


def _packed(
    file: Path,
    text: str,
    units: Mapping[str, Unit],
    fine: Mapping[str, Unit],
    schedule: Schedule,
    jobs: int,
    memory: int,
    arguments: list[str],
) -> bool:
    """Settle beforehand which units wait for which, where times are known and that ends earlier than a pool."""
    if sum(u.seconds for u in fine.values() if u.timed) < _TIMED * sum(u.seconds for u in fine.values()):
        return False
    left = to_do(arguments)
    # What is done takes no time; it keeps its memory, in case ninja finds later that it is not.
    takes = {o: u if left is None or o in left else replace(u, seconds=0.0) for o, u in fine.items()}
    pooled = packing.pooled_seconds(
        [replace(units[o], seconds=u.seconds) for o, u in takes.items()], schedule
    )
    if pooled <= _GOOD * packing.bound(list(takes.values()), jobs, memory):
        return False
    found = packing.packed(list(takes.values()), jobs, memory)
    if found.seconds > _BETTER * pooled:
        return False
    names = list(takes)
    after = {o: [names[n] for n in others] for o, others in zip(names, found.after, strict=True)}
    starts = dict(zip(names, found.starts, strict=True))
    _write(file, rearrange(text, units, Schedule(jobs), after, starts))
    # A unit may need what is made from another: ninja knows whether that leads in a circle.
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if _ask(arguments, "-n") is not None:
            waiting = sum(map(bool, after.values()))
            say(
                f"{waiting} of {len(names)} units wait until others leave them enough of {memory / GIB:.1f} GiB"
            )
            return True
    return False


def _write(file: Path, text: str) -> None:
    if text == file.read_text():
        return
    fd, temporary = tempfile.mkstemp(prefix=".build.ninja.", dir=file.parent)
    with os.fdopen(fd, "w") as out:
        out.write(text)
    Path(temporary).chmod(file.stat().st_mode & 0o7777)
    Path(temporary).replace(file)


def _ask(arguments: list[str], *options: str) -> list[str] | None:
    """What ninja says of the targets of ``cmake --build DIR ...``; None where CMake does not say which ninja.

    Raises:
        subprocess.CalledProcessError: it refuses, of a cycle for one.
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
    run = subprocess.run(
        [program[1], *options, *targets],
        cwd=folder,
        env={**os.environ, "NINJA_STATUS": "[to do: %t] "},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.splitlines()


def finished(arguments: list[str]) -> tuple[int, int] | None:
    """How many units of ``cmake --build DIR ...`` are done, and how many there are; None where ninja does not say.

    ninja itself is asked what it would run, so that what an edit, a torn file or another flag makes it compile
    again is not counted as done. The builds that FetchContent makes while configuring are in other folders.
    """
    commands = _ask(arguments, "-t", "commands")
    plan = _ask(arguments, "-n")
    if commands is None or plan is None or any("Re-running CMake" in line for line in plan[:1]):
        return None
    counts = [int(m[1]) for line in plan if (m := re.match(r"\[to do: (\d+)\] ", line))]
    return max(0, len(commands) - max(counts, default=0)), len(commands)


def to_do(arguments: list[str]) -> set[str] | None:
    """The objects that ninja would compile; None where it does not say."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        plan = _ask(arguments, "-n") or []
        found = {m[1] for line in plan if (m := re.search(r"\] Building \S+ object (\S+)$", line))}
        return found or None
    return None


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
