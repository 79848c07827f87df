"""What the preprocessor makes of a unit, file by file.

If every file that takes part in the lean unit gives the very text that it gives in the full one, then no macro that
a left-out header would have set was asked for, and the lean unit is the full one with whole files left out. A lean
header may have declarations, if the header that it stands in front of has the same ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

from vllm_builder.lean.declarations import first_foreign

_SYSTEM = re.compile(r"^/usr/(?:local/)?include/")
_PUSHES = re.compile(r"#pragma\s+(?:GCC\s+(?:push_options|visibility\s+push)|pack\s*\(\s*push)")
_POPS = re.compile(r"#pragma\s+(?:GCC\s+(?:pop_options|visibility\s+pop)|pack\s*\(\s*pop)")
_SETS_OPTIONS = re.compile(r"#pragma\s+GCC\s+(?:optimize|target|reset_options)\b")
_SETS = re.compile(
    r"#pragma\s+(?:pack\s*\((?!\s*push)|STDC\b|weak\b|redefine_extname\b|omp\s+(?:begin\s+)?declare\s+target)"
)
_MARKER = re.compile(r'^# (\d+) "((?:[^"\\]|\\.)*)"')


def by_file(lines: Iterable[str]) -> dict[str, list[str]]:
    """Preprocessed text (with line markers) -> the lines that each file gives, without empty ones, in order.

    ``<built-in>`` and ``<command-line>`` count as files.
    """
    found: dict[str, list[str]] = {}
    here: list[str] = []
    for line in lines:
        if match := _MARKER.match(line):
            here = found.setdefault(str(PurePath(match[2])), [])
        elif text := line.strip():
            here.append(text)
    return found


def lasting_pragmas(lines: Iterable[str]) -> list[str]:
    """Pragmas of a file's text that hold beyond it, and so for code that comes after it."""
    found: list[str] = []
    waiting: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("#pragma"):
            continue
        if match := _PUSHES.match(line):
            waiting.setdefault(_kind(match), []).append(line)
        elif match := _POPS.match(line):
            if kept := waiting.get(_kind(match)):
                kept.pop()
            else:
                found.append(line)
        elif _SETS_OPTIONS.match(line) and waiting.get("options"):
            continue
        elif _SETS_OPTIONS.match(line) or _SETS.match(line):
            found.append(line)
    return found + [line for kept in waiting.values() for line in kept]


def _kind(match: re.Match[str]) -> str:
    return next(word for word in ("options", "visibility", "pack") if word in match[0])


def differences(lean: Iterable[str], full: Iterable[str], *, stands_in: str) -> list[str]:
    """Files that say something else, or that only the lean unit has; empty where whole files are left out.

    Args:
        lean: lines of preprocessed text.
        full: the same of the full unit.
        stands_in: folder of the lean headers, each of which may only say what the header of its name says.
    """
    some, all_ = by_file(lean), by_file(full)
    found = []
    moved_in, moved_out = Counter[str](), Counter[str]()
    apart = [name for name, text in some.items() if text and text != all_.get(name, [])]
    for name in some:
        now, then = Counter(some[name]), Counter(all_.get(name, []))
        moved_in += now - then
        moved_out += then - now
    # Of files with one and the same content the compiler takes the first one and skips the others (#pragma once).
    copies = {tuple(text) for name, text in all_.items() if name not in some}
    elsewhere = Counter(line for name, text in all_.items() if name not in some for line in text)
    for name in apart:
        text, other = some[name], all_.get(name, [])
        if name not in all_ and tuple(text) in copies and not name.startswith(stands_in):
            continue
        came, went = Counter(text) - Counter(other), Counter(other) - Counter(text)
        # C's headers share types (pid_t): the first one included declares it, and that may have been left out.
        if name in all_ and _SYSTEM.match(name) and came <= moved_out + elsewhere and went <= moved_in:
            continue
        if name.startswith(f"{stands_in}/") and (behind := _behind(name, all_, stands_in)):
            if foreign := first_foreign(text, all_[behind]):
                found.append(f"{name} (a lean header) declares what {behind} does not: {foreign[:120]}")
            continue
        place = next((t for t, o in zip(text, other, strict=False) if t != o), "")
        what = f"reads otherwise: {place[:120]}" if name in all_ else "is not included by the full unit"
        own = " (a lean header)" if name.startswith(stands_in) else ""
        found.append(f"{name}{own} {what}")
    for name, lines in all_.items():
        if name not in some:
            found += [
                f"{name} is left out, and not what it asks for: {pragma}" for pragma in lasting_pragmas(lines)
            ]
    return found


def _behind(name: str, files: Iterable[str], stands_in: str) -> str:
    """The header that a lean one stands in front of; empty where the full unit includes none of that name."""
    ending = name.removeprefix(stands_in)
    return next((file for file in files if file.endswith(ending) and not file.startswith(stands_in)), "")


def uses(lines: Iterable[str], folder: str) -> bool:
    """Whether a file below ``folder`` takes part."""
    return any((match := _MARKER.match(line)) and match[2].startswith(folder) for line in lines)
