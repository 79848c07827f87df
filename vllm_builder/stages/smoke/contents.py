"""What a smoke test has to know of a wheel before it is installed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from vllm_builder.binary import read_library
from vllm_builder.errors import WheelError
from vllm_builder.wheelfile import Wheel, open_wheel
from vllm_builder.wheelfile.record import BuildRecord

_EXTENSION = re.compile(
    r"(?P<stem>[A-Za-z_]\w*)(?:\.(?P<abi>abi3|cpython-(?P<python>\d+)[a-z]?(?:-[\w-]+)?))?\.so"
)
_ADDRESS = re.compile(r"(?i)(https?|file):/")
_TORCH_LIBRARY = re.compile(r"lib(torch|c10)(_\w+)?\.so")


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension module of a wheel."""

    name: str
    """``vllm._C``."""
    member: str
    python: str = ""
    """``311`` where it is for one version of Python alone."""


@dataclass(frozen=True, slots=True)
class Contents:
    path: Path
    name: str
    """Canonical."""
    version: str
    python: SpecifierSet
    """What the metadata and the tags want together."""
    extensions: tuple[Extension, ...]
    packages: tuple[str, ...]
    """Top-level packages."""
    torch: Requirement | None
    """What the metadata says of torch."""
    links_torch: bool
    """Whether torch is needed: an extension is linked to its libraries, or record or metadata say so."""
    record: BuildRecord | None
    missing: tuple[str, ...] = ()
    """Modules that its build record expects and that it does not hold: ``vllm._C``."""


def read_contents(path: Path) -> Contents:
    """Read a wheel.

    Raises:
        WheelError: it does not exist, or cannot be read.
    """
    if _ADDRESS.match(str(path)) and not path.exists():  # as a path it has lost one of its slashes
        raise WheelError(
            f"{path.name} is behind an address, and a smoke test installs a file of this machine.",
            next="Download the wheel and name the file.",
        )
    with open_wheel(path) as wheel:
        extensions = tuple(filter(None, map(_extension, wheel.members)))
        torch, record = _torch(wheel.metadata.requires_dist), wheel.build_record
        known = torch is not None or (record is not None and bool(record.torch))
        return Contents(
            path=path,
            name=wheel.name,
            version=str(wheel.version),
            python=_python(wheel.metadata.requires_python, {(t.interpreter, t.abi) for t in wheel.tags}),
            extensions=extensions,
            packages=tuple(
                sorted(
                    n.split("/")[0] for n in wheel.members if re.fullmatch(r"[A-Za-z_]\w*/__init__\.py", n)
                )
            ),
            torch=torch,
            links_torch=known or any(_links_torch(wheel, e.member) for e in extensions),
            record=record,
            missing=_missing(record, wheel) if record is not None and record.expectations else (),
        )


def _missing(record: BuildRecord, wheel: Wheel) -> tuple[str, ...]:
    from vllm_builder.stages.verify.expectations import from_record

    return tuple(
        one.path.strip("/").replace("/", ".")
        for one in from_record(record).extensions or ()
        if one.required and not one.optional and one.finds(wheel.members) is None
    )


def _extension(member: str) -> Extension | None:
    folder, _, file = member.rpartition("/")
    match = _EXTENSION.fullmatch(file)
    # NAME.libs holds the libraries that auditwheel put in.
    if match is None or ".data/" in member or (folder and not folder.replace("/", "").isidentifier()):
        return None
    return Extension(
        ".".join([*filter(None, folder.split("/")), match["stem"]]), member, match["python"] or ""
    )


def _links_torch(wheel: Wheel, member: str) -> bool:
    with wheel.mapped(member) as data:
        try:
            return any(map(_TORCH_LIBRARY.match, read_library(data, name=member).needed))
        except WheelError:
            # Importing it will say what it is.
            return False


def _torch(requires: tuple[str, ...]) -> Requirement | None:
    for line in requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        if canonicalize_name(requirement.name) == "torch" and (
            marker is None or marker.evaluate({"extra": ""})
        ):
            return requirement
    return None


def _python(required: str, tags: set[tuple[str, str]]) -> SpecifierSet:
    """For example ``>=3.10,<3.14,>=3.8`` of a cp38-abi3 wheel."""
    try:
        found = SpecifierSet(required)
    except InvalidSpecifier:
        found = SpecifierSet("")
    wanted = set()
    for interpreter, abi in tags:
        if match := re.fullmatch(r"cp3(\d+)", interpreter):
            wanted.add(f">=3.{match[1]}" if abi in {"abi3", "none"} else f"==3.{match[1]}.*")
    # Several tags mean any of them, which a set of specifiers cannot say: uv will judge.
    return found & SpecifierSet(wanted.pop()) if len(wanted) == 1 else found
