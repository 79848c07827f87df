"""The small process between the builder and setup.py.

It is started by path, in a session of its own, with the standard library alone, as

    python -I -S supervisor.py [--tree] GRACE_SECONDS COMMAND ARGUMENT...

and watches two things: the command, and its own standard input, a pipe whose other end only the builder
holds. When the builder dies, for whatever reason, the pipe reaches its end and the whole session is ended:
an orphan compiler never goes on writing into the tree. The session and not the process group is what counts,
because ninja puts every command into a process group of its own. With ``--tree`` whatever descends from the command
is ended, also what made a session of its own; without, such a daemon (a compiler cache's server) is let live.

Exit status: the command's own; 128 + n where signal n killed it; 143 when the session was ended on request;
127 when the command could not be started.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable

_PR_SET_CHILD_SUBREAPER = 36
ENDED = 128 + signal.SIGTERM


def session_members(session: int) -> list[int]:
    """Process ids of the living members of a session, without its leader."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 (pathlib would cost more than all the rest at start)
        if not name.isdigit() or int(name) == session:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                # The command's name stands in parentheses and may itself hold some.
                state, _parent, _group, its_session = file.read().rpartition(b")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(its_session) == session and state not in {b"Z", b"X"}:
            found.append(int(name))
    return found


def descendants(ancestor: int) -> list[int]:
    """Process ids of the living processes below one, whatever their session."""
    below: dict[int, list[int]] = {}
    dead = set()
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                below.setdefault(int(parent), []).append(int(name))
                if state in {b"Z", b"X"}:
                    dead.add(int(name))
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        children = below.get(waiting.pop(), [])
        found += children
        waiting += children
    return [pid for pid in found if pid not in dead]


def end_session(session: int, grace: float, living: Callable[[int], list[int]] = session_members) -> None:
    """End every member of a session but its leader: TERM, up to ``grace`` seconds of patience, KILL.

    ninja answers TERM by deleting the output of the edges that it interrupts, so patience pays.

    Args:
        living: finds them; :func:`descendants` for everything below the leader.
    """
    deadline = time.monotonic() + grace
    _signal_all(living(session), signal.SIGTERM)
    while members := living(session):
        if time.monotonic() >= deadline:
            _signal_all(members, signal.SIGKILL)
        _reap()
        time.sleep(0.02)
    _reap()


def _signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap() -> dict[int, int]:
    """Collect every child that has ended, adopted ones included: pid -> wait status."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def _become_subreaper() -> None:
    # Orphans of the build become our children, not init's, and so can be waited for.
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main(arguments: list[str]) -> int:
    living: Callable[[int], list[int]] = session_members
    if arguments[0] == "--tree":
        arguments, living = arguments[1:], descendants
    grace, command = float(arguments[0]), arguments[1:]
    _become_subreaper()
    asked: list[int] = []
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: asked.append(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127

    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        while True:
            status = _reap().get(child.pid)
            if status is not None or asked:
                break
            for key, _ in selector.select():
                with contextlib.suppress(BlockingIOError):
                    if not os.read(key.fd, 4096) and key.fd == 0:
                        asked.append(signal.SIGHUP)

    end_session(os.getpid(), grace, living)
    if status is None:
        return ENDED
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


if __name__ == "__main__":
    # No interpreter shutdown: subprocess would wait for the child that we have already reaped.
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)
