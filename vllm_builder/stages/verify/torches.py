"""The torch that a wheel is held against: an installed one, or the wheel of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from vllm_builder.errors import OfflineMissing, SettingsError, WheelError
from vllm_builder.events import Emit, Note
from vllm_builder.model import digest
from vllm_builder.processes import ask
from vllm_builder.stages.verify.exports import (
    Provider,
    TorchBuild,
    keep_build,
    keep_installed,
    kept_build,
    kept_installed,
    kept_versions,
    provide,
    provider_of,
)

if TYPE_CHECKING:
    from vllm_builder.cache import Cache
    from vllm_builder.stages.source.model import ReleaseFile

_LIBRARY: Final = re.compile(r"torch/lib/lib[^/]*\.so(\.\d+)*")
_ASK: Final = (
    "import importlib.util as u; print((u.find_spec('torch') or exit(3)).submodule_search_locations[0])"
)


def find_torch(
    wanted: str,
    *,
    machine: str,
    cache: Cache,
    environ: Mapping[str, str],
    offline: bool,
    emit: Emit,
    needs_cuda: bool = False,
) -> TorchBuild:
    """The torch that ``--torch`` means.

    Args:
        wanted: a version (``2.11.0``, ``2.11.0+cu130``), the folder of an installed torch or of its environment, or a
            Python that has one.
        machine: that the wheel is for, ``x86_64``.
        needs_cuda: of several builds of a version that were read earlier, take none without CUDA.

    Raises:
        SettingsError: there is no torch there, or no such version.
        OfflineMissing: its wheel would have to be fetched.
        WheelError: its wheel cannot be read.
    """
    path = Path(wanted).expanduser()
    if path.exists():
        build = installed(path, environ, exports_folder(cache))
        keep_build(build, exports_folder(cache), machine)
        return build
    try:
        version = Version(wanted)
    except InvalidVersion:
        raise SettingsError(
            f"--torch {wanted} is neither a version nor a path that exists.",
            next="Give for example --torch 2.11.0, or the Python of an environment with torch.",
        ) from None
    for kept in kept_versions(exports_folder(cache), machine):
        if not _is(kept, version):
            continue
        known = kept_build(exports_folder(cache), kept, machine)
        # Without a build tag, a build that cannot be meant is passed over.
        if known is not None and (known.cuda or version.local or not needs_cuda):
            return known
    if offline:
        raise OfflineMissing(
            f"torch {wanted} was never read on this machine, and --offline forbids to fetch it.",
            next="Give --torch the folder of an installed one, or run once with network.",
            details=[f"the wheel of torch {wanted} for {machine}"],
        )
    build = _from_index(version, machine, cache, environ, emit)
    keep_build(build, exports_folder(cache), machine)
    return build


def exports_folder(cache: Cache) -> Path:
    return cache.exports


def installed(path: Path, environ: Mapping[str, str], kept: Path | None = None) -> TorchBuild:
    """An installed torch: its package folder, the folder of its environment, or a Python.

    Args:
        kept: where what its libraries define is kept; read again as soon as a place, size or time of one differs.

    Raises:
        SettingsError
    """
    package = _package(path, environ)
    if package is None:
        raise SettingsError(
            f"There is no torch at {path}.",
            why="Looked for the package torch with its lib folder, in it and in its site-packages.",
            next="Give the folder of the package torch, of an environment, or a Python that can import it.",
        )
    text = (
        (package / "version.py").read_text("utf-8", "replace") if (package / "version.py").is_file() else ""
    )
    version = re.search(r"^__version__ = ['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*= ['\"]([\d.]+)", text, re.MULTILINE)
    files = sorted((package / "lib").glob("lib*.so*"))
    state = digest([[str(file), *_stamp(file)] for file in files])
    libraries = kept_installed(kept, state) if kept is not None else None
    known = libraries is not None
    if libraries is None:
        libraries = {file.name: provider for file in files if (provider := provider_of(file))}
    nvidia = package.parent / "nvidia"
    build = TorchBuild(
        version=version[1] if version else "",
        cuda=cuda[1] if cuda else "",
        libraries=libraries,
        origin=str(package),
        folders=(package / "lib", *sorted(nvidia.glob("*/lib"))) if nvidia.is_dir() else (package / "lib",),
    )
    if kept is not None and not known:
        keep_installed(build, kept, state)
    return build


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        stat = file.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _package(path: Path, environ: Mapping[str, str]) -> Path | None:
    if path.is_file():
        # A Python: of an environment by its place, else by asking it.
        answer = ask([str(path.absolute()), "-c", _ASK], environ)
        return Path(answer.stdout.strip()) if answer.good and answer.stdout.strip() else None
    candidates = [path, path / "torch", *sorted(path.glob("lib/python3*/site-packages/torch"))]
    for candidate in candidates:
        if any((candidate / "lib").glob("libtorch*.so")):
            return candidate
    return None


def _is(found: str, wanted: Version) -> bool:
    """Whether a build is meant: with its build tag, or any build where none was said."""
    try:
        have = Version(found)
    except InvalidVersion:
        return False
    return have == wanted if wanted.local else have.public == wanted.public


def _from_index(
    version: Version, machine: str, cache: Cache, environ: Mapping[str, str], emit: Emit
) -> TorchBuild:
    from vllm_builder.indexes import read_indexes
    from vllm_builder.stages.source.http import Http
    from vllm_builder.stages.source.listing import releases
    from vllm_builder.wheelfile import open_wheel

    indexes = read_indexes(environ)
    files = [
        file
        for file in releases(indexes, cache, emit=emit, project="torch")
        if file.kind == "wheel" and file.filename.endswith(f"{machine}.whl") and _is(file.version, version)
    ]
    if not files:
        raise SettingsError(
            f"The configured package indexes have no torch {version} for {machine}.",
            next="Check the version, or give --torch the folder of an installed one.",
        )
    file = _best(files)
    emit(Note(stage="verify", message=f"Reading the libraries of {file.filename}"))
    libraries: dict[str, Provider] = {}
    with Http(indexes) as http, open_wheel(file.url, http=http, emit=emit) as wheel:
        text = (
            wheel.read("torch/version.py").decode("utf-8", "replace")
            if "torch/version.py" in wheel.members
            else ""
        )
        for name in wheel.members:
            if _LIBRARY.fullmatch(name):
                with wheel.mapped(name) as data:
                    libraries[name.rpartition("/")[2]] = provide(data, name, f"{file.filename}")
    if not libraries:
        raise WheelError(f"{file.filename} holds no torch/lib/*.so.", next="Give --torch an installed torch.")
    said = re.search(r"^__version__ = ['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*= ['\"]([\d.]+)", text, re.MULTILINE)
    return TorchBuild(
        version=said[1] if said else file.version,
        cuda=cuda[1] if cuda else "",
        libraries=libraries,
        origin=file.filename,
    )


def _best(files: list[ReleaseFile]) -> ReleaseFile:
    """Of the wheels of one version, one of a usual Python: the libraries are the same in all but libtorch_python."""
    for tag in ("-cp311-", "-cp312-", "-cp313-"):
        for file in files:
            if tag in file.filename:
                return file
    return files[0]
