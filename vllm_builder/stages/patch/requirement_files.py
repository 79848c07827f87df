"""Requirement files: pip's line rules, applied to bytes, so that what is not removed keeps every byte."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from vllm_builder.errors import PatchFailed
from vllm_builder.stages.patch.lines import content, split
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.tree import Overlay

_COMMENT = re.compile(r"(^|\s+)#.*$")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?=\s*(?:$|[\[@<>=!~;(,]|\s))")
_WHEEL = re.compile(r"[^@\s]*?([^/\\\s]+\.whl)(?=$|[#?;\s])")
_EGG = re.compile(r"[#&]egg=([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class Logical:
    """One entry of a requirement file: physical lines ``start`` to ``stop`` (from 0, end excluded)."""

    start: int
    stop: int
    name: str | None = None
    """Canonical name of the required distribution; None for a comment, an option or a nameless URL."""
    includes: str | None = None
    """The file that ``-r`` or ``-c`` names."""


@dataclass(frozen=True, slots=True)
class Parsed:
    lines: tuple[bytes, ...]
    """Physical lines with their ends; joined they are the file."""
    entries: tuple[Logical, ...] = field(default=())

    def without(self, drop: Callable[[Logical], bool]) -> bytes:
        """The file without the entries that ``drop`` accepts."""
        gone = {i for entry in self.entries if drop(entry) for i in range(entry.start, entry.stop)}
        return b"".join(line for i, line in enumerate(self.lines) if i not in gone)


@lru_cache(maxsize=128)
def parse(data: bytes, path: str = "") -> Parsed:
    """Read a requirement file.

    A backslash joins lines and a comment ends the joining, as in pip. A whole-line comment is an entry of
    its own (also the ``# via`` lines that lock files put below a requirement), so it is never removed.

    Raises:
        PatchFailed: the file is in UTF-16, whose bytes cannot be edited line by line.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PatchFailed(
            f"{path or 'A requirement file'} is not UTF-8.", why="It begins with a UTF-16 mark."
        )
    lines = split(data)
    entries = []
    start, text = 0, ""
    for index, raw in enumerate(lines):
        line = content(raw).decode("utf-8", "surrogateescape")
        if index == 0:
            line = line.removeprefix("\ufeff")
        comment = _COMMENT.match(line) is not None
        if comment and text:
            # A comment inside a joined entry belongs to none: pip ends the entry here.
            entries.append(_entry(start, index, text))
            entries.append(Logical(index, index + 1))
            start, text = index + 1, ""
            continue
        if line.endswith("\\") and not comment:
            text += line[:-1]
            continue
        entries.append(_entry(start, index + 1, text + line))
        start, text = index + 1, ""
    if start < len(lines):
        entries.append(_entry(start, len(lines), text))
    return Parsed(tuple(lines), tuple(entries))


def _entry(start: int, stop: int, text: str) -> Logical:
    text = _COMMENT.sub("", text).strip()
    if not text.startswith("-"):
        return Logical(start, stop, requirement_name(text))
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    option, _, value = words[0].partition("=")
    if not option.startswith("--") and len(option) > 2:
        option, value = option[:2], option[2:] + (f"={value}" if value else "")
    if not value and len(words) > 1:
        value = words[1]
    if option in {"-r", "--requirement", "-c", "--constraint"}:
        return Logical(start, stop, includes=value or None)
    if option in {"-e", "--editable"} and (egg := _EGG.search(value)):
        return Logical(start, stop, canonicalize_name(egg[1]))
    return Logical(start, stop)


@lru_cache(maxsize=8192)
def requirement_name(text: str) -> str | None:
    """The canonical name of a requirement, or None where the text names none.

    PEP 508's grammar puts the name first and delimits it, so it is certain even where the rest is not
    valid (an environment variable in the URL, an old version spelling).
    """
    if not text:
        return None
    text = re.split(r"\s+--?[A-Za-z]", text, maxsplit=1)[0].strip()
    if wheel := _WHEEL.match(text):
        try:
            return parse_wheel_filename(unquote(wheel[1]))[0]
        except InvalidWheelFilename:
            return None
    try:
        return canonicalize_name(Requirement(text).name)
    except InvalidRequirement:
        pass
    if egg := _EGG.search(text):
        return canonicalize_name(egg[1])
    found = _NAME.match(text)
    return canonicalize_name(found[0]) if found else None


def included(overlay: Overlay, patterns: Iterable[str]) -> Iterator[tuple[str, Parsed]]:
    """The requirement files that match, and those that they include, each once."""
    queue = overlay.glob(patterns)
    seen = set(queue)
    while queue:
        path = queue.pop(0)
        data = overlay.get(path)
        if data is None:
            continue
        parsed = parse(data, path)
        yield path, parsed
        for entry in parsed.entries:
            target = _target(path, entry.includes) if entry.includes else None
            if target and overlay.exists(target) and (real := overlay.real(target)) not in seen:
                seen.add(real)
                queue.append(real)


def _target(path: str, include: str) -> str | None:
    """The included file as a path of the tree; None for a URL and for a path outside of the tree."""
    if "://" in include or posixpath.isabs(include):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), include))
    return None if target.startswith("..") else target


def remove(overlay: Overlay, patterns: Iterable[str], names: Collection[str]) -> Outcome:
    """Remove all requirements with these canonical names.

    Raises:
        Missed: no file matches, or none of them requires such a name.
    """
    patterns = tuple(patterns)
    files = list(included(overlay, patterns))
    if not files:
        raise Missed(f"no file matches {', '.join(patterns)}", target=True)
    outcome = Outcome()
    for path, parsed in files:
        if any(entry.name in names for entry in parsed.entries):
            overlay.put(path, parsed.without(lambda entry: entry.name in names))
            outcome.changed.append(path)
    if not outcome.changed:
        raise Missed(f"none of {len(files)} files requires {', '.join(sorted(names))}")
    return outcome
