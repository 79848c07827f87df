"""Calling uv: what it is given arrives, and it does not outlive the builder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vllm_builder.stages.environment import uv

BUILDER = """
import os, sys
from vllm_builder.stages.environment import uv
uv.uv_binary = lambda: sys.argv[1]
uv.run_uv(["pip"], environ=os.environ)
"""


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_input_output_and_status_go_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = program(tmp_path / "uv", 'echo "$1"; cat "$3"; echo bad >&2; exit 7')
    monkeypatch.setattr(uv, "uv_binary", lambda: str(fake))
    done = uv.run_uv(["install", "-r", "-"], environ=os.environ, stdin="one==1.0\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "install\none==1.0\n", "bad\n")


def test_much_output_does_not_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = program(tmp_path / "uv", "yes | head -c 300000; yes | head -c 300000 >&2")
    monkeypatch.setattr(uv, "uv_binary", lambda: str(fake))
    done = uv.run_uv([], environ=os.environ)
    assert (len(done.stdout), len(done.stderr)) == (300000, 300000)


def test_it_ends_with_a_builder_that_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    fake = program(tmp_path / "uv", f"echo $$ > {started}.part; mv {started}.part {started}; exec sleep 600")
    builder = subprocess.Popen([sys.executable, "-c", BUILDER, str(fake)])
    deadline = time.monotonic() + 60
    while not started.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process = psutil.Process(int(started.read_text()))
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    try:
        process.wait(30)
    except psutil.TimeoutExpired:
        process.kill()
        pytest.fail("uv goes on without its builder")
