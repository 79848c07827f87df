"""Read patch sets."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vllm_builder.errors import PatchSetError, did_you_mean
from vllm_builder.stages.patch.operations import ACTIONS, PatchSet, Script

_UNWRITTEN: dict[type[BaseModel], set[str]] = {PatchSet: {"path"}}


def load(directories: Sequence[Path]) -> dict[str, PatchSet]:
    """Read every ``*.toml`` of some folders.

    A set of a later folder takes the place of one of the same name in an earlier one.

    Raises:
        PatchSetError: a folder or file cannot be read, or a file has an unknown key or action or a bad value.
    """
    found: dict[str, PatchSet] = {}
    for directory in directories:
        if not directory.is_dir():
            raise PatchSetError(
                f"The patch folder {directory} does not exist.",
                next="Give an existing folder with --patches; it holds one .toml file per patch set.",
            )
        for path in sorted(directory.glob("*.toml")):
            found[path.stem] = read(path)
    return found


def read(path: Path) -> PatchSet:
    """Read one patch set.

    Raises:
        PatchSetError: see :func:`load`.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PatchSetError(f"The patch set {path} cannot be read.", why=str(error)) from error
    if data.setdefault("name", path.stem) != path.stem:
        raise PatchSetError(
            f"The patch set {path} calls itself {data['name']!r}.",
            why="A set is found by its file name.",
            next=f"Write name = {path.stem!r}, or rename the file.",
        )
    if "path" in data:
        raise _refused(path, ["path: unknown key"])
    try:
        return PatchSet.model_validate(data | {"path": str(path)})
    except ValidationError as error:
        # An unknown key explains the missing one; a list of refused items counts as too short besides.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        telling = [problem for problem in problems if problem["type"] != "too_short"] or problems
        raise _refused(path, [_sentence(problem) for problem in telling]) from None


def _refused(path: Path, problems: list[str]) -> PatchSetError:
    return PatchSetError(
        f"The patch set {path} cannot be used: {problems[0]}.",
        why="Unknown keys and values are refused, so that a slip of the pen never leaves a patch out.",
        next=f"Correct {path.name}.",
        details=problems[1:],
    )


def _sentence(problem: Mapping[str, Any]) -> str:
    """One problem of pydantic's: ``operation 2 (create_file), flie: unknown key (did you mean file?)``."""
    loc = [str(part) for part in problem["loc"]]
    where: list[str] = []
    model: type[BaseModel] = PatchSet
    if loc[:1] == ["operation"] and len(loc) > 1:
        where.append(f"operation {int(loc[1]) + 1}")
        loc = loc[2:]
        if loc and loc[0] in ACTIONS:
            action = loc.pop(0)
            model = ACTIONS[action]
            where[-1] += f" ({action})"
    if loc and loc[0] == "scripts" and len(loc) > 2:
        model = Script
    place = ", ".join([*where, *loc])
    kind = problem["type"]
    if kind == "extra_forbidden":
        return (
            f"{place}: unknown key{_near(loc[-1], model.model_fields.keys() - _UNWRITTEN.get(model, set()))}"
        )
    if kind == "union_tag_invalid":
        tag = str(problem["ctx"]["tag"])
        return f"{place}: unknown action {tag!r}{_near(tag, ACTIONS)}"
    if kind == "union_tag_not_found":
        return f"{place}: has no action; the actions are {', '.join(ACTIONS)}"
    if kind == "missing":
        return f"{place}: is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{place}:{shown} {message}".strip()


def _near(word: str, known: Iterable[str]) -> str:
    names = list(known)
    return did_you_mean(word, names) or f" (known: {', '.join(sorted(names))})"
