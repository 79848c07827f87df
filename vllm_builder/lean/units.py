"""Translation units of a configured tree, and the commands that compile them both ways."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_builder.lean.model import Way

_SOURCES = (".cu", ".cpp", ".cc", ".cxx")
_CACHES = {"ccache", "sccache"}
_APART = "-ffunction-sections,-fdata-sections"
"""Each function in a section of its own, so that what it refers to has a name and not only a distance."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One source file with the compiler's command line as the build has it, without launchers."""

    name: str
    """Relative to the tree."""
    source: Path
    directory: Path
    command: tuple[str, ...]
    include: str
    """The option that the lean way has and the full one has not."""

    @property
    def is_cuda(self) -> bool:
        return self.source.suffix == ".cu"

    def arguments(self, *, lean: bool) -> list[str]:
        """The command without output and dependency file."""
        out: list[str] = []
        rest = iter(self.command)
        for argument in rest:
            if argument in {"-o", "-MF", "-MT", "-MQ"}:
                next(rest, None)
            elif argument not in {"-MD", "-MMD", "-objtemp", "-c"} and (lean or argument != self.include):
                out.append(argument)
        return out

    def compile(self, folder: Path, *, lean: bool, optimised: bool = True) -> list[str]:
        """Compile into ``unit.o`` below a folder; nvcc keeps there what it makes on the way."""
        command = self.arguments(lean=lean)
        if not optimised:
            command = [argument for argument in command if not argument.startswith("-O")]
        level = [] if optimised else ["-O0"]
        output = [*level, "-c", "-o", str(folder / "unit.o")]
        if self.is_cuda:
            return [*command, f"-Xcompiler={_APART}", "--keep", "--keep-dir", str(folder), *output]
        return [*command, *_APART.split(","), *output]

    def preprocess(self, folder: Path, *, lean: bool) -> list[str]:
        return [*self.arguments(lean=lean), "-E", "-o", str(folder / "unit.ii")]


def units(commands: Iterable[Mapping[str, str]], tree: Path, include: str) -> list[Unit]:
    """The units of ``ninja -t compdb`` whose command has the option ``include``, sorted by name, each once."""
    found: dict[str, Unit] = {}
    for entry in commands:
        directory = Path(entry["directory"])
        source = Path(os.path.normpath(directory / entry["file"]))
        if source.suffix not in _SOURCES or include not in entry["command"]:
            continue
        words = shlex.split(entry["command"])
        at = max(i for i, word in enumerate(words) if word == include)
        # The script of the patch set and a compiler cache stand in front; the script names the option, too.
        first = words.index(include) + 2 if words.index(include) < at else 0
        while Path(words[first]).name in _CACHES:
            first += 1
        name = str(source.relative_to(tree)) if source.is_relative_to(tree) else str(source)
        found.setdefault(name, Unit(name, source, directory, tuple(words[first:]), include))
    return [found[name] for name in sorted(found)]


@dataclass(frozen=True, slots=True)
class Run:
    """How a command ended, what it said, and what it took."""

    status: int
    said: str
    way: Way

    @property
    def error(self) -> str:
        return next((line.strip() for line in self.said.splitlines() if "error" in line), self.said[-200:])


def run(command: list[str], directory: Path, environ: Mapping[str, str]) -> Run:
    """Run one command; nothing else may be started meanwhile, or its CPU time would be counted too."""
    before, started = os.times(), time.monotonic()
    done = subprocess.run(
        command,
        cwd=directory,
        env=dict(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    way = Way(seconds=round(time.monotonic() - started, 2), cpu=round(cpu, 2))
    return Run(done.returncode, done.stdout, way)
