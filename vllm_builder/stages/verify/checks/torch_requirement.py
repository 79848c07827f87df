"""What the wheel says that it requires of torch, against the torch that it was compiled for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from vllm_builder.stages.verify.model import Finding
from vllm_builder.stages.verify.requirements import name_of, without_extras
from vllm_builder.stages.verify.subject import Subject
from vllm_builder.wheelfile.metadata import valid_requirement

_LINUX = {"platform_system": "Linux", "sys_platform": "linux", "os_name": "posix", "extra": ""}


def invalid(subject: Subject) -> Iterator[Finding]:
    """Requirements that no installer understands."""
    for text in subject.wheel.metadata.requires_dist:
        if not valid_requirement(text):
            yield Finding(
                check="requirements",
                severity="error",
                what=f"{text!r} is no valid requirement.",
                where=f"{subject.wheel.dist_info}/METADATA",
                why="Installers refuse a wheel with such a line, or leave the requirement out.",
                cure="Look what writes it into the requirements (PEP 508 says how), and build again.",
            )


def wanted(subject: Subject) -> Iterator[Finding]:
    """The torch that it goes with must be one that it asks for, and what its build wrote must be there."""
    where = f"{subject.wheel.dist_info}/METADATA"
    found = _torch(subject)
    if not found:
        yield from _absent(subject, where)
    build = subject.surroundings.torch
    text = build.version if build is not None else subject.expected.torch
    try:
        torch = Version(text)
    except InvalidVersion:
        return
    role = "it has to go with" if build is not None else "it was compiled against"
    for requirement in found:
        if not requirement.specifier.contains(torch, prereleases=True):
            yield Finding(
                check="requirements",
                severity="error",
                what=f"The wheel requires {requirement}, and {role} torch {text}.",
                where=where,
                why="Whoever installs it gets another torch, with which its extensions do not load or do not work.",
                cure="Build again with --pin-torch minor or exact, or use a torch that it asks for.",
            )


def _absent(subject: Subject, where: str) -> Iterator[Finding]:
    record = subject.wheel.build_record
    finish = record.inputs.get("finish") if record is not None else None
    written = finish.get("torch") if isinstance(finish, dict) else None
    if isinstance(written, str) and written:
        yield Finding(
            check="requirements",
            severity="error",
            what=f"The requirement {written} is not in the wheel.",
            where=where,
            why="Its build wrote it there, so it was taken out since: nothing holds a torch back that does not fit.",
            cure="Build or fetch the wheel again; --pin-torch none makes one without it.",
        )
    elif record is None and "torch" in map(name_of, subject.expected.requirements or ()):
        yield Finding(
            check="requirements",
            severity="info",
            what="The wheel does not require torch, which the release does.",
            where=where,
            why="Nothing brings the torch that it needs, and nothing holds one back that does not fit.",
        )


def _torch(subject: Subject) -> list[Requirement]:
    """Requirements on torch that count on the wheel's machine; those of extras are left out."""
    every = _counting(without_extras(subject.wheel.metadata.requires_dist), subject)
    return [requirement for requirement in every if canonicalize_name(requirement.name) == "torch"]


def counts(texts: Iterable[str], subject: Subject) -> bool:
    """Whether any of the requirements is one on the wheel's machine, by its marker."""
    return next(_counting(texts, subject), None) is not None


def _counting(texts: Iterable[str], subject: Subject) -> Iterator[Requirement]:
    environment = {**_LINUX, "platform_machine": subject.machine or "x86_64"}
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield requirement
