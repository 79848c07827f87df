"""Decide which operations apply."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import TypeAdapter, ValidationError

from vllm_builder.errors import PatchSetError, SettingsError, did_you_mean
from vllm_builder.stages.compile.model import Device
from vllm_builder.stages.patch.operations import (
    Conditions,
    Operation,
    PatchSelection,
    PatchSet,
    Skipped,
    Step,
)
from vllm_builder.stages.patch.parameters import fill

_OPERATION: TypeAdapter[Any] = TypeAdapter(Operation)


def select(
    sets: Mapping[str, PatchSet],
    *,
    release: str,
    device: Device,
    facts: Mapping[str, str | bool],
    enable: Collection[str] = (),
    disable: Collection[str] = (),
) -> PatchSelection:
    """Choose the operations for one build.

    Args:
        sets: see :func:`load`.
        release: PEP 440 version of the tree.
        device: what is built for.
        facts: what ``when`` tables ask for (``numa``: bool, ``setuptools``: a version), and the values of
            parameters. An operation that asks for a fact which is not given does not apply.
        enable: opt-in sets to add.
        disable: sets to leave out.

    Returns:
        Complete operations in order: nothing else is needed to apply them.

    Raises:
        PatchSetError: an unknown name, a name that is enabled and disabled, a missing parameter.
        SettingsError: ``release`` is not a version.
    """
    _check_names(sets, [*enable, *disable])
    if both := sorted(set(enable) & set(disable)):
        raise PatchSetError(
            f"The patch set {both[0]} is both enabled and disabled.", next="Leave one of the two out."
        )
    try:
        version = Version(release)
    except InvalidVersion:
        raise SettingsError(
            f"{release!r} is not a release.", next="Give a version such as --release 0.9.2."
        ) from None
    chosen: list[str] = []
    steps: list[Step] = []
    skipped: list[Skipped] = []
    for patch_set in sorted(sets.values(), key=lambda item: (item.order, item.name)):
        name = patch_set.name
        if name in disable:
            skipped.append(Skipped(set=name, number=None, reason="disabled"))
            continue
        if not patch_set.default and name not in enable:
            skipped.append(Skipped(set=name, number=None, reason="not asked for"))
            continue
        if reason := _obstacle(patch_set, version, device, facts, name):
            skipped.append(Skipped(set=name, number=None, reason=reason))
            continue
        chosen.append(name)
        values = _values(patch_set, facts)
        for number, operation in enumerate(patch_set.operation, 1):
            if reason := _obstacle(operation, version, device, facts, f"{name}, operation {number}"):
                skipped.append(Skipped(set=name, number=number, reason=reason))
            else:
                steps.append(Step(set=name, number=number, operation=_complete(patch_set, operation, values)))
    return PatchSelection(steps=tuple(steps), sets=tuple(chosen), skipped=tuple(skipped))


def matches_release(specifier: str, version: Version) -> bool:
    """Whether a release meets a specifier.

    A pre-release or development version counts as the release that it leads to as well, so that 0.10.0.dev3
    and 0.10.0rc1 meet ``>=0.10`` and no gap opens between ``<0.10`` and ``>=0.10``.
    """
    wanted = SpecifierSet(specifier)
    if wanted.contains(version, prereleases=True):
        return True
    return version.is_prerelease and wanted.contains(Version(version.base_version), prereleases=True)


def _check_names(sets: Mapping[str, PatchSet], names: Collection[str]) -> None:
    for name in names:
        if name not in sets:
            raise PatchSetError(
                f"There is no patch set {name!r}{did_you_mean(name, sets)}.",
                next="vllm-builder patches list shows all sets.",
            )


def _obstacle(
    conditions: Conditions, version: Version, device: str, facts: Mapping[str, str | bool], where: str
) -> str:
    """Why the conditions do not hold, or an empty text."""
    if conditions.releases and not matches_release(conditions.releases, version):
        return f"for releases {conditions.releases}"
    if conditions.devices and device not in conditions.devices:
        return f"for {', '.join(conditions.devices)}"
    for fact, wanted in conditions.when.items():
        if fact not in facts:
            return f"{fact} is not known"
        if not _holds(fact, facts[fact], wanted, where):
            return f"{fact} is {_shown(facts[fact])}, and {_shown(wanted)} is asked for"
    return ""


def _shown(value: bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def _holds(fact: str, value: bool | str, wanted: bool | str, where: str) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool) or wanted[:1] not in tuple("<>=!~"):
        return value == wanted
    try:
        return SpecifierSet(wanted).contains(Version(value), prereleases=True)
    except InvalidVersion:
        raise PatchSetError(
            f"The fact {fact} = {value!r} is not a version.",
            why=f"{where} compares it with {wanted}.",
            next=f"Give a version such as {fact} = 79.0.1.",
        ) from None


def _values(patch_set: PatchSet, facts: Mapping[str, str | bool]) -> dict[str, str]:
    values = {}
    for name, parameter in patch_set.parameters.items():
        value = facts.get(name, parameter.default)
        if not isinstance(value, str) or not value:
            raise PatchSetError(
                f"The patch set {patch_set.name} needs a value for its parameter {name}.",
                why=parameter.description,
                next=f"Give it with --parameter {name}=VALUE, or leave the set {patch_set.name} out.",
            )
        values[name] = value
    return values


def _complete(patch_set: PatchSet, operation: Operation, values: Mapping[str, str]) -> Operation:
    """The operation with its parameters filled in and its conditions, which hold, left out."""
    data = operation.model_dump()
    for name in Conditions.model_fields:
        data.pop(name)
    try:
        complete: Operation = _OPERATION.validate_python(fill(data, values) if values else data)
    except ValidationError as error:
        raise PatchSetError(
            f"The patch set {patch_set.name} cannot be used with these parameters.",
            why=str(error.errors()[0]["msg"]),
        ) from None
    return complete
