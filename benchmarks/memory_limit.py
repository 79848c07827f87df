"""A CPU build under a memory limit: the bare setup.py is killed, vllm-builder finishes.

    python benchmarks/memory_limit.py                    # v0.9.2 for torch 2.13.0; the limit is found out
    python benchmarks/memory_limit.py --limit 1400       # MiB

The limit is a real one, of a memory control group (version 1 or 2) that this makes, so it needs the right to make
one: run it as root or in a delegated group. Without --limit one build without a limit measures the units, and the limit
is put between what one compiler needs and what the two largest need together. Compiler caches are off. Then, all with two
jobs and the same limit:

    bare     `python setup.py bdist_wheel` of the patched tree, as upstream builds
    jobs 2   `vllm-builder build --jobs 2`: a compiler is killed, and the build goes on with one job
    auto     `vllm-builder build`, which sees the limit

The exit status is 1 where the bare build was not killed or one of ours did not finish.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_builder.api import planned
from vllm_builder.cache import Cache
from vllm_builder.pipeline import prepare_tree
from vllm_builder.stages.compile import child_environment
from vllm_builder.stages.compile.buildenv import job_variables
from vllm_builder.stages.compile.compilercache import arrange
from vllm_builder.stages.environment import prepare

MIB = 1 << 20
_ROOT = Path("/sys/fs/cgroup")
JOBS = 2


class MemoryGroup:
    """A control group with a limit in bytes; what runs in it is killed above that."""

    def __init__(self, limit: int) -> None:
        one = (_ROOT / "memory").is_dir()
        self.folder = (_ROOT / "memory" if one else _ROOT) / f"vllm-builder-{os.getpid()}"
        self.folder.mkdir()
        names = ("memory.limit_in_bytes",) if one else ("memory.max", "memory.swap.max")
        for name in names:
            if (self.folder / name).exists():
                (self.folder / name).write_text("0" if "swap" in name else str(limit))
        self.kills_file = self.folder / ("memory.oom_control" if one else "memory.events")
        if one and (swap := self.folder / "memory.memsw.limit_in_bytes").exists():
            swap.write_text(str(limit))

    def run(
        self, command: Sequence[str], log: Path, *, cwd: Path, env: Mapping[str, str]
    ) -> tuple[int, float]:
        """Exit status and seconds."""
        enter = f'echo $$ > {self.folder}/cgroup.procs; exec "$@"'
        started = time.monotonic()
        with log.open("wb") as file:
            done = subprocess.run(
                ["/bin/sh", "-c", enter, "sh", *command],
                cwd=cwd,
                env=env,
                stdout=file,
                stderr=file,
                check=False,
            )
        return done.returncode, time.monotonic() - started

    def kills(self) -> int:
        """How many processes the kernel has killed here."""
        lines = dict(line.split() for line in self.kills_file.read_text().splitlines())
        return int(lines.get("oom_kill", 0))

    def close(self) -> None:
        for _ in range(50):
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.1)


@dataclass
class Row:
    name: str
    seconds: float
    kills: int
    outcome: str


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", default="v0.9.2")
    parser.add_argument("--torch", default="2.13.0")
    parser.add_argument("--limit", type=int, help="MiB")
    parser.add_argument("--cache-dir", help="keep downloads and the environment here")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="memory-limit-")).resolve()
    try:
        return _measure(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(arguments: argparse.Namespace, folder: Path) -> int:
    cache = Cache(Path(arguments.cache_dir).absolute() if arguments.cache_dir else folder / "cache")
    command = [
        *(sys.executable, "-m", "vllm_builder", "build", arguments.version, "--device", "cpu", "--torch"),
        *(arguments.torch, "--compiler-cache", "off", "--cache-dir", str(cache.root), "--force", "--json"),
    ]
    plan, _ = planned(
        arguments.version,
        device="cpu",
        torch=arguments.torch,
        compiler_cache="off",
        cache_dir=cache.root,
        jobs=JOBS,
    )
    tree = folder / "bare"
    prepare_tree(plan, tree, cache)
    environment = prepare(plan.environment, cache.environments, environ=os.environ)
    limit = arguments.limit * MIB if arguments.limit else _between(command, folder, cache)
    # What was learnt of the units here must not help the builds under the limit.
    shutil.rmtree(cache.units, ignore_errors=True)

    variables = child_environment(plan.compile, environment, os.environ)
    variables.update(job_variables(plan.compile, JOBS))
    state = folder / "state"
    state.mkdir()
    arrange(plan.compile, variables, tree=tree, state=state)
    bare = [str(environment.python), "setup.py", "bdist_wheel", "-d", str(folder / "dist")]
    runs = [
        ("bare", bare, tree, variables),
        (
            f"jobs {JOBS}",
            [*command, "--jobs", str(JOBS), "--workspace", str(folder / "w2")],
            folder,
            os.environ,
        ),
        ("auto", [*command, "--workspace", str(folder / "wauto")], folder, os.environ),
    ]
    rows, good = [], True
    for name, call, where, env in runs:
        group = MemoryGroup(limit)
        log = folder / f"{name}.log"
        try:
            status, seconds = group.run(call, log, cwd=where, env=env)
            kills = group.kills()
        finally:
            group.close()
        said = log.read_text(errors="replace")
        if name == "bare":
            good &= status != 0 and kills > 0
            outcome = f"exit {status}"
        else:
            good &= status == 0
            outcome = f"exit {status}{_attempts(said)}"
            if status:
                print(said[-3000:], file=sys.stderr)
        rows.append(Row(name, seconds, kills, outcome))
        shutil.rmtree(cache.units, ignore_errors=True)
    print(f"limit {limit / MIB:.0f} MiB, {JOBS} cores' worth of jobs")
    for row in rows:
        print(f"{row.name:8}{row.seconds:8.1f} s  {row.kills} killed by the kernel  {row.outcome}")
    return 0 if good else 1


def _attempts(said: str) -> str:
    """How many jobs each attempt of ours had, out of the result."""
    try:
        result = json.loads(said[said.index("\n{\n") + 1 :] if "\n{\n" in said else said)
        attempts = result["record"]["compile"]["attempts"]
    except (ValueError, KeyError):
        return ""
    return ", attempts with " + ", then ".join(f"{attempt['jobs']} jobs" for attempt in attempts)


def _between(command: Sequence[str], folder: Path, cache: Cache) -> int:
    """Bytes that are enough for any one unit beside setup.py, and too few for the two largest at once."""
    shutil.rmtree(cache.units, ignore_errors=True)
    done = subprocess.run(
        [*command, "--jobs", "1", "--workspace", str(folder / "w1")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    peaks = sorted(
        unit["peak"]
        for file in cache.units.rglob("*.json")
        for unit in json.loads(file.read_text()).get("units", {}).values()
        if unit.get("peak")
    )
    whole = json.loads(done.stdout)["record"]["compile"]["peak_memory"]
    beside = max(0, whole - peaks[-1])
    print(
        f"one job: {whole / MIB:.0f} MiB at most; the largest units {peaks[-1] / MIB:.0f} and "
        f"{peaks[-2] / MIB:.0f} MiB",
        file=sys.stderr,
    )
    return int(beside + peaks[-1] + 0.4 * peaks[-2])


if __name__ == "__main__":
    sys.exit(main())
