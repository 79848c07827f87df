"""The builder's side of the order of compilation: see :mod:`.schedule` for the side that runs below setup.py."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from vllm_builder.fs import make_dir, os_errors, write_atomic
from vllm_builder.stages.compile import compilercache, learned, schedule
from vllm_builder.stages.compile.jobs import memory_for_jobs
from vllm_builder.stages.compile.model import CompileSpec


def arrange(spec: CompileSpec, env: dict[str, str], *, jobs: int, tree: Path, state: Path) -> None:
    """Put a ``cmake`` first on PATH that orders the units before it compiles them.

    Args:
        spec: what to build.
        env: the child's variables; PATH is changed in place.
        jobs: most compilers at once in this attempt.
        tree: the release's tree.
        state: a folder of this build's own.

    Raises:
        NoSpace, NotWritable: the script cannot be written.
    """
    folder = make_dir(state / "bin")
    script = folder / "cmake"
    script.unlink(missing_ok=True)
    real = shutil.which("cmake", path=env["PATH"])
    memory = memory_for_jobs(Path("/"))
    if spec.device == "empty" or real is None or memory is None:
        return
    settings = state / "schedule.json"
    write_atomic(
        settings,
        json.dumps(
            {
                "tree": str(tree),
                "learned": str(learned.learned_file(Path(spec.learned_dir), spec))
                if spec.learned_dir
                else "",
                "memory": memory,
                "jobs": jobs,
                "threads": spec.nvcc_threads,
                "fixed": spec.jobs_fixed,
            },
            indent=1,
        ),
    )
    ours = [sys.executable, "-I", "-S", "-B", schedule.__file__, str(settings), real]
    with os_errors(f"writing {script}"):
        script.write_text(
            "#!/bin/sh\n"
            f'case "$1" in --build) exec {shlex.join(ours)} "$@";; *) exec {shlex.quote(real)} "$@";; esac\n'
        )
        script.chmod(0o755)
    if env["PATH"].split(os.pathsep)[0] != str(folder):
        env["PATH"] = f"{folder}{os.pathsep}{env['PATH']}"


def learn(spec: CompileSpec, tree: Path, peaks: Mapping[str, int]) -> None:
    """Keep what was measured, for the next attempt and the next build."""
    if spec.learned_dir and spec.device != "empty":
        file = learned.learned_file(Path(spec.learned_dir), spec)
        answers = compilercache.ccache_by_file(tree / "build" / "vllm-builder" / "ccache.stats")
        learned.learn(file, tree, peaks, cached=spec.compiler_cache != "off", answers=answers)
