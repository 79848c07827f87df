"""Running under the supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.errors import BuilderError
from vllm_builder.stages.compile import supervisor
from vllm_builder.stages.compile.runner import LineSplitter, run_supervised


def run(script: str, tmp_path: Path, **more: object) -> tuple[int, str]:
    out: list[bytes] = []
    code = run_supervised(
        ["/bin/sh", "-c", script],
        cwd=tmp_path,
        env=dict(os.environ),
        on_output=out.append,
        on_tick=lambda pid: None,
        **more,  # type: ignore[arg-type]
    )
    return code, b"".join(out).decode()


def test_output_in_order_and_status(tmp_path: Path) -> None:
    code, out = run("echo a; echo b >&2; echo c; exit 3", tmp_path)
    assert (code, out) == (3, "a\nb\nc\n")


def test_stdin_is_empty_and_the_session_is_its_own(tmp_path: Path) -> None:
    code, out = run("cat; ps -o sid= -p $$ | tr -d ' '", tmp_path)
    assert code == 0
    assert int(out) != os.getsid(0)


def test_a_signal_becomes_128_plus_n(tmp_path: Path) -> None:
    assert run("kill -9 $$", tmp_path)[0] == 137


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    out: list[bytes] = []
    code = run_supervised(
        ["/no/such/program"], cwd=tmp_path, env={}, on_output=out.append, on_tick=lambda pid: None
    )
    assert code == 127
    assert b"/no/such/program" in b"".join(out)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BuilderError):
        run("true", tmp_path / "none")


def test_what_stays_behind_is_ended(tmp_path: Path) -> None:
    code, out = run("setsid -f true; sleep 60 & echo $!", tmp_path, grace=0.5)
    assert code == 0
    assert not psutil.pid_exists(int(out))


def test_with_tree_a_daemon_is_ended_too(tmp_path: Path) -> None:
    # Of a session of its own, an orphan, and deaf to TERM.
    script = "setsid -f sh -c 'trap \"\" TERM; echo $$ > pid; sleep 60; sleep 60'; while ! test -s pid; do sleep 0.05; done"
    command = [sys.executable, "-I", supervisor.__file__, "--tree", "0.3", "/bin/sh", "-c", script]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.wait() == 0
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_daemon_that_keeps_the_pipe_is_not_waited_for(tmp_path: Path) -> None:
    # A process in a session of its own, as sccache's server is: not ours to end.
    script = (
        "setsid sh -c 'echo $$ > pid; exec sleep 30' & while ! test -s pid; do sleep 0.05; done; echo done"
    )
    started = time.monotonic()
    assert run(script, tmp_path) == (0, "done\n")
    daemon = psutil.Process(int((tmp_path / "pid").read_text()))
    assert time.monotonic() - started < 29
    assert daemon.is_running()
    daemon.kill()


def test_an_error_in_a_callback_ends_everything(tmp_path: Path) -> None:
    def refuse(data: bytes) -> None:
        raise ZeroDivisionError

    before = set(psutil.pids())
    with pytest.raises(ZeroDivisionError):
        run_supervised(
            ["/bin/sh", "-c", "echo x; sleep 60"],
            cwd=tmp_path,
            env=dict(os.environ),
            on_output=refuse,
            on_tick=lambda pid: None,
        )
    mine = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert not [p for p in mine if p.status() != psutil.STATUS_ZOMBIE]


def test_a_process_that_ignores_term_is_killed(tmp_path: Path) -> None:
    script = 'trap "" TERM; sh -c \'trap "" TERM; sleep 60\' & echo $!; sleep 60'
    started = subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__, "0.3", "/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert started.stdout is not None
    assert started.stdin is not None
    inner = int(started.stdout.readline())
    started.stdin.close()
    assert started.wait(20) == supervisor.ENDED
    deadline = time.monotonic() + 5
    while psutil.pid_exists(inner):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ticks_come(tmp_path: Path) -> None:
    ticks: list[int] = []
    run_supervised(
        ["/bin/sleep", "1"],
        cwd=tmp_path,
        env=dict(os.environ),
        on_output=lambda data: None,
        on_tick=ticks.append,
        tick=0.1,
    )
    assert ticks


@given(st.lists(st.binary()))
def test_lines_are_the_same_however_they_are_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    if b"\r" in whole:
        whole = whole.replace(b"\r", b"")
        pieces = [p.replace(b"\r", b"") for p in pieces]
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)] + splitter.close()
    expected = whole.decode("utf-8", "replace")
    assert "\n".join(lines) == "\n".join(
        p.decode("utf-8", "replace") for p in whole.split(b"\n")
    ).removesuffix("\n")
    assert len(lines) <= expected.count("\n") + 1


def test_carriage_returns_and_long_lines() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"10%\r20%\r\n") == ["10%", "20%"]
    for _ in range(100):
        assert splitter.feed(b"x" * 10_000) == []
    (line,) = splitter.feed(b"\nnext")
    assert line.startswith("xxxx")
    assert len(line) < 20_000
    assert "983616 more bytes" in line
    assert splitter.close() == ["next"]
