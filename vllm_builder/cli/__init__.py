"""The command line: it reads arguments, calls the API, and shows what comes back. Nothing is decided here."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from vllm_builder.errors import BuilderError

_PIPE_GONE = 141
"""What a shell reports of a program that SIGPIPE ended."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    from vllm_builder.cli.screen import fail
    from vllm_builder.errors import BuilderError, Interrupted

    # A polite end (a CI job that is cancelled) takes the same way out as Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    _write_any_text()
    try:
        status = _run(arguments)
    except BuilderError as error:
        status = fail(error)
    except KeyboardInterrupt:
        status = fail(Interrupted("Interrupted.", next="The same command goes on where this one stopped."))
    except BrokenPipeError:
        status = _PIPE_GONE
        _silence()
    except Exception as error:  # noqa: BLE001  # the last line of defence
        status = fail(_explained(error, sys.argv[1:] if arguments is None else arguments))
    _leave(status)


def _run(arguments: list[str] | None) -> int:
    import click

    from vllm_builder.cli.app import cli

    try:
        status = cli.main(args=arguments, prog_name="vllm-builder", standalone_mode=False)
    except click.exceptions.Abort:
        # click's name for Ctrl-C.
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit as end:
        if type(sys.stdout).__name__.strip("_") == "PacifyFlushWrapper":
            return _PIPE_GONE  # click's own way out when the reader of a pipe has gone
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    # Of ctx.exit(status), which click hands back.
    return status if isinstance(status, int) else 0


def _explained(error: Exception, arguments: list[str]) -> BuilderError:
    """What the operating system refused, in words; anything else is a fault of this program."""
    from vllm_builder.cli.internal import internal_error
    from vllm_builder.errors import BuilderError, from_os_error

    if isinstance(error, OSError):
        known = from_os_error(error, "working")
        if type(known) is not BuilderError:
            return known
    return internal_error(error, arguments)


def _leave(status: int) -> NoReturn:
    """Write out what is still held back, and end: a result that did not arrive is no success."""
    from vllm_builder.cli.screen import fail, use_json
    from vllm_builder.errors import from_os_error

    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        status = status or _PIPE_GONE
        _silence()
    except OSError as error:
        _silence()
        use_json(False)  # what is said now is for standard error
        status = status or fail(from_os_error(error, "writing the result to standard output"))
    sys.exit(status)


def _silence() -> None:
    """Standard output takes nothing any more: what is left of it must not be tried again at the end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_any_text() -> None:
    """Paths are bytes: one that is no UTF-8 is printed as it is, and no character is one too many for a console.

    A closed stream (``>&-``) is one that nobody reads.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")  # type: ignore[union-attr]


def _interrupt(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt
