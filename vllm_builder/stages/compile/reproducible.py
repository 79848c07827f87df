"""What lets two folders give the same objects: no path of the tree or the build environment in them.

Compilers write the names of sources into what they make: in the texts of TORCH_CHECK (``__FILE__``), in debug
information. ``-ffile-prefix-map`` (GCC 8, Clang 10) makes them relative to the tree and to the folder of the Python
packages. ccache hands the compiler paths that are relative to the build folder, so these are mapped too:
an object is the same with and without it, and another folder's is taken.

nvcc runs the host's compiler and is told to pass the option on. Its temporary files are named after a process,
and those names become symbols (``tmpxft_0000107a_00000000-6_x.cudafe1.cpp``); beside the object they are named
after the source. What nvcc cannot be told: it makes the names of internal symbols out of the source's absolute path
(cudafe++ --orig_src_path_name), so that CUDA objects of two folders differ in these names unless the compiler cache
has them. ``--frandom-seed`` does not change that (tried with 13.0).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import Environment

_MAP = "-ffile-prefix-map="
IGNORED_BY_CCACHE = f"-Xcompiler={_MAP}*"
"""Such an option makes objects of different folders the same, and so must not make them differ in the cache. Under
GCC and Clang ccache knows that by itself."""
_KNOWS_MAPS = {"GNU": 8, "Clang": 10}


def arrange(spec: CompileSpec, env: dict[str, str], *, tree: Path, environment: Environment) -> None:
    """Add to the compilers' flags in ``env``, the child's variables; the person's own flags stay in front."""
    maps = [option for option in _maps(spec, tree, environment) if not set(option) & set("\n\r\0")]
    if _knows_maps(spec):
        for name in ("CFLAGS", "CXXFLAGS"):
            _append(env, name, maps)
    if spec.device == "cuda":
        # nvcc takes several options for the host's compiler with commas between.
        host = [f"-Xcompiler={option}" for option in maps if "," not in option] if _knows_maps(spec) else []
        _append(env, "CUDAFLAGS", ["-objtemp", *host])


def _knows_maps(spec: CompileSpec) -> bool:
    host = [c for c in spec.compilers if c.language != "CUDA"]
    return bool(host) and all(_major(c.version) >= _KNOWS_MAPS.get(c.id, 1 << 30) for c in host)


def _major(version: str) -> int:
    first = version.split(".")[0]
    return int(first) if first.isdigit() else 0


def _maps(spec: CompileSpec, tree: Path, environment: Environment) -> Iterator[str]:
    """Of several that match, compilers take the last; toolkit and packages can lie in the tree (see :mod:`.alike`)."""
    # Where ninja runs: build/temp.linux-x86_64-cpython-311.
    yield f"{_MAP}../..=."
    yield from _map(tree, "", ".")
    if spec.cuda_home:
        yield from _map(Path(spec.cuda_home), "", "cuda")
        yield from _map_below(tree, Path(spec.cuda_home), "", "cuda")
    for folder in environment.site_packages:
        # torch/include/ATen/...
        yield from _map(folder, "/", "")
        yield from _map_below(tree, folder, "/", "")


def _map_below(tree: Path, folder: Path, end: str, to: str) -> Iterator[str]:
    if folder.is_relative_to(tree / "build"):
        yield f"{_MAP}../{folder.relative_to(tree / 'build')}{end}={to}"


def _map(folder: Path, end: str, to: str) -> Iterator[str]:
    for path in dict.fromkeys((str(folder), str(folder.resolve()))):
        if "=" not in path:  # it would end the path
            yield f"{_MAP}{path}{end}={to}"


def _append(env: dict[str, str], name: str, options: list[str]) -> None:
    env[name] = " ".join(filter(None, [env.get(name, ""), *map(shlex.quote, options)]))
