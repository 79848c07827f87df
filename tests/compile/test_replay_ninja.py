"""The model of ninja that replays use, held against a real ninja: which commands run together, and in which order.

The commands do not sleep: each ends when it is told to, in the order in which they end in the model.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from ninjasim import Run, parse, simulate

from vllm_builder.stages.compile import buildfile, packing
from vllm_builder.stages.compile.packing import GIB, Unit
from vllm_builder.stages.environment.model import Environment

# Where ninja was ended, for a test that failed perhaps, nobody tells a command to end.
WAIT = "while [ ! -e $out.go ] && kill -0 $$PPID 2>/dev/null; do sleep 0.005; done"
HEAD = f"""\
rule CXX_COMPILER__x
  command = echo $out >> started; {WAIT}; touch $out
  description = Building CXX object $out

rule link
  command = echo $out >> started; touch $out

pool pair
  depth = 2

"""


def graph(seed: int, units: int = 14) -> str:
    """Units in two libraries, some in a pool, some behind others."""
    dice = random.Random(seed)
    lines = [HEAD, "build order_x: phony || .\n\n"]
    for n in range(units):
        behind = [f"u{m}.o" for m in range(n) if dice.random() < 0.08]
        lines.append(f"build u{n}.o: CXX_COMPILER__x u{n}.cpp || {' '.join(['order_x', *behind])}\n")
        if dice.random() < 0.4:
            lines.append("  pool = pair\n")
    # What stands behind a phony statement waits as well, and more commands behind it make a unit go first.
    lines.append(f"build some: phony u{units - 1}.o u0.o\n\n")
    lines.append(f"build late.o: CXX_COMPILER__x late.cpp || some\n\nbuild a: link late.o u{units - 2}.o\n\n")
    lines.append(f"build all: phony a {' '.join(f'u{n}.o' for n in range(units))}\n")
    return "\n".join(lines).replace("\n\n  pool", "\n  pool")


def real_waves(text: str, jobs: int, model: Run, times: dict[str, float], folder: Path, ninja: Path) -> None:
    """Let ninja run the file and check, after each end of a command, what has been started by then."""
    (folder / "build.ninja").write_text(text)
    for edge in parse(text)[0]:
        for name in edge.inputs:
            if name.endswith(".cpp"):
                (folder / name).touch()
    process = subprocess.Popen(
        [ninja, f"-j{jobs}", "all"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        ends = sorted((start + times[name], name) for start, name in model.started if name in times)
        for moment in (0.0, *(end for end, _ in ends[:-1])):
            if moment:
                (folder / f"{ends.pop(0)[1]}.go").touch()
            expected = sorted(name for start, name in model.started if start <= moment)
            assert started_when(folder, len(expected)) == expected
        (folder / f"{ends.pop(0)[1]}.go").touch()
        assert process.wait(30) == 0
        assert started_when(folder, 0) == sorted(name for _, name in model.started)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def started_when(folder: Path, count: int) -> list[str]:
    """What has been started, as soon as so many are; a little later, so that one too many is seen."""
    deadline = time.monotonic() + 20
    found: list[str] = []
    while len(found) < count and time.monotonic() < deadline:
        time.sleep(0.005)
        found = lines(folder)
    time.sleep(0.02)
    return sorted(lines(folder))


def lines(folder: Path) -> list[str]:
    path = folder / "started"
    return path.read_text().split() if path.exists() else []


def durations(text: str, seed: int) -> dict[str, float]:
    """Such that no two units end at once."""
    dice = random.Random(seed)
    names = [edge.name for edge in parse(text)[0] if edge.rule.startswith("CXX")]
    return {name: dice.uniform(1, 20) for name in names}


@pytest.mark.parametrize(("seed", "jobs"), [(1, 3), (2, 4), (3, 2), (4, 6)])
def test_the_model_starts_what_ninja_starts(
    seed: int, jobs: int, tmp_path: Path, environment: Environment
) -> None:
    text = graph(seed)
    times = durations(text, seed)
    model = simulate(text, jobs, lambda edge: times.get(edge.name, 0.0), targets=["all"])
    real_waves(text, jobs, model, times, tmp_path, environment.bin / "ninja")


def test_no_command_outlives_its_ninja(tmp_path: Path, environment: Environment) -> None:
    (tmp_path / "build.ninja").write_text(f"{HEAD}build u0.o: CXX_COMPILER__x\n")
    process = subprocess.Popen([environment.bin / "ninja"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert started_when(tmp_path, 1) == ["u0.o"]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    # It ends, and so writes what it waits with.
    while not (tmp_path / "u0.o").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "u0.o").exists()


def test_one_job_runs_in_the_models_order(tmp_path: Path, environment: Environment) -> None:
    text = graph(7).replace(WAIT, ":")
    (tmp_path / "build.ninja").write_text(text)
    for n in range(14):
        (tmp_path / f"u{n}.cpp").touch()
    (tmp_path / "late.cpp").touch()
    subprocess.run([environment.bin / "ninja", "-j1", "all"], cwd=tmp_path, check=True, capture_output=True)
    model = simulate(text, 1, lambda edge: 1.0, targets=["all"])
    assert lines(tmp_path) == [name for _, name in model.started]


PEAKS = (5, 5, 2.5, 2, 2, 1.5, 4, 1, 1, 2.5, 3, 1)
TIMES = (400, 120.1, 60.2, 50.3, 40.4, 110.5, 90.6, 30.7, 20.8, 10.9, 71.01, 80.02)


def arrangements(units: Sequence[Unit], jobs: int, memory: int) -> dict[str, tuple[str, int]]:
    """A build file whose order, pools or waiting this project made, and the jobs for it."""
    names = [f"u{n}.o" for n in range(len(units))]
    plain = HEAD + "".join(f"build {n}: CXX_COMPILER__x {n[:-2]}.cpp || order_x\n\n" for n in names)
    plain += f"build order_x: phony || .\n\nbuild all: phony {' '.join(names)}\n"
    by_name = dict(zip(names, units, strict=True))
    pool = packing.choose(units, jobs, memory)
    found = packing.packed(units, jobs, memory)
    after = {n: [names[i] for i in others] for n, others in zip(names, found.after, strict=True)}
    starts = dict(zip(names, found.starts, strict=True))
    return {
        "pool": (buildfile.rearrange(plain, by_name, pool), pool.jobs),
        "packed": (buildfile.rearrange(plain, by_name, packing.Schedule(jobs), after, starts), jobs),
    }


@pytest.mark.parametrize("kind", ["pool", "packed"])
def test_what_the_builder_writes_runs_in_ninja_as_in_the_model(
    kind: str, tmp_path: Path, environment: Environment
) -> None:
    units = [Unit(float(t), int(p * GIB), known=True) for t, p in zip(TIMES, PEAKS, strict=True)]
    text, jobs = arrangements(units, 6, 12 * GIB)[kind]
    times = {f"u{n}.o": unit.seconds for n, unit in enumerate(units)}
    peaks = {f"u{n}.o": unit.peak for n, unit in enumerate(units)}
    model = simulate(text, jobs, lambda e: times.get(e.name, 0.0), lambda e: peaks.get(e.name, 0), ["all"])
    assert model.memory <= 12 * GIB
    assert sorted(name for _, name in model.started) == sorted(times)
    real_waves(text, jobs, model, times, tmp_path, environment.bin / "ninja")
