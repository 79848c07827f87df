"""How long a CPU build takes: cold, from the store, from the compiler cache, and against a bare setup.py.

Everything is measured side by side in one run, and the ratios are taken pair by pair. One pair is

    cold     the whole command in an empty workspace with an empty compiler cache
    bare     `python setup.py bdist_wheel` of the same patched tree with the same environment, the same
             variables and an empty compiler cache (cold and bare take turns in going first)
    same     the whole command again, its workspace removed and only the compiler cache left
    other    the same in another folder

and at the end the same command is run several times with the wheel in the store. Downloads and the build
environment are made before by a run that is not measured; nothing else is kept between the runs.

    python benchmarks/build_cpu.py                      # v0.9.2 for torch 2.13.0, three pairs
    python benchmarks/build_cpu.py --pairs 5 --cache-dir DIR -- --torch-index cpu

What stands after `--` goes to every build. The exit status is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_builder.api import planned
from vllm_builder.cache import Cache
from vllm_builder.cli.app import build as build_command
from vllm_builder.cli.options import given
from vllm_builder.pipeline import prepare_tree
from vllm_builder.stages.compile import child_environment
from vllm_builder.stages.compile.compilercache import arrange
from vllm_builder.stages.environment import prepare

HIT_GOAL = 0.5
"""Seconds of the whole process when the wheel is in the store."""
CACHED_GOAL = 0.1
"""Share of the cold time with only the compiler cache left."""
OVERHEAD_GOAL = 1.05
"""Cold time over that of a bare setup.py."""


@dataclass
class Results:
    """Seconds of wall time, one value per run; pairs share their index."""

    cold: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    same: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    compile_stage: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def check(self, fine: bool, fault: str) -> None:
        if not fine:
            self.faults.append(fault)


class Bench:
    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.folder = folder
        self.cache = Cache(Path(arguments.cache_dir).absolute() if arguments.cache_dir else folder / "cache")
        self.command = [
            sys.executable, "-m", "vllm_builder", "build", arguments.version,
            "--device", "cpu", "--torch", arguments.torch, "--compiler-cache", "ccache",
            "--cache-dir", str(self.cache.root), "--json", *arguments.more,
        ]  # fmt: skip
        self.results = Results()

    def ours(self, workspace: Path, ccache: Path, *, force: bool) -> tuple[float, dict[str, Any]]:
        """Run the whole command; return its wall time in seconds and what it says."""
        command = [*self.command, "--workspace", str(workspace), *(["--force"] if force else [])]
        environ = os.environ | {"CCACHE_DIR": str(ccache)}
        started = time.perf_counter()
        done = subprocess.run(
            command, env=environ, cwd=self.folder, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr[-4000:]}")
        return seconds, json.loads(done.stdout)

    def bare(self, ccache: Path) -> tuple[float, str]:
        """Run setup.py by itself in a fresh patched tree; return wall time in seconds and the wheel's name."""
        # click itself reads the arguments, so that the plan is the one that the command makes.
        context = build_command.make_context(
            "build", [*self.command[4:], "--workspace", str(self.folder / "none")]
        )
        options = {k: v for k, v in context.params.items() if k not in {"json_", "verbose", "quiet"}}
        environ = os.environ | {"CCACHE_DIR": str(ccache)}
        plan, _ = planned(**given(options), environ=environ)
        home = self.folder / "bare"
        shutil.rmtree(home, ignore_errors=True)
        tree = home / "tree"
        prepare_tree(plan, tree, self.cache)
        environment = prepare(plan.environment, self.cache.environments, environ=environ)
        variables = child_environment(plan.compile, environment, environ)
        state = home / "state"
        state.mkdir()
        arrange(plan.compile, variables, tree=tree, state=state)
        command = [str(environment.python), "setup.py", "bdist_wheel", "-d", str(home / "dist")]
        if plan.compile.limited_api:
            command.append(f"--py-limited-api={plan.compile.limited_api}")
        with (home / "log").open("wb") as log:
            started = time.perf_counter()
            done = subprocess.run(command, env=variables, cwd=tree, stdout=log, stderr=log, check=False)
            seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit((home / "log").read_text(errors="replace")[-4000:])
        (wheel,) = (home / "dist").glob("*.whl")
        return seconds, wheel.name

    def pair(self, number: int) -> None:
        results = self.results
        ccache = self.folder / "ccache"
        workspace = self.folder / "one"

        def cold() -> None:
            shutil.rmtree(ccache, ignore_errors=True)
            shutil.rmtree(workspace, ignore_errors=True)
            seconds, said = self.ours(workspace, ccache, force=True)
            facts = said["record"]["compile"]
            results.cold.append(seconds)
            results.compile_stage.append(facts["seconds"])
            results.check(
                facts["cache"]["hits"] == 0, f"pair {number}: a cold build had hits: {facts['cache']}"
            )
            self.name, self.misses = Path(said["wheel"]).name, facts["cache"]["misses"]
            self.report("cold", seconds)

        def bare() -> None:
            empty = self.folder / "ccache-bare"
            shutil.rmtree(empty, ignore_errors=True)
            seconds, self.bare_name = self.bare(empty)
            results.bare.append(seconds)
            self.report("bare", seconds)

        for step in (cold, bare) if number % 2 else (bare, cold):
            step()
        results.check(self.name == self.bare_name, f"pair {number}: {self.bare_name} is not {self.name}")
        for times, place in ((results.same, workspace), (results.other, self.folder / "two" / "deeper")):
            shutil.rmtree(place, ignore_errors=True)
            seconds, said = self.ours(place, ccache, force=True)
            cache = said["record"]["compile"]["cache"]
            times.append(seconds)
            results.check(
                cache["misses"] == 0 and cache["hits"] == self.misses,
                f"pair {number}: not all units hit: {cache}, {self.misses} units",
            )
            self.report("other" if times is results.other else "same", seconds, f"{cache['hits']} hits")

    def from_store(self, times: int) -> None:
        workspace, ccache = self.folder / "one", self.folder / "ccache"
        seen = {self.ours(workspace, ccache, force=False)[1]["sha256"]}
        for _ in range(times):
            seconds, said = self.ours(workspace, ccache, force=False)
            self.results.hits.append(seconds)
            self.results.check(said["from_store"], "the wheel did not come from the store")
            seen.add(said["sha256"])
        self.results.check(len(seen) == 1, f"different bytes from the store: {seen}")

    def report(self, what: str, seconds: float, more: str = "") -> None:
        print(f"  {what:<6}{seconds:8.2f} s  {more}", file=sys.stderr, flush=True)


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def table(results: Results) -> bool:
    """Print everything; return whether all goals are met."""
    rows: list[tuple[str, Sequence[float], str, float | None]] = [
        ("cold, whole command", results.cold, "s", None),
        ("  its compile stage", results.compile_stage, "s", None),
        ("bare setup.py", results.bare, "s", None),
        ("compiler cache, same folder", results.same, "s", None),
        ("compiler cache, other folder", results.other, "s", None),
        ("from the store", results.hits, "s", HIT_GOAL),
        ("cold / bare", ratios(results.cold, results.bare), "", OVERHEAD_GOAL),
        ("  compile stage / bare", ratios(results.compile_stage, results.bare), "", None),
        ("same folder / cold", ratios(results.same, results.cold), "", CACHED_GOAL),
        ("other folder / cold", ratios(results.other, results.cold), "", CACHED_GOAL),
    ]
    print(f"{'':30}{'min':>9}{'median':>9}{'max':>9}   goal (median)")
    met = True
    for name, values, unit, goal in rows:
        low, middle, high = spread(values)
        verdict = ""
        if goal is not None:
            fine = middle <= goal
            met = met and fine
            verdict = f"<= {goal:g} {unit}".rstrip() + ("" if fine else "   MISSED")
        print(f"{name:30}{low:9.3f}{middle:9.3f}{high:9.3f}   {verdict}")
    for fault in results.faults:
        print(f"FAULT: {fault}")
    return met and not results.faults


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", default="v0.9.2")
    parser.add_argument("--torch", default="2.13.0")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--hits", type=int, default=11, help="runs from the store")
    parser.add_argument("--cache-dir", help="keep downloads and the environment here; its store is used too")
    parser.add_argument("--folder", help="work below this folder (default: a temporary one)")
    parser.add_argument("--json", dest="json_", metavar="FILE", help="write every value here")
    parser.add_argument("more", nargs="*", help="further options for every build, after --")
    arguments = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix="build-cpu-", dir=arguments.folder)).resolve()
    bench = Bench(arguments, folder)
    try:
        print("preparing", file=sys.stderr, flush=True)
        seconds, _ = bench.ours(folder / "one", folder / "ccache", force=False)
        bench.report("first", seconds, "not measured")
        for number in range(1, arguments.pairs + 1):
            print(f"pair {number} of {arguments.pairs}", file=sys.stderr, flush=True)
            bench.pair(number)
        bench.from_store(arguments.hits)
        met = table(bench.results)
        if arguments.json_:
            Path(arguments.json_).write_text(json.dumps(vars(bench.results), indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
