"""Find what a release's CMake files fetch, and which of it a device needs."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from vllm_builder.errors import VendorError
from vllm_builder.stages.patch.cmake import CMakeFile
from vllm_builder.stages.patch.fetchcontent import downloads, keyword_groups, local_folder
from vllm_builder.stages.vendor.interpreter import BINARY, MAYBE, NO, SOURCE, YES, Interpreter, Reached
from vllm_builder.stages.vendor.model import External, Need
from vllm_builder.stages.vendor.scope import Scope, World

_NEED: Final[dict[int, Need]] = {YES: "yes", MAYBE: "maybe", NO: "no"}


def cmake_files(tree: Path) -> dict[str, bytes]:
    """The release's own CMake files by their path from the tree's root.

    Raises:
        VendorError: there is no CMakeLists.txt, or one of the files is not valid CMake.
    """
    paths = [tree / "CMakeLists.txt", *sorted((tree / "cmake").glob("**/*.cmake"))]
    files = {path.relative_to(tree).as_posix(): path.read_bytes() for path in paths if path.is_file()}
    if "CMakeLists.txt" not in files:
        raise VendorError(
            "The source has no CMakeLists.txt.",
            why="The external sources of a release stand in its CMake files.",
            next="Give the top folder of a vLLM tree.",
        )
    for path, data in files.items():
        if error := CMakeFile(data, path).error:
            raise VendorError("The release's CMake files cannot be read.", why=error)
    return files


def discover(
    survey: Path,
    *,
    device: str,
    cuda: str | None = None,
    archs: Sequence[str] = (),
    machine: str = "",
    cpuinfo: str | None = None,
    environment: Mapping[str, str] = {},  # never changed
    facts: Mapping[str, str] = {},  # never changed
) -> tuple[External, ...]:
    """What the CMake files of a tree, or of a survey of one, would fetch, in file order.

    Nothing of the machine is looked at: everything that may decide is an argument.

    Args:
        device: what VLLM_TARGET_DEVICE is.
        cuda: version of nvcc, ``13.0``; None: not known.
        archs: GPU architectures as TORCH_CUDA_ARCH_LIST spells them.
        machine: processor as ``uname -m`` says; empty: this one's.
        cpuinfo: text of /proc/cpuinfo of the machine that compiles, which CPU builds read.
        environment: variables that the build will have; all others count as unset.
        facts: further CMake variables that are known.

    Raises:
        VendorError: see :func:`cmake_files`.
    """
    files = cmake_files(survey)
    gpu = device in {"cuda", "rocm"}
    known = {
        "VLLM_TARGET_DEVICE": device,
        "CMAKE_SOURCE_DIR": SOURCE,
        "CMAKE_CURRENT_SOURCE_DIR": SOURCE,
        "PROJECT_SOURCE_DIR": SOURCE,
        "CMAKE_BINARY_DIR": BINARY,
        "CMAKE_CURRENT_BINARY_DIR": BINARY,
        "PROJECT_BINARY_DIR": BINARY,
        "FETCHCONTENT_BASE_DIR": f"{BINARY}/_deps",
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_HOST_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": machine or platform.machine(),
        "UNIX": "1",
        "WIN32": "",
        "APPLE": "",
    }
    if gpu:
        known |= {
            "CUDA_FOUND": "TRUE" if device == "cuda" else "FALSE",
            "HIP_FOUND": "FALSE" if device == "cuda" else "TRUE",
            "PYTORCH_FOUND_HIP": "FALSE" if device == "cuda" else "TRUE",
        }
    if cuda:
        known |= {"CMAKE_CUDA_COMPILER_VERSION": cuda, "CUDA_VERSION": cuda, "CUDAToolkit_VERSION": cuda}
    if archs:
        known["CUDA_ARCHS"] = ";".join(archs)
    known |= facts
    world = World(known, _own_names(files))
    interpreter = Interpreter(world, files, {"/proc/cpuinfo": cpuinfo} if cpuinfo is not None else {})
    scope = Scope(world, environment=dict(environment))
    interpreter.run_file("CMakeLists.txt", scope, YES)
    return _externals(interpreter.reached, files)


def _own_names(files: Mapping[str, bytes]) -> frozenset[str]:
    """Names of variables that the tree's files set themselves, or read a local folder from."""
    names: set[str] = set()
    for path, data in files.items():
        for command in CMakeFile(data, path).commands():
            values = command.values
            if command.name in {"set", "unset", "option", "foreach"} and values:
                names.add(values[0])
            elif command.name in {"list", "string"} and len(values) > 1:
                names.update(value for value in values[1:] if re.fullmatch(r"[A-Za-z_]\w*", value))
            elif command.name == "execute_process":
                names.update(value for keyword, value in pairwise(values) if keyword.endswith("_VARIABLE"))
            elif command.name.startswith("fetchcontent_"):
                if variable := local_folder(command):
                    names.add(variable)
                if values:
                    names.add(f"{values[0].lower()}_POPULATED")
    return frozenset(names)


def _externals(reached: Sequence[Reached], files: Mapping[str, bytes]) -> tuple[External, ...]:
    best: dict[tuple[str, int], Reached] = {}
    for call in reached:
        place = (call.file, call.line)
        if place not in best or call.level > best[place].level:
            best[place] = call
    overrides = _overrides(files)
    uses: dict[str, Reached] = {}
    for call in best.values():
        if call.command not in {"makeavailable", "populate"}:
            continue
        for name in _names(call)[: 1 if call.command == "populate" else None]:
            if name.lower() not in uses or call.level > uses[name.lower()].level:
                uses[name.lower()] = call
    found: list[External] = []
    settled: set[str] = set()
    for call in best.values():
        direct = call.command == "populate"
        if call.command not in {"declare", "populate"} or (direct and len(call.arguments) == 1):
            continue
        groups = keyword_groups(call.arguments)
        for name in _names(call)[:1]:
            key = name.lower()
            use = call if direct else uses.get(key)
            first = direct or key not in settled
            if call.level == YES and not direct:
                settled.add(key)  # the first declaration of a name wins
            if any(map(downloads, groups)):
                found.append(_external(call, use, name, groups, first, overrides.get(key, "")))
    order = {path: number for number, path in enumerate(files)}
    return tuple(sorted(found, key=lambda one: (order[one.file], one.line)))


def _external(
    call: Reached, use: Reached | None, name: str, groups: Mapping[str, range], first: bool, override: str
) -> External:
    level = min(call.level, use.level) if use and first else NO
    conditions = tuple(dict.fromkeys((*call.conditions, *(use.conditions if use else ()))))
    undecided = tuple(dict.fromkeys((*call.undecided, *(use.undecided if use else ()))))
    tag = groups.get("GIT_TAG", range(0))[1:2]
    submodules = groups.get("GIT_SUBMODULES")
    return External(
        name=name,
        file=call.file,
        line=call.line,
        form="populate" if call.command == "populate" else "declare",
        url=_one(call, groups, "GIT_REPOSITORY"),
        revision=_one(call, groups, "GIT_TAG"),
        written=call.arguments[tag[0]].value if tag else "",
        submodules=None
        if submodules is None
        else tuple(value for place in submodules[1:] for value in call.values[place] if value),
        shallow=_one(call, groups, "GIT_SHALLOW").upper() in {"TRUE", "ON", "1"},
        override=override or _from_conditions(conditions),
        conditions=conditions,
        needed=_NEED[level],
        why=_why(level, first, use, conditions, undecided),
    )


def _names(call: Reached) -> list[str]:
    return [value for argument in call.values for value in argument if value]


def _why(
    level: int, first: bool, use: Reached | None, conditions: Sequence[str], undecided: Sequence[str]
) -> str:
    if level == YES:
        return ""
    if level == MAYBE:
        return f"not decided: {'; '.join(undecided)}"
    if not first:
        return "an earlier declaration of the same name wins"
    if use is None:
        return "declared, but never made available"
    return "not reached: " + "; ".join(conditions)


def _one(call: Reached, groups: Mapping[str, range], keyword: str) -> str:
    """The resolved value after a keyword, or an empty text."""
    places = groups.get(keyword, range(0))[1:2]
    return "".join(value or "" for place in places for value in call.values[place][:1])


def _overrides(files: Mapping[str, bytes]) -> dict[str, str]:
    """Per name, the variable from which another declaration of it takes a local folder."""
    found: dict[str, str] = {}
    for path, data in files.items():
        for command in CMakeFile(data, path).commands("FetchContent_Declare"):
            if command.arguments and (variable := local_folder(command)):
                found[command.arguments[0].value.lower()] = variable
    return found


def _from_conditions(conditions: Sequence[str]) -> str:
    """The folder variable of which a condition on the way says that it is not set: the innermost one."""
    for text in reversed(conditions):
        match = re.match(r"NOT \((?:DEFINED )?(?:ENV\{)?(\w+)\}?", text)
        if match and match[1].endswith("_DIR"):
            return match[1]
    return ""
