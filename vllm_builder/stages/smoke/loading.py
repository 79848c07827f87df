"""Importing what a wheel holds, each thing in a process of its own: one that crashes is a result, not the end."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_builder.stages.smoke import deaths
from vllm_builder.stages.smoke.contents import Extension
from vllm_builder.stages.smoke.model import Trial
from vllm_builder.stages.smoke.program import Ended, run_program, tail
from vllm_builder.stages.smoke.room import Room

_PROGRAMS = Path(__file__).parent / "programs"

# Another Python's settings, and vLLM's own: what is tried is the wheel and not the settings of who tries it.
_DROPPED = re.compile(
    r"_?PYTHON\w*|VIRTUAL_ENV\w*|CONDA_\w+|VLLM_\w+|HF_\w+|TRANSFORMERS_\w+|TORCH\w*|PYTORCH_\w+"
)


def child_environ(environ: Mapping[str, str], room: Room, **more: str) -> dict[str, str]:
    """The variables for programs in the wheel's environment: caches and temporary files stay in the room."""
    env = {k: v for k, v in environ.items() if not _DROPPED.fullmatch(k)}
    env["PATH"] = os.pathsep.join([str(room.python.parent), env.get("PATH", os.defpath)])
    home = str(room.work)
    env |= {"HOME": home, "TMPDIR": str(room.scratch)}
    env |= {"XDG_CACHE_HOME": f"{home}/cache", "XDG_CONFIG_HOME": f"{home}/config", "LC_ALL": "C.UTF-8"}
    return env | more


def program(room: Room, name: str, *arguments: str) -> list[str]:
    """The command line of one of :mod:`vllm_builder.stages.smoke.programs`.

    ``-I``: neither the current folder nor PYTHONPATH nor the user's own packages are looked into, so that what is
    imported is what was installed.
    """
    return [str(room.python), "-I", "-X", "faulthandler", str(_PROGRAMS / f"{name}.py"), *arguments]


def results(path: Path) -> list[dict[str, Any]]:
    """The JSON lines that a program wrote; a last one that was cut off is left out."""
    found = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return [one for one in found if isinstance(one, dict)]


@dataclass(frozen=True, slots=True)
class Loader:
    """Tries imports. ``torch``: the installed version, empty where there is none. ``limit`` in seconds, for each."""

    room: Room
    environ: Mapping[str, str]
    torch: str
    limit: float
    python_tag: str
    """``cp311``."""
    full: bool

    def torch_itself(self) -> Trial:
        return self._tried("import torch", "package", "torch", first=False)

    def extension(self, extension: Extension) -> Trial:
        if extension.python and f"cp{extension.python}" != self.python_tag:
            why = f"it is for Python cp{extension.python} alone, and this is {self.python_tag}"
            return Trial(level="import", name=extension.name, outcome="not tried", detail=why)
        site = next((self.room.environment / "lib").glob("python*/site-packages"))
        path = site / extension.member
        return self._tried(extension.name, "module", extension.name, str(path), first=bool(self.torch))

    def package(self, name: str) -> Trial:
        return self._tried(f"import {name}", "package", name, first=False)

    def _tried(self, shown: str, *arguments: str, first: bool) -> Trial:
        stem = re.sub(r"\W+", "-", shown)
        result = self.room.work / f"{stem}.json"
        ended = run_program(
            program(self.room, "imports", str(result), *arguments),
            env=child_environ(self.environ, self.room, **({"TORCH_FIRST": "1"} if first else {})),
            cwd=self.room.work,
            log=self.room.logs / f"{stem}.log",
            limit=self.limit,
        )
        found = results(result)
        trial = Trial(level="import", name=shown, outcome="passed", seconds=round(ended.seconds, 2))
        if not found or ended.status != 0:
            return self._failed(trial, ended, found)
        file = Path(found[0]["file"])
        if not file.is_relative_to(self.room.environment):
            return _with(
                trial,
                detail=f"imported from {file}, which is not what was installed",
                next="Report this: the environment should keep everything else out.",
            )
        where = file.relative_to(self.room.environment)
        version = found[0].get("version", "")
        as_library = " (a library; Python has no module in it)" if found[0]["how"] == "library" else ""
        return trial.model_copy(update={"detail": f"{version} {where}{as_library}".strip()})

    def _failed(self, trial: Trial, ended: Ended, found: list[dict[str, Any]]) -> Trial:
        if not found or "error" not in found[0]:
            return died(trial, ended, self.limit, "imported" if found else "")
        error, missing = str(found[0]["error"]), str(found[0]["missing"])
        if library := deaths.needs_driver(error):
            why = f"needs {library}, no NVIDIA driver here"
            return trial.model_copy(update={"outcome": "not tried", "detail": why})
        if missing and not self.full and not self._installed(missing):
            why = f"needs {missing}, which only the whole installation has (--full)"
            return trial.model_copy(update={"outcome": "not tried", "detail": why})
        why, cure = deaths.explain_import(error, self.torch)
        return _with(trial, detail=why, next=cure, lines=(error, *tail(ended.log, 12)))

    def _installed(self, module: str) -> bool:
        """Whether the package that a module is of came with the wheel, so that its absence is the wheel's fault."""
        site = next((self.room.environment / "lib").glob("python*/site-packages"))
        return (site / module.partition(".")[0]).exists()


def _with(trial: Trial, **changes: object) -> Trial:
    return trial.model_copy(update={"outcome": "failed", **changes})


def died(trial: Trial, ended: Ended, limit: float, after: str = "") -> Trial:
    """A failure of a program that gave no result: a signal, a time limit, or an end without a word."""
    lines = tail(ended.log)
    if ended.status is None:
        return _with(
            trial,
            detail=f"no end after {limit:g} s",
            next="Give it more time with --timeout; if it never ends, it waits for something: see the last lines.",
            lines=lines,
        )
    then = f", after it had {after}" if after else ""
    if ended.signal is not None:
        why, cure = deaths.explain_signal(ended.signal, deaths.processor_flags())
        return _with(trial, detail=f"ended by {why}{then}", next=cure, lines=lines)
    return _with(
        trial, detail=f"ended with status {ended.status}{then}", next="See the last lines.", lines=lines
    )
