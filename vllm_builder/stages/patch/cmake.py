"""CMake files through their grammar: find commands, edit the bytes of arguments, check the result.

Nothing is re-printed: an edit replaces a range of bytes and everything else stays as it was. On top of this
module come operations on single commands (see :mod:`.cmake_edit`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from vllm_builder.errors import PatchFailed

if TYPE_CHECKING:
    from tree_sitter import Node, Parser, Tree

_COMMANDS = frozenset(
    {
        "normal_command",
        "if_command",
        "elseif_command",
        "foreach_command",
        "while_command",
        "function_command",
        "macro_command",
    }
)
_BLOCKS = {"if_condition": "if_command", "foreach_loop": "foreach_command", "while_loop": "while_command"}
_KINDS = {
    "if_condition": "if",
    "foreach_loop": "foreach",
    "while_loop": "while",
    "function_def": "function",
    "macro_def": "macro",
    "block_def": "block",
}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, at bytes ``start`` to ``stop`` of the file, quotes included."""

    start: int
    stop: int
    value: str
    """Without quotes or brackets; variable references and escapes as they are written."""
    quoted: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One command invocation. Command names have no case in CMake; ``name`` is in lower case."""

    name: str
    arguments: tuple[Argument, ...]
    start: int
    stop: int
    line: int
    """From 1."""
    conditions: tuple[str, ...] = ()
    """The text of the conditions that enclose it, outermost first; one in an ``else`` begins with ``NOT``."""

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(argument.value for argument in self.arguments)

    def keyword(self, name: str) -> Argument | None:
        """The argument that follows a keyword: ``GIT_TAG v1`` -> ``v1``."""
        for index, argument in enumerate(self.arguments[:-1]):
            if argument.value == name and not argument.quoted:
                return self.arguments[index + 1]
        return None


@dataclass(frozen=True, slots=True)
class Branch:
    """One part of a block: its opening command (None for ``else`` and ``block``) and what stands in it."""

    command: Command | None
    tokens: tuple[Argument, ...]
    """The command's arguments with the parentheses between them, as a condition needs them."""
    text: str
    """The condition or the arguments, as one line."""
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """``kind`` is if, foreach, while, function, macro or block. Only an ``if`` has several branches."""

    kind: str
    branches: tuple[Branch, ...]


Statement = Command | Block


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the bytes ``start`` to ``stop``."""

    start: int
    stop: int
    text: str


class CMakeFile:
    """A parsed CMake file.

    Args:
        data: the file's bytes.
        path: for error messages.
    """

    def __init__(self, data: bytes, path: str = "CMakeLists.txt") -> None:
        self.data = data
        self.path = path
        self._root = _tree_of(data).root_node

    @property
    def error(self) -> str | None:
        """Where the file is not valid CMake, or None."""
        if not self._root.has_error:
            return None
        node = next((node for node in _walk(self._root) if node.is_error or node.is_missing), self._root)
        return f"{self.path}:{node.start_point[0] + 1}: not valid CMake"

    def commands(self, name: str | None = None, arguments: Sequence[str] = ()) -> list[Command]:
        """Invocations in file order.

        Args:
            name: a command's name, in any case; None for all.
            arguments: shell-style patterns that the leading arguments must match.
        """
        return [
            command
            for command in self._commands(self._root, ())
            if (name is None or command.name == name.lower())
            and len(command.arguments) >= len(arguments)
            and all(map(fnmatchcase, command.values, arguments))
        ]

    def statements(self) -> tuple[Statement, ...]:
        """The file as nested blocks and commands, in order: what an interpreter walks."""
        return tuple(self._statements(self._root))

    def edited(self, edits: Iterable[Edit]) -> CMakeFile:
        """The file with byte ranges replaced.

        Raises:
            PatchFailed: ranges overlap, or the result is not valid CMake where the file was.
        """
        out, position = bytearray(), 0
        for edit in sorted(edits, key=lambda edit: (edit.start, edit.stop)):
            if edit.start < position:
                raise PatchFailed(f"Two edits of {self.path} overlap.")
            out += self.data[position : edit.start] + edit.text.encode()
            position = edit.stop
        result = CMakeFile(bytes(out + self.data[position:]), self.path)
        if result.error and not self.error:
            raise PatchFailed(f"Editing {self.path} would break it.", why=result.error)
        return result

    def _statements(self, node: Node) -> Iterator[Statement]:
        for child in node.children:
            if child.type in _COMMANDS:
                yield self._command(child, ())
            elif child.type in _KINDS:
                yield Block(_KINDS[child.type], tuple(self._branches(child)))
            elif child.type == "body":
                yield from self._statements(child)

    def _branches(self, node: Node) -> Iterator[Branch]:
        opening: Node | None = None
        body: list[Statement] = []
        for child in node.children:
            if child.type == "body":
                body.extend(self._statements(child))
            elif child.type in {"elseif_command", "else_command"} or child.type.startswith("end"):
                yield self._branch(opening, body)
                opening, body = child, []
            elif child.type.endswith("_command"):
                opening = child

    def _branch(self, opening: Node | None, body: list[Statement]) -> Branch:
        if opening is None or opening.type not in _COMMANDS:
            return Branch(None, (), "", tuple(body))
        found = next((child for child in opening.children if child.type == "argument_list"), None)
        tokens = tuple(
            self._argument(child)
            if child.type == "argument"
            else Argument(child.start_byte, child.end_byte, child.type, False)
            for child in (found.children if found else [])
            if child.type in {"argument", "(", ")"}
        )
        return Branch(self._command(opening, ()), tokens, self._condition(opening), tuple(body))

    def _commands(self, node: Node, conditions: tuple[str, ...]) -> Iterator[Command]:
        if node.type in _COMMANDS:
            yield self._command(node, conditions)
            return
        inner = conditions
        for child in node.children:
            if child.type in {_BLOCKS.get(node.type), "elseif_command"}:
                yield self._command(child, conditions)
                inner = (*conditions, self._condition(child))
            elif child.type == "else_command":
                inner = (*conditions, f"NOT {inner[-1]}" if len(inner) > len(conditions) else "else")
            else:
                yield from self._commands(child, inner)

    def _condition(self, node: Node) -> str:
        found = next((child for child in node.children if child.type == "argument_list"), None)
        return " ".join(self._text(found).split()) if found else ""

    def _command(self, node: Node, conditions: tuple[str, ...]) -> Command:
        arguments = next((child for child in node.children if child.type == "argument_list"), None)
        return Command(
            name=self._text(node.children[0]).lower(),
            arguments=tuple(
                self._argument(child)
                for child in (arguments.children if arguments else [])
                if child.type == "argument"
            ),
            start=node.start_byte,
            stop=node.end_byte,
            line=node.start_point[0] + 1,
            conditions=conditions,
        )

    def _argument(self, node: Node) -> Argument:
        text, kind = self._text(node), node.children[0].type
        value = text
        if kind == "quoted_argument":
            value = text[1:-1]
        elif kind == "bracket_argument":
            width = text.index("[", 1) + 1
            value = text[width:-width]
        return Argument(node.start_byte, node.end_byte, value, kind != "unquoted_argument")

    def _text(self, node: Node) -> str:
        return self.data[node.start_byte : node.end_byte].decode("utf-8", "surrogateescape")


def spell(value: str) -> str:
    """A value as an argument: quoted where it must be. Variable references keep their meaning."""
    if value and not any(mark in value for mark in ' \t\r\n();#"\\'):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


@lru_cache(maxsize=64)
def _tree_of(data: bytes) -> Tree:
    """Planning and patching ask the same few files many times."""
    return _parser().parse(data)


@cache
def _parser() -> Parser:
    import tree_sitter_cmake
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_cmake.language()))
