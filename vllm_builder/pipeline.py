"""The stages in order: from a plan to a wheel in the store and in the person's folder.

Each step is one call of one stage; what a step produced is on disk before the next begins, so a run that was
broken off at any point goes on from there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vllm_builder import __version__, treestate
from vllm_builder.cache import Cache, Workspace
from vllm_builder.errors import NoSpace, TreeChanged
from vllm_builder.events import Emit, Note, StageFinished, StageStarted, ignore
from vllm_builder.fs import copy_atomic, make_dir, os_errors, remove_tree, write_atomic
from vllm_builder.model import Model
from vllm_builder.proof import build_record, prove
from vllm_builder.report.after import written
from vllm_builder.shared import Shared
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.publish.model import PublishResult
from vllm_builder.stages.source.model import SourceRequest
from vllm_builder.stages.store import Entry, Record, Store, WheelFile, deliver, now
from vllm_builder.stages.vendor.model import Sources

_SMALLEST_FREE = {"empty": 150 << 20, "cpu": 300 << 20, "cuda": 4 << 30}
"""Bytes below which a build is not begun: a tree and its objects need more than this."""


class BuildResult(Model):
    """``wheel`` is the person's copy; ``from_store`` says that nothing was compiled; ``published`` what became of it."""

    digest: str
    wheel: Path
    sha256: str
    from_store: bool
    seconds: float
    record: Record
    shared: str = ""
    """The shared cache that the wheel was fetched from now; empty where it was not."""
    published: PublishResult | None = None
    report: Path | None = None
    """The page about this build; None where nothing was built, or it could not be made (a warning says why)."""


class _Steps:
    """Times the stages and tells about them."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.seconds: dict[str, float] = {}
        self.summary = ""

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        self.emit(StageStarted(stage=name, title=title))
        self.summary = ""
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)
        self.emit(StageFinished(stage=name, seconds=self.seconds[name], summary=self.summary))


def prepare_tree(
    plan: Plan,
    tree: Path,
    cache: Cache,
    *,
    request: SourceRequest | None = None,
    externals: Sources | None = None,
    offline: bool = False,
    log: Path | None = None,
    emit: Emit = ignore,
) -> dict[str, object]:
    """Make the patched tree of a plan at ``tree``, or keep the one that is already whole.

    A tree counts as whole once its ``.ready.json`` stands beside it; a half-made one is made again.

    Args:
        log: what earlier builds in the tree printed.

    Returns:
        the patch report, as JSON types.

    Raises:
        TreeChanged: the tree that is there was edited.
        any class of :mod:`vllm_builder.errors` that fetching and patching raise.
    """
    from vllm_builder.stages.patch import apply
    from vllm_builder.stages.source import fetch

    steps = _Steps(emit)
    ready = tree.with_name(f"{tree.name}.ready.json")
    if tree.is_dir() and (kept := _report_of(ready, plan.digest)) is not None:
        treestate.check(tree, log=log)
        emit(Note(stage="source", message=f"Going on in the tree {tree}"))
        return kept
    with steps.stage("source", "Source"):
        ready.unlink(missing_ok=True)
        remove_tree(tree)
        make_dir(tree.parent)
        fetch(plan.source, tree, cache, emit, offline=offline, request=request)
        steps.summary = f"{plan.source.kind} {plan.source.name}"
    if plan.externals is not None:
        from vllm_builder.stages.vendor import fetch_externals

        fetch_externals(plan.externals, externals or {}, tree, cache, emit, offline=offline)
    report = apply(plan.patches, tree, emit=emit).model_dump(mode="json")
    treestate.record(tree)
    write_atomic(ready, json.dumps({"digest": plan.digest, "patch_report": report}, indent=1))
    return report


def _begin_anew(plan: Plan, tree: Path, log: Path, done: Path, emit: Emit) -> None:
    """For a forced build: one that was broken off is gone on with, what somebody edited is kept beside."""
    if tree.is_dir() and _report_of(tree.with_name(f"{tree.name}.ready.json"), plan.digest) is not None:
        try:
            treestate.check(tree, log=log)
        except TreeChanged as error:
            place = treestate.set_aside(tree)
            emit(Note(stage="source", message=f"{error.what} It is kept as {place}.", level="warning"))
        else:
            if done.exists():
                remove_tree(tree)
    done.unlink(missing_ok=True)


def _report_of(ready: Path, digest: str) -> dict[str, object] | None:
    """The patch report of a tree that is whole; None where the file is missing, damaged or another plan's."""
    try:
        found = json.loads(ready.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("digest") != digest:
        return None
    report = found.get("patch_report")
    return report if isinstance(report, dict) else None


def run(
    plan: Plan,
    *,
    cache: Cache,
    workspace: Workspace,
    out: Path | None = None,
    environ: Mapping[str, str] | None = None,
    request: SourceRequest | None = None,
    externals: Sources | None = None,
    offline: bool = False,
    force: bool = False,
    reuse: bool = True,
    shared: Shared | None = None,
    emit: Emit = ignore,
) -> BuildResult:
    """Obey a plan: from the store if the wheel is there and intact, else build it.

    ``request`` is where the plan's source came from, ``externals`` where those of its external sources are to be
    had; they carry the credentials that a plan never holds. With ``reuse`` False everything is compiled, also what
    the store has as a native layer. ``shared`` is a cache of several machines: asked for what the store has not, and
    told of what is made.

    Two builders of the same plan at once compile once: the second waits and finds the wheel.

    Raises:
        any class of :mod:`vllm_builder.errors` from 2x on.
    """
    started = time.monotonic()
    environ = dict(os.environ if environ is None else environ)
    store = Store(cache.store)
    out = out or workspace.out
    if not force and (entry := store.get(plan.digest, emit=emit)) is not None:
        return _from_store(plan, entry, out, started, emit)
    make_dir(workspace.root)
    if plan.compile.extensions:
        with _tree_lock(workspace.tree(plan.digest), emit):
            with written(plan, workspace, emit) as account:
                emit = account.emit
                record, built = _build(
                    plan, cache, workspace, environ, request, externals, offline, force, reuse, shared, emit
                )
                account.built(record)
            part = _hand_over_part(built, record, out, emit)
            return _result(plan, part, record, False, started, report=account.report)
    with store.lock(plan.digest, emit=emit):
        if not force and (entry := store.get(plan.digest, emit=emit)) is not None:
            return _from_store(plan, entry, out, started, emit)
        if shared and not force and (entry := shared.fetch("wheel", plan.digest, store)) is not None:
            found = _from_store(plan, entry, out, started, emit)
            return found.model_copy(update={"shared": shared.remote.shown})
        with _tree_lock(workspace.tree(plan.digest), emit), written(plan, workspace, emit) as account:
            emit = account.emit
            record, built = _build(
                plan, cache, workspace, environ, request, externals, offline, force, reuse, shared, emit
            )
            # Still under the tree's lock: a builder with another cache puts its wheel into the same folder.
            entry = store.add(plan.digest, built, record, force=force, emit=emit)
            account.built(record)
            if shared:
                shared.made("wheel", entry)
            # The store has it; what was made on the way has served.
            remove_tree(workspace.dist(plan.digest))
            remove_tree(workspace.rejected(plan.digest))
    wheel = deliver(entry, out, emit=emit)
    return _result(plan, wheel, entry.record, False, started, report=account.report)


def _build(
    plan: Plan,
    cache: Cache,
    workspace: Workspace,
    environ: Mapping[str, str],
    request: SourceRequest | None,
    externals: Sources | None,
    offline: bool,
    force: bool,
    reuse: bool,
    shared: Shared | None,
    emit: Emit,
) -> tuple[Record, Path]:
    from vllm_builder.reusing import compile_or_reuse, facts_of, patched_files, wheel_before
    from vllm_builder.stages.environment import prepare
    from vllm_builder.stages.finish import Materials, finish

    _room(workspace.root, _SMALLEST_FREE[plan.device])
    steps = _Steps(emit)
    tree = workspace.tree(plan.digest)
    done = tree.with_name(f"{tree.name}.built")
    log = workspace.log(plan.digest)
    if force:
        _begin_anew(plan, tree, log, done, emit)
    started = time.monotonic()
    report = prepare_tree(
        plan, tree, cache, request=request, externals=externals, offline=offline, log=log, emit=emit
    )
    steps.seconds["tree"] = round(time.monotonic() - started, 3)
    if plan.toolkit is not None and plan.toolkit.spec is not None:
        from vllm_builder.stages.toolkit import assemble

        with steps.stage("toolkit", "CUDA toolkit"):
            assemble(
                plan.toolkit.spec,
                Path(plan.toolkit.home).parent,
                environ,
                plan.environment.indexes,
                offline=offline,
                emit=emit,
            )
            steps.summary = f"CUDA {plan.toolkit.spec.release}, {len(plan.toolkit.spec.lock)} packages"
    with steps.stage("environment", "Build environment"):
        environment = prepare(
            plan.environment,
            cache.environments,
            environ=environ,
            offline=offline,
            force=force,
            emit=emit,
        )
        steps.summary = f"{len(environment.packages)} packages, Python {plan.environment.python.version}"
    with steps.stage("compile", f"Compile {plan.compile.version}"), treestate.building(tree):
        made = compile_or_reuse(
            plan,
            cache=cache,
            tree=tree,
            patched=patched_files(report),
            environment=environment,
            dist=workspace.dist(plan.digest),
            log=log,
            environ=environ,
            reuse=reuse,
            force=force,
            shared=shared,
            emit=emit,
        )
        result = made.result
        steps.summary = made.summary()
    write_atomic(done, "")
    with steps.stage("finish", "Finish"):
        finished = finish(
            result.wheel,
            plan.finish,
            build_record(plan, environment, result, tree, native=made.digest),
            Materials(source=plan.source, externals=plan.externals, patches=plan.patches),
            out=result.wheel.parent / "finished",
            earlier=wheel_before(made, cache, emit=emit),
            emit=emit,
        )
        steps.summary = finished.wheel.name
    with steps.stage("verify", "Verify"):
        proof = prove(
            finished.wheel,
            plan,
            environment=environment,
            cache=cache,
            workspace=workspace,
            environ=environ,
            emit=emit,
        )
        steps.summary = f"{len(proof['checks'])} checks"
    record = Record(
        digest=plan.digest,
        release=plan.source.release,
        version=plan.compile.version,
        device=plan.device,
        archs=plan.compile.archs,
        torch=plan.torch.version if plan.torch else "",
        plan=plan.as_dict(),
        patch_report=report,
        timings=steps.seconds,
        tools={
            **result.tools,
            **{k: environment.packages[k] for k in ("setuptools", "wheel") if k in environment.packages},
        },
        wheel=WheelFile.of(finished.wheel),
        created=now(),
        builder=__version__,
        compile=facts_of(result),
        native=made.native,
        finish=finished.model_dump(mode="json", exclude={"wheel"}),
        verify=proof,
        extensions=plan.compile.extensions,
    )
    return record, finished.wheel


def _from_store(plan: Plan, entry: Entry, out: Path, started: float, emit: Emit) -> BuildResult:
    wheel = deliver(entry, out, emit=emit)
    if plan.compile.isolate and not entry.record.compile.isolated:
        said = "The wheel in the store was built with the network in reach; --force builds it without."
        emit(Note(stage="store", message=said, level="warning"))
    return _result(plan, wheel, entry.record, True, started)


def _result(
    plan: Plan, wheel: Path, record: Record, from_store: bool, started: float, *, report: Path | None = None
) -> BuildResult:
    return BuildResult(
        digest=plan.digest,
        wheel=wheel,
        sha256=record.wheel.sha256,
        from_store=from_store,
        seconds=round(time.monotonic() - started, 3),
        record=record,
        report=report,
    )


def _hand_over_part(built: Path, record: Record, out: Path, emit: Emit) -> Path:
    """A wheel with some extensions only: in a folder of its own, so that it is never taken for the whole one."""
    folder = make_dir(out / "partial")
    copy_atomic(built, folder / built.name)
    write_atomic(folder / f"{built.name}.json", record.to_json())
    emit(
        Note(
            stage="store",
            message=f"Only {', '.join(record.extensions)} were compiled: a wheel for development, not stored.",
            level="warning",
        )
    )
    return folder / built.name


@contextmanager
def _tree_lock(tree: Path, emit: Emit) -> Iterator[None]:
    # Builders with different caches can share a workspace, so the store's lock is not enough.
    make_dir(tree.parent)
    lock = FileLock(f"{tree}.lock")
    with os_errors(f"locking {tree}"):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            emit(
                Note(
                    stage="source", message=f"Another build is using {tree}; waiting for it", level="warning"
                )
            )
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _room(folder: Path, needed: int) -> None:
    import shutil

    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpace(
            f"Only {free / 1e9:.1f} GB are free in {folder}.",
            why=f"A build needs at least {needed / 1e9:.1f} GB for its tree and objects.",
            next="Free some space (`vllm-builder cache prune`), or point --workspace at a larger disk.",
        )
