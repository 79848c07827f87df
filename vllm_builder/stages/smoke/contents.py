"""What a smoke test has to know of a wheel before it is installed."""

from __future__ import annotations

import email.parser
import re
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from vllm_builder.errors import WheelError
from vllm_builder.wheelfile.record import BUILD_RECORD, BuildRecord, parse_build_record

_EXTENSION = re.compile(
    r"(?P<stem>[A-Za-z_]\w*)(?:\.(?P<abi>abi3|cpython-(?P<python>\d+)[a-z]?(?:-[\w-]+)?))?\.so"
)
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
    """Whether an extension is linked to torch's libraries."""
    record: BuildRecord | None


def read_contents(path: Path) -> Contents:
    """Read a wheel.

    Raises:
        WheelError: it does not exist, or cannot be read.
    """
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise WheelError(
            f"{path.name} is not the name of a wheel.",
            why=str(error),
            next="Give the wheel's file, under the name that it was built with.",
        ) from None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            extensions = tuple(filter(None, map(_extension, names)))
            metadata = email.parser.BytesParser().parsebytes(archive.read(_info(names, "METADATA")))
            record = _info(names, BUILD_RECORD, must=False)
            return Contents(
                path=path,
                name=canonicalize_name(name),
                version=str(version),
                python=_python(metadata.get("Requires-Python"), {(t.interpreter, t.abi) for t in tags}),
                extensions=extensions,
                packages=tuple(
                    sorted(n.split("/")[0] for n in names if re.fullmatch(r"[A-Za-z_]\w*/__init__\.py", n))
                ),
                torch=_torch(metadata.get_all("Requires-Dist", [])),
                links_torch=any(_links_torch(archive.read(e.member)) for e in extensions),
                record=parse_build_record(archive.read(record)) if record else None,
            )
    except FileNotFoundError:
        raise WheelError(
            f"There is no wheel {path}.", next="Give the path of the wheel; `build` prints it."
        ) from None
    except (
        OSError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise WheelError(
            f"{path.name} cannot be read as a wheel.",
            why=str(error),
            next="`vllm-builder inspect` says more; build or download it again.",
        ) from None


def _info(names: list[str], file: str, *, must: bool = True) -> str:
    found = [n for n in names if re.fullmatch(rf"[^/]+\.dist-info/{re.escape(file)}", n)]
    if not found and must:
        raise KeyError(f"there is no {file} in it")
    return found[0] if found else ""


def _extension(member: str) -> Extension | None:
    folder, _, file = member.rpartition("/")
    match = _EXTENSION.fullmatch(file)
    # NAME.libs holds the libraries that auditwheel put in.
    if match is None or ".data/" in member or (folder and not folder.replace("/", "").isidentifier()):
        return None
    return Extension(
        ".".join([*filter(None, folder.split("/")), match["stem"]]), member, match["python"] or ""
    )


def _links_torch(data: bytes) -> bool:
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    try:
        dynamic = ELFFile(BytesIO(data)).get_section_by_name(".dynamic")
        if not isinstance(dynamic, DynamicSection):
            return False
        return any(
            _TORCH_LIBRARY.match(str(getattr(tag, "needed", ""))) for tag in dynamic.iter_tags("DT_NEEDED")
        )
    except ELFError:
        # Importing it will say what it is.
        return False


def _torch(requires: list[str]) -> Requirement | None:
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


def _python(required: str | None, tags: set[tuple[str, str]]) -> SpecifierSet:
    """For example ``>=3.10,<3.14,>=3.8`` of a cp38-abi3 wheel."""
    try:
        found = SpecifierSet(required or "")
    except InvalidSpecifier:
        found = SpecifierSet("")
    wanted = set()
    for interpreter, abi in tags:
        if match := re.fullmatch(r"cp3(\d+)", interpreter):
            wanted.add(f">=3.{match[1]}" if abi in {"abi3", "none"} else f"==3.{match[1]}.*")
    # Several tags mean any of them, which a set of specifiers cannot say: uv will judge.
    return found & SpecifierSet(wanted.pop()) if len(wanted) == 1 else found
