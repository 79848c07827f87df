"""Putting a toolkit together from the packages of an index, without root."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from vllm_builder.errors import InstallError, OfflineMissing
from vllm_builder.events import Emit, Measured, Note, ignore
from vllm_builder.fs import make_dir, os_errors, remove_tree, write_atomic
from vllm_builder.indexes import Indexes
from vllm_builder.model import digest
from vllm_builder.processes import ask
from vllm_builder.stages.toolkit.finding import missing_parts
from vllm_builder.stages.toolkit.lock import check_lock
from vllm_builder.stages.toolkit.model import Toolkit, ToolkitSpec
from vllm_builder.stages.toolkit.stub import make_stub

_READY = "vllm-builder-toolkit.json"


def toolkit_home(spec: ToolkitSpec, folder: Path) -> Path:
    """Where a toolkit of this lock is, or will be."""
    return folder / f"cuda-{spec.release}-{digest(spec)[:12]}"


def assemble(
    spec: ToolkitSpec,
    folder: Path,
    environ: Mapping[str, str],
    indexes: Indexes,
    offline: bool = False,
    emit: Emit = ignore,
) -> Toolkit:
    """Make (or reuse) the toolkit below ``folder``. It appears there whole or not at all.

    Args:
        spec: what :func:`~.lock.lock_toolkit` locked.
        folder: the folder of toolkits in the cache.
        environ: the person's environment variables; CC is used for the stub of the driver's library.
        indexes: where the packages come from.
        offline: take them from uv's cache and the find-links only.
        emit: hears what is done.

    Raises:
        InstallError, OfflineMissing, ResolutionError, CompilerMissing, NoSpace, NotWritable
    """
    check_lock(spec)
    home = toolkit_home(spec, make_dir(folder))
    with os_errors(f"locking {home}"), FileLock(f"{home}.lock"):
        if not (home / _READY).is_file():
            _make(spec, home, environ, indexes, offline, emit)
        else:
            emit(Note(stage="toolkit", message=f"Reusing {home.name}", level="debug"))
            values = {"what": "CUDA toolkit", "detail": f"{spec.release}, {len(spec.lock)} packages"}
            emit(Measured(stage="toolkit", what="reused", values=values))
    version = ".".join(spec.nvcc.split(".")[:2])
    return Toolkit(home=str(home), version=version, origin="put together from the package index", spec=spec)


def _make(
    spec: ToolkitSpec, home: Path, environ: Mapping[str, str], indexes: Indexes, offline: bool, emit: Emit
) -> None:
    from vllm_builder.stages.compile.toolchain import command_of, probe_compilers

    compiler = next(c for c in probe_compilers("cpu", environ) if c.language == "C")
    making = home.with_name(f".{home.name}.making")
    remove_tree(making)
    remove_tree(home)
    emit(Note(stage="toolkit", message=f"Fetching CUDA {spec.release}: {len(spec.lock)} packages with uv"))
    _install(spec, making, environ, indexes, offline)
    with os_errors(f"putting together {home}"):
        _lay_out(making)
        stub = make_dir(making / "lib64" / "stubs") / "libcuda.so"
        symbols = make_stub(making / "include" / "cuda.h", stub, command_of(compiler.path), environ)
        _check(spec, making, environ)
        facts = {"release": spec.release, "lock": list(spec.lock), "driver_symbols": symbols}
        write_atomic(making / _READY, json.dumps(facts, indent=1))
        making.rename(home)


def _install(
    spec: ToolkitSpec, target: Path, environ: Mapping[str, str], indexes: Indexes, offline: bool
) -> None:
    from vllm_builder.stages.environment.uv import run_uv

    # --no-deps: the lock is complete. uv links the files from its cache where it can, so they cost no space.
    command = ["pip", "install", "--python", sys.executable, "--target", str(target), "--no-deps"]
    lock = "\n".join(spec.lock) + "\n"
    done = run_uv([*command, "-r", "-"], environ=environ, indexes=indexes, offline=offline, stdin=lock)
    if done.returncode == 0:
        return
    remove_tree(target)
    details = [line for line in done.stderr.splitlines() if line.strip()][-25:]
    if offline:
        missing = [
            line
            for line in spec.lock
            if run_uv(
                [*command, "--dry-run", line], environ=environ, indexes=indexes, offline=True
            ).returncode
        ]
        remove_tree(target)
        raise OfflineMissing(
            f"{len(missing)} of {len(spec.lock)} packages of CUDA {spec.release} are in no cache, and --offline "
            "forbids to fetch them.",
            why="uv's cache and the find-links were searched.",
            next="Run the same build once with network, point PIP_FIND_LINKS at a folder that has them, or use a "
            "toolkit of the machine with --cuda-home.",
            details=missing or details,
        )
    raise InstallError(
        f"The packages of CUDA {spec.release} cannot be installed.",
        why=f"uv pip install ended with {done.returncode}.",
        next="uv's lines say why. If a file vanished from an index, --refresh resolves the versions again.",
        details=details,
    )


def _lay_out(root: Path) -> None:
    """Turn the packages' folders into a toolkit.

    nvcc finds its root as the folder above its own, so everything has to be really there: the packages'
    folder itself becomes the toolkit. What the packages lack is ``lib64`` and the unversioned names.
    """
    packages = root / "nvidia"
    parts = sorted(p for p in packages.iterdir() if (p / "include").is_dir() or (p / "bin").is_dir())
    if len(parts) != 1:
        names = ", ".join(p.name for p in parts) or "none"
        raise InstallError(
            "The packages of the toolkit are laid out in a way that is not known.",
            why=f"One folder below nvidia/ was expected, found: {names}.",
            next="Use a toolkit of the machine with --cuda-home, and report this.",
        )
    for entry in sorted(parts[0].iterdir()):
        entry.rename(root / entry.name)
    remove_tree(packages)
    notices = make_dir(root / "dist-info")
    for entry in root.glob("*.dist-info"):
        entry.rename(notices / entry.name)
    (root / "lib").rename(root / "lib64")
    (root / "lib").symlink_to("lib64")
    for library in sorted((root / "lib64").glob("lib*.so.*")):
        plain = library.with_name(library.name[: library.name.index(".so.") + 3])
        if not plain.exists():
            plain.symlink_to(library.name)


def _check(spec: ToolkitSpec, home: Path, environ: Mapping[str, str]) -> None:
    """The toolkit must be whole, and its nvcc must run and be the one that was locked."""
    lacking = missing_parts(home)
    for part in ("nvvm/bin/cicc", "nvvm/libdevice", "bin/ptxas", "include/crt", "include/cccl"):
        if not (home / part).exists():
            lacking += (part,)
    said = ""
    if not lacking:
        said = ask([str(home / "bin" / "nvcc"), "--version"], environ).said
    if lacking or f"V{spec.nvcc}" not in said:
        raise InstallError(
            f"What was put together from CUDA {spec.release} is no working toolkit.",
            why=f"It lacks {', '.join(lacking)}."
            if lacking
            else f"Its nvcc should say that it is {spec.nvcc}.",
            next="Use a toolkit of the machine with --cuda-home, and report this.",
            details=said.splitlines()[-5:],
        )
