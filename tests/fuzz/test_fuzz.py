"""A short run of the fuzzer, so that it stays fit for long ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris (extra fuzz) is not installed")


def test_readers_of_libraries(tmp_path: Path) -> None:
    script = Path(__file__).with_name("fuzz_binary.py")
    done = subprocess.run(
        [sys.executable, script, "-runs=20000", "-seed=1"],
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done 20000 runs" in done.stderr
