"""Translation units of a configured tree, and the commands that compile them both ways."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_builder.lean.model import Way

_SOURCES = (".cu", ".cpp", ".cc", ".cxx")
_CACHES = {"ccache", "sccache"}
_APART = ("-ffunction-sections", "-fdata-sections")
"""Each function in a section of its own, so that what it refers to has a name and not only a distance."""

_UNOPTIMISED = ("-O0", "-fmerge-constants")
"""With strings in sections of their own, as with optimisation, so that each can be told apart."""
_HOST = re.compile(r"^#\$ (.* -c .*\.cudafe1\.cpp\".*)$", re.MULTILINE)


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

    def compile(self, folder: Path, *, lean: bool) -> list[str]:
        """Compile into ``unit.o`` below a folder; nvcc keeps there what it makes on the way."""
        output = ["-c", "-o", str(folder / "unit.o")]
        if self.is_cuda:
            kept = ["--keep", "--keep-dir", str(folder)]
            return [*self.arguments(lean=lean), f"-Xcompiler={','.join(_APART)}", *kept, *output]
        return [*self.arguments(lean=lean), *_APART, *output]

    def unoptimised(self, folder: Path, environ: Mapping[str, str], *, lean: bool) -> list[str]:
        """Compile again what :meth:`compile` made, without optimisation; of a CUDA unit the host's part alone."""
        if not self.is_cuda:
            return [*self.compile(folder, lean=lean), *_UNOPTIMISED]
        steps = run([*self.compile(folder, lean=lean), "--dryrun"], self.directory, environ).said
        return ["sh", "-c", host_step(steps)]

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


def host_step(steps: str) -> str:
    """The shell command among those of ``nvcc --dryrun`` that compiles for the host, without optimisation.

    Raises:
        ValueError: there is none.
    """
    lines: list[str] = _HOST.findall(steps)
    if not lines:
        raise ValueError("nvcc names no step that compiles for the host")
    return re.sub(r" -O[0-9a-z]*(?= )", "", lines[-1]).replace(" -c ", f" {' '.join(_UNOPTIMISED)} -c ", 1)


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
