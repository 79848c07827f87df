"""Run the release's own setup.py up to the moment when it would compile, and say what it would run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vllm_builder.errors import ConfigureFailed, InstallError
from vllm_builder.events import Emit, Output, ignore
from vllm_builder.fs import make_dir, os_errors
from vllm_builder.stages.compile import compilercache, diagnose, reproducible
from vllm_builder.stages.compile.buildenv import child_environment
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.compile.runner import LineSplitter, run_supervised
from vllm_builder.stages.compile.setuprun import locked, setup_command
from vllm_builder.stages.environment.model import Environment


def configure(
    spec: CompileSpec,
    *,
    tree: Path,
    environment: Environment,
    log: Path,
    environ: Mapping[str, str],
    emit: Emit = ignore,
) -> list[dict[str, str]]:
    """Configure a patched tree.

    Args: as :func:`~.build.compile_wheel` has them.

    Returns:
        ``directory``, ``command`` and ``file`` of every edge that ninja would run, as a compilation database has them.

    Raises:
        ConfigureFailed: setup.py or CMake ended before that moment.
        InstallError: there is no cmake or ninja.
        Busy, NotWritable
    """
    tree = tree.resolve()
    state = make_dir(tree / "build" / "vllm-builder")
    make_dir(log.parent)
    with locked(state / "lock") as lock:
        env = child_environment(spec, environment, environ)
        reproducible.arrange(spec, env, tree=tree, environment=environment)
        compilercache.arrange(spec, env, tree=tree, state=state)
        reached = _stop_before_compiling(env, state)
        lines = LineSplitter()
        with os_errors(f"writing {log}"), log.open("ab", buffering=0) as file:
            offset = file.tell()

            def on_output(data: bytes) -> None:
                file.write(data)
                for line in lines.feed(data):
                    emit(Output(stage="configure", line=line))

            command = setup_command(spec, environment, tree, state / "dist")
            status = run_supervised(
                command, cwd=tree, env=env, on_output=on_output, on_tick=lambda _: None, keep_open=[lock]
            )
        if not reached.is_file():
            if status:
                raise diagnose.to_error(diagnose.diagnose_log(log, offset, status), log, jobs=1)
            raise ConfigureFailed(
                f"setup.py of {spec.version} ended without asking CMake to compile anything.",
                next=f"Look at the end of {log}.",
            )
        return _commands(Path(reached.read_text().strip()), env)


def _stop_before_compiling(env: dict[str, str], state: Path) -> Path:
    """Put a cmake first on PATH that does everything but build; it leaves the build's folder in a file."""
    real = shutil.which("cmake", path=env["PATH"])
    if real is None:
        raise InstallError("There is no cmake on the build's PATH.", next="Make the environment again.")
    folder = make_dir(state / "configure")
    reached, script = folder / "reached", folder / "cmake"
    reached.unlink(missing_ok=True)
    with os_errors(f"writing {script}"):
        script.write_text(
            "#!/bin/sh\n"
            f'case "$1" in --build) cd "$2" && pwd > {shlex.quote(str(reached))}; exit 75;; esac\n'
            f'exec {shlex.quote(real)} "$@"\n'
        )
        script.chmod(0o755)
    env["PATH"] = f"{folder}{os.pathsep}{env['PATH']}"
    return reached


def _commands(folder: Path, env: Mapping[str, str]) -> list[dict[str, str]]:
    ninja = shutil.which("ninja", path=env["PATH"])
    if ninja is None:
        raise InstallError("There is no ninja on the build's PATH.", next="Make the environment again.")
    run = subprocess.run(
        [ninja, "-t", "compdb"], cwd=folder, env=dict(env), capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise ConfigureFailed("ninja cannot read what CMake wrote.", why=run.stderr.strip()[-300:])
    found: list[dict[str, str]] = json.loads(run.stdout)
    return found
