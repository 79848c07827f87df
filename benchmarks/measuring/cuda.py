"""Single units of a CUDA build, compiled one at a time: upstream's command line, ours, and ours from the compile cache."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring.kit import Job, Kit
from measuring.model import Contender, Failed, Measured, Ratio, Scenario
from vllm_builder import treestate
from vllm_builder.fs import remove_tree
from vllm_builder.lean.units import Unit, units
from vllm_builder.pipeline import prepare_tree
from vllm_builder.stages.compile import child_environment, compilercache, leanheaders, reproducible
from vllm_builder.stages.compile.configure import configure

SAMPLE = (
    "csrc/activation_kernels.cu",
    "csrc/cache_kernels.cu",
    "csrc/sampler.cu",
    "csrc/attention/merge_attn_states.cu",
    "csrc/moe/topk_softmax_kernels.cu",
)
"""Of ``_C`` and ``_moe_C``: ordinary units, none of the few that take minutes, and one that computes attention."""
CACHED_GOAL = 0.05


def job(version: str, arch: str, torch: str) -> Job:
    options = (
        "--arch",
        arch,
        "--torch",
        torch,
        "--cuda",
        "pypi",
        "--source",
        "pypi",
        "--compiler-cache",
        "ccache",
    )
    return Job(version, options)


class Units:
    def __init__(self, kit: Kit, job: Job, sample: Sequence[str] = SAMPLE, name: str = "cuda") -> None:
        self.kit = kit
        self.job = job
        self.sample = tuple(sample)
        self.room = kit.folder / name
        self.trees = (self.room / "tree", self.room / "elsewhere" / "deeper" / "tree")
        self._commands: dict[Path, dict[str, dict[str, str]]] = {}
        self._units: dict[str, Unit] = {}

    def prepare(self) -> None:
        """Two configured trees, the second in another folder; toolkit and environment."""
        plan = self.kit.plan(self.job)
        self.kit.environment(self.job)
        with self.kit.explained():
            if plan.toolkit is not None and plan.toolkit.spec is not None:
                from vllm_builder.stages.toolkit import assemble

                home = Path(plan.toolkit.home).parent
                assemble(plan.toolkit.spec, home, self.kit.environ, plan.environment.indexes)
            for tree in self.trees:
                prepare_tree(plan, tree, self.kit.cache)
                self._commands[tree] = self._configured(tree)
        tree = self.trees[0].resolve()
        found = units(self._commands[self.trees[0]].values(), tree, leanheaders.include_option(tree))
        self._units = {unit.name: unit for unit in found}
        if missing := sorted(set(self.sample) - set(self._units)):
            raise Failed(f"The build has no such units: {', '.join(missing)}")

    def _configured(self, tree: Path) -> dict[str, dict[str, str]]:
        """What ninja would run for each source file of the tree; kept for the next time, as the tree is."""
        plan = self.kit.plan(self.job)
        # In the tree, so that it goes with the configured build that it tells of.
        kept = tree / "build" / "commands.json"
        if not kept.exists():
            with treestate.building(tree):
                commands = configure(
                    plan.compile,
                    tree=tree,
                    environment=self.kit.environment(self.job),
                    log=self.kit.log("configure"),
                    environ=self.kit.environ,
                )
            kept.write_text(json.dumps(commands))
        root = tree.resolve()
        found = {}
        for one in json.loads(kept.read_text()):
            source = Path(one["directory"], one["file"]).resolve()
            if source.is_relative_to(root):
                found[str(source.relative_to(root))] = one
        return found

    def _env(self, tree: Path, ccache: Path) -> tuple[dict[str, str], Path | None]:
        spec, environment = self.kit.plan(self.job).compile, self.kit.environment(self.job)
        tree = tree.resolve()
        env = child_environment(spec, environment, self.kit.environ | {"CCACHE_DIR": str(ccache)})
        reproducible.arrange(spec, env, tree=tree, environment=environment)
        answers = compilercache.arrange(spec, env, tree=tree, state=tree / "build" / "vllm-builder")
        return env, answers

    def _ours(self, tree: Path, pair: str) -> Measured:
        """The command that ninja runs: the script of the lean headers and the compile cache in front."""
        name = _unit(pair)
        entry = self._commands[tree][name]
        env, answers = self._env(tree, self._ccache(name))
        _remove_output(entry)
        took, _ = self.kit.watch.run(
            ["sh", "-c", entry["command"]], cwd=Path(entry["directory"]), env=env, log=self.kit.log("unit")
        )
        return replace(took, facts={"cache": compilercache.ccache_answers(answers) if answers else {}})

    def _ccache(self, name: str) -> Path:
        return self.room / "ccache" / name.replace("/", "-")

    def ours(self, pair: str) -> Measured:
        remove_tree(self._ccache(_unit(pair)))
        took = self._ours(self.trees[0], pair)
        if took.facts["cache"].get("hits"):
            raise Failed("An empty compile cache answered.")
        return took

    def cached(self, pair: str) -> Measured:
        if not self._ccache(_unit(pair)).is_dir():
            self._ours(self.trees[0], pair)
        return self._ours(self.trees[1], pair)

    def upstream(self, pair: str) -> Measured:
        unit = self._units[_unit(pair)]
        env, _ = self._env(self.trees[0], self.room / "ccache" / "none")
        out = self.room / "upstream.o"
        took, _ = self.kit.watch.run(
            [*unit.arguments(lean=False), "-c", "-MD", "-MF", f"{out}.d", "-o", out],
            cwd=unit.directory, env=env | {"CCACHE_DISABLE": "1"}, log=self.kit.log("upstream"),
        )  # fmt: skip
        return took

    def scenario(self, title: str, pairs: int) -> Scenario:
        contenders = (
            Contender("ours", "vllm-builder", self.ours, 40, note=_answers, ours=True),
            Contender("upstream", "upstream's command line", self.upstream, 60),
            Contender(
                "cached",
                "vllm-builder, compile cache only, new folder",
                self.cached,
                1,
                "ours",
                _answers,
                True,
            ),
        )
        ratios = (
            Ratio("vllm-builder / upstream, CPU time", "ours", "upstream", quantity="cpu"),
            Ratio("vllm-builder / upstream", "ours", "upstream"),
            Ratio("compile cache only / cold", "cached", "ours", CACHED_GOAL),
            Ratio("compile cache only / cold, CPU time", "cached", "ours", CACHED_GOAL, "cpu"),
        )
        text = (
            "A sample of units, compiled one at a time through the compilation database of the configured build; a "
            "pair is one unit, so minimum and maximum are those of different units. Compiling with an empty compile "
            "cache includes filling it."
        )
        return Scenario(
            self.room.name, title, text, contenders, ratios,
            tuple(
                tuple(name if number == 1 else f"{name} ({number})" for name in self.sample)
                for number in range(1, pairs + 1)
            ),
            prepare=self.prepare, prepare_seconds=90, heavy=True, quantity="cpu",
        )  # fmt: skip


def _unit(pair: str) -> str:
    return re.sub(r" \(\d+\)$", "", pair)


def _remove_output(entry: Mapping[str, str]) -> None:
    if output := entry.get("output"):
        place = Path(entry["directory"]) / output
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)


def _answers(facts: Sequence[Mapping[str, Any]]) -> str:
    hits = sum(one.get("cache", {}).get("hits", 0) for one in facts)
    misses = sum(one.get("cache", {}).get("misses", 0) for one in facts)
    return f"{hits} of {hits + misses} hit" if hits + misses else ""
