"""All that goes into what is compiled, and nothing else: the native digest.

Of the tree: ``csrc/``, ``cmake/``, ``CMakeLists.txt``, ``setup.py`` as a whole, every other source of a compiler or
CMake, and what CMake's files name besides. The external sources go in by their locked content. What setup.py does for
Python alone is in no digest; whether it calls cmake as it did is looked at when a layer is used (:mod:`.standin`), and
what ninja read while a layer was compiled is held against this list before the layer is kept (:mod:`.reading`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from vllm_builder.fs import os_errors
from vllm_builder.model import Model, digest, digest_view

if TYPE_CHECKING:
    from vllm_builder.stages.plan.model import Plan

_AT_TOP: Final = ("csrc/", "cmake/")
_WHOLE: Final = frozenset({"CMakeLists.txt", "setup.py"})
_NO_SOURCES: Final = re.compile(r"(tests|docs|examples|benchmarks|\.[^/]+)/")
"""Folders at the top that no build reads."""
_NATIVE: Final = re.compile(
    r"(.*/)?CMakeLists\.txt|.*\.(c|cc|cpp|cxx|cu|cuh|h|hh|hpp|hxx|inc|inl|ipp|S|s|asm|hip|cmake|cmake\.in|def)"
)
_EXTERNAL: Final = re.compile(r"vllm/third_party/[^/]+\.src/")
_OF_THE_TREE: Final = re.compile(
    r"\$\{(?:CMAKE_SOURCE_DIR|PROJECT_SOURCE_DIR|CMAKE_CURRENT_SOURCE_DIR|CMAKE_CURRENT_LIST_DIR|VLLM_ROOT\w*)\}"
    r"/([\w.+/-]+)"
)
_PATH: Final = re.compile(r"[\w.+-]+(?:/[\w.+-]+)+")
_IMPORT: Final = re.compile(r"^\s*(?:import|from)\s+(\w+)", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*#.*$", re.MULTILINE)
_VERSION: Final = re.compile(
    rb"SETUPTOOLS_SCM|VLLM_VERSION|VLLM_RS_BUILD_VERSION|_version\.py|vllm[./]version|vllm[./]_version"
)
"""Where native sources ask for the version, it goes into the digest."""


class NativeFiles(Model):
    """What a patched tree brings in."""

    files: Mapping[str, str]
    """Path in the tree -> SHA-256 of the content, ``->target`` of a link."""
    asks_version: bool = False
    """They mention the version, so it may be in what is compiled."""


class NativeInputs(Model):
    """Everything that can change what is compiled; its digest names a layer."""

    layout: Literal[1] = 1
    """Raised when the same inputs give another layer than before."""
    device: str
    archs: tuple[str, ...] = ()
    platform: str
    build_type: str
    limited_api: str | None = None
    python_abi: str | None = None
    torch: Mapping[str, Any] = {}
    toolkit: Mapping[str, Any] = {}
    compilers: Mapping[str, Any] = {}
    """Language -> compiler."""
    cmake: str = ""
    """Its version, where the plan locks it."""
    variables: Mapping[str, str] = {}
    folders: Mapping[str, str] = {}
    externals: Mapping[str, str] = {}
    """Name -> digest of the locked content."""
    version: str = ""
    """Empty unless native sources ask for it."""
    files: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        return digest(self)

    def as_dict(self) -> dict[str, Any]:
        """What the digest covers, as JSON types."""
        view: dict[str, Any] = digest_view(self)
        return view


def has_native_layer(plan: Plan) -> bool:
    """Whether the wheel of a plan has a compiled part that may serve others."""
    return plan.device != "empty" and not plan.compile.extensions


def native_inputs(plan: Plan, found: NativeFiles) -> NativeInputs:
    """The inputs of a plan whose tree holds ``found``."""
    from vllm_builder.stages.environment.lock import locked_version

    return NativeInputs(
        device=plan.device,
        archs=plan.compile.archs,
        platform=plan.platform,
        build_type=plan.compile.build_type,
        limited_api=plan.compile.limited_api,
        python_abi=plan.python_abi,
        torch=digest_view(plan.torch) or {},
        toolkit=digest_view(plan.toolkit) or {},
        compilers={one.language: digest_view(one) for one in plan.compile.compilers},
        cmake=locked_version(plan.environment.lock, "cmake") or "",
        variables=dict(sorted(plan.compile.variables.items())),
        folders=plan.folders,
        externals={one.name: digest(one) for one in plan.externals.externals} if plan.externals else {},
        version=plan.compile.version if found.asks_version else "",
        files=found.files,
    )


def native_files(tree: Path, listed: Mapping[str, str], patched: Iterable[str] = ()) -> NativeFiles:
    """Pick the native files of a patched tree.

    Args:
        tree: where it lies.
        listed: every file of it as it was placed and patched: path -> SHA-256 of its content.
        patched: paths that a patch changed: those within an external source count by themselves, since the lock
            says what they were before.

    Raises:
        BuilderError: a file cannot be read.
    """
    patched = set(patched)
    own = [path for path in listed if not _EXTERNAL.match(path)]
    chosen = {path for path in own if is_native(path)}
    cmake_files = sorted(path for path in chosen if path.endswith((".cmake", "CMakeLists.txt", ".cmake.in")))
    for path in cmake_files:
        chosen.update(_named(tree, _text(tree / path), Path(path).parent.as_posix(), own))
    chosen.update(path for path in patched if _EXTERNAL.match(path) and path in listed)
    asks = any(_asks_version(tree / path) for path in sorted(chosen - {"setup.py"}))
    return NativeFiles(files={path: listed[path] for path in sorted(chosen)}, asks_version=asks)


def is_native(path: str) -> bool:
    """Whether a file of the tree counts by its place or kind."""
    if path in _WHOLE or path.startswith(_AT_TOP):
        return True
    return not _NO_SOURCES.match(path) and bool(_NATIVE.fullmatch(path))


def is_external(path: str) -> bool:
    """Whether a file belongs to an external source, which the lock names by content."""
    return bool(_EXTERNAL.match(path))


def _named(tree: Path, text: str, folder: str, own: list[str]) -> Iterator[str]:
    """Files of the tree that a CMake file names, with what a script among them imports; all of a folder."""
    here = "" if folder == "." else f"{folder}/"
    files = set(own)
    text = _COMMENT.sub("", text)
    rooted = {found[1].rstrip("/.") for found in _OF_THE_TREE.finditer(text)}
    for word in sorted(rooted | {found[0] for found in _PATH.finditer(text)}):
        for path in sorted({word, f"{here}{word}"}):
            if path in files:
                yield path
                if path.endswith(".py"):
                    yield from _imported(tree, path, files)
            elif word in rooted and path and path != "vllm":
                yield from (p for p in own if p.startswith(f"{path}/"))


def _imported(tree: Path, script: str, files: set[str]) -> Iterator[str]:
    """Modules that lie beside a script and that it imports, and so on."""
    beside = script.rpartition("/")[0]
    todo, seen = [script], {script}
    while todo:
        for match in _IMPORT.finditer(_text(tree / todo.pop())):
            path = f"{beside}/{match[1]}.py".lstrip("/")
            if path in files and path not in seen:
                seen.add(path)
                todo.append(path)
                yield path


def _text(path: Path) -> str:
    with os_errors(f"reading {path}"):
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _asks_version(path: Path) -> bool:
    with os_errors(f"reading {path}"):
        return path.is_file() and bool(_VERSION.search(path.read_bytes()))
