"""Unified diffs: parsed by a library, applied strictly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_builder.stages.patch.lines import content, dominant_end, end_of, split
from vllm_builder.stages.patch.operations import UnifiedDiff
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.tree import Overlay

if TYPE_CHECKING:
    from unidiff.patch import Hunk


@dataclass(frozen=True, slots=True)
class Part:
    """What a diff says about one file. ``hunks``: first line (from 0), old lines, new lines."""

    path: str
    created: bool
    hunks: tuple[tuple[int, tuple[bytes, ...], tuple[bytes, ...]], ...]


def parse(diff: str) -> tuple[Part, ...]:
    """Read a diff as ``git diff`` writes it.

    Raises:
        ValueError: it is no unified diff, or it deletes or renames a file or is binary.
    """
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    try:
        files = PatchSet(diff.splitlines(keepends=True))
    except UnidiffParseError as error:
        raise ValueError(f"is not a unified diff: {error}") from error
    if not files:
        raise ValueError("holds no change")
    parts = []
    for file in files:
        if file.is_removed_file or file.is_rename or file.is_binary_file:
            raise ValueError(f"deletes, renames or replaces {file.path} as a whole, which is not supported")
        if ".." in file.path.split("/") or file.path.startswith("/"):
            raise ValueError(f"{file.path} is not a path inside the tree")
        parts.append(Part(file.path, file.is_added_file, tuple(_sides(hunk) for hunk in file)))
    return tuple(parts)


def _sides(hunk: Hunk) -> tuple[int, tuple[bytes, ...], tuple[bytes, ...]]:
    """First line, old lines, new lines; a line that a marker says has no end has none."""
    old: list[bytes] = []
    new: list[bytes] = []
    sides: list[list[bytes]] = []
    for line in hunk:
        if line.line_type == "\\":
            for side in sides:
                side[-1] = content(side[-1])
            continue
        sides = [side for side, has in ((old, not line.is_added), (new, not line.is_removed)) if has]
        for side in sides:
            side.append(line.value.encode())
    return max(hunk.source_start - 1, 0), tuple(old), tuple(new)


def apply(operation: UnifiedDiff, overlay: Overlay) -> Outcome:
    """Apply a diff: every hunk's old lines must stand in the file exactly, at their place or at one other."""
    outcome = Outcome()
    for part in parse(operation.diff):
        data = overlay.get(part.path)
        if part.created:
            wanted = b"".join(line for _, _, new in part.hunks for line in new)
            if data is not None and data != wanted:
                raise Missed(f"{part.path} exists with another content")
            (outcome.changed if overlay.put(part.path, wanted) else outcome.already).append(part.path)
            continue
        if data is None:
            raise Missed(f"there is no {part.path}", target=True)
        lines = split(data)
        position = shift = 0
        for number, (start, old, new) in enumerate(part.hunks, 1):
            place = _find(lines, old, start + shift, position)
            done = _find(lines, new, start + shift, position)
            # At the end of a file the shorter side is a part of the longer one, so the longer one decides.
            if done is not None and (place is None or len(new) > len(old)):
                position = done + len(new)
            elif place is not None:
                lines[place : place + len(old)] = _with_ends(new, lines[place : place + len(old)], lines)
                position = place + len(new)
            else:
                raise Missed(f"hunk {number} does not fit {part.path}")
            shift = position - start - len(old)
        (outcome.changed if overlay.put(part.path, b"".join(lines)) else outcome.already).append(part.path)
    return outcome


def _find(lines: list[bytes], wanted: tuple[bytes, ...], near: int, first: int) -> int | None:
    """Where the lines stand: at ``near``, else at the only place after ``first``, else nowhere."""
    text = [content(line) for line in wanted]
    if not text:
        return near if first <= near <= len(lines) else None

    def fits(place: int) -> bool:
        return [content(line) for line in lines[place : place + len(text)]] == text

    if near >= first and fits(near):
        return near
    places = [place for place in range(first, len(lines) - len(text) + 1) if fits(place)]
    return places[0] if len(places) == 1 else None


def _with_ends(new: tuple[bytes, ...], old: list[bytes], lines: list[bytes]) -> list[bytes]:
    """The new lines with the file's own line ends; context lines keep their very bytes."""
    end = dominant_end(lines)
    kept = {content(line): line for line in reversed(old)}
    out = []
    for line in new:
        same = kept.get(content(line), b"")
        keeps = content(same) == content(line) and bool(end_of(same)) == bool(end_of(line))
        out.append(same if keeps else content(line) + (end if end_of(line) else b""))
    return out
