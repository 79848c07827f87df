"""Lines as bytes: line ends, differences, and carrying an edit over to the original bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from difflib import unified_diff as difflib_unified


@dataclass(frozen=True, slots=True)
class Hunk:
    """``before[start:stop]`` was replaced by ``after[new_start:new_stop]`` (line numbers from 0)."""

    start: int
    stop: int
    new_start: int
    new_stop: int


def split(data: bytes) -> list[bytes]:
    """Lines with their ends: LF, CRLF or CR alone."""
    return data.splitlines(keepends=True)


def content(line: bytes) -> bytes:
    """A line without its end."""
    return line.rstrip(b"\r\n")


def end_of(line: bytes) -> bytes:
    return line[len(content(line)) :]


def dominant_end(lines: Sequence[bytes]) -> bytes:
    """The line end that most lines have; LF for a file without lines."""
    ends = [end for line in lines if (end := end_of(line))]
    return max(sorted(set(ends)), key=ends.count) if ends else b"\n"


def hunks(before: Sequence[bytes], after: Sequence[bytes]) -> list[Hunk]:
    """The differences between two lists of lines.

    Most patches only delete lines: that case is recognised in linear time and exactly; a general
    difference is looked for only between the common beginning and the common end.
    """
    deletions = _deletions(before, after)
    if deletions is not None:
        return deletions
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    return [
        Hunk(head + i1, head + i2, head + j1, head + j2)
        for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        if tag != "equal"
    ]


def _deletions(before: Sequence[bytes], after: Sequence[bytes]) -> list[Hunk] | None:
    found: list[Hunk] = []
    new = 0
    for index, line in enumerate(before):
        if new < len(after) and after[new] == line:
            new += 1
        elif found and found[-1].stop == index:
            found[-1] = Hunk(found[-1].start, index + 1, new, new)
        else:
            found.append(Hunk(index, index + 1, new, new))
    return found if new == len(after) else None


def carry_over(original: bytes, edited: str, encoding: str = "utf-8") -> bytes:
    """Bring an edit of the text with LF ends back to the original's bytes.

    A line whose content did not change keeps its bytes and its end; a new line gets the end that most
    lines of the file have.
    """
    old = split(original)
    new = edited.encode(encoding, "surrogateescape").splitlines(keepends=True)
    old_content, new_content = [content(line) for line in old], [content(line) for line in new]
    end = dominant_end(old)
    out = [text + end if end_of(line) else text for line, text in zip(new, new_content, strict=True)]
    position = shift = 0
    for hunk in [*hunks(old_content, new_content), Hunk(len(old), len(old), len(new), len(new))]:
        for index in range(position, hunk.start):
            kept = old[index]
            last = index + shift == len(new) - 1
            out[index + shift] = kept if end_of(kept) or last else kept + end
        position, shift = hunk.stop, hunk.new_stop - hunk.stop
    return b"".join(out)


def text_of(line: bytes) -> str:
    """A line for a report: without its end, undecodable bytes escaped."""
    return content(line).decode("utf-8", "backslashreplace")


def unified_diff(name: str, before: bytes | None, after: bytes) -> str:
    """A unified diff with three lines of context and git's headers; ``before`` None for a new file."""
    old, new = split(before or b""), split(after)
    out = [f"diff --git a/{name} b/{name}\n"]
    if before is None:
        out.append("new file mode 100644\n")
    body = difflib_unified(
        [line.decode("utf-8", "backslashreplace") for line in old],
        [line.decode("utf-8", "backslashreplace") for line in new],
        "/dev/null" if before is None else f"a/{name}",
        f"b/{name}",
    )
    for line in body:
        out.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(out)
