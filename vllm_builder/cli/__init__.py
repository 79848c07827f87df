"""The command line: it reads arguments, calls the API, and shows what comes back. Nothing is decided here."""

from __future__ import annotations

import os
import signal
import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    from vllm_builder.cli.app import cli
    from vllm_builder.cli.screen import fail
    from vllm_builder.errors import BuilderError, Interrupted, from_os_error

    # A polite end (a CI job that is cancelled) takes the same way out as Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = cli.main(args=arguments, prog_name="vllm-builder", standalone_mode=False)
        if isinstance(status, int) and status:  # of ctx.exit(status), which click hands back
            sys.exit(status)
    except BuilderError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        sys.exit(fail(Interrupted("Interrupted.", next="The same command goes on where this one stopped.")))
    except BrokenPipeError:
        # The reader of our output went away; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        sys.exit(fail(from_os_error(error, "working")))
    except Exception as error:  # the last line of defence: click's own, else a bug of ours
        import click

        if isinstance(error, click.exceptions.Abort):
            sys.exit(130)
        if isinstance(error, click.ClickException):
            error.show()
            sys.exit(error.exit_code)
        raise


def _interrupt(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt
