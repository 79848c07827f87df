"""Read the log of a failed build: the first real error, where it is, why, and what to do.

How compilers and linkers say "error", and what that means, is data (diagnoses.toml); here is only how a log
is laid out: ninja's status and FAILED lines, CMake's errors, Python's tracebacks.
"""

from __future__ import annotations

import re
import tomllib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, Literal

from vllm_builder.errors import (
    BuilderError,
    CompileFailed,
    CompilerKilled,
    ConfigureFailed,
    NoSpace,
)

Kind = Literal["configure", "compile", "killed", "no-space"]

_TABLE = Path(__file__).with_name("diagnoses.toml")
_LONGEST = 4000
_BLOCK = 400
_BLOCKS = 50
_TAIL = 60
_SHOWN = 14

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FETCHING = re.compile(r"^(?:\[\d+/\d+.* for '|FAILED: .*?)[\w.+-]+-populate['/-]")
_STATUS = re.compile(r"^\[\d+/\d+, \d+ running, [\d.]+s\] ")
_FAILED = re.compile(r"^FAILED: (?:\[code=(?P<code>\d+)\] )?(?P<target>\S+)")
_KILLED_CODES = {"9", "137", "247"}  # SIGKILL as a tool passes it on, as a shell says it, as a signed byte
_SOURCE = re.compile(r"\s-c\s+(?P<source>'[^']+'|\"[^\"]+\"|\S+)")
_CMAKE = re.compile(
    r"^CMake Error(?: at (?P<file>[^:]+):(?P<line>\d+) \([^)]*\)| in (?P<in>\S+))?:?\s*(?P<message>.*)$"
)
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning)\b(?::|$)|^error: ")
# collect2's and make's summaries say only that something before them failed.
_SUMMARY = re.compile(
    r"^\S*collect2(?:\.exe)?: error: ld returned|^error: command .* failed|CalledProcessError"
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a log says.

    ``error`` is the first real error's line; ``place`` the file and line that it names; ``unit`` the source
    file that was being compiled (an error can stand in a header); ``excerpt`` lines to show.
    """

    kind: Kind
    error: str = ""
    place: str = ""
    unit: str = ""
    cause: str = ""
    next: str = ""
    excerpt: tuple[str, ...] = ()


@dataclass(slots=True)
class _Block:
    """One failed edge: ninja's FAILED line and what follows it up to the next status line."""

    target: str = ""
    code: str = ""
    unit: str = ""
    lines: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Reading:
    """The log boiled down, in bounded memory."""

    blocks: list[_Block] = field(default_factory=list)
    cmake: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))
    compiled: bool = False
    full_disk: str = ""


def diagnose(lines: Iterable[str], returncode: int = 1) -> Diagnosis:
    """Find the first real error in a build's output.

    Args:
        lines: the log, without line ends.
        returncode: setup.py's exit status; 128 + n for signal n.

    Never raises for any text; memory is bounded whatever the length.
    """
    reading = _read(lines)
    error = place = unit = ""
    error_found = False
    body: list[str] = []
    phase: Literal["configure", "compile"] = "compile" if reading.compiled or reading.blocks else "configure"
    for block in reading.blocks:
        found = _first_error(block.lines)
        if found is not None:
            error, place, at = found
            unit, body = block.unit, block.lines[max(0, at - 3) : at + _SHOWN]
            error_found = True
            break
    else:
        if reading.blocks:
            first = reading.blocks[0]
            unit, body = first.unit, first.lines[-_SHOWN:]
            error = f"{first.target} failed"
        elif (found := _first_error(reading.loose)) is not None and not reading.cmake:
            error, place, at = found
            body, phase = reading.loose[at : at + _SHOWN], "compile"
        elif reading.cmake:
            error, place = _cmake_error(reading.cmake)
            body = reading.cmake[:_SHOWN]
        elif reading.raised:
            error, body = reading.raised[-1], reading.raised[-_SHOWN:]
        else:
            body = list(reading.tail)[-_SHOWN:]
            error = next((line.strip() for line in reversed(reading.tail) if line.strip()), "")

    searched = [reading.full_disk] if reading.full_disk else []
    searched += [line for block in reading.blocks[:3] for line in block.lines] if reading.blocks else body
    searched += [error, *reading.cmake[:40]] if phase == "configure" else [error]
    entry, words = _cause(searched if searched else list(reading.tail), phase)
    kind: Kind = phase
    if entry.get("kind"):
        kind = entry["kind"]
    elif returncode == 137 or (
        not error_found and any(block.code in _KILLED_CODES for block in reading.blocks)
    ):
        # ninja 1.13 and later tells the code; a killed tool says nothing itself.
        kind = "killed"
    cause, advice = (_fill(entry.get(key, ""), words) for key in ("cause", "next"))
    if kind == "killed" and not cause:
        cause = "The build was killed from outside, in all likelihood by the kernel because memory ran out."
        advice = "Run the same command again with fewer jobs (--jobs): what is compiled stays."
    return Diagnosis(
        kind=kind, error=error, place=place, unit=unit, cause=cause, next=advice, excerpt=_tidy(body)
    )


def diagnose_log(log: Path, offset: int, returncode: int) -> Diagnosis:
    """:func:`diagnose` over the part of a log file that begins at byte ``offset``."""
    return diagnose(read_from(log, offset), returncode)


def to_error(found: Diagnosis, log: Path, *, jobs: int | None = None) -> BuilderError:
    """The error class and sentences for a diagnosis; ``jobs``: how many compilers were allowed at once."""
    what = {
        "configure": f"Configuring failed: {found.error}" if found.error else "Configuring failed.",
        "compile": f"Compiling failed: {found.error}" if found.error else "Compiling failed.",
        "killed": f"A compiler was killed: {found.error}" if found.error else "A compiler was killed.",
        "no-space": "No space left while compiling.",
    }[found.kind]
    why = [found.cause] if found.cause else []
    if found.unit:
        why.append(f"While compiling {found.unit}.")
    elif found.place:
        why.append(f"In {found.place}.")
    advice = found.next or "Read the lines around the first error in the log."
    if found.kind == "killed" and jobs == 1:
        why.append("Only one compiler ran at a time, so fewer jobs are no cure.")
        advice = (
            "Give the build more memory (or swap), or raise the limit it runs under, and run the same command "
            "again: what is compiled stays."
        )
    kind = {
        "configure": ConfigureFailed,
        "compile": CompileFailed,
        "killed": CompilerKilled,
        "no-space": NoSpace,
    }[found.kind]
    return kind(what, why=" ".join(why), next=f"{advice} The whole log is {log}.", details=found.excerpt)


def left_out(lines: Iterable[str]) -> tuple[tuple[str, str, str], ...]:
    """Parts that a successful build dropped on its own: ``(part, reason, level)``, each part once."""
    found: dict[str, tuple[str, str, str]] = {}
    for raw in lines:
        line = _clean(raw)
        for entry in _table()["left-out"]:
            match = entry["match"].search(line)
            if match is None:
                continue
            words = {k: v for k, v in match.groupdict().items() if v}
            part = words.get("part") or entry.get("part", "")
            reason = _fill(entry["reason"], words).strip().rstrip(".")
            found.setdefault(part, (part, reason, entry["level"]))
            break
    return tuple(found.values())


def read_from(log: Path, offset: int) -> Iterable[str]:
    """The lines of a log file from byte ``offset`` on; none where it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            yield from (raw.decode("utf-8", "replace") for raw in _bounded(file))
    except OSError:
        return


def fetching(lines: Iterable[str]) -> tuple[str, str] | None:
    """What wanted to fetch something, and how to have it there before; None where nothing says so."""
    found = None
    entries = _table()["fetch"]
    for raw in lines:
        line = _clean(raw)
        for at, entry in enumerate(entries):
            if match := entry["match"].search(line):
                words = {k: v for k, v in match.groupdict().items() if v}
                found = _fill(entry["who"], {"what": "something", **words}), entry["next"]
                # Only an entry that comes before says it better.
                entries = entries[:at]
                break
    return found


def _bounded(file: Any) -> Iterable[bytes]:
    # A log without line ends must not be read into memory as one line.
    while raw := file.readline(1 << 20):
        yield from (piece.rstrip(b"\n") for piece in raw.split(b"\r"))


def _clean(line: str) -> str:
    return _ANSI.sub("", line[:_LONGEST]).rstrip()


def _read(lines: Iterable[str]) -> _Reading:
    out = _Reading()
    block: _Block | None = None
    in_cmake = in_traceback = False
    for raw in lines:
        line = _clean(raw)
        out.tail.append(line)
        if not out.full_disk and ("No space left on device" in line or "Disk quota exceeded" in line):
            out.full_disk = line
        if _FETCHING.search(line):
            # FetchContent runs a ninja of its own in the middle of configuring: not a unit that was compiled.
            continue
        if _STATUS.match(line):
            block, in_cmake, out.compiled = None, False, True
            # ninja prints a failed edge's status line first, then FAILED.
            continue
        if match := _FAILED.match(line):
            block = _Block(target=match["target"], code=match["code"] or "")
            if len(out.blocks) < _BLOCKS:
                out.blocks.append(block)
            continue
        if block is not None:
            if line.startswith("ninja: "):
                block = None
            elif not block.unit and not block.lines and (source := _SOURCE.search(raw[:65536])):
                block.unit = source["source"].strip("'\"")
            elif len(block.lines) < _BLOCK:
                block.lines.append(line)
            continue
        if line.startswith(_TRACEBACK):
            in_traceback, in_cmake = True, False
            continue
        if in_traceback:
            if line and not line[0].isspace():
                if not _SUMMARY.search(line) and len(out.raised) < _BLOCK:
                    out.raised.append(line)
                in_traceback = False
            continue
        if _CMAKE.match(line):
            in_cmake = True
        elif in_cmake and (line.startswith("-- ") or not (line == "" or line[0].isspace())):
            in_cmake = False
        if in_cmake:
            if len(out.cmake) < _BLOCK:
                out.cmake.append(line)
        elif any(e["match"].match(line) for e in _table()["error"]) or (
            _RAISED.match(line) and not _SUMMARY.search(line)
        ):
            target = out.raised if _RAISED.match(line) else out.loose
            if len(target) < _BLOCK:
                target.append(line)
    return out


def _first_error(lines: list[str]) -> tuple[str, str, int] | None:
    summary = None
    for at, line in enumerate(lines):
        if _SUMMARY.search(line):
            summary = summary or (line.strip(), "", at)
            continue
        for entry in _table()["error"]:
            if match := entry["match"].match(line):
                groups = match.groupdict()
                place = groups.get("file") or ""
                if place and groups.get("line"):
                    place = f"{place}:{groups['line']}"
                return line.strip(), place, at
    return summary


def _cmake_error(lines: list[str]) -> tuple[str, str]:
    match = _CMAKE.match(lines[0])
    assert match is not None
    place = f"{match['file']}:{match['line']}" if match["file"] else match["in"] or ""
    message = match["message"].strip()
    for line in lines[1:]:
        if message or line.startswith("Call Stack"):
            break
        message = line.strip()
    return message or lines[0], place


def _cause(lines: list[str], phase: str) -> tuple[dict[str, Any], dict[str, str]]:
    for entry in _table()["cause"]:
        if entry.get("phase", phase) != phase:
            continue
        for line in lines:
            if match := entry["match"].search(line):
                words: dict[str, str] = {}
                for key, value in match.groupdict().items():
                    words[key] = value or ""
                    if value and key.endswith("2"):
                        words[key.removesuffix("2")] = value
                        words[key] = ""
                return entry, words
    return {}, {}


def _fill(text: str, words: dict[str, str]) -> str:
    return Template(text).safe_substitute(words)


def _tidy(lines: list[str]) -> tuple[str, ...]:
    kept = [line if len(line) <= 400 else f"{line[:400]}..." for line in lines]
    while kept and not kept[-1].strip():
        kept.pop()
    return tuple(kept[:_SHOWN])


@cache
def _table() -> dict[str, list[dict[str, Any]]]:
    table = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    allowed = {
        "error": {"match", "who"},
        "cause": {"match", "kind", "phase", "cause", "next"},
        "fetch": {"match", "who", "next"},
        "left-out": {"match", "part", "level", "reason"},
    }
    for section, entries in table.items():
        for entry in entries:
            if unknown := set(entry) - allowed[section]:
                raise ValueError(f"{_TABLE.name}: unknown keys {sorted(unknown)} in [[{section}]]")
            entry["match"] = re.compile(entry["match"])
    return table
