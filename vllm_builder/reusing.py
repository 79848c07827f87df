"""Compile, or take what was compiled before: the native layer of one build."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_builder import treestate
from vllm_builder.errors import BuilderError
from vllm_builder.events import Emit, Measured, Note
from vllm_builder.fs import os_errors, remove_tree
from vllm_builder.stages.native.inputs import NativeInputs, has_native_layer, native_files, native_inputs

if TYPE_CHECKING:
    from vllm_builder.cache import Cache
    from vllm_builder.shared import Shared
    from vllm_builder.stages.compile.model import CompileResult
    from vllm_builder.stages.environment.model import Environment
    from vllm_builder.stages.native.model import Manifest
    from vllm_builder.stages.plan.model import Plan
    from vllm_builder.stages.store import CompileFacts, Entry


@dataclass(frozen=True, slots=True)
class Compiled:
    """The wheel as setup.py wrote it, and its native layer: ``native`` is what the wheel's record says of it."""

    result: CompileResult
    digest: str = ""
    native: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for a person."""
        result = self.result
        if self.native.get("reused"):
            return "native layer reused, nothing compiled" + (", no network" if result.isolated else "")
        text = f"{result.units + result.resumed_from} units"
        if result.resumed_from:
            text += f", {result.resumed_from} of them done before"
        if result.cache:
            hits = result.cache.get("hits", 0)
            text += f", compiler cache {hits} of {hits + result.cache.get('misses', 0)} hits"
            if shared := result.cache.get("shared"):
                text += f" ({shared} from the shared cache)"
        return f"{text}, no network" if result.isolated else text


def compile_or_reuse(
    plan: Plan,
    *,
    cache: Cache,
    tree: Path,
    patched: tuple[str, ...],
    environment: Environment,
    dist: Path,
    log: Path,
    environ: Mapping[str, str],
    reuse: bool,
    force: bool,
    emit: Emit,
    shared: Shared | None = None,
) -> Compiled:
    """Make the wheel of a patched tree: with a layer of the store where its inputs are the same, else compiled.

    Two builders of the same layer at once compile once: the second waits and packs.

    Args:
        patched: paths that patches changed.
        reuse: look for a layer; False compiles.
        force: compile, and put the new layer before one that is there.
        shared: is asked for layers and for what ccache does not have, and told of a new layer.

    Raises:
        any class of :mod:`vllm_builder.errors` that compiling raises.
    """
    from vllm_builder.stages.compile import compile_wheel
    from vllm_builder.stages.compile.buildenv import child_environment
    from vllm_builder.stages.native.torchfacts import torch_facts

    def torch() -> dict[str, str | None] | None:
        return torch_facts(cache, environment, child_environment(plan.compile, environment, environ))

    def compiled() -> CompileResult:
        with shared.compiling() if shared and ccache else nullcontext() as remote_storage:
            return compile_wheel(
                plan.compile,
                tree=tree,
                environment=environment,
                dist=dist,
                log=log,
                environ=environ,
                remote_storage=remote_storage,
                emit=shared.telling(emit) if shared else emit,
            )

    ccache = plan.compile.compiler_cache == "ccache"

    if not has_native_layer(plan):
        return Compiled(compiled())
    from vllm_builder.stages.native.forecasting import decide, remember
    from vllm_builder.stages.native.layers import Layers, origin_of

    placed = treestate.placed(tree)
    found = native_files(tree, placed, patched)
    remember(plan, cache, found)
    inputs = native_inputs(plan, found)
    layers = Layers(cache)
    reuse = reuse and not force
    unfit = ""
    with layers.store.lock(inputs.digest, emit=emit):
        taken = layers.take(inputs.digest, _room(tree), emit=emit) if reuse else None
        if taken is None and reuse and shared and shared.fetch("native", inputs.digest, layers.store):
            taken = layers.take(inputs.digest, _room(tree), emit=emit)
        if taken is None:
            why = "because of --force" if force else "because of --no-reuse"
            if reuse:
                expected = decide(inputs, layers)
                why = "because the stored one is damaged" if expected.outcome == "reuse" else expected.reason
            emit(Note(stage="compile", message=f"native layer: compile, {why}"))
            result = compiled()
            entry = _keep(plan, inputs, layers, result, placed, tree, environment, force, emit)
            if entry is not None:
                # Remembered, so that whoever takes the layer has not to load torch.
                torch()
                if shared:
                    shared.made("native", entry)
            facts = {"digest": inputs.digest, "reused": False, "reason": why, "kept": entry is not None}
            return Compiled(result, inputs.digest, facts | ({"compiled": origin_of(entry)} if entry else {}))
    # From here on others may take the layer too.
    from vllm_builder.stages.compile.pack import Misfit, pack_wheel

    layer, entry = taken
    origin = origin_of(entry)
    text = f"{inputs.digest[:12]}, compiled for {origin['version']} on {origin['created'][:10]}"
    text += f" by {origin['host']}" if origin["host"] else ""
    emit(Note(stage="compile", message=f"native layer: reuse {text}"))
    try:
        result = pack_wheel(
            plan.compile,
            layer,
            tree=tree,
            environment=environment,
            dist=dist,
            log=log,
            environ=environ,
            torch=torch(),
            emit=emit,
        )
    except Misfit as error:
        unfit = str(error)
    finally:
        with suppress(BuilderError):
            remove_tree(_room(tree))
    if not unfit:
        emit(Measured(stage="compile", what="reused", values={"what": "native layer", "detail": text}))
        if plan.compile.isolate and not result.isolated:
            said = "The native layer was compiled with the network in reach; --no-reuse compiles it without."
            emit(Note(stage="compile", message=said, level="warning"))
        return Compiled(result, inputs.digest, {"digest": inputs.digest, "reused": True, "compiled": origin})
    why = f"because the layer {inputs.digest[:12]} does not fit: {unfit}"
    emit(Note(stage="compile", message=f"native layer: compile, {why}", level="warning"))
    facts = {"digest": inputs.digest, "reused": False, "reason": why, "kept": False}
    return Compiled(compiled(), inputs.digest, facts)


def wheel_before(made: Compiled, cache: Cache, *, emit: Emit) -> Path | None:
    """The stored wheel that a reused layer was compiled for, where this zlib compressed it: nearly all of a hot-fix is
    in it, compressed already."""
    from vllm_builder.stages.finish.repacking import COMPRESSOR
    from vllm_builder.stages.store import Store

    plan = str(made.native.get("compiled", {}).get("plan", "")) if made.native.get("reused") else ""
    if not plan:
        return None
    try:
        entry = Store(cache.store).get(plan, emit=emit)
    except BuilderError:
        return None
    return entry.wheel if entry is not None and entry.record.finish.get("compressor") == COMPRESSOR else None


def facts_of(result: CompileResult) -> CompileFacts:
    """What compiling took, for a record."""
    from vllm_builder.stages.store import CompileFacts

    return CompileFacts(
        seconds=result.seconds,
        units=result.units,
        resumed_from=result.resumed_from,
        cache=result.cache,
        peak_memory=result.peak_memory,
        left_out=result.left_out,
        full_headers=result.full_headers,
        isolated=result.isolated,
        attempts=tuple(attempt.model_dump() for attempt in result.attempts),
    )


def patched_files(report: Mapping[str, object]) -> tuple[str, ...]:
    """The files that a patch report says were changed."""
    entries = report.get("entries")
    files = {str(entry["file"]) for entry in entries} if isinstance(entries, list) else set()
    return tuple(sorted(files))


def _room(tree: Path) -> Path:
    return tree / "build" / "vllm-builder" / "layer"


def _keep(
    plan: Plan,
    inputs: NativeInputs,
    layers: Any,
    result: CompileResult,
    placed: Mapping[str, str],
    tree: Path,
    environment: Environment,
    force: bool,
    emit: Emit,
) -> Entry | None:
    """Add what was compiled to the store. Whatever speaks against it costs the layer, not the wheel."""
    from vllm_builder.stages.native.reading import Unreadable, read_besides

    captured = result.captured
    if captured is None:
        _not_kept("setup.py calls cmake in a way that no layer can answer", emit)
        return None
    try:
        ninja = shutil.which("ninja", path=str(environment.bin)) or shutil.which("ninja") or "ninja"
        besides = read_besides(tree, ninja, placed, inputs.files)
        if besides:
            _not_kept(f"its build read {', '.join(besides[:3])}, which its digest does not cover", emit)
            return None
        manifest = _manifest(result, captured.calls, placed)
        entry: Entry = layers.keep(
            inputs,
            plan,
            manifest,
            captured.files,
            tools=result.tools,
            facts=facts_of(result),
            force=force,
            emit=emit,
        )
    except (Unreadable, BuilderError, OSError) as error:
        _not_kept(str(error), emit)
        return None
    finally:
        # It is in the store now, or of no use.
        with suppress(BuilderError):
            remove_tree(captured.files)
    return entry


def _not_kept(why: str, emit: Emit) -> None:
    emit(
        Note(
            stage="compile", message=f"The native layer is not kept for other builds: {why}.", level="warning"
        )
    )


def _manifest(
    result: CompileResult, calls: tuple[Mapping[str, Any], ...], placed: Mapping[str, str]
) -> Manifest:
    from vllm_builder.stages.native.model import Manifest

    with os_errors(f"reading {result.wheel}"), zipfile.ZipFile(result.wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    # With a wheel of another version its own .dist-info comes.
    members = sorted(name for name in names if name not in placed and ".dist-info/" not in name)
    return Manifest(
        calls=calls,
        members=tuple(members),
        left_out=result.left_out,
        full_headers=result.full_headers,
        isolated=result.isolated,
    )
