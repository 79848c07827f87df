"""What libraries define, and what is known of those that are not at hand."""

from __future__ import annotations

import json
import mmap
import re
import tomllib
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from vllm_builder.binary import exports, is_elf, read_library
from vllm_builder.errors import BuilderError, WheelError
from vllm_builder.fs import write_atomic

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Provider:
    """A library that others may need."""

    soname: str
    names: frozenset[str]
    """Symbols that it defines; those with a version also as ``memcpy@GLIBC_2.14``."""
    needed: tuple[str, ...] = ()
    origin: str = ""
    """Path, or wheel, in words."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which names a library may define that is not at hand."""

    soname: re.Pattern[str]
    names: re.Pattern[str]
    origin: str


@cache
def rules() -> tuple[Rule, ...]:
    """Read once per process, from ``sonames.toml``."""
    raw = tomllib.loads((Path(__file__).parent / "sonames.toml").read_text("utf-8"))
    return tuple(
        Rule(re.compile(one["soname"]), re.compile(one["names"]), one["from"]) for one in raw["library"]
    )


def rule_for(soname: str) -> Rule | None:
    return next((rule for rule in rules() if rule.soname.fullmatch(soname)), None)


def provider_of(path: Path) -> Provider | None:
    """Read a library on disk; None for what is no library that can be read (a linker script)."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return provide(data, path.name, str(path)) if is_elf(data) else None
    except (OSError, ValueError, WheelError):  # ValueError: an empty file cannot be mapped
        return None


def provide(data: memoryview | mmap.mmap | bytes, name: str, origin: str) -> Provider:
    """What a library in memory defines.

    Raises:
        WheelError: it cannot be read.
    """
    library = read_library(data, name=name)
    return Provider(library.soname or name, exports(data, name=name), library.needed, origin)


@dataclass(frozen=True)
class TorchBuild:
    """The libraries of one build of torch."""

    version: str
    """With its build tag where it has one: ``2.11.0+cu130``."""
    cuda: str
    """``torch.version.cuda``; empty for a build without CUDA."""
    libraries: Mapping[str, Provider]
    """By the name that NEEDED uses."""
    origin: str
    folders: tuple[Path, ...] = ()
    """Where the libraries lie that it brings along, CUDA's among them; empty where they are not at hand."""

    @cached_property
    def all_names(self) -> frozenset[str]:
        return frozenset().union(*(one.names for one in self.libraries.values()))


def keep_build(build: TorchBuild, folder: Path, machine: str) -> None:
    """Keep what a torch build defines; where the cache cannot be written to, it is not kept."""
    libraries = {
        name: {"needed": one.needed, "names": sorted(one.names)} for name, one in build.libraries.items()
    }
    text = json.dumps({"format": _FORMAT, "cuda": build.cuda, "libraries": libraries})
    path = _file(folder, build.version, machine)
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, zlib.compress(text.encode("utf-8", "surrogateescape"), 1))
    except OSError:
        return


def kept_build(folder: Path, version: str, machine: str) -> TorchBuild | None:
    """A torch build that was kept earlier; None where there is none that can be read."""
    path = _file(folder, version, machine)
    try:
        raw = json.loads(zlib.decompress(path.read_bytes()).decode("utf-8", "surrogateescape"))
        if raw["format"] != _FORMAT:
            return None
        libraries = {
            name: Provider(name, frozenset(one["names"]), tuple(one["needed"]), f"torch {version}")
            for name, one in raw["libraries"].items()
        }
        return TorchBuild(version, raw["cuda"], libraries, f"torch {version}, as it was read earlier")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None


def keep_installed(build: TorchBuild, folder: Path, state: str) -> None:
    """Keep what an installed torch defines, for as long as its files are as ``state`` says; see :func:`.installed`."""
    libraries = {
        name: {"soname": one.soname, "needed": one.needed, "names": sorted(one.names), "origin": one.origin}
        for name, one in build.libraries.items()
    }
    text = json.dumps({"format": _FORMAT, "libraries": libraries})
    with suppress(OSError, BuilderError):
        write_atomic(_state_file(folder, state), zlib.compress(text.encode("utf-8", "surrogateescape"), 1))


def kept_installed(folder: Path, state: str) -> dict[str, Provider] | None:
    """The libraries of an installed torch as they were read earlier in that state; None where they were not."""
    try:
        data = zlib.decompress(_state_file(folder, state).read_bytes()).decode("utf-8", "surrogateescape")
        raw = json.loads(data)
        if raw["format"] != _FORMAT:
            return None
        return {
            name: Provider(one["soname"], frozenset(one["names"]), tuple(one["needed"]), one["origin"])
            for name, one in raw["libraries"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None


def _state_file(folder: Path, state: str) -> Path:
    return folder / f"installed-{state[:32]}.json.z"


def kept_versions(folder: Path, machine: str) -> tuple[str, ...]:
    """Versions of the torch builds that are kept."""
    ending = f"-{machine}.json.z"
    try:
        names = sorted(path.name for path in folder.glob(f"torch-*{ending}"))
    except OSError:
        return ()
    return tuple(name.removeprefix("torch-").removesuffix(ending) for name in names)


def _file(folder: Path, version: str, machine: str) -> Path:
    return folder / f"torch-{re.sub(r'[^A-Za-z0-9.+]', '_', version)}-{machine}.json.z"
