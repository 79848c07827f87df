"""Finding a Python, and the torch that lies in its environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from vllm_builder.errors import ContradictionError, PythonNotFound
from vllm_builder.memo import Memo
from vllm_builder.stages.environment.model import Interpreter, Torch

_PROBE = """
import json, os, sys, sysconfig
v = sys.version_info
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": "%d.%d.%d" % v[:3],
    "tag": "cp%d%d%s" % (v[0], v[1], "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""),
    "base": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "prefix": sys.prefix,
    "base_prefix": getattr(sys, "base_prefix", sys.prefix),
    "site_packages": sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        | set(p for p in sys.path if p.endswith(("site-packages", "dist-packages")))),
}))
"""


def probe(path: str, memo: Memo) -> Interpreter:
    """Ask the interpreter at ``path`` what it is. The answer is remembered until it or its environment changes.

    Raises:
        PythonNotFound: it does not run, or is not CPython 3.
    """
    binary = Path(path)
    if binary.is_dir():
        binary = binary / "bin" / "python"
    try:
        stat = binary.stat()
    except OSError:
        raise PythonNotFound(
            f"There is no Python at {path}.",
            next="Give --python the path of an interpreter, or a version such as 3.11.",
        ) from None
    # pyvenv.cfg decides the prefix, and a venv's python is only a link to the base.
    question = [str(binary.absolute()), str(binary.resolve()), stat.st_mtime_ns, stat.st_size, _venv(binary)]
    answer = memo.get(question)
    if answer is None or "base" not in answer or not Path(answer["prefix"]).is_dir():
        try:
            run = subprocess.run(
                [str(binary), "-I", "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False
            )
            answer = json.loads(run.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            raise PythonNotFound(
                f"{path} is not a Python that runs.",
                next="Give --python the path of a CPython interpreter, or a version such as 3.11.",
            ) from None
        if answer.pop("implementation") != "cpython":
            raise PythonNotFound(
                f"{path} is not CPython.", why="torch exists for CPython only.", next="Choose another."
            )
        memo.put(question, answer)
    return Interpreter(path=str(binary.absolute()), **answer)


def _venv(binary: Path) -> list[int]:
    """Size and time of a virtual environment's configuration; empty for a Python of its own."""
    with suppress(OSError):
        stat = (binary.parent.parent / "pyvenv.cfg").stat()
        return [stat.st_size, stat.st_mtime_ns]
    return []


def find_interpreter(
    wanted: str | None,
    requires_python: str,
    *,
    environ: Mapping[str, str],
    memo: Memo,
    offline: bool = False,
    required_by: str = "the release",
) -> tuple[Interpreter, str]:
    """Find the Python to build with and for.

    Args:
        wanted: a path, a version ``X.Y``, or None: the active environment's, else the one that runs this
            program, else any that the release accepts.
        requires_python: the release's Requires-Python, perhaps narrowed.
        required_by: who requires that, for messages.

    Returns:
        the interpreter, and one line that says why it was taken.

    Raises:
        PythonNotFound, ContradictionError
    """
    accepted = SpecifierSet(requires_python)
    if wanted is not None and not re.fullmatch(r"\d+(\.\d+){0,2}", wanted):
        path = wanted if os.sep in wanted else (shutil.which(wanted, path=environ.get("PATH")) or wanted)
        found = probe(path, memo)
        return _accepted(found, accepted, f"--python {wanted}", required_by), f"--python {wanted}"
    if wanted is not None:
        located = _located(wanted, environ, memo, offline)
        if located is None:
            raise PythonNotFound(
                f"There is no Python {wanted} on this machine.",
                why="uv found none on PATH, in the usual folders or among its own.",
                next=f"Install Python {wanted} (`uv python install {wanted}` needs no root), or choose another with "
                "--python.",
            )
        found = probe(located, memo)
        return _accepted(found, accepted, f"--python {wanted}", required_by), f"--python {wanted}"
    tried: list[str] = []
    for origin, path in _candidates(environ):
        found = probe(path, memo)
        if accepted.contains(found.version):
            note = "".join(f"; {t} is not in {requires_python}" for t in tried)
            return found, origin + note
        tried.append(f"{origin} ({found.version})")
    located = _located(requires_python, environ, memo, offline)
    if located is None:
        raise PythonNotFound(
            f"No Python on this machine is in {requires_python}, which {required_by} requires.",
            why=f"Tried: {', '.join(tried)}.",
            next="Install such a Python (`uv python install` needs no root), or give one with --python.",
        )
    return probe(located, memo), f"found by uv for {requires_python}; {', '.join(tried)} is not in it"


def _candidates(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    found = []
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = environ.get(variable)
        if prefix and (Path(prefix) / "bin" / "python").exists():
            found.append((f"the active environment ({variable})", str(Path(prefix) / "bin" / "python")))
    found.append(("the Python that runs vllm-builder", sys.executable))
    return found


def _located(request: str, environ: Mapping[str, str], memo: Memo, offline: bool) -> str | None:
    question = ["uv python find", request, environ.get("PATH", "")]
    answer = memo.get(question)
    if isinstance(answer, str):
        # What was found then may have been replaced since.
        with suppress(PythonNotFound):
            if _wanted(request).contains(probe(answer, memo).version):
                return answer
    from vllm_builder.stages.environment.uv import run_uv

    found = run_uv(["python", "find", "--no-project", request], environ=environ, offline=True)
    path = found.stdout.strip() if found.returncode == 0 else _with_pyenv(request, environ, memo)
    if path is None:
        return None
    memo.put(question, path)
    return path


def _wanted(request: str) -> SpecifierSet:
    """``3.11`` means any 3.11; a specifier means itself."""
    bare = re.fullmatch(r"\d+(\.\d+)*", request)
    return SpecifierSet(
        f"=={request}.*" if bare and request.count(".") < 2 else f"=={request}" if bare else request
    )


def _with_pyenv(request: str, environ: Mapping[str, str], memo: Memo) -> str | None:
    """pyenv's interpreters, which are on PATH only as shims: the newest that ``request`` admits."""
    home = environ.get("HOME", "")
    versions = Path(environ.get("PYENV_ROOT") or f"{home}/.pyenv") / "versions"
    wanted = _wanted(request)
    found: list[tuple[Version, str]] = []
    for path in versions.glob("[0-9]*/bin/python"):
        try:
            version = Version(path.parent.parent.name)
        except InvalidVersion:
            continue
        if wanted.contains(version) and probe(str(path), memo).version == str(version):
            found.append((version, str(path)))
    return max(found)[1] if found else None


def _accepted(found: Interpreter, accepted: SpecifierSet, origin: str, required_by: str) -> Interpreter:
    if not accepted.contains(found.version):
        raise ContradictionError(
            f"{required_by[0].upper()}{required_by[1:]} does not accept Python {found.version}.",
            why=f"{origin} is {found.version} ({found.path}) -> {required_by} has Requires-Python {accepted}.",
            next=f"Choose a Python in {accepted} with --python, or leave --python out.",
        )
    return found


def torch_in(interpreter: Interpreter) -> Torch | None:
    """The torch in an interpreter's environment, read from its files: importing it would take seconds."""
    for folder in interpreter.site_packages:
        file = Path(folder) / "torch" / "version.py"
        try:
            text = file.read_text("utf-8")
        except OSError:
            continue
        version = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.M)
        cuda = re.search(r"""^cuda\b[^=\n]*=\s*["']([^"']+)["']""", text, re.M)
        if version:
            return Torch(
                version=version[1],
                cuda=cuda[1] if cuda else None,
                origin=f"existing, in {Path(folder).parent}",
            )
    return None
