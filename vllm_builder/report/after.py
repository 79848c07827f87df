"""What the pipeline calls: a journal while a build runs, and the page when it has ended, well or not.

Nothing in here fails a build. A fault is a warning with its reason.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_builder import __version__
from vllm_builder.cache import Workspace
from vllm_builder.errors import BuilderError, Interrupted
from vllm_builder.events import Emit, Event, Measured, Note
from vllm_builder.report.journal import Journal
from vllm_builder.report.model import Fault, Machine, PlanFacts

if TYPE_CHECKING:
    from vllm_builder.stages.plan.model import Plan
    from vllm_builder.stages.store import Record


class Written:
    """A build that is being written down. ``report`` is the page, once there is one."""

    def __init__(self, journal: Journal, emit: Emit) -> None:
        self.report: Path | None = None
        self._journal = journal
        self._emit = emit
        self._end: dict[str, Any] = {}

    def emit(self, event: Event) -> None:
        """Into the journal, and on to whoever listens; what only the journal wants ends here."""
        self._journal(event)
        if not isinstance(event, Measured):
            self._emit(event)

    def built(self, record: Record) -> None:
        """The build ended well."""
        self._end = {
            "cache": dict(record.compile.cache),
            "left_out": list(record.compile.left_out),
            "resumed_from": record.compile.resumed_from,
        }


@contextmanager
def written(plan: Plan, workspace: Workspace, emit: Emit) -> Iterator[Written]:
    """Around a build: keeps its journal, and makes the report when it ends.

    An error of the build goes on as it is; where it is one of :mod:`vllm_builder.errors`, it names the report.
    """
    journal = Journal(workspace.journal(plan.digest))
    journal.begin(_facts(plan, workspace))
    build = Written(journal, emit)
    try:
        yield build
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | Interrupted)
        _end(build, journal, plan, workspace, emit, "interrupted" if interrupted else "failed", _fault(error))
        if isinstance(error, BuilderError) and build.report is not None:
            error.report = str(build.report)
        raise
    _end(build, journal, plan, workspace, emit, "built", None)


def _end(
    build: Written,
    journal: Journal,
    plan: Plan,
    workspace: Workspace,
    emit: Emit,
    outcome: str,
    fault: Fault | None,
) -> None:
    values = build._end if outcome == "built" else {}
    journal.write("end", outcome=outcome, fault=fault.model_dump() if fault else None, **values)
    journal.close()
    reason = journal.reason
    if not reason:
        try:
            from vllm_builder.report.finding import report
            from vllm_builder.report.html import write

            build.report = write(report(workspace, journal.path), workspace.report(plan.digest))
        except Exception as error:  # noqa: BLE001 (a report is worth no build)
            reason = f"{type(error).__name__}: {error}"
    if reason:
        said = f"There is no report of this build. {reason}"
        emit(Note(stage="report", level="warning", message=said))


def _facts(plan: Plan, workspace: Workspace) -> dict[str, Any]:
    try:
        spec = plan.compile
        return {
            "builder": __version__,
            "tree": str(workspace.tree(plan.digest).resolve()),
            "plan": PlanFacts(
                digest=plan.digest,
                release=plan.source.release,
                version=spec.version,
                device=plan.device,
                archs=spec.archs,
                torch=plan.torch.version if plan.torch else "",
                build_type=spec.build_type,
                compilers=tuple(f"{c.language} {c.id} {c.version}" for c in spec.compilers),
                compiler_cache=spec.compiler_cache,
                extensions=spec.extensions,
            ).model_dump(mode="json"),
            "machine": _machine().model_dump(mode="json"),
        }
    except Exception as error:  # noqa: BLE001 (see above)
        return {"fault": str(error)}


def _machine() -> Machine:
    import psutil

    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
    )


def _fault(error: BaseException) -> Fault:
    if isinstance(error, BuilderError):
        return Fault(name=type(error).__name__, exit_code=error.exit_code, what=error.what, why=error.why)
    if isinstance(error, KeyboardInterrupt):
        return Fault(name="Interrupted", exit_code=Interrupted.exit_code, what="Interrupted.")
    return Fault(name=type(error).__name__, exit_code=99, what=str(error) or type(error).__name__)
