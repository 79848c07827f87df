"""The compiler cache of one build: which one, with which settings, and what it answered.

Every setup.py looks for sccache on PATH, then for ccache, and hands CMake the bare name. So the choice is
made on PATH: a folder of small scripts in front of it makes each name mean what the plan says. That holds for
all releases, also for those that know no VLLM_DISABLE_SCCACHE.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vllm_builder.errors import InstallError
from vllm_builder.fs import make_dir, os_errors, remove_tree
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.compile.reproducible import IGNORED_BY_CCACHE
from vllm_builder.stages.compile.splitting import split

# Counters that say where an answer was kept, not what it was.
_COUNTERS = ("local_storage", "remote_storage", "files_in", "cache_size")
# CCACHE_RECACHE compiles and stores without looking first.
_MISSES = {"cache_miss", "recache"}
_HEADERS = (".h", ".hpp", ".hh", ".cuh", ".inl", ".inc", ".ipp", ".tcc", ".def")
_NO_SOURCES = {".git", "build"}
_HITS = {"direct_cache_hit", "preprocessed_cache_hit"}


def arrange(
    spec: CompileSpec, env: dict[str, str], *, tree: Path, state: Path, remote_storage: str = ""
) -> Path | None:
    """Change ``env`` so that exactly the compiler cache of ``spec`` is used.

    Args:
        spec: what to build.
        env: the child's variables; changed in place.
        tree: the release's tree; paths below it are made relative, so that another folder hits.
        state: a folder of this build's own.
        remote_storage: where ccache looks for what it does not have, in its own words.

    Returns:
        The file into which ccache logs its answers, or None where there is no ccache.

    Raises:
        InstallError: the wanted cache is not on PATH.
    """
    wanted = spec.compiler_cache
    program = None
    if wanted != "off":
        program = shutil.which(wanted, path=env["PATH"])
        if program is None:
            raise InstallError(
                f"The build is to use {wanted}, but no {wanted} is on its PATH.",
                why="The build environment does not hold it, and neither does the machine.",
                next=f"Install {wanted}, or choose another with --compiler-cache (ccache, sccache, off).",
            )
    _shadow(wanted, program, env, state / "bin")
    if wanted == "ccache":
        if spec.passes_dir:
            split(spec, env, tree=tree, state=state)
        return _ccache(spec, env, tree, state, remote_storage)
    if wanted == "off":
        # A compiler can be a link to ccache (Debian's /usr/lib/ccache on PATH): it then does nothing.
        env["CCACHE_DISABLE"] = "1"
    elif spec.compiler_cache_dir:
        env.setdefault("SCCACHE_DIR", spec.compiler_cache_dir)
    return None


def _shadow(wanted: str, program: str | None, env: dict[str, str], folder: Path) -> None:
    remove_tree(folder)
    for name in ("sccache", "ccache"):
        if name == wanted or shutil.which(name, path=env["PATH"]) is None:
            continue
        if wanted == "sccache":
            continue  # setup.py asks for sccache first, so a ccache on PATH is never reached
        make_dir(folder)
        script = folder / name
        target = f"{shlex.quote(program)} " if program else ""
        with os_errors(f"writing {script}"):
            script.write_text(f'#!/bin/sh\nexec {target}"$@"\n')
            script.chmod(0o755)
    if folder.is_dir():
        env["PATH"] = f"{folder}{os.pathsep}{env['PATH']}"


def _ccache(spec: CompileSpec, env: dict[str, str], tree: Path, state: Path, remote_storage: str) -> Path:
    stats = state / "ccache.stats"
    defaults = {
        "CCACHE_BASEDIR": str(tree),
        "CCACHE_NOHASHDIR": "1",
        # Without it ccache hashes what the preprocessor shows, and nvcc shows only its first architecture:
        # an edit under another one would give the old object.
        "CCACHE_DEPEND": "1",
        "CCACHE_STATSLOG": str(stats),
    }
    if spec.compiler_cache_dir:
        defaults["CCACHE_DIR"] = spec.compiler_cache_dir
    parts = [_alike(tree, state)]
    if remote_storage:
        defaults["CCACHE_REMOTE_STORAGE"] = remote_storage
        # On another machine the same compiler has another time, and one of the same time and size may be another:
        # what it is counts, and what it calls.
        defaults["CCACHE_COMPILERCHECK"] = "content"
        parts += _host_parts(spec, env)
    if spec.device == "cuda":
        defaults["CCACHE_IGNOREOPTIONS"] = f"--threads=* {IGNORED_BY_CCACHE}"
        # nvcc is only a driver: another cicc or ptxas below it makes other code.
        parts += [*_cuda_parts(spec, env), *_nvcc_flags(env, state)]
    defaults["CCACHE_EXTRAFILES"] = os.pathsep.join(parts)
    for name, value in defaults.items():
        # Each setting has a negated spelling (CCACHE_NODEPEND) that counts as set too.
        bare = name.removeprefix("CCACHE_")
        negated = bare[2:] if bare.startswith("NO") else f"NO{bare}"
        if name not in env and f"CCACHE_{negated}" not in env:
            env[name] = value
    with os_errors(f"writing {stats}"):
        stats.unlink(missing_ok=True)
    return Path(env.get("CCACHE_STATSLOG", stats))


def _alike(tree: Path, state: Path) -> str:
    """Write down which headers of the tree could be taken for each other, and return the file.

    ccache compares the headers that were read. A new one that now comes first on the include path was not: but then it
    has the name of one that is there, and is in this list.
    """
    found: dict[str, list[str]] = {}
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if name not in _NO_SOURCES]
        for name in files:
            if name.endswith(_HEADERS):
                found.setdefault(name, []).append(os.path.relpath(os.path.join(folder, name), tree))  # noqa: PTH118
    file = state / "headers-alike.txt"
    lines = sorted(path for paths in found.values() if len(paths) > 1 for path in paths)
    with os_errors(f"writing {file}"):
        make_dir(state)
        file.write_text("\n".join(lines), errors="surrogateescape")
    return str(file)


def _cuda_parts(spec: CompileSpec, env: Mapping[str, str]) -> list[str]:
    nvcc = next((c.path for c in spec.compilers if c.language == "CUDA"), None) or env.get("CUDACXX", "")
    root = Path(spec.cuda_home) if spec.cuda_home else Path(nvcc).resolve().parent.parent
    candidates = (root / "nvvm" / "bin" / "cicc", root / "bin" / "ptxas")
    return [str(path) for path in candidates if path.is_file()]


def _host_parts(spec: CompileSpec, env: Mapping[str, str]) -> list[str]:
    """The compiler proper and the assembler behind g++, as it names them; clang is all of it in one file."""
    planned = [[c.path] for c in spec.compilers if c.language == "CXX"]
    driver = planned[0] if planned else shlex.split(env.get("CXX") or "c++")
    found = []
    for name in ("cc1plus", "as"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
            asked = subprocess.run(
                [*driver, f"-print-prog-name={name}"],
                env=dict(env),
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            path = shutil.which(asked.stdout.strip(), path=env.get("PATH"))
            if asked.returncode == 0 and path is not None:
                found.append(path)
    return found


def _nvcc_flags(env: Mapping[str, str], state: Path) -> list[str]:
    """nvcc reads options from two variables, which ccache (4.14) does not look at: here they become a file."""
    flags = {name: env[name] for name in ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS") if env.get(name)}
    if not flags:
        return []
    file = state / "nvcc-flags.json"
    with os_errors(f"writing {file}"):
        file.write_text(json.dumps(flags))
    return [str(file)]


def ccache_answers(log: Path, *, offset: int = 0) -> dict[str, int]:
    """Count ``hits``, ``misses`` and ``uncacheable`` in a ccache statistics log, from a byte offset on.

    Each call of ccache leaves a comment with the file's name and then its counters; only the counters that
    name an outcome count, once a call. ``shared`` are those hits that a shared cache gave; it is there where there are any.
    """
    counts = {"hits": 0, "misses": 0, "uncacheable": 0}
    shared = 0
    remote = False
    try:
        with log.open("rb") as file:
            file.seek(offset)
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return counts
    outcome: str | None = None
    for line in [*text.splitlines(), "#"]:
        if line.startswith("#"):
            if outcome:
                counts[outcome] += 1
                shared += remote and outcome == "hits"
            outcome = None
            remote = False
        elif line == "remote_storage_hit":
            remote = True
        elif line in _HITS:
            outcome = "hits"
        elif line in _MISSES:
            outcome = "misses"
        elif (
            outcome is None
            and line
            and not line.startswith(("local_storage", "remote_storage", "files_in", "cache_size"))
        ):
            outcome = "uncacheable"
    return counts | ({"shared": shared} if shared else {})


def ccache_by_file(log: Path) -> dict[str, str]:
    """What ccache answered for each file, as ccache names it: ``hit``, ``miss`` or ``uncacheable``.

    Where a file was asked for several times (in two targets, or again after a failure), the last answer counts.
    """
    found: dict[str, str] = {}
    try:
        text = log.read_text("utf-8", "replace")
    except OSError:
        return found
    name = ""
    for line in text.splitlines():
        if line.startswith("# "):
            name = line[2:]
            found.pop(name, None)
        elif line in _HITS:
            found[name] = "hit"
        elif line in _MISSES:
            found[name] = "miss"
        elif name not in found and line and not line.startswith((*_COUNTERS, "direct_", "preprocessed_")):
            found[name] = "uncacheable"
    return found


def sccache_totals(env: Mapping[str, str]) -> dict[str, int]:
    """sccache's totals since its server started; empty where it does not answer."""
    program = shutil.which("sccache", path=env.get("PATH"))
    if program is None:
        return {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [program, "--show-stats", "--stats-format=json"],
            env=dict(env),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        stats = json.loads(done.stdout)["stats"]
        return {
            "hits": sum(stats["cache_hits"]["counts"].values()),
            "misses": sum(stats["cache_misses"]["counts"].values()),
            "uncacheable": int(stats["requests_not_cacheable"]) + int(stats["non_cacheable_compilations"]),
        }
    return {}
