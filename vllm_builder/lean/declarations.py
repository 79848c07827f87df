"""What stands at the top of a file of C++ that went through the preprocessor: its declarations, one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Declaration = tuple[tuple[str, ...], str]
"""What holds around it (namespaces, ``#pragma pack(push, 1)``), outermost first, and its tokens with a space between."""

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[{}();=,]|[^\s"\'{}();=,]+|.')
_OPENS = re.compile(r'(inline )?namespace( [\w:]+)?|extern "C(\+\+)?"')
_TYPE = re.compile(r"\b(struct|class|union|enum)\b")


def declarations(lines: Iterable[str]) -> Iterator[Declaration]:
    """Every declaration or definition outside functions and classes, pragmas and the opening of namespaces too.

    Only brackets, quotes and a few words are looked at. Where they do not tell whether a declaration has ended, it
    goes on, so that two may come as one, but never one as two.
    """
    around: list[str] = []
    pushed: list[str] = []
    words: list[str] = []
    braces = parentheses = 0
    body = assigned = False

    def ended() -> Declaration:
        nonlocal words, braces, parentheses, body, assigned
        done = (*around, *pushed), " ".join(words)
        words, braces, parentheses, body, assigned = [], 0, 0, False, False
        return done

    for line in lines:
        if line.startswith("#") and body:
            yield ended()
        if line.startswith("#") and not words:
            yield (*around, *pushed), line
            if "push" in line:
                pushed.append(line)
            elif "pop" in line and pushed:
                pushed.pop()
            continue
        for word in _TOKEN.findall(line):
            if word.isspace():
                continue
            if body and word not in (",", "{", ";", "="):
                yield ended()
            body = False
            if word == "{" and not braces and _OPENS.fullmatch(" ".join(words)):
                yield (*around, *pushed), " ".join(words)
                around.append(" ".join(words))
                words = []
                continue
            if word == "}" and not words and around:
                around.pop()
                continue
            assigned |= word == "=" and braces + parentheses == 0 and words[-1:] != ["operator"]
            words.append(word)
            braces += (word == "{") - (word == "}")
            parentheses += (word == "(") - (word == ")")
            if braces > 0 or parentheses > 0:
                continue
            if word == ";":
                yield ended()
            elif word == "}":
                head = words[: words.index("{")] if "{" in words else []
                # A function's; what follows a member's initialiser, x{1}, is a comma or the body.
                body = ")" in head and not assigned and not _TYPE.search(" ".join(head))
    if words:
        yield ended()


def first_foreign(some: Iterable[str], all_: Iterable[str]) -> str:
    """The first declaration of ``some`` that ``all_`` does not have, in the same order; empty where it has them all.

    That ``all_`` has more of them is not seen here: an overload, say, that calls in ``some`` would mean.
    """
    left = declarations(all_)
    for declaration in declarations(some):
        if declaration not in left:
            around, words = declaration
            return " ".join([*(f"{name} {{" for name in around), words])
    return ""
