"""Which journal is meant by PLAN or ``latest``, and which others there are to compare with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from vllm_builder.cache import Workspace
from vllm_builder.errors import ReportMissing, did_you_mean
from vllm_builder.report import collecting, comparing
from vllm_builder.report.model import Comparison, PlanFacts, Report
from vllm_builder.report.reading import RawBuild, read

_SHORTEST = 4
_DAMAGED = "It is damaged or empty: no line of it says what was built."


def journals(workspace: Workspace) -> list[Path]:
    """All journals of a workspace, the one that was written to last first."""
    found = []
    for path in workspace.journal("").parent.glob("*.journal.jsonl"):
        # One that is gone by now, or leads nowhere, does not hide the others.
        with suppress(OSError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def find(workspace: Workspace, name: str) -> Path:
    """The journal of a plan.

    Args:
        name: ``latest``, the beginning of a plan's digest, or a version as asked for or as built (``v0.9.2``,
            ``0.9.2``, ``0.9.2+cpu``); of several plans of a version the one that was built last.

    Raises:
        ReportMissing: there is none, it is damaged, or a digest's beginning fits several.
    """
    all_ = journals(workspace)
    found = [(path, plan) for path in all_ if (plan := _plan(path)) is not None]
    known = [f"{plan.digest[:16]}  {plan.version}" for _, plan in found]
    if all_ and not found:
        raise ReportMissing(
            f"No journal in {all_[0].parent} can be read.",
            why=_DAMAGED,
            next="Build again; what the tools printed is in the log beside each of them.",
            details=[path.name for path in all_],
        )
    if not found:
        raise ReportMissing(
            f"Nothing was built in the workspace {workspace.root} yet that a report could be made of.",
            why="Builds write a journal beside their log; a wheel that came from the store was not built here, and "
            "earlier versions of vllm-builder wrote none.",
            next="Name the folder of its build with --workspace, or build (with --force what the store has).",
        )
    if name == "latest":
        return found[0][0]
    wanted = name.strip().lower().removeprefix("v")
    named = [path for path, plan in found if wanted in {plan.release, plan.version}]
    if named:
        return named[0]
    digits = name.strip().lower()
    fitting = [
        (path, plan) for path, plan in found if len(digits) >= _SHORTEST and plan.digest.startswith(digits)
    ]
    if len(fitting) > 1:
        raise ReportMissing(
            f"{name!r} is the beginning of {len(fitting)} plans.",
            next="Give more digits.",
            details=[f"{plan.digest[:16]}  {plan.version}" for _, plan in fitting],
        )
    if not fitting:
        names = [text for _, plan in found for text in (plan.release, plan.version, plan.digest[:12])]
        raise ReportMissing(
            f"No plan {name!r} was built in the workspace {workspace.root}{did_you_mean(name, names)}.",
            why="PLAN is the beginning of a plan's digest (4 digits or more), a version that was built, or `latest`.",
            next="Take one of these, or name another --workspace.",
            details=known,
        )
    return fitting[0][0]


def passed_over(workspace: Workspace, journal: Path) -> tuple[str, ...]:
    """Of each journal that was written to after ``journal`` and cannot be read, a remark."""
    later = takewhile(lambda path: path != journal, journals(workspace))
    return tuple(
        f"A later build's journal was passed over: {path}. {_DAMAGED}" for path in later if not _plan(path)
    )


def report(workspace: Workspace, journal: Path) -> Report:
    """The report of the last build of a journal, compared with the last build of the same kind.

    Raises:
        ReportMissing: nothing in the journal can be read.
    """
    builds = read(journal)
    if not builds:
        raise ReportMissing(
            f"The journal {journal} names no build.", why="It is empty or damaged.", next="Build again."
        )
    made = collecting.collect(builds)
    return made.model_copy(update={"comparison": _comparison(workspace, journal, builds, made)})


def _comparison(
    workspace: Workspace, journal: Path, builds: list[RawBuild], now: Report
) -> Comparison | None:
    """Only builds that ended well count; a plan that never did in this workspace is not looked at."""
    candidates: list[tuple[float, PlanFacts, Path | None, int]] = [
        (build.began, build.plan, None, at) for at, build in enumerate(builds[:-1]) if _comparable(build)
    ]
    for path in journals(workspace):
        if path != journal:
            candidates += [
                (began, plan, path, at) for at, began, plan in _ended_well(path) if began < builds[-1].began
            ]
    chosen = comparing.choose(now.plan, [(began, plan) for began, plan, _, _ in candidates])
    if chosen is None:
        return None
    _, _, where, at = candidates[chosen[0]]
    then = collecting.collect(builds if where is None else read(where), at)
    return comparing.compare(now, then, chosen[1])


def _comparable(build: RawBuild) -> bool:
    return build.outcome == "built" and bool(build.runs)


def _ended_well(path: Path) -> Iterator[tuple[int, float, PlanFacts]]:
    for at, build in enumerate(read(path)):
        if _comparable(build):
            yield at, build.began, build.plan


def _plan(path: Path) -> PlanFacts | None:
    """What a journal is about, of its first line that says so and can be read."""
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith('{"kind":"build"'):
                with suppress(ValueError, KeyError, TypeError):
                    return PlanFacts.model_validate(json.loads(line)["plan"])
    return None
