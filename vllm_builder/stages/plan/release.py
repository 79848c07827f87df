"""What a release says of itself, read from its own files (never from its version number)."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from vllm_builder.errors import SourceError

_BUILD_FILES = ("setup.py", "CMakeLists.txt", "cmake/*.cmake", "cmake/**/*.cmake", "tools/build_rust.py")


@dataclass(frozen=True, slots=True)
class Release:
    """Facts of one tree. ``folder`` holds at least the small files that a plan reads."""

    folder: Path
    name: str = ""
    """What to call the source where it is to blame; the folder may be one of the cache's."""

    def build_requires(self) -> tuple[str, ...]:
        """``[build-system] requires``.

        Raises:
            SourceError: the tree has none, so it is no vLLM release.
        """
        requires = self._table("build-system").get("requires")
        if requires is None:
            raise SourceError(
                f"{self._named} has no [build-system] requires in pyproject.toml.",
                why="Every vLLM release says there what its build needs.",
                next="Check that the source is a vLLM tree (--source).",
            )
        if not isinstance(requires, list) or not all(isinstance(line, str) for line in requires):
            raise self._bad("[build-system] requires in pyproject.toml", "It is not a list of texts")
        for line in requires:
            try:
                Requirement(line)
            except InvalidRequirement as problem:
                said = str(problem).splitlines()[0]
                raise self._bad("[build-system] requires in pyproject.toml", f"{line!r}: {said}") from None
        return tuple(requires)

    def requires_python(self) -> str:
        """Requires-Python, from pyproject.toml or from setup.py's ``python_requires``; ``>=3.8`` if unsaid."""
        found = self._table("project").get("requires-python")
        where = "requires-python in pyproject.toml"
        if found is None:
            where = "python_requires in setup.py"
            found = self._python_requires()
        try:
            if not isinstance(found, str):
                raise InvalidSpecifier("it is not a text")
            SpecifierSet(found)
        except InvalidSpecifier as problem:
            raise self._bad(where, str(problem)) from None
        return found

    def _python_requires(self) -> object:
        try:
            tree = ast.parse(self._text("setup.py"))
        except (SyntaxError, ValueError) as problem:  # ValueError: of null bytes
            raise self._bad("setup.py", str(problem)) from None
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "python_requires":
                try:
                    return str(ast.literal_eval(node.value))
                except ValueError:
                    return ">=3.8"  # computed: setup.py itself will say
        return ">=3.8"

    def torch_pin(self, device: str, marker_environment: Mapping[str, str]) -> tuple[str, str] | None:
        """The torch that the release wants for a device, as ``(version, file)``.

        A device's own requirement file counts before ``[build-system] requires``: they differ for CPU.
        """
        for relative in (f"requirements/{device}.txt", f"requirements-{device}.txt"):
            for line in self.requirement_lines(relative):
                found = _pin(line, marker_environment)
                if found:
                    return found, relative
        for line in self.build_requires():
            found = _pin(line, marker_environment)
            if found:
                return found, "pyproject.toml"
        return None

    def build_variables(self) -> frozenset[str]:
        """Names of environment variables that the release's build files read."""
        names: set[str] = set()
        for pattern in _BUILD_FILES:
            for path in self.folder.glob(pattern):
                names.update(re.findall(r"\b[A-Z][A-Z0-9_]{3,}\b", path.read_text("utf-8", "replace")))
        return frozenset(names)

    def requirement_lines(self, relative: str, via: tuple[str, ...] = ()) -> Iterator[str]:
        """The requirements of a file and of those that it includes, as they are written, without comments and options.

        Raises:
            SourceError: a file includes itself.
        """
        path = self.folder / relative
        if not path.is_file():
            return
        if relative in via:
            raise self._bad(relative, f"It includes itself: {' -> '.join((*via, relative))}")
        for line in path.read_text("utf-8", "replace").splitlines():
            bare = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
            include = re.match(r"(?:-r|--requirement)[ =]?\s*(\S+)", bare)
            if include:
                further = os.path.normpath(Path(relative).parent / include[1])
                yield from self.requirement_lines(further, (*via, relative))
            elif bare and not bare.startswith("-"):
                yield bare

    def _table(self, name: str) -> dict[str, Any]:
        """A table of pyproject.toml; empty where it has none."""
        try:
            found = tomllib.loads(self._text("pyproject.toml")).get(name, {})
        except tomllib.TOMLDecodeError as problem:
            raise self._bad("pyproject.toml", f"It is not valid TOML: {problem}") from None
        if not isinstance(found, dict):
            raise self._bad("pyproject.toml", f"[{name}] is not a table")
        return found

    @property
    def _named(self) -> str:
        return self.name or str(self.folder)

    def _bad(self, what: str, why: str) -> SourceError:
        return SourceError(
            f"{what} cannot be used.",
            why=f"{why.rstrip('.')}. The source is {self._named}.",
            next="Mend it in the source, or choose another one with --source or VERSION.",
        )

    def _text(self, relative: str) -> str:
        try:
            return (self.folder / relative).read_text("utf-8")
        except UnicodeDecodeError as problem:
            raise self._bad(relative, f"It is not UTF-8 text (byte {problem.start})") from None
        except OSError:
            raise SourceError(
                f"The source has no {relative}, so it is no vLLM tree.",
                why=f"Looked in {self._named}.",
                next="Check --source and VERSION.",
            ) from None


def _pin(line: str, marker_environment: Mapping[str, str]) -> str | None:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return None
    if requirement.name.lower() != "torch":
        return None
    if requirement.marker and not requirement.marker.evaluate(dict(marker_environment)):
        return None
    for specifier in requirement.specifier:
        if specifier.operator == "==" and not specifier.version.endswith("*"):
            return specifier.version
    return None
