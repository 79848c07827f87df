"""Out of a journal, and what lies in the tree, the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from vllm_builder.report import ninjalog, timeline
from vllm_builder.report.model import (
    Answer,
    Figures,
    Outcome,
    Phase,
    Report,
    Reused,
    Run,
    Sample,
    Stage,
    Unit,
    UnitKind,
    UnitPhase,
)
from vllm_builder.report.reading import RawBuild, RawRun

_OBJECT = re.compile(r"^(?:.*/)?CMakeFiles/(?P<target>[^/]+)\.dir/(?P<source>.+)\.(?:o|obj)$")
_LINKED = (".so", ".a", ".dylib", ".pyd")
_EARLY = 0.1
"""Seconds by which a file system's clock may be behind the system's."""


def collect(builds: Sequence[RawBuild], at: int = -1) -> Report:
    """The report of one build of a journal.

    Args:
        builds: all builds of the journal, see :func:`.reading.read`.
        at: which of them.
    """
    build = builds[at]
    before = [] if _made_anew(build) else _chain(builds[: at % len(builds)])
    remarks: list[str] = []
    runs, older = _runs([*before, build], build, last=build is builds[-1])
    if any(not run.finished for run in build.runs) and not build.outcome:
        remarks.append(
            "The end of this build was not written; what was compiling then is in no list of units."
        )
    if build.runs and not any(run.units for run in runs):
        remarks.append("ninja's logs name no unit that this build compiled.")
    own = [run for run in runs if not run.earlier]
    stages = _stages(build)
    outcome = _outcome(build)
    return Report(
        builder=build.builder,
        plan=build.plan,
        machine=build.machine,
        outcome=outcome,
        fault=build.fault,
        began=moment(build.began),
        figures=_figures(build, stages, own),
        stages=stages,
        phases=tuple(_phases(own)),
        runs=tuple(runs),
        reused=tuple(_reused(build, runs, older)),
        left_out=tuple(build.left_out),
        warnings=tuple(build.warnings),
        remarks=tuple(remarks),
    )


def moment(seconds: float) -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _chain(earlier: Sequence[RawBuild]) -> list[RawBuild]:
    """The builds since the last one that ended well: what they compiled is in this build's tree."""
    found: list[RawBuild] = []
    for build in reversed(earlier):
        if build.outcome == "built":
            break
        found.insert(0, build)
        if _made_anew(build):
            break
    return [build for build in found if build.runs]


def _made_anew(build: RawBuild) -> bool:
    """The tree was made by this build, so nothing in it is older."""
    return any(stage.name == "source" for stage in build.stages)


def _outcome(build: RawBuild) -> Outcome:
    match build.outcome:
        case "built" | "failed" | "interrupted":
            return build.outcome
        case _:
            return "running" if _alive(build) else "broken off"


def _alive(build: RawBuild) -> bool:
    import psutil

    try:
        # Process ids come again: another process that has this one now was started later.
        return build.pid > 0 and psutil.Process(build.pid).create_time() <= build.began + 1
    except psutil.Error:
        return False


def _stages(build: RawBuild) -> tuple[Stage, ...]:
    found = []
    for raw in build.stages:
        seconds = raw.seconds if raw.seconds is not None else max(0.0, build.last - raw.began)
        found.append(
            Stage(
                name=raw.name,
                start=round(max(0.0, raw.began - build.began), 3),
                seconds=round(seconds, 3),
                summary=raw.summary,
                finished=raw.seconds is not None,
            )
        )
    return tuple(found)


def _runs(builds: Sequence[RawBuild], own: RawBuild, *, last: bool) -> tuple[list[Run], int]:
    """All runs with their units, and how many units in ninja's logs are older than all of them."""
    raw = [(run, build) for build in builds for run in build.runs]
    sources: dict[str, str] = {}
    found: list[Run] = []
    by_run: list[list[timeline.Placed]] = [[] for _ in raw]
    older = 0
    known: set[tuple[object, ...]] = set()
    first = 0
    for last_of, (run, _) in enumerate(raw):
        texts, names = _logs(run, own, current=last and last_of == len(raw) - 1)
        sources |= names
        if not texts and last_of < len(raw) - 1:
            # How its logs looked at the end was not written: the next run's hold what it compiled.
            continue
        # What was not in the logs before is of these runs, most often of just one.
        read = ninjalog.unique(edge for text in texts for edge in ninjalog.edges(text))
        edges = [edge for edge in read if edge.key not in known]
        known.update(edge.key for edge in edges)
        group = [one for one, _ in raw[first : last_of + 1]]
        for one in timeline.place(edges, [zero for run in group for zero in run.ninjas]):
            at = _run_of(one.began, group, certain=first > 0)
            if at is None:
                older += 1
            else:
                by_run[first + at].append(one)
        first = last_of + 1
    for number, ((run, build), units) in enumerate(zip(raw, by_run, strict=True), 1):
        found.append(_run(number, run, build, units, sources, earlier=build is not own))
    return found, older


def _run_of(moment: float, runs: Sequence[RawRun], *, certain: bool) -> int | None:
    """The run in which a unit was started; None where all are younger, unless it is ``certain`` that it is of one."""
    at = max((i for i, run in enumerate(runs) if run.began - _EARLY <= moment), default=None)
    return 0 if at is None and certain else at


def _logs(run: RawRun, own: RawBuild, *, current: bool) -> tuple[list[str], dict[str, str]]:
    """ninja's logs as they were after a run, and sources; as they are now where the last run's end was not written."""
    texts, sources = list(run.logs), dict(run.sources)
    if current and not run.finished and own.tree:
        from vllm_builder.stages.compile.watch import built

        for values in built(Path(own.tree)):
            texts.append(values["log"])
            sources |= values["sources"]
    return texts, sources


def _run(
    number: int,
    raw: RawRun,
    build: RawBuild,
    placed: Sequence[timeline.Placed],
    sources: Mapping[str, str],
    *,
    earlier: bool,
) -> Run:
    end = max([raw.last, *(one.ended for one in placed)])
    rows = timeline.slots([(one.began, one.ended) for one in placed])
    answers = _answers(raw.answers)
    units = [
        _unit(one, row, raw, sources.get(one.edge.output, ""), build.tree, answers)
        for one, row in zip(placed, rows, strict=True)
    ]
    ended = raw.reason
    if not ended and build.runs[-1] is raw and build.outcome != "built":
        ended = {"interrupted": "interrupted", "failed": "failed"}.get(build.outcome, "broken off")
        ended = "" if _outcome(build) == "running" else ended
    return Run(
        number=number,
        began=moment(raw.began),
        seconds=round(max(0.0, end - raw.began), 3),
        jobs=raw.jobs,
        earlier=earlier,
        ended=ended,
        units=tuple(units),
        samples=tuple(
            Sample(at=round(max(0.0, at - raw.began), 2), memory=m, compilers=n) for at, m, n in raw.samples
        ),
    )


def _unit(
    one: timeline.Placed,
    row: int,
    run: RawRun,
    source: str,
    tree: str,
    answers: Mapping[str, Answer],
) -> Unit:
    name, extension, kind = described(one.edge.output)
    # Both ends are rounded, so that what does not overlap in truth does not overlap here.
    start = round(max(0.0, one.began - run.began), 3)
    end = round(max(0.0, one.ended - run.began), 3)
    if source:
        name = _short(source, tree)
    return Unit(
        name=name,
        output=one.edge.output,
        extension=extension,
        kind=kind,
        start=start,
        seconds=round(end - start, 3),
        slot=row,
        peak=run.peaks.get(source, 0) if source else 0,
        cache=answers.get(_tail(name), "") if kind == "compile" else "",
        phases=_steps(run.steps.get(source, {})) if source else (),
    )


def _steps(spent: Mapping[str, float]) -> tuple[UnitPhase, ...]:
    longest = sorted(spent.items(), key=lambda one: (-one[1], one[0]))
    return tuple(UnitPhase(name=name, seconds=seconds) for name, seconds in longest if seconds)


def described(output: str) -> tuple[str, str, UnitKind]:
    """Name, extension and kind of what ninja made, from its path alone."""
    if (match := _OBJECT.match(output)) is not None:
        return match["source"], match["target"], "compile"
    path = PurePosixPath(output)
    if path.suffix in _LINKED:
        return path.name, path.name.split(".")[0].removeprefix("lib"), "link"
    return output, "", "other"


def _short(source: str, tree: str) -> str:
    return source.removeprefix(f"{tree}/") if tree else source


def _answers(files: Mapping[str, str]) -> dict[str, Answer]:
    """ccache names files relative to where it ran; the end of the path is what units have in common with it."""
    found: dict[str, Answer] = {}
    for name, answer in files.items():
        if answer in {"hit", "miss", "uncacheable"}:
            found[_tail(name)] = answer  # type: ignore[assignment]
    return found


def _tail(name: str) -> str:
    """A path without what leads up and down again: ``../../csrc/a.cu`` -> ``csrc/a.cu``."""
    parts = [part for part in name.split("/") if part not in {"", ".", ".."}]
    return "/".join(parts)


def _figures(build: RawBuild, stages: Sequence[Stage], runs: Sequence[Run]) -> Figures:
    units = [unit for run in runs for unit in run.units]
    answers = [unit.cache for unit in units if unit.cache]
    hits, misses = build.totals.get("hits"), build.totals.get("misses")
    if hits is None and answers:
        hits, misses = answers.count("hit"), answers.count("miss")
    samples = [sample.memory for run in runs for sample in run.samples]
    return Figures(
        seconds=round(max(0.0, build.last - build.began), 3),
        stages=_totals(stages),
        units=len(units),
        core_seconds=round(sum(unit.seconds for unit in units), 3),
        jobs=runs[-1].jobs if runs else None,
        hits=hits,
        misses=misses,
        peak_memory=max(samples, default=None),
        resumed_from=build.resumed_from,
    )


def _totals(stages: Sequence[Stage]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for stage in stages:
        totals[stage.name] = round(totals.get(stage.name, 0) + stage.seconds, 3)
    return totals


def _phases(runs: Sequence[Run]) -> list[Phase]:
    """Where the time of compiling went. Extensions overlap, so their wall times do not add up; core seconds do."""
    before = after = idle = fruitless = 0.0
    spans: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        ends = [unit.start + unit.seconds for unit in run.units]
        first = min((unit.start for unit in run.units), default=run.seconds)
        if not run.units:
            # How far it came nobody knows: an edge that is not done is in no log.
            fruitless += first
        else:
            before += first
            after += max(0.0, run.seconds - max(ends))
            busy = timeline.covered((u.start, u.start + u.seconds) for u in run.units)
            idle += max(0.0, max(ends) - first - busy)
        for unit in run.units:
            name = (
                f"compile {unit.extension}"
                if unit.kind == "compile"
                else {"link": "link"}.get(unit.kind, "other")
            )
            # Runs lie apart from each other on one line, so that spans of two never touch.
            offset = run.number * 1e9
            spans.setdefault(name, []).append((offset + unit.start, offset + unit.start + unit.seconds))
    found = [Phase(name="configure", seconds=round(before, 3))] if before else []
    if fruitless:
        found.append(Phase(name="runs that finished no unit", seconds=round(fruitless, 3)))
    parts = [
        Phase(
            name=name,
            seconds=round(timeline.covered(of), 3),
            core_seconds=round(sum(end - start for start, end in of), 3),
            units=len(of),
        )
        for name, of in spans.items()
    ]
    found += sorted(parts, key=lambda phase: (-phase.core_seconds, phase.name))
    if idle > 0.05:
        found.append(Phase(name="between units", seconds=round(idle, 3)))
    if after:
        found.append(Phase(name="install and pack", seconds=round(after, 3)))
    return found


def _reused(build: RawBuild, runs: Sequence[Run], older: int) -> list[Reused]:
    found = [Reused(what=what, detail=detail) for what, detail in build.reused]
    earlier = build.resumed_from or older + sum(len(run.units) for run in runs if run.earlier)
    own = [unit for run in runs if not run.earlier for unit in run.units]
    if earlier:
        found.append(Reused(what="units of an earlier run", detail=f"{earlier} were compiled already"))
    if build.runs and not _made_anew(build):
        found.append(Reused(what="the patched tree", detail="it was there, whole, from an earlier build"))
    hits = build.totals.get("hits", sum(unit.cache == "hit" for unit in own))
    if hits:
        asked = hits + build.totals.get("misses", sum(unit.cache == "miss" for unit in own))
        found.append(
            Reused(
                what="compiler cache", detail=f"{hits} of {asked} units came from {build.plan.compiler_cache}"
            )
        )
    return found
