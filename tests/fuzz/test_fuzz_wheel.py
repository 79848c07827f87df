"""A short run of the fuzzer, so that it stays fit for long ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris (extra fuzz) is not installed")


def test_the_container_of_wheels(tmp_path: Path) -> None:
    script = Path(__file__).with_name("fuzz_wheel.py")
    command = [sys.executable, str(script), "-runs=3000", "-seed=1", "-rss_limit_mb=1024"]
    command.append(f"-artifact_prefix={tmp_path}/")
    done = subprocess.run(
        # By way of a shell: a process that another one starts directly counts that one's memory as its own (ru_maxrss).
        ["sh", "-c", '"$@"; exit $?', "sh", *command],
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done 3000 runs" in done.stderr
