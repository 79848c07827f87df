"""The tools of all scenarios: folders, plans, trees, and each contender's command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measuring.model import Failed, Measured, Unavailable
from measuring.stopwatch import Stopwatch
from vllm_builder.api import planned
from vllm_builder.cache import Cache
from vllm_builder.cli.app import build as build_command
from vllm_builder.cli.options import given
from vllm_builder.errors import BuilderError
from vllm_builder.fs import remove_tree
from vllm_builder.pipeline import prepare_tree
from vllm_builder.stages.compile import child_environment
from vllm_builder.stages.compile.compilercache import arrange
from vllm_builder.stages.environment import prepare
from vllm_builder.stages.environment.model import Environment
from vllm_builder.stages.plan.model import Plan

_KEPT_OUT = ("VLLM_", "CCACHE_", "SCCACHE_", "MAX_JOBS", "NVCC_", "CMAKE_", "SETUPTOOLS_SCM")
_SEEDS = ("downloads", "environments", "toolkits", "git", "surveys", "memo", "exports")


@dataclass(frozen=True, slots=True)
class Job:
    """What is built: ``options`` of ``vllm-builder build`` that say so."""

    version: str
    options: tuple[str, ...]

    def with_options(self, *more: str) -> Job:
        return replace(self, options=(*self.options, *more))


class Kit:
    """``folder`` is where everything happens; ``seed`` the cache of earlier builds, whose downloads are used."""

    def __init__(
        self, folder: Path, watch: Stopwatch, *, seed: Path | None, more: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.watch = watch
        self.more = tuple(more)
        self.cache = Cache(folder / "cache")
        self.seed = seed
        self.tools_folder = folder / "tools"
        config = os.environ.get("VLLM_BUILDER_CONFIG")
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(_KEPT_OUT)} | (
            {"VLLM_BUILDER_CONFIG": config} if config else {}
        )
        self._plans: dict[Job, Plan] = {}

    def open(self) -> None:
        """Make the folder, and have there what the seed holds."""
        self.cache.root.mkdir(parents=True, exist_ok=True)
        for name in _SEEDS if self.seed else ():
            place = self.cache.root / name
            if self.seed and (self.seed / name).is_dir() and not place.exists():
                place.symlink_to(self.seed / name)

    def apart(self, name: str) -> Kit:
        """The same in a folder below, with a store of its own that can be emptied."""
        for seed in _SEEDS:
            (self.cache.root / seed).mkdir(parents=True, exist_ok=True)
        made = Kit(self.folder / name, self.watch, seed=self.cache.root, more=self.more)
        made.tools_folder = self.tools_folder
        made.open()
        return made

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What vllm-builder refuses here goes into the table."""
        try:
            yield
        except BuilderError as error:
            raise Unavailable(self.watch.told(error.what)) from error

    # ours

    def command(self, job: Job, workspace: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "vllm_builder", "build", job.version, *job.options, *self.more),
            *("--cache-dir", str(self.cache.root), "--workspace", str(workspace), "--json"),
        ]

    def ours(self, job: Job, workspace: Path, ccache: Path) -> tuple[Measured, dict[str, Any]]:
        """The whole command; what it says as JSON besides."""
        took, said = self.watch.run(
            self.command(job, workspace),
            cwd=self.folder,
            env=self.environ | {"CCACHE_DIR": str(ccache)},
            log=self.log(f"ours-{workspace.name}"),
        )
        answer: dict[str, Any] = json.loads(said)
        record = answer["record"]
        facts = {
            "compile": round(record["compile"]["seconds"], 3),
            "stages": record["timings"],
            "cache": record["compile"]["cache"],
            "units": record["compile"]["units"],
            "full_headers": len(record["compile"]["full_headers"]),
        }
        return replace(took, facts={} if answer["from_store"] else facts), answer

    def forget(self, digest: str) -> None:
        """Take a wheel out of the store, not the native layer that it was packed around."""
        remove_tree(self.cache.store / digest)

    def forget_all(self) -> None:
        """Empty the store, and forget what earlier builds learned of units (it decides their order).

        It is not --force that makes a build cold: that would also read every file of the environment again.
        """
        remove_tree(self.cache.store)
        remove_tree(self.cache.units)

    # everybody's

    def plan(self, job: Job) -> Plan:
        """The plan that the command makes: click itself reads the arguments."""
        if job not in self._plans:
            arguments = self.command(job, self.folder / "none")[4:]
            context = build_command.make_context("build", arguments)
            options = {k: v for k, v in context.params.items() if k not in {"json_", "verbose", "quiet"}}
            with self.explained():
                self._plans[job] = planned(**given(options), environ=self.environ)[0]
        return self._plans[job]

    def environment(self, job: Job) -> Environment:
        plan = self.plan(job)
        with self.explained():
            return prepare(plan.environment, self.cache.environments, environ=self.environ)

    def pristine(self, job: Job) -> Path:
        """The patched tree of a plan, which nobody builds in."""
        plan = self.plan(job)
        tree = self.folder / "pristine" / plan.digest[:16]
        with self.explained():
            prepare_tree(plan, tree, self.cache)
        return tree

    def fresh_tree(self, job: Job, place: Path) -> Path:
        remove_tree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.pristine(job), place, symlinks=True)
        return place

    def variables(self, job: Job, tree: Path, *, ccache: Path | None = None) -> dict[str, str]:
        """What setup.py is told: as in our builds. ``ccache``: that compiler cache, as it comes, or none."""
        plan = self.plan(job)
        env = child_environment(plan.compile, self.environment(job), self.environ)
        if ccache is not None:
            return env | {"CCACHE_DIR": str(ccache)}
        state = self.folder / "no-ccache" / tree.name
        state.mkdir(parents=True, exist_ok=True)
        arrange(plan.compile.model_copy(update={"compiler_cache": "off"}), env, tree=tree, state=state)
        return env

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    # the others

    def setup_py(self, job: Job, tree: Path, env: Mapping[str, str]) -> Measured:
        """``python setup.py bdist_wheel`` in a tree that is there."""
        command = [self.environment(job).python, "setup.py", "bdist_wheel", "-d", tree / "dist"]
        if limited := self.plan(job).compile.limited_api:
            command.append(f"--py-limited-api={limited}")
        took, _ = self.watch.run(command, cwd=tree, env=env, log=self.log(f"setup-{tree.name}"))
        return self._one_wheel(took, tree / "dist")

    def pip_wheel(self, job: Job, tree: Path, env: Mapping[str, str]) -> Measured:
        out = tree.with_name(f"{tree.name}-out")
        remove_tree(out)
        command = [
            self.tool("pip"),
            "--python",
            self.environment(job).python,
            "wheel",
            "--no-build-isolation",
        ]
        took, _ = self.watch.run(
            [*command, "--no-deps", "--wheel-dir", out, tree],
            cwd=tree,
            env=env,
            log=self.log(f"pip-{tree.name}"),
        )
        return self._one_wheel(took, out)

    def fromager(self, job: Job, home: Path, env: Mapping[str, str]) -> Measured:
        """Its step ``build-wheel``: from a tree that is ready and an environment that is there to a wheel."""
        program = self.tool("fromager")
        version = self.plan(job).source.release
        work = home / "work-dir" / f"vllm-{version}"
        python = _version_of(self.tool("python"))
        (work / f"build-{python}").symlink_to(self.environment(job).bin.parent)
        path = f"{program.parent}{os.pathsep}{env['PATH']}"
        took, _ = self.watch.run(
            [program, "--no-cleanup", "step", "build-wheel", "vllm", version],
            cwd=home, env={**env, "PATH": path}, log=self.log("fromager"),
        )  # fmt: skip
        return self._one_wheel(took, home / "wheels-repo" / "build")

    def tool(self, name: str) -> Path:
        """pip and fromager in an environment of their own, made when it is first asked for."""
        folder = self.tools_folder
        program = folder / "bin" / name
        if not (folder / "ready").exists():
            remove_tree(folder)
            for command in (
                [sys.executable, "-m", "venv", folder],
                [
                    folder / "bin" / "python",
                    "-m",
                    "pip",
                    "install",
                    "-q",
                    "--disable-pip-version-check",
                    "--upgrade",
                    "pip",
                    "fromager",
                ],
            ):
                self.watch.run(
                    list(map(str, command)), cwd=self.folder, env=self.environ, log=self.log("tools")
                )
            (folder / "ready").touch()
        if not program.exists():
            raise Unavailable(f"There is no {name} in its environment.")
        return program

    def tools(self) -> dict[str, str]:
        """Versions of pip and fromager."""
        command = [self.tool("python"), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        found = {one["name"]: one["version"] for one in json.loads(done.stdout or "[]")}
        return {name: found[name] for name in ("pip", "fromager") if name in found}

    def _one_wheel(self, took: Measured, folder: Path) -> Measured:
        wheels = sorted(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise Failed(f"It left {len(wheels)} wheels instead of one.")
        return replace(took, facts={"wheel": wheels[0].name, "size": wheels[0].stat().st_size})


def _version_of(python: Path) -> str:
    command = [python, "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
