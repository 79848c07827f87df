"""Calling uv: one place for its path, its index settings and its errors."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from vllm_builder.indexes import Indexes, uv_arguments
from vllm_builder.stages.compile import supervisor

_GRACE = 2.0
"""Seconds between TERM and KILL."""


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

    It ends with the builder, however that ends: nothing goes on writing into an environment that another builder is
    about to make again.

    Indexes are passed as pip's configuration names them; credentials travel in the environment, never on
    the command line.

    Args:
        stdin: what an argument ``-`` stands for.
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
    with _as_file(stdin) as file:
        return _supervised([file if file and word == "-" else word for word in command], env, cwd)


@contextmanager
def _as_file(text: str | None) -> Iterator[str]:
    # The supervisor's standard input is its tie to the builder, so uv cannot have one of its own.
    if text is None:
        yield ""
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="vllm-builder-", suffix=".txt") as file:
        file.write(text)
        file.flush()
        yield file.name


def _supervised(
    command: Sequence[str], env: Mapping[str, str], cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    reading, tie = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", supervisor.__file__, str(_GRACE), *command],
            env=dict(env),
            cwd=cwd,
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except BaseException:
        os.close(tie)
        raise
    finally:
        os.close(reading)
    with process:
        try:
            out, said = process.communicate()
        finally:
            # After Ctrl-C this is what ends it.
            os.close(tie)
    return subprocess.CompletedProcess(command, process.returncode, out, said)
