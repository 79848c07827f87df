"""What stands at the top of a file of C++ that went through the preprocessor: its declarations, one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Declaration = tuple[tuple[str, ...], str]
"""The namespaces around it, outermost first, and its tokens with a space between them."""

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[{}();]|[^\s"\'{}();]+|.')
_OPENS = ("namespace", "inline namespace", 'extern "C"', 'extern "C++"')


def declarations(lines: Iterable[str]) -> Iterator[Declaration]:
    """Every declaration or definition outside functions and classes; a ``;`` behind a class is one by itself.

    Only brackets and quotes are looked at, so what does not close yields one last long declaration.
    """
    around: list[str] = []
    words: list[str] = []
    braces = parentheses = 0
    for line in lines:
        if line.startswith("#") and not words:
            yield tuple(around), line
            continue
        for word in _TOKEN.findall(line):
            if word.isspace():
                continue
            if word == "{" and not braces and " ".join(words).startswith(_OPENS):
                around.append(" ".join(words))
                words = []
                continue
            if word == "}" and not words and around:
                around.pop()
                continue
            words.append(word)
            braces += (word == "{") - (word == "}")
            parentheses += (word == "(") - (word == ")")
            if word in (";", "}") and braces <= 0 and parentheses <= 0:
                yield tuple(around), " ".join(words)
                words = []
                braces = parentheses = 0
    if words:
        yield tuple(around), " ".join(words)


def first_foreign(some: Iterable[str], all_: Iterable[str]) -> str:
    """The first declaration of ``some`` that ``all_`` does not have, in the same order; empty where it has them all."""
    left = declarations(all_)
    for namespaces, words in declarations(some):
        if not any(other == (namespaces, words) for other in left):
            return " ".join([*(f"{name} {{" for name in namespaces), words])
    return ""
