"""What a release says of itself, read from its own files (never from its version number)."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from vllm_builder.errors import SourceError

_BUILD_FILES = ("setup.py", "CMakeLists.txt", "cmake/*.cmake", "cmake/**/*.cmake", "tools/build_rust.py")


@dataclass(frozen=True, slots=True)
class Release:
    """Facts of one tree. ``folder`` holds at least the small files that a plan reads."""

    folder: Path

    def build_requires(self) -> tuple[str, ...]:
        """``[build-system] requires``.

        Raises:
            SourceError: the tree has none, so it is no vLLM release.
        """
        try:
            table = self._pyproject()
            return tuple(table["build-system"]["requires"])
        except (KeyError, TypeError):
            raise SourceError(
                f"{self.folder} has no [build-system] requires in pyproject.toml.",
                next="Check that the source is a vLLM tree (--source).",
            ) from None

    def requires_python(self) -> str:
        """Requires-Python, from pyproject.toml or from setup.py's ``python_requires``; ``>=3.8`` if unsaid."""
        found = self._pyproject().get("project", {}).get("requires-python")
        if isinstance(found, str):
            return found
        for node in ast.walk(ast.parse(self._text("setup.py"))):
            if isinstance(node, ast.keyword) and node.arg == "python_requires":
                return str(ast.literal_eval(node.value))
        return ">=3.8"

    def torch_pin(self, device: str, marker_environment: Mapping[str, str]) -> tuple[str, str] | None:
        """The torch that the release wants for a device, as ``(version, file)``.

        A device's own requirement file counts before ``[build-system] requires``: they differ for CPU.
        """
        for relative in (f"requirements/{device}.txt", f"requirements-{device}.txt"):
            for line in self._lines(relative):
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

    def _lines(self, relative: str) -> Iterator[str]:
        path = self.folder / relative
        if not path.is_file():
            return
        for line in path.read_text("utf-8", "replace").splitlines():
            bare = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
            include = re.match(r"(?:-r|--requirement)[ =]?\s*(\S+)", bare)
            if include:
                yield from self._lines(str(Path(relative).parent / include[1]))
            elif bare and not bare.startswith("-"):
                yield bare

    def _pyproject(self) -> dict[str, dict[str, Any]]:
        try:
            return tomllib.loads(self._text("pyproject.toml"))
        except tomllib.TOMLDecodeError as problem:
            raise SourceError(
                f"{self.folder / 'pyproject.toml'} is not valid TOML: {problem}.", next="Mend it."
            ) from None

    def _text(self, relative: str) -> str:
        try:
            return (self.folder / relative).read_text("utf-8")
        except OSError:
            raise SourceError(
                f"The source has no {relative}, so it is no vLLM tree.",
                why=f"Looked in {self.folder}.",
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
