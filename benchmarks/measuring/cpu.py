"""Scenarios that build for CPU: cold and warm, a hot-fix, and releases that differ in Python files alone."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring.kit import Job, Kit
from measuring.model import Contender, Failed, Measured, Ratio, Scenario
from vllm_builder.fs import remove_tree
from vllm_builder.stages.source import fetch
from vllm_builder.stages.store import Store

_LEAN_OFF = "--no-lean-headers"
PACK_GOAL = 1.5
"""What packing around a native layer may take, as a multiple of zipping the wheel."""
CACHED_GOAL = 0.1


def job(version: str, torch: str) -> Job:
    return Job(
        version, ("--device", "cpu", "--torch", torch, "--source", "pypi", "--compiler-cache", "ccache")
    )


def rounds(pairs: int) -> tuple[tuple[str, ...], ...]:
    return tuple((str(number),) for number in range(1, pairs + 1))


class Cold:
    """One release from nothing, by everybody; then again with what each kept."""

    def __init__(self, kit: Kit, job: Job, name: str) -> None:
        self._shared = kit
        self._own: Kit | None = None
        self.job = job
        self.room = kit.folder / name

    @property
    def kit(self) -> Kit:
        # Made when it is first used: to show the page, no folder is needed.
        if self._own is None:
            self._own = self._shared.apart(self.room.name)
        return self._own

    def prepare(self) -> None:
        """Downloads, the build environment and the tools; none of that is measured."""
        for one in (self.job, self.job.with_options(_LEAN_OFF)):
            self.kit.environment(one)
            self.kit.pristine(one)

    @property
    def full(self) -> Job:
        """What the others build: patched as far as it has to be for this torch, and no further."""
        return self.job.with_options(_LEAN_OFF)

    def ours(self, *, lean: bool) -> Callable[[str], Measured]:
        name = "lean" if lean else "full"

        def measure(_: str) -> Measured:
            for folder in (self.room / f"build-{name}", self.room / f"ccache-{name}"):
                remove_tree(folder)
            self.kit.forget_all()
            one = self.job if lean else self.full
            took, _said = self.kit.ours(one, self.room / f"build-{name}", self.room / f"ccache-{name}")
            return took

        return measure

    def cached(self, _: str) -> Measured:
        """Only the compile cache is left, and the folder is another."""
        if not (self.room / "ccache-lean").is_dir():
            self.ours(lean=True)("")
        self.kit.forget_all()
        place = self.room / "elsewhere" / "deeper"
        remove_tree(place)
        return self.kit.ours(self.job, place, self.room / "ccache-lean")[0]

    def stored(self, _: str) -> Measured:
        took, said = self.kit.ours(self.job, self.room / "stored", self.room / "ccache-lean")
        if not said["from_store"]:
            took, said = self.kit.ours(self.job, self.room / "stored", self.room / "ccache-lean")
        if not said["from_store"]:
            raise Failed("The wheel did not come from the store.")
        return took

    def bare(self, *, ccache: bool, warm: bool = False) -> Callable[[str], Measured]:
        def measure(_: str) -> Measured:
            store = self.room / "ccache-bare"
            if ccache and not warm:
                remove_tree(store)
            elif ccache and not store.is_dir():
                self.bare(ccache=True)("")
            tree = self.kit.fresh_tree(self.full, self.room / ("bare-ccache" if ccache else "bare"))
            env = self.kit.variables(self.full, tree, ccache=store if ccache else None)
            return self.kit.setup_py(self.full, tree, env)

        return measure

    def pip(self, _: str) -> Measured:
        self.kit.tool("pip")
        tree = self.kit.fresh_tree(self.full, self.room / "pip")
        return self.kit.pip_wheel(self.full, tree, self.kit.variables(self.full, tree))

    def fromager(self, _: str) -> Measured:
        self.kit.tool("fromager")
        home = self.room / "fromager"
        remove_tree(home)
        name = f"vllm-{self.kit.plan(self.full).source.release}"
        tree = self.kit.fresh_tree(self.full, home / "work-dir" / name / name)
        return self.kit.fromager(self.full, home, self.kit.variables(self.full, tree))

    def scenario(self, title: str, pairs: int, *, everybody: bool, heavy: bool, guess: float) -> Scenario:
        ours = Contender(
            "ours", "vllm-builder", self.ours(lean=True), guess, note=_stages, ours=True,
        )  # fmt: skip
        full = Contender(
            "full",
            "vllm-builder --no-lean-headers",
            self.ours(lean=False),
            1.6 * guess,
            note=_stages,
            ours=True,
        )
        bare = Contender("bare", "bare setup.py", self.bare(ccache=False), 1.5 * guess)
        contenders = [ours, full, bare]
        ratios = [
            Ratio("vllm-builder / bare setup.py", "ours", "bare"),
            Ratio("vllm-builder / bare setup.py, CPU time", "ours", "bare", quantity="cpu"),
            Ratio("lean headers / without", "ours", "full"),
            Ratio("lean headers / without, CPU time", "ours", "full", quantity="cpu"),
        ]
        if everybody:
            contenders += [
                Contender("ccache", "bare setup.py, ccache empty", self.bare(ccache=True), 1.5 * guess),
                Contender("pip", "pip wheel --no-build-isolation", self.pip, 1.5 * guess),
                Contender("fromager", "fromager step build-wheel", self.fromager, 1.6 * guess),
                Contender(
                    "ccache-warm", "bare setup.py, ccache full, same folder",
                    self.bare(ccache=True, warm=True), 15, after="ccache",
                ),
                Contender(
                    "cached", "vllm-builder, compile cache only, new folder",
                    self.cached, 12, after="ours", note=_hits, ours=True,
                ),
                Contender("stored", "vllm-builder, from the store", self.stored, 2, after="ours", ours=True),
            ]  # fmt: skip
            ratios += [
                Ratio("vllm-builder / bare with empty ccache", "ours", "ccache"),
                Ratio("vllm-builder / pip wheel", "ours", "pip"),
                Ratio("vllm-builder / fromager", "ours", "fromager"),
                Ratio("compile cache only / cold", "cached", "ours", CACHED_GOAL),
                Ratio("compile cache only / cold, CPU time", "cached", "ours", CACHED_GOAL, "cpu"),
                Ratio("compile cache only / bare with full ccache", "cached", "ccache-warm"),
            ]
        text = (
            "From the sdist to a wheel. vllm-builder is the whole command (plan, unpacking, patching, compiling, "
            "finishing, verifying, storing) with an empty compile cache, workspace and memory of earlier builds; the "
            "others start in a tree that is unpacked and patched and do nothing after the wheel."
        )
        return Scenario(
            self.room.name, title, text, tuple(contenders), tuple(ratios), rounds(pairs),
            prepare=self.prepare, prepare_seconds=60, heavy=heavy,
        )  # fmt: skip


class Packed:
    """A wheel whose native code an earlier one holds already: packed around it, against zipping its content."""

    def __init__(self, kit: Kit, base: Job, name: str) -> None:
        self.kit = kit
        self.base = base
        self.room = kit.folder / name

    def prepare(self) -> None:
        """Compile what is reused, if the store has no wheel of it, and unpack that to have what is zipped."""
        store = Store(self.kit.cache.store)
        if store.get(self.kit.plan(self.base).digest) is None or self._layers() == 0:
            self.kit.ours(self.base.with_options("--force"), self.room / "base", self.room / "ccache")
        remove_tree(self.room / "base")

    def _layers(self) -> int:
        native = self.kit.cache.native
        return sum(1 for one in native.iterdir()) if native.is_dir() else 0

    def pack(self, job: Job) -> Measured:
        remove_tree(self.room / "build")
        took, said = self.kit.ours(job, self.room / "build", self.room / "ccache")
        if not said["record"]["native"].get("reused"):
            raise Failed(f"It was compiled: {said['record']['native'].get('reason', 'no reason given')}")
        content = self.room / "content"
        remove_tree(content)
        with zipfile.ZipFile(said["wheel"]) as archive:
            archive.extractall(content)
        self.kit.forget(said["digest"])
        return took

    def zip(self, _: str) -> Measured:
        """zlib at level 6, as the wheel itself is compressed; from files to a file, and nothing else."""
        program = Path(__file__).with_name("zipping.py")
        out = self.room / "zipped.whl"
        took, _said = self.kit.watch.run(
            [sys.executable, "-I", "-S", program, self.room / "content", out],
            cwd=self.room, env=self.kit.environ, log=self.kit.log("zip"),
        )  # fmt: skip
        return replace(took, facts={"size": out.stat().st_size})

    ratios = (
        Ratio("vllm-builder / zipping the wheel", "ours", "zip", PACK_GOAL),
        Ratio("vllm-builder / zipping the wheel, CPU time", "ours", "zip", quantity="cpu"),
    )


class HotFix(Packed):
    """One line of Python more in a release that was built before."""

    @property
    def full(self) -> Job:
        return self.base.with_options(_LEAN_OFF)

    def prepare(self) -> None:
        super().prepare()
        tree = self.room / "tree"
        remove_tree(tree)
        with self.kit.explained():
            fetch(self.kit.plan(self.base).source, tree, self.kit.cache)
        if not (self.room / "compiled.done").exists():
            # What a developer's folder holds: everything compiled.
            compiled = self.kit.fresh_tree(self.full, self.room / "compiled")
            env = self.kit.variables(self.full, compiled, ccache=self.room / "ccache-compiled")
            self.kit.setup_py(self.full, compiled, env)
            (self.room / "compiled.done").touch()

    def ours(self, pair: str) -> Measured:
        _add_line(self.room / "tree", pair)
        options = list(self.base.options)
        options[options.index("--source") + 1] = str(self.room / "tree")
        return self.pack(Job(self.base.version, tuple(options)))

    def bare(self, pair: str) -> Measured:
        tree = self.room / "compiled"
        _add_line(tree, pair)
        remove_tree(tree / "dist")
        env = self.kit.variables(self.full, tree, ccache=self.room / "ccache-compiled")
        return self.kit.setup_py(self.full, tree, env)

    def scenario(self, title: str, pairs: int) -> Scenario:
        contenders = (
            Contender("ours", "vllm-builder, native layer reused", self.ours, 12, note=_stages, ours=True),
            Contender("bare", "bare setup.py, everything compiled", self.bare, 12),
            Contender("zip", "zipping the wheel's content", self.zip, 2, after="ours"),
        )
        ratios = (*self.ratios, Ratio("vllm-builder / bare setup.py, everything compiled", "ours", "bare"))
        text = (
            "One line is added to a Python file of a release that was built before. vllm-builder gets it as --source,"
            " in a new workspace, and packs the wheel around the native layer in its store. The bare setup.py runs in"
            " the folder in which it has compiled everything."
        )
        return Scenario(
            self.room.name, title, text, contenders, ratios, rounds(pairs),
            prepare=self.prepare, prepare_seconds=90,
        )  # fmt: skip


class NextRelease(Packed):
    """A patch release in which no native code changed."""

    def __init__(self, kit: Kit, base: Job, following: Job, name: str) -> None:
        super().__init__(kit, base, name)
        self.following = following

    def ours(self, _: str) -> Measured:
        self.kit.forget(self.kit.plan(self.following).digest)
        return self.pack(self.following)

    def scenario(self, title: str, pairs: int) -> Scenario:
        contenders = (
            Contender("ours", "vllm-builder, native layer reused", self.ours, 12, note=_stages, ours=True),
            Contender("zip", "zipping the wheel's content", self.zip, 2, after="ours"),
        )
        text = (
            "The release before it was built, so nothing is compiled; the whole command, against compressing the same"
            " files."
        )
        return Scenario(
            self.room.name, title, text, contenders, self.ratios, rounds(pairs),
            prepare=self.prepare, prepare_seconds=90,
        )  # fmt: skip


def _add_line(tree: Path, pair: str) -> None:
    module = tree / "vllm" / "sampling_params.py"
    with module.open("a", encoding="utf-8") as file:
        file.write(f"\nHOT_FIX_{pair} = True\n")


def _stages(facts: Sequence[Mapping[str, Any]]) -> str:
    """Where the median run's time went."""
    seconds = [one["stages"] for one in facts if one.get("stages")]
    if not seconds:
        return ""
    middle = sorted(seconds, key=lambda one: sum(one.values()))[len(seconds) // 2]
    named = {name: value for name, value in middle.items() if value >= 0.1 and name != "source"}
    return ", ".join(f"{name} {value:.1f} s" for name, value in named.items())


def _hits(facts: Sequence[Mapping[str, Any]]) -> str:
    found = sorted(
        {(one["cache"].get("hits", 0), one["cache"].get("misses", 0)) for one in facts if "cache" in one}
    )
    return "; ".join(f"{hits} of {hits + misses} units hit" for hits, misses in found)
