"""Running git through GitPython so that it can neither ask nor hang.

GitPython's own timeout finds the children of git with ``ps`` or ``pgrep``, which slim containers lack; git
therefore gets a session of its own here and is ended as a group.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Final
from urllib.parse import urlsplit

from vllm_builder.errors import from_os_error
from vllm_builder.indexes import credentials, redact

LOCAL_TIMEOUT: Final = 600.0
_LOW_SPEED: Final = (("http.lowSpeedLimit", "1000"), ("http.lowSpeedTime", "30"))


_USER: Final = "VLLM_BUILDER_GIT_USER"
_PASSWORD: Final = "VLLM_BUILDER_GIT_PASSWORD"


class GitFailed(Exception):
    """git could not be started, said no, or did not answer. The text is one line without credentials."""


def quiet_environment(config: Mapping[str, str] = {}) -> dict[str, str]:  # never changed
    """Variables for git: never ask, and further configuration on top of what the person has set.

    Configuration travels in variables, since it may hold a URL with credentials. Variables of the person's
    own (``GIT_CONFIG_COUNT``, ``GIT_SSH_COMMAND``, ``GIT_ASKPASS``) stay in force.
    """
    given = os.environ
    variables = {
        "GIT_TERMINAL_PROMPT": "0",
        "GCM_INTERACTIVE": "never",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "SSH_ASKPASS_REQUIRE": given.get("SSH_ASKPASS_REQUIRE", "never"),
    }
    try:
        count = int(given.get("GIT_CONFIG_COUNT", "0"))
    except ValueError:
        count = 0
    for key, value in {"gc.auto": "0", "maintenance.auto": "false", **config}.items():
        variables[f"GIT_CONFIG_KEY_{count}"] = key
        variables[f"GIT_CONFIG_VALUE_{count}"] = value
        count += 1
    variables["GIT_CONFIG_COUNT"] = str(count)
    return variables


def with_credentials(name: str, url: str) -> tuple[dict[str, str], dict[str, str]]:
    """A remote of that name without its credentials, and how git gets them all the same.

    git hands the URL of a remote to its transport programs as an argument, which everybody on the machine can
    read; so user and password go through variables, which only their owner can.

    Returns:
        configuration and variables for :func:`run_git`.
    """
    found = credentials(url)
    parts = urlsplit(url) if found else None
    if found is None or parts is None or parts.scheme not in ("http", "https"):
        return {f"remote.{name}.url": url}, {}
    plain = redact(url)
    place = f"{parts.scheme}://{urlsplit(plain).netloc}"
    config = {
        f"remote.{name}.url": plain,
        # The person's own helpers must neither answer for these nor store them.
        "credential.helper": "",
        f"credential.{place}.helper": f'!f() {{ test "$1" = get && printf "%s\\n" "username=${_USER}" '
        f'"password=${_PASSWORD}"; }}; f',
    }
    return config, dict(zip((_USER, _PASSWORD), found, strict=True))


def run_git(
    arguments: Sequence[str],
    *,
    config: Mapping[str, str] = {},  # never changed
    variables: Mapping[str, str] = {},  # never changed
    timeout: float = LOCAL_TIMEOUT,
    idle: float | None = None,
    stdin: bytes | None = None,
    on_line: Callable[[str], None] | None = None,
    secret_url: str = "",
) -> str:
    """Run git and return its standard output.

    Args:
        config: configuration keys for this call alone.
        timeout: seconds until it is ended.
        idle: seconds without a word on standard error until it is ended.
        on_line: gets each line (also each ``\\r`` line) of standard error.
        secret_url: a URL whose credentials must not show up in messages.

    Raises:
        GitFailed, NoSpace
    """
    try:
        import git
    except ImportError as error:  # what GitPython raises where there is no git
        raise GitFailed("there is no git on this machine") from error
    environment = quiet_environment(config) | dict(variables)
    with tempfile.TemporaryFile() as source:
        options: dict[str, Any] = {"start_new_session": True}
        if stdin is not None:
            source.write(stdin)
            source.seek(0)
            options["istream"] = source
        try:
            # Held until the end: the wrapper ends its process when it is collected.
            holder = git.Git().execute(
                [git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git", *arguments],
                as_process=True,
                env=environment,
                **options,
            )
        except (git.exc.GitError, OSError) as error:
            raise GitFailed("git could not be started") from error
    assert holder.proc is not None
    return _follow(holder.proc, arguments, timeout, idle, on_line, secret_url)


def _follow(
    process: subprocess.Popen[Any],
    arguments: Sequence[str],
    timeout: float,
    idle: float | None,
    on_line: Callable[[str], None] | None,
    secret_url: str,
) -> str:
    lines: list[str] = []
    heard = [time.monotonic()]
    output = bytearray()

    def listen(stream: IO[bytes]) -> None:
        rest = b""
        while chunk := os.read(stream.fileno(), 1 << 16):
            heard[0] = time.monotonic()
            *whole, rest = re.split(rb"[\r\n]", rest + chunk)
            for raw in whole:
                take(raw)
        take(rest)

    def take(raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").strip()
        if line:
            if "%" not in line:
                lines.append(line)
                del lines[:-50]
            if on_line:
                on_line(line)

    def collect(stream: IO[bytes]) -> None:
        while chunk := stream.read(1 << 16):
            output.extend(chunk)

    assert process.stdout is not None
    assert process.stderr is not None
    threads = [
        threading.Thread(target=listen, args=(process.stderr,), daemon=True),
        threading.Thread(target=collect, args=(process.stdout,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.2)
                break
            now = time.monotonic()
            if now > end or (idle is not None and now - heard[0] > idle):
                raise GitFailed(f"no answer within {timeout if now > end else idle:g} seconds")
    except BaseException:
        _end(process)
        raise
    for thread in threads:
        thread.join(timeout=5)
    process.stdout.close()
    process.stderr.close()
    if process.returncode:
        if any("No space left on device" in line for line in lines):
            raise from_os_error(
                OSError(errno.ENOSPC, "No space left on device"), f"running git {arguments[-1]}"
            )
        raise GitFailed(_complaint(lines, arguments, process.returncode, secret_url))
    return output.decode("utf-8", "surrogateescape")


def _end(process: subprocess.Popen[Any]) -> None:
    # First the polite way: git then removes its lock files.
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        if process.poll() is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)


def _complaint(lines: list[str], arguments: Sequence[str], status: int, secret_url: str) -> str:
    fatal = [line for line in lines if line.startswith(("fatal:", "error:", "ssh:"))]
    words = (fatal or lines or [f"git {arguments[-1]} ended with status {status}"])[0]
    words = words.removeprefix("fatal: ").removeprefix("error: ").removeprefix("remote: ")
    if secret_url:
        words = words.replace(secret_url, redact(secret_url))
    # "unable to access 'URL': Could not resolve host": the end is what matters.
    words = re.sub(r"^unable to access '[^']*': ", "", words)
    return re.sub(r"//[^/@\s']+@", "//", words).rstrip(".")


def low_speed_limits() -> dict[str, str]:
    """Limits that end a stalled transfer, unless the person has configured some."""
    try:
        run_git(["config", "--get-regexp", r"^http\.(.*\.)?lowspeed"])
    except GitFailed:
        return dict(_LOW_SPEED)
    return {}
