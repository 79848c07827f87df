"""The live display, on a console that believes to be a terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from vllm_builder.events import Note, Output, Progress, StageFinished, StageStarted
from vllm_builder.listeners import Terminal
from vllm_builder.listeners.text import clean

DONE = StageFinished(stage="compile", seconds=63, summary="vllm-0.9.2+cpu.whl, 8 units")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(width: int = 80, **more: object) -> Console:
    options: dict[str, object] = {"force_terminal": True, "color_system": None, "legacy_windows": False}
    return Console(file=io.StringIO(), width=width, **(options | more))  # type: ignore[arg-type]


def shown(console: Console) -> list[str]:
    """What stays on the screen, without the live part that is wiped."""
    return [clean(line).rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def picture(terminal: Terminal, width: int) -> list[str]:
    other = console(width)
    other.print(terminal._picture())
    return shown(other)


def step(done: float, total: float | None = 8, **more: object) -> Progress:
    facts: dict[str, object] = {"stage": "compile", "task": "compile", "unit": "units"}
    return Progress(done=done, total=total, **(facts | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_live_part_shows_how_far_how_fast_and_what_now_and_fits(width: int) -> None:
    clock = Clock()
    with Terminal(console(width), clock=clock) as terminal:
        terminal(StageStarted(stage="compile", title="Compile vllm 0.9.2+cpu " + "very long " * 20))
        terminal(
            step(3, rate=0.13, eta=38, current=("csrc/cpu/attention.cpp", "csrc/cpu/quant.cpp " + "x" * 200))
        )
        clock.now = 23
        lines = picture(terminal, width)
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert "compile" in lines[0]
    assert "23 s" in lines[0]
    for fact in ("3/8 units", "37 %", "7.8/min"):
        assert fact in lines[1]
    assert "csrc/cpu/attention.cpp" in lines[2]
    if width >= 80:
        assert "38 s left" in lines[1]
        assert "━" in lines[1]


def test_a_finished_stage_leaves_one_line_and_a_failed_one_a_cross() -> None:
    screen = console()

    def run() -> None:
        with Terminal(screen) as terminal:
            terminal(StageStarted(stage="compile", title="Compile"))
            terminal(step(3))
            terminal(DONE)
            terminal(StageStarted(stage="store", title="Adding"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()
    lines = shown(screen)
    assert any(line.startswith("✓ compile") and "1 min 03 s" in line and "8 units" in line for line in lines)
    assert any(line.startswith("✗ store") and "Adding" in line for line in lines)
    raw = screen.file.getvalue()  # type: ignore[attr-defined]
    assert raw.count("\x1b[?25l") == raw.count("\x1b[?25h"), "the cursor is shown again"


def test_notes_stand_between_and_tools_words_are_only_text() -> None:
    screen = console(60)
    with Terminal(screen, verbose=True) as terminal:
        terminal(StageStarted(stage="compile", title="[red]Compile[/red]"))
        terminal(Note(stage="compile", message="[bold]no markup[/bold] :smile:"))
        terminal(Note(stage="compile", message="a detail", level="debug"))
        terminal(Note(stage="compile", message="a danger " * 12, level="warning"))
        terminal(Output(stage="compile", line="\x1b[31m[1/8] g++\x1b[0m [bold]x"))
        assert "[red]Compile[/red]" in picture(terminal, 80)[0]
    text = "\n".join(shown(screen))
    assert "· [bold]no markup[/bold] :smile:" in text
    assert "· a detail" in text
    assert "[1/8] g++ [bold]x" in text
    warning = [line for line in shown(screen) if "a danger" in line]
    assert warning[0].startswith("! ")
    assert warning[1].startswith("  "), "further lines are indented"


def test_quiet_shows_warnings_alone_and_no_live_part() -> None:
    screen = console()
    with Terminal(screen, quiet=True) as terminal:
        terminal(StageStarted(stage="compile", title="Compile"))
        terminal(step(3))
        terminal(Note(stage="compile", message="a choice"))
        terminal(Note(stage="compile", message="a danger", level="warning"))
        terminal(DONE)
    assert shown(screen) == ["! a danger"]


def test_several_downloads_are_shown_by_name_and_vanish_when_done() -> None:
    with Terminal(console()) as terminal:
        terminal(StageStarted(stage="source", title="Fetching"))
        for name in ("one.tar.gz", "two.tar.gz"):
            terminal(Progress(stage="source", task=name, done=1e6, total=4e6, unit="B"))
        lines = picture(terminal, 80)
        assert [line.split()[0] for line in lines[1:]] == ["one.tar.gz", "two.tar.gz"]
        assert "1.0 MB of 4.0 MB" in lines[1]
        terminal(Progress(stage="source", task="one.tar.gz", done=4e6, total=4e6, unit="B"))
        assert "one.tar.gz" not in "".join(picture(terminal, 80))


def test_without_progress_the_tools_last_line_shows_life() -> None:
    with Terminal(console()) as terminal:
        terminal(StageStarted(stage="environment", title="Installing"))
        terminal(Output(stage="environment", line=" + torch==2.13.0"))
        terminal(Output(stage="environment", line="   "))
        assert picture(terminal, 80)[1] == "  + torch==2.13.0"


def test_no_color_takes_the_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> str:
        stream = io.StringIO()
        screen = Console(file=stream, force_terminal=True, width=80, legacy_windows=False)
        with Terminal(screen) as terminal:
            terminal(Note(stage="compile", message="a danger", level="warning"))
            terminal(DONE)
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORTERM", raising=False)
    assert "\x1b[33m" in run() or "\x1b[1;33m" in run()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "33m" not in run()
    assert "32m" not in run()


def test_events_from_threads_while_the_display_refreshes_do_not_deadlock() -> None:
    screen = console()
    with Terminal(screen) as terminal:
        terminal(StageStarted(stage="compile", title="Compile"))

        def work() -> None:
            for n in range(300):
                terminal(step(n % 8))
                if n % 20 == 0:
                    terminal(Note(stage="compile", message="note"))

        threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        terminal(DONE)
    assert sum(line == "· note" for line in shown(screen)) == 45


DEMO = """
import sys
from rich.console import Console
from vllm_builder.events import *
from vllm_builder.listeners import *
with screen(sys.stdout) as listen:
    print(type(listen).__name__, file=sys.stderr)
    emit = fan_out(listen)
    emit(StageStarted(stage="compile", title="Compile"))
    emit(Progress(stage="compile", task="compile", done=1, total=8, unit="units"))
    emit(StageFinished(stage="compile", seconds=1, summary="8 units"))
"""


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}, "Terminal"),
        ({"TERM": "dumb", "PYTHONIOENCODING": "utf-8"}, "Plain"),
        ({"TERM": "xterm-256color", "PYTHONIOENCODING": "ascii"}, "Plain"),
    ],
)
def test_a_real_terminal_gets_what_it_can_show(variables: dict[str, str], kind: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DEMO], stdout=theirs, stderr=subprocess.PIPE, env={**os.environ, **variables}
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:
        pass  # Linux says so when the other side has closed
    os.close(ours)
    assert process.stderr is not None
    assert process.stderr.read().decode().split() == [kind]
    process.stderr.close()
    assert process.wait(60) == 0
    text = seen.decode()
    assert "8 units" in text
    assert ("\x1b" in text) == (kind == "Terminal")


def test_a_terminal_that_hangs_up_does_not_end_the_build() -> None:
    ours, theirs = pty.openpty()
    code = (
        DEMO.replace("    emit(Progress", "    input()\n    emit(Progress")
        + "\nprint('done', file=sys.stderr)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
    )
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    _, error = process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert error.decode().split() == ["Terminal", "done"]
