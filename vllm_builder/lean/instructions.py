"""Instructions of an object's code, as its own assembler's objdump reads them: it knows each one that was written."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vllm_builder.errors import BuilderError

OBJDUMP = "objdump"
_SECTION = re.compile(r"^Disassembly of section (.*):$")
_LINE = re.compile(r"^ *([0-9a-f]+):\t(.*)$")
_FRAME = re.compile(r"-?(0x[0-9a-f]+)?\(%r[bs]p\)")
_FRAME_SIZE = re.compile(r"(sub|add)q? +\$\w+,%rsp")
_DISTANCE = re.compile(r"-?0x[0-9a-f]+\(%rip\)")


@dataclass(frozen=True, slots=True)
class Instruction:
    at: int
    text: str

    @property
    def jumps(self) -> bool:
        """Whether something else may follow than the next instruction."""
        return self.text.startswith(("j", "call", "ret", "b ", "bl "))

    @property
    def meaning(self) -> str:
        """The text without what depends on where things lie: in the section, or in the frame of the function."""
        text = self.text.split("#")[0].split("<")[0].strip()
        if self.jumps or _FRAME_SIZE.match(text):
            return text.split()[0]
        return re.sub(r"\s+", " ", _DISTANCE.sub("(%rip)", _FRAME.sub("(frame)", text)))


def instructions(path: Path) -> list[tuple[str, list[Instruction]]]:
    """Sections with code, by name and in the order of the file -> their instructions, in order.

    Raises:
        BuilderError: binutils' objdump is not there, or cannot read the object.
    """
    command = [OBJDUMP, "-d", "-w", "--no-show-raw-insn", str(path)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BuilderError(
            "binutils' objdump is needed to compare objects.",
            why=str(error),
            next="Install binutils, which compilers need as well.",
        ) from error
    if run.returncode:
        raise BuilderError(f"objdump cannot read {path.name}.", why=run.stderr.strip()[:500])
    found: list[tuple[str, list[Instruction]]] = []
    for line in run.stdout.splitlines():
        if match := _SECTION.match(line):
            found.append((match[1], []))
        elif found and (match := _LINE.match(line)):
            found[-1][1].append(Instruction(int(match[1], 16), match[2].strip()))
    return found
