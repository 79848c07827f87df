"""What one more architecture costs, and the same units in a new folder: CPU seconds of single units, pair by pair.

    python benchmarks/arch_matrix.py                                    # v0.9.2, torch 2.11.0, toolkit from PyPI
    python benchmarks/arch_matrix.py --unit csrc/cuda_view.cu --cache-dir DIR --workspace DIR

Three trees are configured with the real plans: sm_100, sm_100 with sm_120, and the latter once more in another folder.
Of each unit these are compiled, with the very commands that ninja would run:

    whole   for both architectures, with no cache at all: what compiling from nothing costs
    first   for sm_100, with empty caches
    added   for both, with what `first` has left
    moved   for both, in the other folder, with what `added` has left

It prints added / whole (at most 0.60) and moved / whole (at most 0.05), and ends with 1 where either is more for all
units together, or where the object of `moved` is not that of `added`. With --check each unit is compiled once more with
empty caches, and `added` has to be that object, too.
CPU seconds are those of all processes, preprocessing included; one unit is compiled at a time.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_builder import treestate
from vllm_builder.api import planned
from vllm_builder.cache import Cache, Workspace
from vllm_builder.pipeline import prepare_tree
from vllm_builder.stages.compile import child_environment, compilercache, reproducible
from vllm_builder.stages.compile.configure import configure
from vllm_builder.stages.environment import prepare

ONE, BOTH = ("sm_100",), ("sm_100", "sm_120")
ADDED, MOVED = 0.60, 0.05
UNITS = ["csrc/cuda_utils_kernels.cu", "csrc/cuda_view.cu", "csrc/activation_kernels.cu"]


@dataclass
class Configured:
    tree: Path
    env: dict[str, str]
    commands: dict[str, dict[str, str]]

    def compile(self, unit: str, **variables: str) -> tuple[float, bytes]:
        """CPU seconds and the object."""
        edge = self.commands[unit]
        words = shlex.split(edge["command"])
        obj = Path(edge["directory"], words[words.index("-o") + 1])
        obj.parent.mkdir(parents=True, exist_ok=True)
        obj.unlink(missing_ok=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            words,
            cwd=edge["directory"],
            env=self.env | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"{unit}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, obj.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", default="v0.9.2")
    parser.add_argument("--torch", default="2.11.0")
    parser.add_argument("--cuda", default="pypi")
    parser.add_argument("--unit", action="append", help="relative to the tree (may be repeated)")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--cache-dir", type=Path, help="take downloads, toolkit and environment from here")
    parser.add_argument("--workspace", type=Path, help="keep the configured trees here")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="arch-matrix-")).resolve()
    try:
        return _measure(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(arguments: argparse.Namespace, folder: Path) -> int:
    place = (arguments.workspace or folder).absolute()
    cache = Cache((arguments.cache_dir or folder / "cache").absolute())
    own = Cache(folder / "caches")  # empty compile caches
    first = _configured(arguments, ONE, place / "one", cache, own)
    both = _configured(arguments, BOTH, place / "both", cache, own)
    moved = _configured(arguments, BOTH, place / "further" / "away", cache, own)
    off = {"CCACHE_DISABLE": "1", "VLLM_BUILDER_PASSES": ""}
    empty = {"CCACHE_DIR": str(folder / "none"), "VLLM_BUILDER_PASSES": str(folder / "none-passes")}
    sums = dict.fromkeys(("whole", "first", "added", "moved"), 0.0)
    same = True
    print(
        f"{'unit':44}{'whole':>8}{'first':>8}{'added':>8}{'moved':>8}{'added/whole':>13}{'moved/whole':>13}"
    )
    for unit in arguments.unit or UNITS:
        row = {"whole": both.compile(unit, **off)[0], "first": first.compile(unit)[0]}
        row["added"], added = both.compile(unit)
        row["moved"], again = moved.compile(unit)
        same &= again == added and (not arguments.check or both.compile(unit, **empty)[1] == added)
        for name, seconds in row.items():
            sums[name] += seconds
        _print(unit, row)
    _print("all", sums)
    print("the same objects:", "yes" if same else "NO")
    good = sums["added"] <= ADDED * sums["whole"] and sums["moved"] <= MOVED * sums["whole"]
    return 0 if good and same else 1


def _print(name: str, row: Mapping[str, float]) -> None:
    numbers = "".join(f"{row[column]:8.1f}" for column in ("whole", "first", "added", "moved"))
    print(
        f"{name:44}{numbers}{row['added'] / row['whole']:13.2f}{row['moved'] / row['whole']:13.3f}",
        flush=True,
    )


def _configured(
    arguments: argparse.Namespace, archs: tuple[str, ...], place: Path, cache: Cache, own: Cache
) -> Configured:
    plan, settings = planned(
        arguments.version, arch=archs, torch=arguments.torch, cuda=arguments.cuda, cache_dir=cache.root
    )
    spec = plan.compile.model_copy(
        update={"compiler_cache_dir": str(own.ccache), "passes_dir": str(own.passes)}
    )
    workspace = Workspace(place)
    tree, log = workspace.tree(plan.digest), workspace.log(plan.digest)
    prepare_tree(plan, tree, cache, externals=settings.externals, log=log)
    if plan.toolkit is not None and plan.toolkit.spec is not None:
        from vllm_builder.stages.toolkit import assemble

        home = Path(plan.toolkit.home).parent
        assemble(plan.toolkit.spec, home, os.environ, plan.environment.indexes)
    environment = prepare(plan.environment, cache.environments, environ=os.environ)
    with treestate.building(tree):
        edges = configure(spec, tree=tree, environment=environment, log=log, environ=os.environ)
    tree = tree.resolve()
    env = child_environment(spec, environment, os.environ)
    reproducible.arrange(spec, env, tree=tree, environment=environment)
    compilercache.arrange(spec, env, tree=tree, state=tree / "build" / "vllm-builder")
    named = {edge["file"].removeprefix(f"{tree}/"): edge for edge in edges}
    return Configured(tree, env, named)


if __name__ == "__main__":
    sys.exit(main())
