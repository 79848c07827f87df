"""What a build says of its wheel, and whether that is true."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vllm_builder import __version__
from vllm_builder.errors import VerifyFailed
from vllm_builder.events import Emit, Note
from vllm_builder.fs import copy_atomic, make_dir, remove_tree, write_atomic
from vllm_builder.wheelfile.record import BuildRecord

if TYPE_CHECKING:
    from vllm_builder.cache import Cache, Workspace
    from vllm_builder.stages.compile.model import CompileResult
    from vllm_builder.stages.environment.model import Environment
    from vllm_builder.stages.plan.model import Plan
    from vllm_builder.stages.verify.model import Finding, Report

_TOOLS: Final = ("cmake", "ninja", "setuptools", "wheel")
"""Tools that can leave a trace in the wheel; a compiler cache must not."""
_SHOWN: Final = 20


def build_record(
    plan: Plan, environment: Environment, result: CompileResult, tree: Path, *, native: str = ""
) -> BuildRecord:
    """The record that travels in the wheel: nothing in it differs between two builds of the plan with the same tools."""
    left_out = dict(plan.compile.without)
    for line in result.left_out:
        part, _, reason = line.replace(str(tree), ".").partition(": ")
        left_out.setdefault(part, reason)
    return BuildRecord(
        builder=f"vllm-builder {__version__}",
        digest=plan.digest,
        release=plan.source.release,
        version=plan.compile.version,
        device=plan.device,
        archs=plan.compile.archs,
        torch=plan.torch.version if plan.torch else "",
        toolkit=plan.toolkit.version if plan.toolkit else "",
        native=native,
        extensions=plan.compile.extensions,
        left_out=left_out,
        full_headers=tuple(result.full_headers),
        inputs=plan.as_dict()["inputs"],
        expectations=plan.expectations.model_dump(mode="json") if plan.expectations else {},
        tools={name: environment.packages[name] for name in _TOOLS if name in environment.packages},
    )


def prove(
    wheel: Path,
    plan: Plan,
    *,
    environment: Environment,
    cache: Cache,
    workspace: Workspace,
    environ: Mapping[str, str],
    emit: Emit,
) -> dict[str, Any]:
    """Verify a finished wheel before anybody gets it.

    Returns:
        the report, as JSON types.

    Raises:
        VerifyFailed: the wheel is not what was asked for; it and the report are kept aside.
    """
    from vllm_builder.stages.verify.model import count

    report = _verify(wheel, plan, environment, cache, environ, emit)
    for finding in report.findings:
        if finding.severity == "warning":
            emit(Note(stage="verify", level="warning", message=_line(finding)))
    # Where it lay for that moment says nothing to anybody later.
    found = report.model_dump(mode="json") | {"wheel": wheel.name}
    if report.good:
        return found
    folder = reject(wheel, found, workspace.rejected(plan.digest))
    errors = [finding for finding in report.findings if finding.severity == "error"]
    raise VerifyFailed(
        f"{wheel.name} was built and is not what was asked for: {count(len(errors), 'error')}.",
        why=errors[0].why or errors[0].what,
        next=f"Neither stored nor handed over; it is kept in {folder}, with report.json. "
        f"{errors[0].cure or 'Change what the findings name.'} Then build again: what is compiled stays, "
        "--force compiles all of it anew.",
        details=_shown(errors),
    )


def reject(wheel: Path, report: Mapping[str, Any], folder: Path) -> Path:
    """Keep a wheel where nobody takes it for a good one, in place of an earlier one of its plan."""
    remove_tree(folder)
    copy_atomic(wheel, make_dir(folder) / wheel.name)
    write_atomic(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return folder


def _verify(
    wheel: Path, plan: Plan, environment: Environment, cache: Cache, environ: Mapping[str, str], emit: Emit
) -> Report:
    from vllm_builder.stages.verify.verifying import verify

    # The torch that it was compiled against, so nothing has to be fetched.
    torch = str(environment.python) if plan.torch is not None else ""
    return verify(
        wheel, plan.expectations, cache=cache, torch=torch, environ=environ, offline=True, emit=emit
    )


def _shown(findings: Iterable[Finding]) -> list[str]:
    lines = [_line(finding) for finding in findings]
    further = len(lines) - _SHOWN
    return lines if further <= 0 else [*lines[:_SHOWN], f"and {further} more"]


def _line(finding: Finding) -> str:
    where = f" ({finding.where})" if finding.where else ""
    return f"{finding.check}: {finding.what}{where}"
