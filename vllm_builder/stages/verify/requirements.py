"""The requirements that a release's setup.py gives its wheel, read from its files; nothing of it is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from vllm_builder.stages.plan.compatibility import within
from vllm_builder.stages.plan.release import Release
from vllm_builder.stages.verify.table import table

TORCH_FAMILY: Final = frozenset({"torch", "torchvision", "torchaudio", "torchcodec", "xformers"})
"""Requirements that vllm-builder takes out of a release, or pins anew: so says ``patches/torch-pins.toml``."""


def release_requirements(folder: Path, release: str, device: str, cuda: str = "") -> tuple[str, ...] | None:
    """Requires-Dist of the release's wheel for a device, without extras.

    Args:
        folder: the release's small files, unpatched.
        cuda: ``torch.version.cuda``, ``13.0``; empty where it is not known.

    Returns:
        None where it cannot be read for certain from which requirement file setup.py takes them.

    Raises:
        SourceError: a requirement file includes itself.
    """
    name = _requirement_file(folder, device)
    if name is None:
        return None
    relative = f"requirements/{name}" if (folder / "requirements" / name).is_file() else name
    if not (folder / relative).is_file():
        return None
    found = []
    for line in Release(folder).requirement_lines(relative):
        kept = _as_setup_does(line, release, device, cuda)
        if kept:
            found.append(kept)
    return tuple(dict.fromkeys(found))


def normal(text: str) -> str:
    """A requirement in one spelling; what cannot be parsed as it is."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return text.strip()
    requirement.name = canonicalize_name(requirement.name)
    return str(requirement)


def name_of(text: str) -> str:
    """Canonical name; the text where it cannot be parsed."""
    try:
        return canonicalize_name(Requirement(text).name)
    except InvalidRequirement:
        return text.strip()


def without_extras(texts: Iterable[str]) -> tuple[str, ...]:
    """The requirements that count for everybody: those without ``extra == ...``."""
    return tuple(
        text for text in texts if "extra ==" not in text.partition(";")[2].replace("extra==", "extra ==")
    )


def _as_setup_does(line: str, release: str, device: str, cuda: str) -> str:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return line
    if device == "cuda":
        for rule in table().requirement_rules:
            if (
                canonicalize_name(requirement.name) != rule.name
                or not within(rule.releases, release)
                or (rule.extra and rule.extra not in requirement.extras)
                or (rule.cuda and not within(rule.cuda, cuda))
            ):
                continue
            if rule.becomes == "drop":
                return ""
            requirement.extras = set(rule.becomes.split(",")) - {""}
    return normal(str(requirement))


def _requirement_file(folder: Path, device: str) -> str | None:
    """What ``get_requirements`` in setup.py reads for a device."""
    test = "_no_device" if device == "empty" else f"_is_{device}"
    try:
        module = ast.parse((folder / "setup.py").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    for function in module.body:
        if not (isinstance(function, ast.FunctionDef) and function.name == "get_requirements"):
            continue
        for node in ast.walk(function):
            match node:
                case ast.If(test=ast.Call(func=ast.Name(id=name)), body=body) if name == test:
                    return _read_in(body)
    return None


def _read_in(body: list[ast.stmt]) -> str | None:
    for statement in body:
        for node in ast.walk(statement):
            match node:
                case ast.Call(
                    func=ast.Name(id="_read_requirements"), args=[ast.Constant(value=str() as name)]
                ):
                    return name
    return None
