"""One run of a release's setup.py: its command, the lock on its tree, its log, and the wheel that it leaves."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from vllm_builder.errors import Busy, Interrupted, WheelMismatch
from vllm_builder.events import Emit, Note
from vllm_builder.fs import copy_atomic, make_dir, os_errors, remove_tree
from vllm_builder.stages.compile import diagnose, isolation
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.compile.runner import run_supervised
from vllm_builder.stages.compile.rust import rust_left_out
from vllm_builder.stages.compile.versions import missing_local
from vllm_builder.stages.compile.watch import Watch
from vllm_builder.stages.environment.model import Environment

_PATIENCE = 60.0


def setup_command(
    spec: CompileSpec, environment: Environment, tree: Path, fresh: Path, *options: str
) -> list[str]:
    """Of Python, setup.py and its arguments; ``options`` come before the first command."""
    # The person's own ~/.pydistutils.cfg is in no digest.
    command = [str(environment.python), "setup.py", "--no-user-cfg", *options]
    if local := missing_local(spec, tree):
        # A few trees take no local version part from any variable; setuptools itself can add one.
        command += ["egg_info", f"--tag-build={local}"]
    command += ["bdist_wheel", "-d", str(fresh)]
    if spec.limited_api:
        command.append(f"--py-limited-api={spec.limited_api}")
    return command


def run_setup(
    command: list[str],
    watch: Watch,
    *,
    tree: Path,
    env: Mapping[str, str],
    log: Path,
    lock: int,
) -> tuple[int, int]:
    """Run setup.py with everything it prints appended to the log.

    Returns the byte at which this attempt begins in the log, and the exit status.
    """
    with os_errors(f"writing {log}"), log.open("ab", buffering=0) as file:
        offset = file.tell()
        file.write(f"=== {datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(command)}\n".encode())

        def on_output(data: bytes) -> None:
            file.write(data)
            watch.output(data)

        try:
            returncode = run_supervised(
                command, cwd=tree, env=env, on_output=on_output, on_tick=watch.tick, keep_open=[lock]
            )
        except KeyboardInterrupt:
            watch.close()
            with contextlib.suppress(OSError):
                file.write(b"\n=== interrupted\n")
            raise Interrupted(
                f"Interrupted after {watch.counted()} units.",
                why="Ctrl-C, or the process was told to end. All compilers have been stopped.",
                next="Run the same command again, it goes on where it was.",
            ) from None
        watch.close()
    return offset, returncode


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the tree. The supervisor inherits the lock, so that it outlives a builder that is killed."""
    with os_errors(f"writing {path}"), path.open("ab") as file:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(
                        f"Another build works in {path.parents[2]}.",
                        why=f"{path} has been locked for {_PATIENCE:.0f} seconds.",
                        next="Wait for it to end, or choose another --workspace.",
                    ) from None
                time.sleep(0.1)
        yield file.fileno()


def sweep(fresh: Path, tree: Path) -> None:
    """Remove what a broken-off attempt may have left half-written; compiled objects stay."""
    remove_tree(fresh)
    make_dir(fresh)
    for half in (tree / "build").glob("bdist.*"):
        remove_tree(half)


def only_wheel(fresh: Path, spec: CompileSpec) -> Path:
    wheels = sorted(fresh.glob("*.whl"))
    if len(wheels) != 1:
        raise WheelMismatch(
            f"setup.py ended well but left {len(wheels)} wheels for {spec.version} instead of one.",
            next="Look at the end of the log.",
            details=[w.name for w in wheels],
        )
    return wheels[0]


def copy_out(wheel: Path, dist: Path, fresh: Path) -> Path:
    """Hand the wheel over to ``dist``, whole or not at all, and remove the folder that setup.py wrote it to."""
    copy_atomic(wheel, dist / wheel.name)
    remove_tree(fresh)
    return dist / wheel.name


def parts_left_out(
    log: Path, offset: int, tree: Path, members: frozenset[str], spec: CompileSpec, emit: Emit
) -> tuple[str, ...]:
    found = rust_left_out(tree, members, diagnose.left_out(diagnose.read_from(log, offset)))
    if spec.isolate:
        isolation.refuse_losses(found, log, offset)
    out = [f"{name}: {reason}" for name, reason in spec.without.items()]
    for part, reason, level in found:
        out.append(f"{part}: {reason}")
        emit(note(f"Left out of the wheel: {part} ({reason}).", "warning" if level == "warning" else "info"))
    return tuple(out)


def note(message: str, level: str = "info") -> Note:
    return Note(stage="compile", message=message, level="warning" if level == "warning" else "info")
