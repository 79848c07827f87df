"""The whole run in a file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import IO, Self

from vllm_builder.events import Event, Measured, Note, Output, Progress, StageFinished, StageStarted
from vllm_builder.fs import make_dir, os_errors
from vllm_builder.listeners import text


class LogFile:
    """Append every event to ``path``: what tools print as it is, everything else with time and stage.

    The file is opened with the first event, and each line is in it at once, so that a killed run leaves its
    log. Progress is left out: the tools' own lines tell it.

    Raises:
        NotWritable, NoSpace: on the event that could not be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def __call__(self, event: Event) -> None:
        line = _line(event)
        if line is None:
            return
        with os_errors(f"writing the log {self.path}"):
            if self._file is None:
                make_dir(self.path.parent)
                self._file = self.path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
            self._file.write(line + "\n")

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _line(event: Event) -> str | None:
    if isinstance(event, Output):
        return text.clean(event.line)
    if isinstance(event, Progress | Measured):
        return None
    moment = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return f"== {moment} {event.stage}: {_words(event)}"


def _words(event: Event) -> str:
    match event:
        case StageStarted():
            return f"{text.clean(event.title)} ..."
        case StageFinished():
            return f"done in {text.duration(event.seconds)}. {text.clean(event.summary)}".rstrip()
        case Note():
            mark = "" if event.level == "info" else f"{event.level}: "
            return mark + text.clean(event.message.replace("\n", " "))
        case _:
            return text.clean(str(event.as_dict()))
