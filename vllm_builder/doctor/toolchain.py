"""Checks of what compiles: toolkits, Python and torch, compilers, cmake, git."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Iterator, Mapping

from vllm_builder.doctor.model import Check
from vllm_builder.errors import BuilderError, CompilerTooOld
from vllm_builder.memo import Memo
from vllm_builder.processes import ask
from vllm_builder.settings.model import Settings
from vllm_builder.stages.compile.model import Compiler
from vllm_builder.stages.compile.toolchain import check_compilers, probe_compilers
from vllm_builder.stages.environment.interpreter import find_interpreter, torch_in
from vllm_builder.stages.plan.compatibility import compatibility
from vllm_builder.stages.toolkit.finding import examine, find_toolkits
from vllm_builder.stages.toolkit.model import Candidate

_SECONDS = 20
_TODAY = "0.999"
"""A release that every open-ended entry of the compatibility table speaks of."""


def toolkits(settings: Settings, environ: Mapping[str, str], memo: Memo) -> Iterator[Check]:
    """Every CUDA toolkit of the machine with its verdict, and whether the host compiler goes with it."""
    found = list(find_toolkits(environ, memo))
    if settings.cuda_home is not None:
        nvcc = settings.cuda_home.expanduser().absolute() / "bin" / "nvcc"
        found.insert(0, examine(nvcc, "--cuda-home", memo, environ=environ, named=True))
    for candidate in found:
        yield _toolkit(candidate, environ, memo)
    if not any(candidate.verdict == "whole" for candidate in found):
        versions = ", ".join(compatibility().packaged_toolkits)
        yield Check(
            name="toolkit",
            verdict="note",
            found=f"no whole CUDA toolkit; CUDA {versions} can be put together from the package index",
            cure="`--cuda pypi` does so (and --cuda auto where nothing else fits); for CUDA 11 or 12 install one "
            "and name it with --cuda-home.",
        )


def _toolkit(candidate: Candidate, environ: Mapping[str, str], memo: Memo) -> Check:
    if candidate.verdict != "whole":
        cures = {
            "half": "Install its development packages, or name a whole toolkit with --cuda-home.",
            "broken": "Reinstall it, or name another toolkit with --cuda-home.",
            "missing": f"Unset {candidate.origin}, or point it at a CUDA toolkit.",
        }
        return Check(
            name="toolkit",
            # One that is named is used or refused; another is merely passed over.
            verdict="problem" if candidate.named else "warning",
            found=candidate.sentence(),
            cure=cures[candidate.verdict],
        )
    nvcc = Compiler(language="CUDA", id="NVIDIA", version=candidate.version, target="", path=candidate.home)
    try:
        check_compilers(
            (*probe_compilers("cpu", environ, memo=memo), nvcc), _TODAY, "cuda", platform.machine()
        )
    except CompilerTooOld as problem:
        return Check(
            name="toolkit",
            verdict="warning",
            found=f"{candidate.sentence()}, but the newest releases need more: {problem.why}",
            cure=problem.next,
        )
    except BuilderError:
        pass  # no compiler at all: that is a check of its own
    return Check(name="toolkit", verdict="good", found=candidate.sentence())


def python(settings: Settings, environ: Mapping[str, str], memo: Memo) -> Iterator[Check]:
    """The Python that would be built for, and the torch in its environment."""
    try:
        found, reason = find_interpreter(settings.python, ">=3.8", environ=environ, memo=memo, offline=True)
    except BuilderError as error:
        yield Check(name="python", verdict="problem", found=f"{error.what} {error.why}", cure=error.next)
        return
    yield Check(name="python", verdict="good", found=f"{found.version}, {found.path} ({reason})")
    torch = torch_in(found)
    if torch is not None:
        built = f"for CUDA {torch.cuda}" if torch.cuda else "without CUDA"
        yield Check(name="torch", verdict="good", found=f"{torch.version}, built {built} ({torch.origin})")
    elif settings.torch == "existing":
        yield Check(
            name="torch",
            verdict="problem",
            found=f"none in the environment of {found.path}, and --torch existing asks for it",
            cure="Install torch there, name another --python, or take --torch auto.",
        )
    else:
        yield Check(
            name="torch", verdict="note", found="none there: the release's own pin is fetched for the build"
        )


def compilers(environ: Mapping[str, str], memo: Memo) -> Iterator[Check]:
    """The C and C++ compilers."""
    try:
        found = probe_compilers("cpu", environ, memo=memo)
    except BuilderError as error:
        yield Check(name="compilers", verdict="problem", found=f"{error.what} {error.why}", cure=error.next)
        return
    try:
        check_compilers(found, _TODAY, "cuda", platform.machine())
        check_compilers(found, _TODAY, "cpu", platform.machine())
    except CompilerTooOld as problem:
        yield Check(
            name="compilers",
            verdict="warning",
            found=f"{_named(found)}; too old for the newest releases ({problem.why})",
            cure=problem.next,
        )
        return
    yield Check(name="compilers", verdict="good", found=_named(found))


def tools(environ: Mapping[str, str]) -> Iterator[Check]:
    """cmake and git on PATH. A cmake that is too old hinders nothing: the build installs its own."""
    path = environ.get("PATH")
    cmake = shutil.which("cmake", path=path)
    version = _version([cmake, "--version"], environ) if cmake else ""
    there = f"{version or 'unknown version'}, {cmake}" if cmake else "none on PATH"
    yield Check(name="cmake", verdict="good", found=f"{there}; builds use one of their own, 3.26.1 or newer")
    git = shutil.which("git", path=path)
    if git:
        yield Check(name="git", verdict="good", found=f"{_version([git, '--version'], environ)}, {git}")
    else:
        yield Check(
            name="git",
            verdict="warning",
            found="no git on PATH: sources come from sdists only",
            cure="Install git, or stay with --source pypi.",
        )


def _named(found: tuple[Compiler, ...]) -> str:
    return ", ".join(f"{c.language} {c.id} {c.version} ({c.path})" for c in found)


def _version(command: list[str], environ: Mapping[str, str]) -> str:
    match = re.search(r"\d+(\.\d+)+", ask(command, environ, seconds=_SECONDS).stdout)
    return match[0] if match else ""
