"""CMake conditions with three answers: true, false, unknown."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllm_builder.stages.patch.cmake import Argument
from vllm_builder.stages.vendor.scope import UNKNOWN, Scope, Value

Truth = bool | None
_UNARY = frozenset(
    ("EXISTS", "IS_DIRECTORY", "DEFINED", "COMMAND", "TARGET", "IS_ABSOLUTE", "POLICY", "TEST", "IS_SYMLINK",
     "IS_READABLE", "IS_WRITABLE", "IS_EXECUTABLE")
)  # fmt: skip
_NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "EQUAL": operator.eq,
    "LESS": operator.lt,
    "GREATER": operator.gt,
    "LESS_EQUAL": operator.le,
    "GREATER_EQUAL": operator.ge,
}
_BINARY = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "STR", "VERSION_")
    for name in ("EQUAL", "LESS", "GREATER", "LESS_EQUAL", "GREATER_EQUAL")
) | frozenset(("MATCHES", "IN_LIST", "IS_NEWER_THAN", "PATH_EQUAL"))
_TRUE = frozenset(("1", "ON", "YES", "TRUE", "Y"))
_FALSE = frozenset(("", "0", "OFF", "NO", "FALSE", "N", "IGNORE", "NOTFOUND"))
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.+/-]*")


def both(left: Truth, right: Truth) -> Truth:
    """AND: false wins over unknown."""
    if left is False or right is False:
        return False
    return UNKNOWN if left is UNKNOWN or right is UNKNOWN else True


def either(left: Truth, right: Truth) -> Truth:
    """OR: true wins over unknown."""
    if left is True or right is True:
        return True
    return UNKNOWN if left is UNKNOWN or right is UNKNOWN else False


def negation(value: Truth) -> Truth:
    return UNKNOWN if value is UNKNOWN else not value


@dataclass(frozen=True, slots=True)
class _Word:
    value: Value
    quoted: bool
    written: str


class _Unreadable(Exception):
    """The condition is not one that CMake's documentation describes, or an unknown value hides its form."""


def evaluate(tokens: Sequence[Argument], scope: Scope, exists: Callable[[str], Truth]) -> Truth:
    """The truth of a condition.

    Args:
        tokens: the arguments of ``if`` with the parentheses between them.
        exists: whether a path exists on a machine on which nothing was configured before.
    """
    words = [_Word(value, token.quoted, token.value) for token in tokens for value in scope.split(token)]
    try:
        reader = _Reader(words, scope, exists)
        truth = reader.expression()
        return truth if reader.at == len(words) else UNKNOWN
    except (_Unreadable, IndexError):
        return UNKNOWN


class _Reader:
    def __init__(self, words: list[_Word], scope: Scope, exists: Callable[[str], Truth]) -> None:
        self.words, self.scope, self.exists, self.at = words, scope, exists, 0

    def expression(self) -> Truth:
        truths, operators = [self.negated()], []
        while (keyword := self.keyword()) in {"AND", "OR"}:
            self.at += 1
            operators.append(keyword)
            truths.append(self.negated())
        # AND and OR have one rank. CMake joins neighbours two by two, passing over the row until one is left:
        # a AND b OR c AND d is (a AND b) OR (c AND d), and a OR b AND c is (a OR b) AND c.
        while operators:
            pairs = zip(truths[::2], truths[1::2], operators[::2], strict=False)
            joined = [both(one, two) if how == "AND" else either(one, two) for one, two, how in pairs]
            truths, operators = [*joined, *truths[2 * len(joined) :]], operators[1::2]
        return truths[0]

    def negated(self) -> Truth:
        if self.keyword() == "NOT":
            self.at += 1
            return negation(self.negated())
        return self.primary()

    def primary(self) -> Truth:
        keyword = self.keyword()
        if keyword == "(":
            self.at += 1
            truth = self.expression()
            if self.keyword() != ")":
                raise _Unreadable
            self.at += 1
            return truth
        if keyword in _UNARY and self.at + 1 < len(self.words):
            self.at += 2
            return self.unary(keyword, self.words[self.at - 1])
        word = self.words[self.at]
        self.at += 1
        following = self.keyword()
        if following in _BINARY:
            self.at += 2
            return self.binary(word, following, self.words[self.at - 1])
        return self.truth(word)

    def keyword(self) -> str:
        if self.at >= len(self.words):
            return ""
        word = self.words[self.at]
        return "" if word.quoted or word.value is UNKNOWN else word.value

    def unary(self, keyword: str, word: _Word) -> Truth:
        if word.value is UNKNOWN:
            return UNKNOWN
        if keyword == "DEFINED":
            if match := re.fullmatch(r"ENV\{(.*)\}", word.value):
                if match[1] not in self.scope.environment:
                    return False
                return UNKNOWN if self.scope.environment[match[1]] is UNKNOWN else True
            return self.scope.defined(re.sub(r"^CACHE\{(.*)\}$", r"\1", word.value))
        if keyword in {"EXISTS", "IS_DIRECTORY"}:
            return self.exists(word.value) if word.value else False
        if keyword == "IS_ABSOLUTE":
            return word.value.startswith("/")
        return UNKNOWN

    def binary(self, left: _Word, keyword: str, right: _Word) -> Truth:
        one = self.operand(left, strict=True)
        two = right.value if keyword == "MATCHES" else self.operand(right, strict=False)
        if keyword == "IN_LIST":
            # The right side is the name of a list.
            two = self.scope.get(right.value) if right.value is not UNKNOWN else UNKNOWN
            if one is UNKNOWN or two is UNKNOWN:
                return UNKNOWN
            return one in two.split(";")
        if one is UNKNOWN or two is UNKNOWN:
            return UNKNOWN
        if keyword == "MATCHES":
            return _matches(one, two)
        if keyword.startswith("VERSION_"):
            return _NUMBERS[keyword.removeprefix("VERSION_")](_version(one), _version(two))  # type: ignore[arg-type]
        if keyword.startswith("STR"):
            return bool(_NUMBERS[keyword.removeprefix("STR")](one, two))  # type: ignore[arg-type]
        if keyword in _NUMBERS:
            try:
                return _NUMBERS[keyword](float(one), float(two))
            except ValueError:
                return False
        return UNKNOWN

    def operand(self, word: _Word, *, strict: bool) -> Value:
        """A word of a comparison: the value of the variable of that name, else the word itself.

        Args:
            strict: take an unquoted name that nobody has set for a variable of which nothing is known.
        """
        if word.quoted or word.value is UNKNOWN:
            return word.value
        if (known := self.scope.defined(word.value)) or word.value in self.scope.variables:
            return self.scope.get(word.value)
        if strict and known is UNKNOWN and "$" not in word.written and _NAME.fullmatch(word.value):
            return UNKNOWN
        return word.value

    def truth(self, word: _Word) -> Truth:
        if word.value is UNKNOWN:
            return UNKNOWN
        upper = word.value.upper()
        if upper in _TRUE:
            return True
        if upper in _FALSE or upper.endswith("-NOTFOUND"):
            return False
        try:
            return float(word.value) != 0
        except ValueError:
            pass
        if word.quoted:
            return False
        value = self.scope.get(word.value)
        if value is UNKNOWN:
            return UNKNOWN
        return value.upper() not in _FALSE and not value.upper().endswith("-NOTFOUND")


def _version(text: str) -> tuple[int, ...]:
    parts = [int(part) for part in re.findall(r"\d+", re.split(r"[^0-9.]", text)[0])]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _matches(text: str, pattern: str) -> Truth:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return UNKNOWN
