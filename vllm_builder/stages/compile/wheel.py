"""Is the wheel that came out the wheel that was planned?"""

from __future__ import annotations

import re
import sysconfig
import zipfile
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path, PurePosixPath

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from vllm_builder.errors import WheelMismatch
from vllm_builder.stages.compile.model import CompileSpec

_SHARED = re.compile(r"\.so(\.\d+)*$|\.pyd$|\.dylib$")
_ABI3 = re.compile(r"\.abi3\.(so|pyd)$|\.abi3\.dylib$")
_PER_PYTHON = re.compile(r"\.(cpython-|cp\d|pypy\d|graalpy)[^/]*\.(so|pyd)$")


@dataclass(frozen=True, slots=True)
class WheelFacts:
    """What was read from a wheel file."""

    name: str
    version: str
    build: str
    """The build tag of the file's name; empty where it has none."""
    pythons: frozenset[str]
    abis: frozenset[str]
    platforms: frozenset[str]
    abi3: tuple[str, ...]
    """Extension modules of the stable ABI."""
    one_python: tuple[str, ...]
    """Extension modules of one Python only."""
    members: frozenset[str]


def read_wheel(path: Path) -> WheelFacts:
    """Read name, version, tag and extension modules of a wheel.

    Raises:
        WheelMismatch: the file is no whole wheel.
    """
    try:
        _, _, build, tags = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if not n.endswith("/")]
            meta = [n for n in names if n.count("/") == 1 and n.endswith(".dist-info/METADATA")]
            if len(meta) != 1:
                raise WheelMismatch(f"{path.name} holds {len(meta)} METADATA files instead of one.")
            metadata = BytesParser().parsebytes(archive.read(meta[0]))
    except (InvalidWheelFilename, zipfile.BadZipFile, OSError, EOFError) as error:
        raise WheelMismatch(
            f"{path.name} is not a whole wheel.",
            why=str(error),
            next="Run the same command again; if it stays so, the log of setup.py says more.",
        ) from error
    # A bare `libx.so` or `libx.so.4` beside the modules is a library that no Python imports.
    modules = [n for n in names if _SHARED.search(n) and not PurePosixPath(n).name.startswith("lib")]
    return WheelFacts(
        name=str(metadata["Name"]),
        version=str(metadata["Version"]),
        build="".join(map(str, build)),
        pythons=frozenset(tag.interpreter for tag in tags),
        abis=frozenset(tag.abi for tag in tags),
        platforms=frozenset(tag.platform for tag in tags),
        abi3=tuple(sorted(n for n in modules if _ABI3.search(n))),
        one_python=tuple(sorted(n for n in modules if _PER_PYTHON.search(n))),
        members=frozenset(names),
    )


def check_wheel(path: Path, spec: CompileSpec) -> tuple[WheelFacts, tuple[str, ...]]:
    """Compare a wheel with the plan. Returns what was read and remarks that are no errors.

    Raises:
        WheelMismatch: another name, version, build tag or platform, an abi3 tag on a wheel that holds a module of
            one Python or of another stable ABI than was planned, or no compiled module where there should be some.
    """
    facts = read_wheel(path)
    remarks = []
    if canonicalize_name(facts.name) != "vllm":
        raise WheelMismatch(f"The wheel that came out is for {facts.name!r}, not for vllm.")
    if not _same_version(facts.version, spec.version):
        raise WheelMismatch(
            f"The wheel's version is {facts.version}, but the plan says {spec.version}.",
            why="The release's setup.py arrived at another version than the plan expected.",
            next="Look in the log for the version that setuptools-scm reports, and for variables that "
            "override it (VLLM_VERSION_OVERRIDE, SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VLLM).",
        )
    _check_name(path, facts, spec)
    universal = "abi3" in facts.abis
    if universal and spec.limited_api and facts.pythons != {spec.limited_api}:
        raise WheelMismatch(
            f"{path.name} is tagged {', '.join(sorted(facts.pythons))}, but the plan says {spec.limited_api}.",
            why="The release's setup.py chose another stable ABI.",
            next="Look for py_limited_api in the tree's setup.py, setup.cfg and pyproject.toml.",
        )
    if universal and facts.one_python:
        raise WheelMismatch(
            f"{path.name} is tagged for every Python, but holds modules that only one Python can load.",
            why=f"Not of the stable ABI: {', '.join(facts.one_python)}.",
            next="Build it without a limited API (one wheel per Python).",
            details=facts.one_python,
        )
    if facts.abi3 and not facts.one_python and not universal:
        remarks.append(
            f"Every extension in {path.name} is of the stable ABI, "
            "but the wheel is tagged for one Python only."
        )
    if spec.device != "empty" and not facts.abi3 and not facts.one_python:
        raise WheelMismatch(
            f"{path.name} holds no compiled extension, but the device is {spec.device}.",
            why="setup.py built nothing, most likely because the torch in the build environment is not one "
            "for this device.",
            next="Look at the beginning of the log; check the torch with --torch.",
        )
    return facts, tuple(remarks)


def _check_name(path: Path, facts: WheelFacts, spec: CompileSpec) -> None:
    """What the file is called must follow from the plan too: a configuration of setuptools can change it."""
    name, version, *_ = parse_wheel_filename(path.name)
    here = re.sub(r"[^A-Za-z0-9_]", "_", sysconfig.get_platform())
    wrong = ""
    if name != "vllm" or not _same_version(str(version), spec.version):
        wrong = f"it is named as {name} {version}"
    elif facts.build:
        wrong = f"it has the build tag {facts.build}"
    elif not facts.platforms <= {"any", here}:
        wrong = f"it is tagged for {', '.join(sorted(facts.platforms))}, and this machine is {here}"
    if wrong:
        raise WheelMismatch(
            f"{path.name} is not the wheel of the plan: {wrong}.",
            why="Something outside the plan told setuptools what to call it.",
            next="Look for a [bdist_wheel] or [egg_info] section in the tree's setup.cfg, and in a distutils.cfg of the "
            "build environment.",
        )


def _same_version(found: str, wanted: str) -> bool:
    try:
        return Version(found) == Version(wanted)
    except InvalidVersion:
        return found == wanted
