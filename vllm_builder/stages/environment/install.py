"""Installing a locked environment. The person's own environment is never written to."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from vllm_builder.errors import InstallError, OfflineMissing
from vllm_builder.events import Emit, Measured, Note, ignore
from vllm_builder.fs import make_dir, os_errors, remove_tree, write_atomic
from vllm_builder.model import digest
from vllm_builder.stages.environment.model import Environment, EnvironmentSpec
from vllm_builder.stages.environment.whole import damage, installed, other_content, read_ready, write_ready

_CHOOSE = frozenset(
    {
        "UV_CONSTRAINT",
        "UV_OVERRIDE",
        "UV_EXCLUDE",
        "UV_REQUIRE_HASHES",
        "UV_REQUIREMENTS",
        "UV_NO_VERIFY_HASHES",
    }
)
"""Variables that make uv add, refuse or replace requirements."""
_OVERLAY = "_vllm_builder_overlay.pth"


def environment_key(spec: EnvironmentSpec) -> str:
    """Environments of the same interpreter and lock are shared between plans.

    The real interpreter counts, not the virtual environment that it was reached through: the compiler cache
    sees the path of torch's headers, which should not depend on where vllm-builder itself is installed.
    """
    python = spec.python.base or spec.python.path
    return digest([python, spec.python.version, list(spec.lock), list(spec.overlay), spec.torch_backend])[:16]


def prepare(
    spec: EnvironmentSpec,
    folder: Path,
    *,
    environ: Mapping[str, str],
    offline: bool = False,
    force: bool = False,
    emit: Emit = ignore,
) -> Environment:
    """Make (or reuse) the environment below ``folder``.

    A person's own torch is laid *behind* the isolated environment by a .pth file: found when it is imported,
    never changed.

    Args:
        force: before an environment is reused, read all its files; without, their sizes and times must do.

    Raises:
        InstallError, OfflineMissing, NoSpace, NotWritable
    """
    root = make_dir(folder) / environment_key(spec)
    with os_errors(f"locking {root}"), FileLock(f"{root}.lock"):
        environment = Environment(python=root / "bin" / "python", bin=root / "bin", packages={})
        ready = read_ready(root)
        found = damage(root, ready, contents=force) if ready is not None else []
        if ready is not None and not found:
            if ready.files is None:
                write_ready(root, ready.packages)
            emit(
                Note(
                    stage="environment",
                    message=f"Reusing {root.name} ({len(ready.packages)} packages)",
                    level="debug",
                )
            )
            values = {"what": "build environment", "detail": f"{len(ready.packages)} packages"}
            emit(Measured(stage="environment", what="reused", values=values))
            return _whole(environment, spec, ready.packages)
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            emit(
                Note(
                    stage="environment",
                    message=f"The build environment {root.name} is not as it was installed "
                    f"({', '.join(found[:3])}{more}); it is made anew.",
                    level="warning",
                )
            )
        remove_tree(root)
        packages = _install(spec, root, environ, offline, emit)
        packages = _without_damage(spec, root, environ, offline, packages, emit)
        write_ready(root, packages)
    return _whole(environment, spec, packages)


def _whole(environment: Environment, spec: EnvironmentSpec, packages: Mapping[str, str]) -> Environment:
    own = sorted(environment.bin.parent.glob("lib/python*/site-packages"))
    folders = (*own, *map(Path, spec.overlay))
    return environment.model_copy(update={"packages": dict(packages), "site_packages": folders})


def _without_damage(
    spec: EnvironmentSpec,
    root: Path,
    environ: Mapping[str, str],
    offline: bool,
    packages: dict[str, str],
    emit: Emit,
) -> dict[str, str]:
    """uv links files out of its cache without looking at them: what was damaged there is fetched again."""
    with os_errors(f"reading {root}"):
        found = sorted(other_content(root))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        emit(
            Note(
                stage="environment",
                message=f"Damaged in the package cache: {', '.join(found[:3])}{more}; installing without it.",
                level="warning",
            )
        )
        remove_tree(root)
        packages = _install(spec, root, environ, offline, emit, cached=False)
        with os_errors(f"reading {root}"):
            found = sorted(other_content(root))
    if found:
        raise InstallError(
            f"{len(found)} files of the build environment are not what their packages say.",
            why="Their hashes differ from the packages' own RECORD files, also when installed past the cache.",
            next="Look at the index or folder that serves these packages, and at the disk.",
            details=found[:20],
        )
    return packages


def _install(
    spec: EnvironmentSpec,
    root: Path,
    environ: Mapping[str, str],
    offline: bool,
    emit: Emit,
    *,
    cached: bool = True,
) -> dict[str, str]:
    from vllm_builder.stages.environment.uv import run_uv

    made = run_uv(
        ["venv", "--no-project", "--python", spec.python.base or spec.python.path, str(root)],
        environ=environ,
        offline=True,
    )
    if made.returncode:
        raise InstallError(
            f"Cannot create the environment {root}.",
            why=f"uv venv ended with {made.returncode}.",
            next="uv's lines say why; free space and permissions are the usual reasons.",
            details=made.stderr.splitlines()[-15:],
        )
    python = root / "bin" / "python"
    emit(Note(stage="environment", message=f"Installing {len(spec.lock)} packages with uv", level="debug"))
    # --no-deps: the lock is complete, and nothing is decided here that the plan did not decide.
    command = ["pip", "install", "--python", str(python), "--no-deps", "-r", "-"]
    if spec.torch_backend:
        command += ["--torch-backend", spec.torch_backend]
    if not cached:
        command += ["--no-cache"]
    done = run_uv(
        command,
        environ=_without_choices(environ),
        indexes=spec.indexes,
        offline=offline,
        stdin="\n".join(spec.lock) + "\n",
    )
    if done.returncode:
        details = [line for line in done.stderr.splitlines() if line.strip()][-25:]
        if offline:
            missing = _not_in_cache(spec, python, environ)
            raise OfflineMissing(
                f"{len(missing)} of {len(spec.lock)} packages of the build environment are in no cache, and "
                "--offline forbids to fetch them.",
                why="uv's cache and the find-links were searched.",
                next="Run the same build once with network, or point PIP_FIND_LINKS at a folder that has them.",
                details=missing or details,
            )
        raise InstallError(
            "The build environment cannot be installed.",
            why=f"uv pip install ended with {done.returncode}.",
            next="uv's lines say why. If a file vanished from an index, --refresh resolves the versions again.",
            details=details,
        )
    if spec.overlay:
        site = next((root / "lib").glob("python*/site-packages"))
        write_atomic(site / _OVERLAY, "".join(f"{p}\n" for p in spec.overlay))
    return installed(root)


def _without_choices(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what chooses versions for uv: they counted when the lock was made."""
    return {name: value for name, value in environ.items() if name not in _CHOOSE}


def _not_in_cache(spec: EnvironmentSpec, python: Path, environ: Mapping[str, str]) -> list[str]:
    """Every package of the lock that cannot be had offline: uv itself stops at the first."""
    from vllm_builder.stages.environment.uv import run_uv

    # A dry run would be content with metadata: each one is really installed, aside.
    missing = []
    with tempfile.TemporaryDirectory(dir=python.parent.parent) as aside:
        command = ["pip", "install", "--python", str(python), "--no-deps"]
        if spec.torch_backend:
            command += ["--torch-backend", spec.torch_backend]
        for number, line in enumerate(spec.lock):
            target = ["--target", f"{aside}/{number}", line]
            if run_uv([*command, *target], environ=environ, indexes=spec.indexes, offline=True).returncode:
                missing.append(line)
    return missing
