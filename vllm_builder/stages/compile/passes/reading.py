"""What nvcc would run, read from ``nvcc --dryrun``."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")

_LEFT_TO_NVCC = {
    *("-g", "-lineinfo", "--lineinfo", "-generate-line-info", "--generate-line-info", "--device-debug"),
    *("--device-c", "--device-w", "--compile-only", "-debug-compile", "--debug-compile"),
}


class Unfamiliar(Exception):
    """nvcc has to do this itself."""


class Failed(Exception):
    """A pass failed and said something; ``number`` is the signal that ended it, or 0."""

    def __init__(self, program: str, number: int = 0, said: bytes = b"") -> None:
        super().__init__(program)
        self.program, self.number, self.said = program, number, said


@dataclass
class Passes:
    """What nvcc would run, by kind."""

    env: dict[str, str] = field(default_factory=dict)
    device_texts: list[list[str]] = field(default_factory=list)
    host_text: list[str] = field(default_factory=list)
    cudafe: list[str] = field(default_factory=list)
    cicc: list[list[str]] = field(default_factory=list)
    ptxas: list[list[str]] = field(default_factory=list)
    fatbinary: list[str] = field(default_factory=list)
    host: list[str] = field(default_factory=list)
    dependencies: str = ""


def read(said: str, environ: Mapping[str, str]) -> Passes:
    """Understand what ``nvcc --dryrun`` prints.

    Raises:
        Unfamiliar: it holds something else, or several of what there is one of.
    """
    found = Passes(env=dict(environ))
    for line in said.splitlines():
        if not line.startswith("#$ "):
            raise Unfamiliar(line)
        text = line[3:].strip()
        if assigned := _ASSIGNMENT.fullmatch(text):
            if not assigned[1].startswith("_") or assigned[1] == "_NVVM_BRANCH_":
                found.env[assigned[1]] = assigned[2]
        elif text.startswith("-- Filter Dependencies -- > "):
            found.dependencies = text.split(" > ", 1)[1].strip('"')
        elif not text.startswith(("rm ", "erase ")) and text:
            _sort(text.replace("$CICC_PATH", found.env.get("CICC_PATH", "")), found)
    if not (found.host_text and found.cudafe and found.cicc and found.fatbinary and found.host):
        raise Unfamiliar("a pass is missing")
    return found


def _sort(text: str, found: Passes) -> None:
    if set(text) & set("$`|<>;&"):
        raise Unfamiliar(text)
    words = shlex.split(text)
    if not _LEFT_TO_NVCC.isdisjoint(words):
        raise Unfamiliar("debug information or relocatable device code")
    name = os.path.basename(words[0])  # noqa: PTH119 (this has to start quickly)
    single: str | None = None
    if name in {"cicc", "ptxas"}:
        getattr(found, name).append(words)
    elif name in {"fatbinary", "cudafe++"}:
        single = name.removesuffix("++")
    elif "-E" in words and "-o" in words:
        if any(word.startswith("-D__CUDA_ARCH__=") for word in words):
            found.device_texts.append(words)
        else:
            single = "host_text"
    elif "-c" in words and "-o" in words and words[-3].endswith(".cudafe1.cpp"):
        single = "host"
    else:
        raise Unfamiliar(text)
    if single is not None:
        if getattr(found, single):
            raise Unfamiliar(f"{name} twice")
        setattr(found, single, words)
