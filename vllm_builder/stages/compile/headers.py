"""Is a header there, and the library that goes with it? Where to look, the compiler itself is asked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_builder.processes import ask
from vllm_builder.stages.compile.model import Compiler

if TYPE_CHECKING:
    from vllm_builder.memo import Memo

_SECONDS = 30
_SEARCH = re.compile(
    r'^#include "\.\.\." search starts here:$(.*?)^End of search list\.$', re.MULTILINE | re.DOTALL
)
_VARIABLES = (
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "GCC_EXEC_PREFIX",
    "COMPILER_PATH",
)


def numa_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """CPATH and LIBRARY_PATH with the folders of ``NUMACTL_DIR`` in front; empty where that is not set."""
    root = environ.get("NUMACTL_DIR", "")
    if not root:
        return {}
    lib = "lib64" if not (Path(root) / "lib").is_dir() and (Path(root) / "lib64").is_dir() else "lib"
    return {
        "CPATH": _in_front(str(Path(root) / "include"), environ.get("CPATH", "")),
        "LIBRARY_PATH": _in_front(str(Path(root) / lib), environ.get("LIBRARY_PATH", "")),
    }


def has_header(
    name: str,
    compilers: Sequence[Compiler],
    environ: Mapping[str, str],
    *,
    library: str | None = None,
    memo: Memo | None = None,
) -> Path | None:
    """Where the C++ compiler finds ``name``, or None.

    CPATH, C_INCLUDE_PATH, CPLUS_INCLUDE_PATH, LIBRARY_PATH and NUMACTL_DIR count, as they will in the build.

    Args:
        name: as an ``#include <...>`` names it.
        compilers: what :func:`probe_compilers` found; without a C++ compiler the answer is None.
        environ: the person's environment.
        library: ``numa`` for libnuma: the answer is None too where the linker would not find that.
        memo: remembers the compiler's search folders (never what is in them).
    """
    compiler = next((c for c in compilers if c.language == "CXX"), None)
    if compiler is None:
        return None
    env = {**environ, **numa_variables(environ), "LC_ALL": "C"}
    folders = _folders(compiler, env, memo)
    header = _first(folders["include"], (name,))
    if header is None or library is None:
        return header
    return header if _first(folders["library"], (f"lib{library}.so", f"lib{library}.a")) else None


def _first(folders: Sequence[str], names: Sequence[str]) -> Path | None:
    return next((Path(f) / n for f in folders for n in names if (Path(f) / n).is_file()), None)


def _folders(compiler: Compiler, env: Mapping[str, str], memo: Memo | None) -> Mapping[str, list[str]]:
    from vllm_builder.stages.compile.toolchain import command_of, compiler_identity

    command = command_of(compiler.path)
    identity = compiler_identity(command[0], env)
    if identity is None:
        memo = None
    question: list[Any] = ["search folders", command, [env.get(v, "") for v in _VARIABLES], identity]
    known = memo.get(question) if memo is not None else None
    if isinstance(known, dict) and {"include", "library"} <= set(known):
        return known
    found = _search(command, env)
    if memo is not None and found["include"]:
        memo.put(question, found)
    return found


def _search(command: Sequence[str], env: Mapping[str, str]) -> dict[str, list[str]]:
    answer = ask([*command, "-v", "-E", "-x", "c++", os.devnull], env, seconds=_SECONDS)
    match = _SEARCH.search(answer.stderr) if answer.good else None
    include = []
    for line in match[1].splitlines() if match else ():
        if line.startswith(" "):
            include.append(line.strip().removesuffix(" (framework directory)"))
    # The compiler names only folders that exist; one of these may come into being while this is remembered.
    for variable in ("CPATH", "CPLUS_INCLUDE_PATH"):
        include += [f for f in _split(env.get(variable, "")) if f not in include]
    listed = ask([*command, "-print-search-dirs"], env, seconds=_SECONDS)
    lines = listed.stdout.splitlines() if listed.good else []
    line = next((x for x in lines if x.startswith("libraries:")), "")
    library = _split(env.get("LIBRARY_PATH", "")) + _split(line.partition("=")[2])
    library += ["/usr/local/lib", "/usr/lib64", "/lib64", "/usr/lib", "/lib"]
    return {"include": include, "library": [os.path.normpath(f) for f in dict.fromkeys(library)]}


def _split(path: str) -> list[str]:
    return [entry for entry in path.split(os.pathsep) if entry]


def _in_front(folder: str, path: str) -> str:
    return os.pathsep.join([folder, *(entry for entry in _split(path) if entry != folder)])
