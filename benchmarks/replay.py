"""How long recorded units would take on other machines: in ninja's order, in ours, and at the least.

    python benchmarks/replay.py                                     # the whole wheel below, 2 to 256 cores
    python benchmarks/replay.py --units LOG --cores 8 --memory 12   # a build of your own on 8 cores and 12 GiB
    python benchmarks/replay.py --wrong 0.2                         # every time is wrong by 20 % when it comes to it

LOG is a .ninja_log, the journal of a build (logs/PLAN.journal.jsonl), a file of the cache folder units/ (*.json), or a
table: object, seconds and MiB, or start and end in milliseconds and object, separated by tabs. Without one it is
benchmarks/data/units-v0.9.2-sm100.tsv; --target _C replays that extension module alone.

Ours is what the builder does: a build.ninja as CMake writes it goes through ``schedule.arranged`` with these times as
learned, and what comes out runs in a model of ninja (ninjasim.py, which a test holds against a real one). Memory counts as
if each unit held its peak for as long as it runs; one without a record counts as units.toml says. Links count nothing.

The bound is the most of: all work over the cores; the longest unit; and what memory makes unavoidable (all seconds times
bytes over the memory there is, and how many units of a size can run at once, see packing.bound; on up to 8 cores,
where that leaves gaps, also a linear program over all sets of units that fit together, see fitting.py). No order can do
better. Columns: "ninja" is ninja's own order with a job for each core, whatever memory that takes; "ninja, safe" the same
with so few jobs that memory would do; "pool" longest first with one pool for heavy units; "jobserver" a perfect one that
gives the next turn, longest first, as soon as the memory for it is there; "ours"; and "first", ours where nothing was
learned yet, so that peaks are guessed and not trusted to be low. Times are shares of the bound, memory a share of what
there is. The exit status is 1 where ours is over --goal, or over memory although every unit fits.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import io
import json
import math
import random
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import fitting
from ninjasim import Edge, Run, simulate

from vllm_builder.report import ninjalog
from vllm_builder.stages.compile import buildfile, learned, packing, schedule
from vllm_builder.stages.compile.jobs import memory_per_job
from vllm_builder.stages.compile.packing import GIB, Schedule, Unit

DATA = Path(__file__).with_name("data") / "units-v0.9.2-sm100.tsv"
CORES = (2, 4, 8, 16, 32, 64, 128, 256)
PER_CORE = (4.0, 3.0, 2.0, 1.5)
"""GiB of memory a core: what clouds sell is mostly 4, sometimes 2."""
GOAL = 1.05
FEW = 8
"""Cores up to which the bound by linear program is worth its time."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A unit as it was measured: its object file, seconds, and peak in bytes (None: not measured)."""

    name: str
    seconds: float
    peak: int | None = None

    @property
    def target(self) -> str:
        """The extension module, as CMake's folder for its objects names it."""
        before, found, _ = self.name.partition(".dir/")
        return before.rpartition("CMakeFiles/")[2] if found else "_C"

    @property
    def source(self) -> str:
        return self.name.partition(".dir/")[2].removesuffix(".o") or self.name


@dataclass(frozen=True, slots=True)
class Outcome:
    """``ratio``: makespan over bound. ``memory``: the most that was held, over what there is."""

    seconds: float
    ratio: float
    memory: float


@dataclass(frozen=True, slots=True)
class Row:
    cores: int
    memory: float
    """GiB."""
    bound: float
    outcomes: Mapping[str, Outcome]
    said: str
    """What the builder says of its schedule; empty where memory is no matter."""


def read(path: Path) -> list[Recorded]:
    """The units of a recording, in its order; of whichever kind it is.

    Raises:
        ValueError: nothing in it is a unit.
    """
    text = path.read_text(errors="replace")
    if path.suffix == ".json":
        # Not in the package's own way of reading: a damaged file is no empty one here.
        table = json.loads(text)
        if not isinstance(table, dict) or not isinstance(table.get("units"), dict):
            raise ValueError("It is no table of learned units.")
        found = [Recorded(n, u["seconds"], u["peak"] or None) for n, u in learned.read(path).items()]
    elif path.suffix == ".jsonl":
        found = _journal(text)
    elif edges := ninjalog.edges(text):
        found = [Recorded(e.output, e.end - e.start) for e in edges]
    else:
        found = _table(text)
    # What was built twice counts as it was the last time.
    units = list({u.name: u for u in found if not u.name.endswith((".so", ".a"))}.values())
    if not units:
        raise ValueError(f"There are no units in {path}.")
    return units


def _table(text: str) -> list[Recorded]:
    found = []
    for line in text.splitlines():
        fields = line.split("\t")
        if line.startswith("#") or len(fields) != 3:
            continue
        if fields[0].isdigit() and fields[1].isdigit():
            found.append(Recorded(fields[2], (int(fields[1]) - int(fields[0])) / 1000))
        else:
            found.append(Recorded(fields[0], float(fields[1]), int(fields[2]) << 20 if fields[2] else None))
    return found


def _journal(text: str) -> list[Recorded]:
    logs: list[tuple[str, Mapping[str, str]]] = []
    peaks: dict[str, int] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event.get("kind") == "edges":
                logs.append((event["log"], event["sources"]))
            elif event.get("kind") == "peak":
                peaks[event["source"]] = max(peaks.get(event["source"], 0), event["m"])
    return [
        Recorded(e.output, e.end - e.start, peaks.get(sources[e.output]))
        for log, sources in logs
        for e in ninjalog.edges(log)
        if e.output in sources
    ]


def as_cmake_writes(units: Sequence[Recorded], tree: Path) -> str:
    """A build.ninja of these units, in their order, with a library for each target."""
    kinds = {"CXX": "Building CXX object $out", "CUDA": "Building CUDA object $out", "LINK": "Linking $out"}
    lines = [f"rule {kind}_COMPILER__x\n  command = true\n  description = {d}\n" for kind, d in kinds.items()]
    made: dict[str, list[str]] = {}
    for unit in units:
        if unit.target not in made:
            lines.append(f"build cmake_object_order_depends_target_{unit.target}: phony || .\n")
        made.setdefault(unit.target, []).append(unit.name)
        kind = "CUDA" if unit.source.endswith(".cu") else "CXX"
        lines.append(
            f"build {unit.name}: {kind}_COMPILER__x {tree}/{unit.source} || "
            f"cmake_object_order_depends_target_{unit.target}\n  DEP_FILE = {unit.name}.d\n"
        )
    lines += [f"build {target}.so: LINK_COMPILER__x {' '.join(names)}\n" for target, names in made.items()]
    lines.append(f"build all: phony {' '.join(f'{t}.so' for t in made)}\n")
    return "\n".join(lines)


def arranged(
    units: Sequence[Recorded], cores: int, memory: int, *, first: bool = False
) -> tuple[str, int, str]:
    """What the builder makes of it: the build.ninja, the jobs, and what it says.

    With ``first`` nothing was learned: all it knows is what ships.
    """
    peaks = [] if first else [unit.peak or 0 for unit in units]
    per_job, _ = memory_per_job("cuda", 1, peaks)
    wanted = max(1, min(cores, memory // per_job))
    with tempfile.TemporaryDirectory(prefix="replay.") as name:
        tree = Path(name)
        known = {}
        for unit in units:
            source = tree / unit.source
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text("")
            if first:
                continue
            known[unit.source] = {
                "seconds": unit.seconds,
                "peak": unit.peak or 0,
                "content": schedule.content(source),
            }
        (tree / "learned.json").write_text(json.dumps({"units": known}))
        (tree / "build.ninja").write_text(as_cmake_writes(units, tree))
        ninja = shutil.which("ninja") or shutil.which("true")
        (tree / "CMakeCache.txt").write_text(f"CMAKE_MAKE_PROGRAM:FILEPATH={ninja}\n")
        settings = {
            "tree": name, "learned": f"{tree}/learned.json", "memory": memory,
            "jobs": wanted, "threads": 1, "fixed": False,
        }  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()) as said:
            arguments = schedule.arranged(["--build", name, f"-j={wanted}"], settings)
        jobs = int(arguments[2].removeprefix("-j="))
        return (
            (tree / "build.ninja").read_text(),
            jobs,
            said.getvalue().replace("-- Scheduling: ", "").strip().replace("\n", "; "),
        )


def with_guesses(units: Sequence[Recorded]) -> dict[str, Unit]:
    """Object -> what it takes; a peak that was not measured is what units.toml says."""
    table = tomllib.loads(schedule.UNITS.read_text())
    found = {}
    for unit in units:
        guess = schedule.estimate(f"/tree/{unit.source}", {}, table, 1, Path("/tree"))
        found[unit.name] = Unit(unit.seconds, unit.peak or guess.peak, known=bool(unit.peak))
    return found


def jobserver(units: Sequence[Unit], took: Sequence[float], cores: int, memory: int) -> tuple[float, int]:
    """Longest first, strictly in that order, each as soon as a core and its memory are free; seconds and bytes."""
    running: list[tuple[float, int]] = []
    now, held, most = 0.0, 0, 0
    for i in sorted(range(len(units)), key=lambda i: -units[i].seconds):
        while running and (len(running) == cores or held + units[i].peak > memory):
            now, peak = heapq.heappop(running)
            held -= peak
        heapq.heappush(running, (now + took[i], units[i].peak))
        held += units[i].peak
        most = max(most, held)
    return max((end for end, _ in running), default=0.0), most


def replay(units: Sequence[Recorded], cores: int, memory: int, wrong: float = 0.0, seed: int = 0) -> Row:
    """All orders on one machine.

    Args:
        units: in ninja's order.
        cores: of the machine.
        memory: bytes for all compilers.
        wrong: standard deviation of the logarithm of what each unit takes over what was recorded.
        seed: of that.
    """
    dice = random.Random(seed)
    expected = with_guesses(units)
    takes = {
        o: u.seconds * math.exp(dice.gauss(0, wrong)) if wrong else u.seconds for o, u in expected.items()
    }
    least = packing.bound([replace(u, seconds=takes[o]) for o, u in expected.items()], cores, memory)
    if cores <= FEW and memory >= GIB:
        least = max(
            least, fitting.least([replace(u, seconds=takes[o]) for o, u in expected.items()], cores, memory)
        )
    outcomes: dict[str, Outcome] = {}

    def note(name: str, seconds: float, held: int) -> None:
        outcomes[name] = Outcome(round(seconds, 1), round(seconds / least, 4), round(held / memory, 4))

    def run(name: str, text: str, jobs: int) -> None:
        held: Callable[[Edge], int] = lambda e: expected[e.name].peak if e.name in expected else 0  # noqa: E731
        found: Run = simulate(text, jobs, lambda e: takes.get(e.name, 0.0), held, ["all"])
        note(name, found.makespan, found.memory)

    plain = as_cmake_writes(units, Path("/tree"))
    run("ninja", plain, cores)
    run("ninja, safe", plain, max(1, min(cores, memory // max(u.peak for u in expected.values()))))
    classes = {o: packing.classed(u, cores, memory, fixed=False) for o, u in expected.items()}
    pool: Schedule = packing.choose(list(classes.values()), cores, memory)
    run("pool", buildfile.rearrange(plain, classes, pool), pool.jobs)
    note("jobserver", *jobserver(list(expected.values()), list(takes.values()), cores, memory))
    text, jobs, said = arranged(units, cores, memory)
    run("ours", text, jobs)
    run("first", *arranged(units, cores, memory, first=True)[:2])
    return Row(cores, memory / GIB, round(least, 1), outcomes, said)


def table(rows: Sequence[Row]) -> str:
    names = list(rows[0].outcomes)
    lines = [f"{'cores':>5} {'GiB':>6} {'bound':>8}  " + "  ".join(f"{n:>14}" for n in names)]
    for row in rows:
        cells = (f"{o.ratio:8.3f}{o.memory:6.2f}" for o in row.outcomes.values())
        lines.append(
            f"{row.cores:5} {row.memory:6.1f} {row.bound:6.0f} s  " + "  ".join(cells) + f"  {row.said}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--units", type=Path, default=DATA, help="a recording; see below")
    parser.add_argument(
        "--target", action="append", help="only the units of this extension module (again for more)"
    )
    parser.add_argument("--cores", type=int, nargs="+", default=CORES)
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument("--per-core", type=float, nargs="+", default=PER_CORE, help="GiB of memory a core")
    memory.add_argument("--memory", type=float, help="GiB of memory in all")
    parser.add_argument(
        "--wrong", type=float, default=0.0, help="how wrong the learned times are (0.2: 20 %%)"
    )
    parser.add_argument("--goal", type=float, default=GOAL, help="most that ours may take, over the bound")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        units = read(options.units)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        parser.error(f"{options.units} cannot be read as a recording: {error}")
    if options.target and not (units := [u for u in units if u.target in options.target]):
        parser.error(f"there is no unit of {', '.join(options.target)} in {options.units}")
    machines = [(c, options.memory or c * each) for each in options.per_core for c in options.cores]
    if options.memory:
        machines = machines[: len(options.cores)]
    rows = [replay(units, cores, int(gib * GIB), options.wrong) for cores, gib in machines]
    # A unit that needs more than all memory runs alone, which is all that can be done for it.
    largest = max(unit.peak for unit in with_guesses(units).values()) / GIB
    missed = [
        r
        for r in rows
        if r.outcomes["ours"].ratio > options.goal
        or r.outcomes["ours"].memory > max(1, 1.001 * largest / r.memory)
    ]
    if options.json:
        document: dict[str, Any] = {
            "recording": options.units.name, "units": len(units), "seconds": round(sum(u.seconds for u in units), 1),
            "measured_peaks": sum(u.peak is not None for u in units), "wrong": options.wrong,
            "rows": [asdict(row) for row in rows],
        }  # fmt: skip
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        sys.stdout.write(table(rows) + "\n")
        for row in missed:
            sys.stdout.write(f"missed: {row.cores} cores, {row.memory:g} GiB\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
