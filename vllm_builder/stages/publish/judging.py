"""Is a wheel good enough for an index?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_builder.errors import PublishRefused
from vllm_builder.events import Emit, Note
from vllm_builder.index.candidates import Candidate
from vllm_builder.index.model import Checked
from vllm_builder.stages.publish.model import PublishRequest
from vllm_builder.wheelfile import open_wheel

if TYPE_CHECKING:
    from vllm_builder.cache import Cache
    from vllm_builder.stages.verify.model import Report

_SHOWN = 20


def judge_all(
    candidates: Sequence[Candidate],
    request: PublishRequest,
    *,
    cache: Cache,
    environ: Mapping[str, str],
    emit: Emit,
) -> dict[str, Checked]:
    """How each wheel was judged, by file name.

    Wheels of ours are held against their own record, which needs nothing from elsewhere; others of vLLM against the
    files of their release, which are fetched where they are not at hand.

    Raises:
        PublishRefused: one or several are not what they should be; ``details`` names every finding of all of them.
        WheelError: one cannot be read.
    """
    found: dict[str, Checked] = {}
    bad: dict[Path, list[str]] = {}
    for one in candidates:
        if request.no_verify is not None:
            said = f"{one.filename} is not verified: {request.no_verify.strip()}"
            emit(Note(stage="publish", message=said, level="warning"))
            found[one.filename] = Checked(result="not verified", reason=request.no_verify.strip())
            continue
        if (warnings := request.verified.get(one.sha256)) is not None:
            found[one.filename] = _good(warnings)
            continue
        report = _verified(one, request, cache, environ, emit)
        errors = [*_partial(one), *_lines(report, "error")]
        if report.sha256 != one.sha256:
            errors.insert(0, "it was changed while it was read")
        if errors:
            bad[one.path] = errors
            continue
        warned = _lines(report, "warning")
        for line in warned:
            emit(Note(stage="publish", message=f"{one.filename}: {line}", level="warning"))
        found[one.filename] = _good(len(warned))
    if bad:
        raise _refused(bad)
    return found


def _good(warnings: int) -> Checked:
    return Checked(result="warnings" if warnings else "good", warnings=warnings)


def _verified(
    one: Candidate, request: PublishRequest, cache: Cache, environ: Mapping[str, str], emit: Emit
) -> Report:
    from vllm_builder.stages.verify.verifying import verify

    emit(Note(stage="publish", message=f"Verifying {one.filename}"))
    return verify(one.path, cache=cache, environ=environ, offline=request.offline, emit=emit)


def _lines(report: Report, severity: str) -> list[str]:
    return [f"{one.check}: {one.what}" for one in report.findings if one.severity == severity]


def _partial(one: Candidate) -> list[str]:
    """A wheel for development is what it was asked to be, and nothing for others."""
    with open_wheel(one.path) as wheel:
        record = wheel.build_record
    if record is None or not record.extensions:
        return []
    return [f"extensions: only {', '.join(record.extensions)} was compiled, for development"]


def _refused(bad: Mapping[Path, list[str]]) -> PublishRefused:
    paths = list(bad)
    lines = [f"{path.name}: {line}" for path, found in bad.items() for line in found]
    further = len(lines) - _SHOWN
    what = paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"
    return PublishRefused(
        f"Not published: {what} {'is' if len(paths) == 1 else 'are'} not what was asked for.",
        why=bad[paths[0]][0],
        next=f"See `vllm-builder verify {paths[0]}`. To publish it all the same, give a reason: --no-verify REASON.",
        details=lines if further <= 0 else [*lines[:_SHOWN], f"and {further} more"],
    )
