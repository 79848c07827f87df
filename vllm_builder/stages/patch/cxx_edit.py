"""Edits of C++ and CUDA sources: names and the headers that they need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from vllm_builder.stages.patch.operations import ReplaceCxxNames
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.tree import Overlay

# Comments, raw strings, strings and character literals: nothing in them is a name. A quote between digits
# (1'000) separates them.
_OPAQUE = (
    r"//(?:[^\n\\]|\\.)*|/\*.*?\*/"
    r'|R"(?P<mark>[^()\\\s]{0,16})\(.*?\)(?P=mark)"'
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|(?<![0-9A-Fa-f])'(?:[^'\\\n]|\\.)*'"
)
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"](?P<name>[^>\"\n]+)[>\"][^\n]*$", re.MULTILINE)


def replace_names(operation: ReplaceCxxNames, overlay: Overlay) -> Outcome:
    """Replace names outside comments and literals; each file that has one gets the headers."""
    # A longer name first, so that a::b::c is not taken for a::b.
    names = sorted(operation.names, key=len, reverse=True)
    name = "|".join(re.escape(n.removeprefix("::")) for n in names)
    token = re.compile(rf"{_OPAQUE}|(?<![\w:])(?:::)?(?P<name>{name})(?![\w:])", re.DOTALL)
    new = {old.removeprefix("::"): now for old, now in operation.names.items()}
    outcome = Outcome()
    for path in overlay.glob(operation.files):
        before = (overlay.get(path) or b"").decode("utf-8", "surrogateescape")
        after = token.sub(lambda m: new[m["name"]] if m["name"] else m[0], before)
        if after != before:
            overlay.put(path, _with_headers(after, operation).encode("utf-8", "surrogateescape"))
            outcome.changed.append(path)
    if not outcome.changed:
        raise Missed(f"no file in {', '.join(operation.files)} names {', '.join(operation.names)}")
    return outcome


def _with_headers(text: str, operation: ReplaceCxxNames) -> str:
    present = {found["name"] for found in _INCLUDE.finditer(text)}
    wanted = [header for header in operation.headers if header not in present]
    if not wanted:
        return text
    place = next((i for i in _includes(text) if fnmatchcase(i["name"], operation.after)), None)
    end = "\r\n" if "\r\n" in text else "\n"
    if place is None:
        # The names came through another header; theirs can come first.
        return "".join(f"#include <{header}>{end}" for header in wanted) + text
    line = place[0].rstrip("\r")
    indent = line[: len(line) - len(line.lstrip())]
    return (
        text[: place.start() + len(line)]
        + "".join(f"{end}{indent}#include <{header}>" for header in wanted)
        + text[place.start() + len(line) :]
    )


def _includes(text: str) -> Iterator[re.Match[str]]:
    yield from _INCLUDE.finditer(text)
