"""The statements of a build.ninja that compile: reading them, ordering them, and making some wait."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

if __package__:
    from vllm_builder.stages.compile.packing import Schedule, Unit
else:  # By path, see schedule.py.
    from packing import Schedule, Unit  # type: ignore[import-not-found, no-redef]

POOL = "vllm_builder_heavy"

_AFTER = "vllm_builder_after"
_BUILD = re.compile(
    r"^build (?P<object>(?:\$.|[^\s$:])+)(?: [^:\n]*)?: (?:C|CXX|CUDA|HIP)_COMPILER__\S+ (?P<source>(?:\$.|[^\s$])+)"
)


def rearrange(
    text: str,
    units: Mapping[str, Unit],
    schedule: Schedule,
    after: Mapping[str, Collection[str]] | None = None,
    starts: Mapping[str, float] | None = None,
) -> str:
    """build.ninja with its compile statements longest first and the heavy ones in a pool of their own.

    Args:
        text: the file as CMake wrote it, or as an earlier call of this function left it.
        units: object file -> what it takes.
        schedule: see :func:`.packing.choose`.
        after: object file -> those that have to be there before it is begun, see :func:`.packing.packed`.
        starts: object file -> when it is expected to start; those come first that start first.
    """
    after, starts = after or {}, starts or {}
    text = re.sub(rf"^pool {POOL}\n(?:  .*\n)*\n?", "", text, flags=re.MULTILINE)
    blocks = _blocks(text)
    places = [i for i, block in enumerate(blocks) if _object(block) in units]
    names = {i: _object(blocks[i]) for i in places}
    order = sorted(places, key=lambda i: (starts.get(names[i], 0.0), -units[names[i]].seconds))
    moved = [
        _waiting(
            _pooled(blocks[i], units[names[i]].peak > schedule.limit, schedule),
            sorted(after.get(names[i], ())),
        )
        for i in order
    ]
    for place, block in zip(places, moved, strict=True):
        blocks[place] = block
    if schedule.depth and places:
        blocks.insert(places[0], f"pool {POOL}\n  depth = {schedule.depth}\n\n")
    return "".join(blocks)


def objects(text: str) -> dict[str, str]:
    """Object file -> source file of every compile statement."""
    found = {}
    for line in text.splitlines():
        if (match := _BUILD.match(line)) is not None:
            found[_plain(match["object"])] = _plain(match["source"])
    return found


def _plain(path: str) -> str:
    """A path without ninja's escapes."""
    return re.sub(r"\$(.)", r"\1", path)


def _blocks(text: str) -> list[str]:
    """Top-level statements with their indented lines; everything else line by line."""
    blocks: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("  ") and line.strip() and blocks and blocks[-1].startswith("build "):
            blocks[-1] += line
        else:
            blocks.append(line)
    return blocks


def _object(block: str) -> str:
    match = _BUILD.match(block)
    return _plain(match["object"]) if match else ""


def _pooled(block: str, heavy: bool, schedule: Schedule) -> str:
    # What CMake's own pool was stands beside ours, so that it can be put back.
    block = re.sub(rf"^  pool = {POOL}\n  {POOL} = (.*)\n", r"  pool = \1\n", block, flags=re.MULTILINE)
    if not heavy or not schedule.depth:
        return re.sub(r"^  pool = \n", "", block, flags=re.MULTILINE)
    own = re.search(r"^  pool = (.*)\n", block, re.MULTILINE)
    if own is None:
        return f"{block.rstrip(chr(10))}\n  pool = {POOL}\n  {POOL} = \n"
    return block.replace(own[0], f"  pool = {POOL}\n  {POOL} = {own[1]}\n")


def _waiting(block: str, others: list[str]) -> str:
    """The statement of a unit that waits for others; what an earlier call of this function added is taken away."""
    statement, newline, rest = block.partition("\n")
    if (mark := re.search(rf"^  {_AFTER} = (.*)\n", rest, re.MULTILINE)) is not None:
        statement = statement.removesuffix(f" {mark[1]}")
        rest = rest.replace(mark[0], "")
    if others:
        names = " ".join(re.sub(r"([$ :])", r"$\1", name) for name in others)
        added = names if " || " in statement else f"|| {names}"
        # The variable is never used: it says what to take away again.
        statement, rest = (
            f"{statement} {added}",
            f"{rest.rstrip(chr(10))}\n  {_AFTER} = {added}\n".lstrip("\n"),
        )
    return statement + newline + rest
