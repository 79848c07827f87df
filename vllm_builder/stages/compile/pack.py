"""A wheel of a tree and a native layer: setup.py runs as ever, and a cmake in front of it hands over the layer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from vllm_builder.errors import BuilderError
from vllm_builder.events import Emit, ignore
from vllm_builder.fs import make_dir, remove_tree, write_atomic
from vllm_builder.stages.compile import diagnose, isolation, reproducible
from vllm_builder.stages.compile.buildenv import child_environment, ignored_variables
from vllm_builder.stages.compile.model import Captured, CompileResult, CompileSpec
from vllm_builder.stages.compile.rust import rust_parts
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
from vllm_builder.stages.native import lighttorch
from vllm_builder.stages.native.calls import Calls
from vllm_builder.stages.native.model import Layer

_MARK = "packed"
"""File that says that what lies in ``build/lib*`` was not compiled there."""


class Misfit(Exception):
    """A layer does not make the wheel of this tree; the text says why, for a person."""


def pack_wheel(
    spec: CompileSpec,
    layer: Layer,
    *,
    tree: Path,
    environment: Environment,
    dist: Path,
    log: Path,
    environ: Mapping[str, str],
    torch: Mapping[str, str | None] | None = None,
    emit: Emit = ignore,
) -> CompileResult:
    """As :func:`.compile_wheel`, with nothing compiled: what cmake would have installed comes out of ``layer``.

    Args:
        torch: the answers of :func:`.torch_facts`; with them torch itself is not loaded.

    Raises:
        Misfit: setup.py calls cmake in another way than where the layer was compiled, or the wheel would lack
            something. Nothing of the attempt is left that a compile in the tree could take for its own.
        Interrupted, Busy, IsolationRefused, NoSpace, NotWritable: as when compiling.
    """
    started = time.monotonic()
    tree = tree.resolve()
    if spec.isolate:
        isolation.require(spec.compiler_cache, "the plan")
    state = make_dir(tree / "build" / "vllm-builder")
    make_dir(log.parent)
    with locked(state / "lock") as lock:
        for name in ignored_variables(spec, environ):
            emit(note(f"The variable {name} is not part of the plan and is not passed on.", "warning"))
        forget(tree, state)
        write_atomic(state / _MARK, "")
        fresh = state / "dist"
        env = child_environment(spec, environment, environ)
        reproducible.arrange(spec, env, tree=tree, environment=environment)
        calls = Calls(
            state,
            places(spec, tree, environment),
            expected=layer.manifest.calls,
            files=layer.files,
        )
        calls.arrange(env)
        # The wheel is compressed when it is finished: once is enough. Its thousand lines "copying" say nothing.
        command = [*setup_command(spec, environment, tree, fresh, "--quiet"), "--compression=stored"]
        watch = Watch(tree, emit, 0)
        for one in _ways(command, torch, state):
            sweep(fresh, tree)
            _forget_libraries(tree)
            calls.begin(env)
            offset, returncode = run_setup(
                isolation.isolated(one) if spec.isolate else one,
                watch,
                tree=tree,
                env=env,
                log=log,
                lock=lock,
            )
            if returncode != lighttorch.BEYOND:
                break
        try:
            if calls.misfit:
                raise Misfit(calls.misfit)
            if returncode != 0:
                found = diagnose.diagnose_log(log, offset, returncode)
                raise Misfit(f"setup.py failed with it: {found.cause}")
            wheel = only_wheel(fresh, spec)
            facts, remarks = check_wheel(wheel, spec)
            if missing := sorted({*layer.manifest.members} - facts.members):
                raise Misfit(f"the wheel would lack {', '.join(missing[:3])}")
        except (Misfit, BuilderError) as problem:
            forget(tree, state)
            sweep(fresh, tree)
            if isinstance(problem, Misfit):
                raise
            raise Misfit(problem.what) from problem
        for remark in remarks:
            emit(note(remark, "warning"))
        parts = parts_left_out(log, offset, tree, facts.members, spec, emit)
        final = copy_out(wheel, dist, fresh)
    return CompileResult(
        wheel=final,
        log=log,
        seconds=time.monotonic() - started,
        units=0,
        peak_memory=watch.peak_memory,
        left_out=_together(layer.manifest.left_out, parts, tree),
        full_headers=layer.manifest.full_headers,
        isolated=spec.isolate and layer.manifest.isolated,
    )


def _ways(command: list[str], torch: Mapping[str, str | None] | None, state: Path) -> Iterator[list[str]]:
    """How to run setup.py, one after the other until one of them knows all that is asked of torch."""
    if torch is not None:
        answers = state / "torch.json"
        write_atomic(answers, json.dumps(dict(torch)))
        python, *rest = command
        yield [python, lighttorch.__file__, str(answers), *rest]
    yield command


def places(spec: CompileSpec, tree: Path, environment: Environment) -> dict[Path, str]:
    """Folders that a call of cmake may name, and that lie elsewhere in the next build."""
    found = {tree: "<tree>", environment.bin.parent: "<environment>"}
    return found | ({Path(spec.cuda_home): "<cuda>"} if spec.cuda_home else {})


def captured(calls: Calls) -> Captured | None:
    """What a compile that ended well leaves for a layer."""
    made = calls.made()
    kinds = {call["kind"] for call in made}
    if "install" not in kinds or "other" in kinds or not calls.files.is_dir():
        return None
    return Captured(calls=made, files=calls.files)


def forget(tree: Path, state: Path) -> None:
    """Remove what packing put where a compile puts its own, so that neither is taken for the other."""
    if (state / _MARK).exists():
        _forget_libraries(tree)
        (state / _MARK).unlink(missing_ok=True)


def _forget_libraries(tree: Path) -> None:
    for folder in (tree / "build").glob("lib*"):
        remove_tree(folder)


def _together(compiled: tuple[str, ...], packed: tuple[str, ...], tree: Path) -> tuple[str, ...]:
    """The layer's parts that were left out, and those of this run; the Rust part is built each time anew."""
    rust = {part.target for part in rust_parts(tree)}
    first = [line for line in compiled if line.partition(":")[0] not in rust]
    return tuple(dict.fromkeys([*first, *packed]))
