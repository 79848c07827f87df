"""Which compilers are there, and are they good enough for the release."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from vllm_builder.errors import BuilderError, CompilerMissing, CompilerTooOld, did_you_mean
from vllm_builder.fs import sha256_file
from vllm_builder.memo import Memo
from vllm_builder.processes import Answer, ask
from vllm_builder.resources import COMPATIBILITY
from vllm_builder.stages.compile.model import Compiler, Device

Language = Literal["C", "CXX", "CUDA"]

_SECONDS = 30
_VARIABLE = {"C": "CC", "CXX": "CXX"}
# CMake's own order.
_USUAL = {"C": ("cc", "gcc", "clang"), "CXX": ("c++", "g++", "clang++")}
_COMPILERS = re.compile(r"(?:.*-)?(?:cc|gcc|c\+\+|g\+\+|clang|clang\+\+|icx|icpx|nvcc)(?:-[\d.]+)?")
"""Names of programs that compile themselves; anything else may be a launcher."""
_INSIDE = (
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "CCC_OVERRIDE_OPTIONS",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
)
"""Variables that make a driver run another compiler proper, or another mode of it."""
_PACKAGES = {
    "debian": "apt-get install g++",
    "ubuntu": "apt-get install g++",
    "fedora": "dnf install gcc-c++",
    "rhel": "dnf install gcc-c++",
    "suse": "zypper install gcc-c++",
    "arch": "pacman -S gcc",
    "alpine": "apk add g++",
}
_MACROS = {
    # Clang also says that it is GNU, so it is asked first. Compilers made from Clang count as Clang.
    "Clang": ("__clang_major__", "__clang_minor__", "__clang_patchlevel__"),
    "GNU": ("__GNUC__", "__GNUC_MINOR__", "__GNUC_PATCHLEVEL__"),
}


def probe_compilers(
    device: Device,
    environ: Mapping[str, str],
    *,
    cuda_home: str | None = None,
    memo: Memo | None = None,
) -> tuple[Compiler, ...]:
    """Find and identify the compilers that a build for ``device`` uses.

    CC and CXX are honoured; else the first of CMake's usual names on PATH is taken. Each compiler is run
    once: its predefined macros tell id and version, its -v output the target.

    Args:
        device: ``empty`` needs none and gives an empty tuple; ``cuda`` needs nvcc besides C and C++.
        environ: the person's environment variables.
        cuda_home: the toolkit's folder; without it, nvcc is looked for on PATH.
        memo: remembers what a compiler answered for as long as its file stays the same; one behind a script or a
            launcher is asked each time.

    Raises:
        CompilerMissing: none was found, or what CC or CXX names is none.
    """
    if device == "empty":
        return ()
    commands: list[tuple[Language, list[str]]] = [
        ("C", _host_command("C", environ)),
        ("CXX", _host_command("CXX", environ)),
    ]
    if device == "cuda":
        commands.append(("CUDA", [_nvcc(environ, cuda_home)]))
    env = {**environ, "LC_ALL": "C"}
    with ThreadPoolExecutor(len(commands)) as pool:
        return tuple(pool.map(lambda c: _remembered(c[0], c[1], env, memo), commands))


def check_compilers(
    compilers: Sequence[Compiler],
    release: str,
    device: Device,
    machine: str,
    *,
    table: Path = COMPATIBILITY,
) -> None:
    """Compare compilers with what the table says a release needs.

    Args:
        compilers: what :func:`probe_compilers` found.
        release: a PEP 440 version; of anything else (a commit) nothing is known and nothing is refused.
        device: what is compiled.
        machine: ``x86_64``, ``aarch64``, as ``platform.machine`` has it.
        table: the compatibility table.

    Raises:
        CompilerTooOld: the C++ compiler is older than the release needs, or newer than nvcc supports.
        BuilderError: the table has an unknown key or a value that cannot be used.
    """
    try:
        version = Version(release.removeprefix("v"))
    except InvalidVersion:
        return
    cxx = next((c for c in compilers if c.language == "CXX"), None)
    nvcc = next((c for c in compilers if c.language == "CUDA"), None)
    if cxx is None:
        return
    for entry in _requirements(table):
        if not (
            entry["releases"].contains(version, prereleases=True)
            and device in entry["devices"]
            and (not entry["machines"] or machine in entry["machines"])
        ):
            continue
        if entry["cuda"] is not None and (
            nvcc is None or not entry["cuda"].contains(Version(nvcc.version), prereleases=True)
        ):
            continue
        _check_one(entry, cxx, nvcc, release, device)


def _check_one(
    entry: Mapping[str, Any], cxx: Compiler, nvcc: Compiler | None, release: str, device: Device
) -> None:
    if entry["only"] and cxx.id not in entry["only"]:
        raise CompilerTooOld(
            f"vLLM {release} for {device} needs {' or '.join(entry['only'])}, but {cxx.path} is {cxx.id}.",
            why=entry["source"],
            next="Choose another compiler with CC and CXX.",
        )
    if entry["id"] != cxx.id:
        return
    found = Version(cxx.version)
    if entry["minimum"] is not None and found < entry["minimum"]:
        raise CompilerTooOld(
            f"vLLM {release} for {device} needs {_name(cxx)} {entry['minimum']} or newer, "
            f"but {cxx.path} is {cxx.version}.",
            why=entry["source"],
            next=f"Install {_name(cxx)} {entry['minimum']} or newer and choose it with CC and CXX.",
        )
    if entry["below"] is not None and found >= entry["below"]:
        toolkit = f"CUDA {nvcc.version}" if nvcc else "the toolkit"
        raise CompilerTooOld(
            f"{toolkit} supports {_name(cxx)} older than {entry['below']}, but {cxx.path} is {cxx.version}.",
            why=entry["source"],
            next="Choose an older compiler with CC and CXX, or a newer toolkit with CUDA_HOME.",
        )


def _name(compiler: Compiler) -> str:
    return "gcc" if compiler.id == "GNU" else compiler.id.lower()


def _host_command(language: Language, environ: Mapping[str, str]) -> list[str]:
    variable = _VARIABLE[language]
    path = environ.get("PATH", os.defpath)
    if chosen := environ.get(variable, "").strip():
        # As CMake has it: the whole is a program, or its first word is and the rest are arguments.
        words = [chosen] if shutil.which(chosen, path=path) else shlex.split(chosen)
        program = shutil.which(words[0], path=path) if words else None
        if program is None:
            raise CompilerMissing(
                f"{variable} is {chosen!r}, and there is no such compiler.",
                why="The variable names a program that does not exist or cannot be run.",
                next=f"Correct {variable}, or unset it to use the compiler on PATH.",
            )
        return [program, *words[1:]]
    for name in _USUAL[language]:
        if program := shutil.which(name, path=path):
            return [program]
    raise CompilerMissing(
        f"No {'C++' if language == 'CXX' else 'C'} compiler was found.",
        why=f"None of {', '.join(_USUAL[language])} is on PATH, and {variable} is not set.",
        next=f"Install one: {install_hint()}.",
    )


def _nvcc(environ: Mapping[str, str], cuda_home: str | None) -> str:
    if cuda_home:
        program = Path(cuda_home) / "bin" / "nvcc"
        if program.is_file() and os.access(program, os.X_OK):
            return str(program)
        where = f"{cuda_home} has no bin/nvcc"
    else:
        if found := shutil.which("nvcc", path=environ.get("PATH", os.defpath)):
            return found
        where = "CUDA_HOME is not set and there is no nvcc on PATH"
    raise CompilerMissing(
        "No CUDA compiler (nvcc) was found.",
        why=f"{where}.",
        next="Install a CUDA toolkit and set CUDA_HOME to its folder, or build for another --device.",
    )


def install_hint(distribution: Mapping[str, str] | None = None) -> str:
    """The command that installs a C++ compiler on this distribution (or on one given as in os-release)."""
    if distribution is None:
        try:
            distribution = platform.freedesktop_os_release()
        except OSError:
            distribution = {}
    names = [distribution.get("ID", ""), *distribution.get("ID_LIKE", "").split()]
    for name in names:
        for known, command in _PACKAGES.items():
            if name == known or name.startswith(f"{known}-"):
                return command
    return "the package is called g++ or gcc-c++ in most distributions"


def _remembered(
    language: Language, command: list[str], env: Mapping[str, str], memo: Memo | None
) -> Compiler:
    if memo is None:
        return _identify(language, command, env)
    identity = compiler_identity(command[0], env)
    if identity is None:
        return _identify(language, command, env)
    question = ["compiler", language, command, *identity]
    answer = memo.get(question)
    if answer is not None:
        with contextlib.suppress(ValueError):
            return Compiler.model_validate(answer)
    found = _identify(language, command, env)
    memo.put(question, found.model_dump())
    return found


def command_of(path: str) -> list[str]:
    """The command line of a :class:`Compiler`'s path; CC and CXX may hold arguments (``g++ -m64``)."""
    return [path] if Path(path).exists() else shlex.split(path)


def compiler_identity(program: str, env: Mapping[str, str]) -> list[Any] | None:
    """What stays the same as long as a compiler is the same, so that its answers may be remembered.

    Returns:
        None where that cannot be known: a script, and a launcher such as ccache, run another program that can be
        replaced while they stay as they are.
    """
    path = Path(program).resolve()
    try:
        with path.open("rb") as file:
            binary = file.read(4) == b"\x7fELF"
        stat = path.stat()
    except OSError:
        return None
    if not binary or not _COMPILERS.fullmatch(path.name):
        return None
    return [str(path), stat.st_size, stat.st_mtime_ns, [env.get(name, "") for name in _INSIDE]]


def _script(program: str) -> str:
    """The SHA-256 of a program that is no binary; empty for one that is, or that cannot be read."""
    try:
        with Path(program).open("rb") as file:
            return "" if file.read(2) != b"#!" else sha256_file(Path(program))
    except OSError:
        return ""


def _identify(language: Language, command: list[str], env: Mapping[str, str]) -> Compiler:
    path = command[0] if len(command) == 1 else shlex.join(command)
    if language == "CUDA":
        done = ask([*command, "--version"], env, seconds=_SECONDS)
        match = re.search(r"release [\d.]+, V([\d.]+)", done.stdout)
        if done.good and match:
            return Compiler(
                language="CUDA",
                id="NVIDIA",
                version=match[1],
                target=f"{platform.machine()}-linux",
                path=path,
                script=_script(command[0]),
            )
        raise _broken(path, done)
    options = ["-v", "-E", "-dM", "-x", "c++" if language == "CXX" else "c", os.devnull]
    done = ask([*command, *options], env, seconds=_SECONDS)
    macros = dict(re.findall(r"^#define (\w+) (\S+)$", done.stdout, re.MULTILINE))
    target = re.search(r"^Target: (\S+)$", done.stderr, re.MULTILINE)
    if done.good and target:
        for identity, parts in _MACROS.items():
            numbers = [macros.get(part, "") for part in parts]
            if all(number.isdigit() for number in numbers):
                return Compiler(
                    language=language,
                    id=identity,
                    version=".".join(numbers),
                    target=target[1],
                    path=path,
                    arguments=tuple(command[1:]),
                    script=_script(command[0]),
                )
    raise _broken(path, done)


def _broken(path: str, done: Answer) -> CompilerMissing:
    said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return CompilerMissing(
        f"{path} is there, but does not answer like a compiler.",
        why=f"Exit status {done.status} when it was asked for its version.",
        next=f"Repair it, or choose another with CC and CXX ({install_hint()}).",
        details=said[-8:],
    )


_KEYS = {"releases", "devices", "machines", "id", "minimum", "below", "only", "cuda", "source"}


@cache
def _requirements(table: Path) -> tuple[dict[str, Any], ...]:
    out = []
    entries = tomllib.loads(table.read_text(encoding="utf-8")).get("host-compiler", [])
    for number, entry in enumerate(entries, 1):
        where = f"{table.name}, [[host-compiler]] number {number}"
        for key in entry:
            if key not in _KEYS:
                raise BuilderError(f"{where}: unknown key {key!r}{did_you_mean(key, _KEYS)}.")
        for key in ("releases", "devices", "source"):
            if key not in entry:
                raise BuilderError(f"{where}: the key {key!r} is missing.")
        try:
            out.append(
                {
                    "releases": SpecifierSet(entry["releases"]),
                    "devices": entry["devices"],
                    "machines": entry.get("machines", []),
                    "id": entry.get("id", ""),
                    "only": entry.get("only", []),
                    "minimum": Version(entry["minimum"]) if "minimum" in entry else None,
                    "below": Version(entry["below"]) if "below" in entry else None,
                    "cuda": SpecifierSet(entry["cuda"]) if "cuda" in entry else None,
                    "source": entry["source"],
                }
            )
        except ValueError as error:
            raise BuilderError(f"{where}: {error}.") from error
    return tuple(out)
