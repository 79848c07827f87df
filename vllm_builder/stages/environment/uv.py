"""Calling uv: one place for its path, its index settings and its errors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vllm_builder.indexes import Indexes, uv_arguments


def uv_binary() -> str:
    import uv

    return os.fsdecode(uv.find_uv_bin())


def run_uv(
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str],
    indexes: Indexes | None = None,
    offline: bool = False,
    stdin: str | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``uv`` and return what it said; the caller judges the exit status.

    Indexes are passed as pip's configuration names them; credentials travel in the environment, never on
    the command line.
    """
    command = [uv_binary(), *arguments, "--no-progress", "--no-config"]
    env = dict(environ)
    # A virtual environment that happens to be active must not decide anything here.
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME"):
        env.pop(name, None)
    if indexes is not None:
        further, secrets = uv_arguments(indexes)
        command += further
        env |= secrets
    if offline:
        command.append("--offline")
    return subprocess.run(command, env=env, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)
