"""The server's ways to fail, each with its own words, and nothing that is left. The server here is a stand-in."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from smoke_helpers import Place, serving_wheel, trial

from vllm_builder.errors import SmokeFailed
from vllm_builder.stages.smoke import SmokeReport, Trial, require, serving

# The stand-in reads no model, and its environment has nothing to make one with.
NO_MODEL = "lambda self: Trial(level='serve', name='tiny model', outcome='passed')"


@pytest.fixture
def serve(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SmokeReport]:
    made = Trial(level="serve", name="tiny model", outcome="passed")
    monkeypatch.setattr(serving.Server, "_model", lambda self: made)
    monkeypatch.setattr(serving, "_GRACE", 0.3)
    wheel = serving_wheel(tmp_path)

    def run(mode: str = "good", **more: object) -> SmokeReport:
        environ = {"FAKE_SERVER": mode, "FAKE_PIDS": str(tmp_path / "pids")}
        report = place.run(wheel, environ, serve=True, **more)
        if (tmp_path / "pids").exists():
            assert [
                pid for pid in map(int, (tmp_path / "pids").read_text().split()) if psutil.pid_exists(pid)
            ] == []
        return report

    return run


def test_a_server_that_answers(serve: Callable[..., SmokeReport]) -> None:
    report = serve()
    served = [(t.name, t.outcome) for t in report.trials if t.level == "serve"]
    names = ("tiny model", "server start", "models", "completion", "chat completion", "taken down")
    assert served == [(name, "passed") for name in names]
    assert trial(report, "completion").detail == "8 tokens for 5"
    assert report.good
    assert report.full
    assert report.log == ""


@pytest.mark.parametrize(
    ("mode", "failed", "said"),
    [
        (
            "dies",
            "server start",
            "ended before it was ready, with status 1: RuntimeError: the engine has no kernels",
        ),
        ("taken", "server start", "was taken by another program while the server started"),
        ("killed", "server start", "SIGKILL"),
        ("another", "models", "it serves ['another']"),
        ("garbage", "completion", "it is no JSON"),
        ("error", "completion", "HTTP status 500"),
        ("shapeless", "completion", "it lacks what such an answer has"),
        ("short", "completion", "3 tokens instead of 8"),
        ("leaves", "completion", "the server ended when it was asked for /v1/completions, with status 7"),
    ],
)
def test_each_failure_has_its_own_words(
    serve: Callable[..., SmokeReport], mode: str, failed: str, said: str
) -> None:
    report = serve(mode)
    assert [t.name for t in report.failed] == [failed]
    assert said in trial(report, failed).detail
    assert Path(report.log).read_text()
    with pytest.raises(SmokeFailed) as caught:
        require(report)
    assert said in caught.value.why
    assert report.log in caught.value.next


@pytest.mark.parametrize(("mode", "last"), [("sleeps", "refused"), ("ill", "HTTP status 503")])
def test_a_server_that_never_gets_healthy(serve: Callable[..., SmokeReport], mode: str, last: str) -> None:
    report = serve(mode, start_limit=3)
    start = trial(report, "server start")
    assert "/health did not answer within 3 s" in start.detail
    assert last in start.detail
    assert mode == "ill" or "still loading" in start.lines


def test_a_server_that_does_not_answer_a_question(serve: Callable[..., SmokeReport]) -> None:
    report = serve("silent", answer_limit=1.5)
    assert "did not answer within 1.5 s" in trial(report, "completion").detail


def test_a_port_in_use(serve: Callable[..., SmokeReport]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        report = serve(port=port)
        assert trial(report, "server start").detail == f"port {port} of 127.0.0.1 is in use"
        assert "--port" in trial(report, "server start").next


def _running(tmp_path: Path) -> subprocess.Popen[str]:
    """The command, while its server loads."""
    program = (
        "from vllm_builder.stages.smoke import Trial, serving\n"
        f"serving.Server._model = {NO_MODEL}\nserving._GRACE = 0.5\n"
        "from vllm_builder.cli import main\nmain()"
    )
    (tmp_path / "tmp").mkdir(exist_ok=True)
    environ = {"FAKE_SERVER": "sleeps", "FAKE_PIDS": str(tmp_path / "pids"), "TMPDIR": str(tmp_path / "tmp")}
    environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "PIP_NO_INDEX": "1"}
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            program,
            "smoke",
            serving_wheel(tmp_path),
            "--serve",
            "--cache-dir",
            tmp_path / "cache",
        ],
        env={**os.environ, **environ},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "pids").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_nothing_is_left_when_it_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    process = _running(tmp_path)
    try:
        pids = list(map(int, (tmp_path / "pids").read_text().split()))
        assert len(pids) == 2
        assert all(map(psutil.pid_exists, pids))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    killed = number == signal.SIGKILL
    assert process.returncode == (-signal.SIGKILL if killed else 130), said
    assert killed or "begins anew" in said
    deadline = time.monotonic() + 30
    while (living := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living == []
    rooms = tmp_path / "cache" / "smoke"
    if killed:
        # It could not remove its folder; the next one does.
        assert len(list(rooms.glob("room-*"))) == 1
        (tmp_path / "pids").unlink()
        again = _running(tmp_path)
        again.send_signal(signal.SIGINT)
        again.communicate(timeout=60)
    assert list(rooms.glob("room-*")) == []
    assert list((tmp_path / "tmp").iterdir()) == []
