"""What the listeners write, where, and that none of them can break a build."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.errors import BuilderError, CompileFailed
from vllm_builder.events import Event, Note, Output, Progress, StageFinished, StageStarted
from vllm_builder.listeners import JsonLines, LogFile, Plain, fan_out, format_error, render_error, screen
from vllm_builder.listeners import text as words


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(done: float, total: float | None = 100, **more: object) -> Progress:
    facts: dict[str, object] = {"stage": "compile", "task": "compile", "unit": "units"}
    return Progress(done=done, total=total, **(facts | more))  # type: ignore[arg-type]


# fan_out -------------------------------------------------------------------------------------------
def test_a_broken_listener_is_switched_off_and_the_others_hear_why() -> None:
    calls: list[Event] = []
    heard: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise RuntimeError("pipe burst")

    emit = fan_out(heard.append, broken, heard.append)
    for line in "abc":
        emit(Output(stage="compile", line=line))
    assert len(calls) == 1
    lines = [e.line for e in heard if isinstance(e, Output)]
    assert lines == ["a", "a", "b", "b", "c", "c"]
    notes = [e for e in heard if isinstance(e, Note)]
    assert len(notes) == 2
    assert "pipe burst" in notes[0].message


def test_all_listeners_broken_is_silence() -> None:
    def broken(event: Event) -> None:
        raise OSError

    emit = fan_out(broken, broken)
    emit(Output(stage="x", line="1"))
    emit(Output(stage="x", line="2"))


def test_ctrl_c_in_a_listener_is_not_swallowed() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fan_out(interrupted)(Output(stage="x", line=""))


def test_events_of_many_threads_come_one_at_a_time() -> None:
    stream = io.StringIO()
    emit = fan_out(JsonLines(stream))

    def work(name: str) -> None:
        for number in range(200):
            emit(Output(stage=name, line=f"{number} " + "x" * 200))

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(found) == 800
    for n in range(4):
        numbers = [int(f["line"].split()[0]) for f in found if f["stage"] == f"t{n}"]
        assert numbers == list(range(200))


# JSON ----------------------------------------------------------------------------------------------
def test_each_event_is_one_line_of_json() -> None:
    stream = io.StringIO()
    listen = JsonLines(stream)
    listen(progress(3, 8, rate=float("inf"), eta=float("nan"), current=("a.cpp",)))
    listen(Output(stage="compile", line="with\nbreak \u2028 \ud800 ü"))
    first, second = stream.getvalue().split("\n")[:2]
    found = json.loads(first)
    assert found["event"] == "Progress"
    assert (found["done"], found["total"], found["current"]) == (3, 8, ["a.cpp"])
    assert found["rate"] is None
    assert found["eta"] is None
    assert found["time"].endswith("+00:00")
    assert json.loads(second)["line"] == "with\nbreak \u2028 \ud800 ü"


# Log file ------------------------------------------------------------------------------------------
def test_the_log_holds_output_as_it_is_and_the_rest_with_time_and_stage(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "run.log"
    with LogFile(path) as log:
        assert not path.exists()
        log(StageStarted(stage="compile", title="Compile"))
        log(Output(stage="compile", line="\x1b[31mg++ -c\x1b[0m a.cpp \ud800"))
        assert "g++ -c a.cpp" in path.read_text(), "a killed run leaves its log"
        log(progress(1))
        log(Note(stage="compile", message="two\nlines", level="warning"))
        log(StageFinished(stage="compile", seconds=63, summary="8 units"))
    with LogFile(path) as log:
        log(Output(stage="compile", line="again"))
    lines = path.read_text().splitlines()
    assert lines[1] == "g++ -c a.cpp \\ud800"
    assert lines[0].endswith("compile: Compile ...")
    assert lines[2].endswith("compile: warning: two lines")
    assert lines[3].endswith("compile: done in 1 min 03 s. 8 units")
    assert lines[4:] == ["again"]


def test_a_log_that_cannot_be_written_does_not_end_the_build(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    heard: list[Event] = []
    emit = fan_out(LogFile(tmp_path / "file" / "run.log"), heard.append)
    emit(Output(stage="compile", line="one"))
    emit(Output(stage="compile", line="two"))
    assert [e.line for e in heard if isinstance(e, Output)] == ["one", "two"]
    assert sum(isinstance(e, Note) for e in heard) == 1


# Plain lines ---------------------------------------------------------------------------------------
def plain(*events: Event, verbose: bool = False, quiet: bool = False) -> str:
    stream = io.StringIO()
    listen = Plain(stream, verbose=verbose, quiet=quiet)
    for event in events:
        listen(event)
    return stream.getvalue()


EVENTS = (
    StageStarted(stage="compile", title="Compile"),
    Note(stage="compile", message="a choice"),
    Note(stage="compile", message="a detail", level="debug"),
    Note(stage="compile", message="a danger", level="warning"),
    Output(stage="compile", line="g++ -c"),
    StageFinished(stage="compile", seconds=1, summary="8 units"),
)


def test_quiet_normal_and_verbose_show_more_and_more() -> None:
    assert plain(*EVENTS, quiet=True) == "compile: warning: a danger\n"
    assert plain(*EVENTS).splitlines() == [
        "compile: Compile ...",
        "compile: a choice",
        "compile: warning: a danger",
        "compile: done in 1.0 s: 8 units",
    ]
    verbose = plain(*EVENTS, verbose=True).splitlines()
    assert "g++ -c" in verbose
    assert "compile: a detail" in verbose


def test_progress_does_not_flood_a_pipe() -> None:
    stream, clock = io.StringIO(), Clock()
    listen = Plain(stream, clock=clock)
    for done in range(1001):
        # A hundred seconds, a thousand steps.
        clock.now = done / 10
        listen(progress(done, 1000, rate=10, eta=(1000 - done) / 10, current=("a.cpp",)))
    lines = stream.getvalue().splitlines()
    assert 10 <= len(lines) <= 21
    assert "(" in lines[0]
    assert lines[0].endswith("a.cpp")
    assert "10.0/s" in lines[0]


def test_slow_or_endless_progress_still_shows_life() -> None:
    stream, clock = io.StringIO(), Clock()
    listen = Plain(stream, clock=clock)
    for minute in range(10):
        clock.now = 60.0 * minute
        listen(progress(minute, 10_000))
        listen(progress(1e6 * minute, None, task="download", unit="B"))
        listen(progress(1e6 * minute, None, task="download", unit="B"))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 18
    assert "compile: download 9.0 MB" in lines
    assert "compile: 9/10000 units (0 %)" in lines


def test_a_task_that_begins_anew_is_no_error() -> None:
    stream, clock = io.StringIO(), Clock()
    listen = Plain(stream, clock=clock)
    for now, done in ((0, 0), (40, 90), (80, 0), (120, 50)):
        clock.now = now
        listen(progress(done))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["90/100", "50/100"]


def test_control_characters_of_tools_do_not_reach_the_screen() -> None:
    line = "\x1b]0;title\x07\x1b[1;31merror\x1b[0m\x07\x00 \x9b2Jx \x1b(B"
    shown = plain(Output(stage="c", line=line), Note(stage="c", message=line + "\n\x1b[2J"), verbose=True)
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\x07" not in shown
    assert "error" in shown
    assert words.clean("10 %\r20 %\r30 %\r\n") == "30 %"


def test_text_that_the_stream_cannot_encode_is_escaped() -> None:
    raw = io.BytesIO()
    listen = Plain(io.TextIOWrapper(raw, encoding="ascii"))
    listen(Note(stage="c", message="größer \ud800"))
    listen(Note(stage="c", message="next"))
    assert raw.getvalue().decode("ascii").splitlines() == ["c: gr\\xf6\\xdfer \\ud800", "c: next"]


@pytest.mark.parametrize("kind", ["Plain(sys.stdout)", "JsonLines(sys.stdout)", "screen(sys.stdout)"])
def test_a_closed_pipe_silences_the_listener_and_nothing_else(kind: str) -> None:
    code = f"""
import sys
from vllm_builder.events import Note
from vllm_builder.listeners import *
emit = fan_out({kind})
for n in range(20000):
    emit(Note(stage="c", message="x" * 100))
print("to nowhere")
sys.stderr.write("still here")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 0
    assert error == "still here"


def test_a_pipe_gets_plain_lines_without_rich_being_loaded() -> None:
    code = """
import sys
from vllm_builder.events import StageStarted
from vllm_builder.listeners import fan_out, screen
emit = fan_out(screen(sys.stdout))
emit(StageStarted(stage="plan", title="Plan"))
assert "rich" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "plan: Plan ...\n"


def test_a_stream_that_is_closed_altogether_is_no_error() -> None:
    stream = io.StringIO()
    listen = screen(stream)
    stream.close()
    listen(EVENTS[0])
    listen(EVENTS[0])
    assert isinstance(screen(stream), Plain)


# Errors --------------------------------------------------------------------------------------------
ERROR = CompileFailed(
    "A unit failed: csrc/a.cpp.",
    why="The header numa.h is missing. " * 6,
    next="Install libnuma-dev [bold]and[/bold] run the same command again.",
    details=["csrc/a.cpp:1:10: fatal error: \x1b[31mnuma.h\x1b[0m: No such file", "/long/" + "x" * 200],
)


def test_an_error_shows_what_why_details_and_next() -> None:
    lines = format_error(ERROR, width=80).splitlines()
    assert lines[0] == "error: A unit failed: csrc/a.cpp."
    order = [next(i for i, line in enumerate(lines) if part in line) for part in ("why:", "fatal", "next:")]
    assert order == sorted(order)
    assert all(len(line) <= 80 for line in lines if "/long/" not in line)
    assert any(line.endswith("x" * 200) for line in lines), "what one wants to copy is not broken"
    assert format_error(BuilderError("Only what.")) == "error: Only what."


def test_an_error_looks_the_same_on_a_console_and_markup_is_only_text() -> None:
    from rich.console import Console

    stream = io.StringIO()
    render_error(ERROR, Console(file=stream, width=80))
    assert stream.getvalue() == format_error(ERROR, width=80) + "\n"
    coloured = io.StringIO()
    render_error(ERROR, Console(file=coloured, width=80, force_terminal=True, color_system="standard"))
    assert "\x1b[" in coloured.getvalue()
    assert words.clean(coloured.getvalue().splitlines()[0]) == "error: A unit failed: csrc/a.cpp."


def test_rendering_an_error_to_a_closed_pipe_keeps_the_exit_code() -> None:
    read, write = os.pipe()
    os.close(read)
    code = """
import sys
from rich.console import Console
from vllm_builder.errors import CompileFailed
from vllm_builder.listeners import render_error
render_error(CompileFailed("x" * 100_000), Console(stderr=True))
sys.exit(53)
"""
    assert subprocess.run([sys.executable, "-c", code], stderr=write, check=False).returncode == 53
    os.close(write)


@given(st.text(), st.text(), st.text(), st.lists(st.text(), max_size=3), st.integers(1, 200))
def test_any_error_can_be_shown(what: str, why: str, then: str, details: list[str], width: int) -> None:
    shown = format_error(BuilderError(what, why=why, next=then, details=details), width=width)
    assert shown.startswith("error:")
    assert not set(shown) & (set(map(chr, range(32))) - {"\n", "\t"})


# Numbers -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (3600, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (4.2e15, "4200.0 TB"),
    ],
)
def test_sizes(number: float, shown: str) -> None:
    assert words.size(number) == shown


def test_rates_of_slow_things_are_per_minute() -> None:
    assert words.rate(0.13, "units") == "7.8/min"
    assert words.rate(2.25, "units") == "2.2/s"
    assert words.rate(2.3e6, "B") == "2.3 MB/s"
