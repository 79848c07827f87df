"""The tables of the page."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

from vllm_builder.report import charts
from vllm_builder.report.model import Comparison, Report, Run, Unit
from vllm_builder.report.words import change, duration, escape, memory, percent, times

_SLOWEST = 20
_SAMPLES = 30


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a heading for each row; a head that begins with ``#`` is of numbers, ``-`` of a drawing.

    Cells are HTML. The table can be scrolled sideways where it does not fit.
    """
    marks = ['class="n"' if h[:1] == "#" else 'class="drawn"' if h[:1] == "-" else "" for h in heads]
    top = "".join(
        '<td class="drawn"></td>' if h[:1] == "-" else f'<th scope="col" {mark}>{escape(h.lstrip("#-"))}</th>'
        for h, mark in zip(heads, marks, strict=True)
    )
    body = []
    for row in rows:
        first, *rest = row
        cells = "".join(f"<td {mark}>{cell}</td>" for cell, mark in zip(rest, marks[1:], strict=True))
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>\n')
    return _framed(caption, f"<thead><tr>{top}</tr></thead>\n<tbody>{''.join(body)}</tbody>")


def _framed(caption: str, content: str, *, frame: str = "scroll", attributes: str = "") -> str:
    # A caption is as wide as its table and scrolls away with it; a paragraph before it stays in sight.
    name = f"t{zlib.crc32(caption.encode()):08x}"
    return (
        f'<p class="caption" id="{name}">{escape(caption)}</p>'
        f'<div class="{frame}" tabindex="0" role="region" aria-labelledby="{name}">'
        f'<table aria-labelledby="{name}"{attributes}>{content}</table></div>'
    )


def stages(report: Report) -> str:
    whole = report.figures.seconds or 0
    longest = max((s.seconds for s in report.stages), default=1) or 1
    rows = []
    for stage in report.stages:
        mark = "" if stage.finished else ' <span class="badge">ended here</span>'
        share = min(1.0, stage.seconds / max(longest, whole, 0.001))
        start = min(1.0, stage.start / max(whole, 0.001))
        rows.append(
            (
                f"{escape(stage.name)}{mark}",
                duration(stage.seconds),
                percent(stage.seconds, whole),
                charts.bar(share, "c0", start),
                escape(stage.summary),
            )
        )
    rest = whole - sum(stage.seconds for stage in report.stages)
    if whole and rest > max(0.05, whole / 200):
        rows.append(("between stages", duration(rest), percent(rest, whole), "", "locks, checks of the tree"))
    return table(
        "Stages, each from where it began", ("stage", "#time", "#share", "-", "what came of it"), rows
    )


def phases(report: Report) -> str:
    whole = sum(run.seconds for run in report.runs if not run.earlier)
    rows = [
        (
            escape(phase.name),
            duration(phase.seconds),
            percent(phase.seconds, whole),
            charts.bar(min(1.0, phase.seconds / whole) if whole else 0, "c0"),
            duration(phase.core_seconds) if phase.units else "",
            str(phase.units or ""),
        )
        for phase in report.phases
    ]
    heads = ("phase", "#wall time", "#share", "-", "#core time", "#units")
    return table("Within compiling; extensions run side by side, so their wall times overlap", heads, rows)


def programs(report: Report) -> str:
    """CPU seconds of the programs below the compilers' drivers; empty where none was seen."""
    units = [unit for run in report.runs if not run.earlier for unit in run.units]
    spent: dict[str, list[float]] = {}
    for unit in units:
        for phase in unit.phases:
            spent.setdefault(phase.name, []).append(phase.seconds)
    whole = sum(sum(of) for of in spent.values())
    rows = [
        (
            escape(name),
            duration(sum(of)),
            percent(sum(of), whole),
            charts.bar(sum(of) / whole if whole else 0, "c0"),
            str(len(of)),
        )
        for name, of in sorted(spent.items(), key=lambda one: (-sum(one[1]), one[0]))
    ]
    if not rows:
        return ""
    heads = ("program", "#CPU time", "#share", "-", "#units")
    return table("Programs below the compilers, as sampled once a second", heads, rows)


def slowest(report: Report, classes: Mapping[str, str]) -> str:
    units = [(run, unit) for run in report.runs for unit in run.units]
    units.sort(key=lambda one: (-one[1].seconds, one[1].output))
    longest = units[0][1].seconds if units else 1
    rows = [
        (
            _path(unit.name),
            duration(unit.seconds),
            charts.bar(unit.seconds / max(longest, 0.001), classes.get(unit.extension, "link")),
            memory(unit.peak) if unit.peak else "",
            unit.cache,
            escape(unit.extension),
        )
        for _, unit in units[:_SLOWEST]
    ]
    caption = f"The {len(rows)} slowest of {times(len(units), 'unit')}"
    return table(caption, ("unit", "#time", "-", "#memory", "cache", "extension"), rows)


def units(runs: Sequence[Run]) -> str:
    """All units, sortable and to be searched where there is a script. Values to sort by are in ``data-v``."""
    several = len(runs) > 1
    phased = any(unit.phases for run in runs for unit in run.units)
    heads = ["unit", "#began", "#time", "#memory", "cache", "extension", *(["#run"] if several else [])]
    top = "".join(f'<th scope="col" {_mark(head)}>{escape(head.lstrip("#"))}</th>' for head in heads)
    top += '<th scope="col">phases</th>' if phased else ""
    body = []
    number = 0
    for run in runs:
        for unit in run.units:
            cells = [
                (duration(unit.start), unit.start),
                (duration(unit.seconds), unit.seconds),
                (memory(unit.peak) if unit.peak else "", unit.peak),
            ]
            out = "".join(f'<td class="n" data-v="{value:g}">{words}</td>' for words, value in cells)
            out += f"<td>{unit.cache}</td><td>{escape(unit.extension)}</td>"
            out += f'<td class="n" data-v="{run.number}">{run.number}</td>' if several else ""
            out += f"<td>{_phases(unit)}</td>" if phased else ""
            body.append(f'<tr data-i="{number}"><th scope="row">{_path(unit.name)}</th>{out}</tr>\n')
            number += 1
    caption = f"All {times(number, 'unit')}, in the order they began"
    content = f"<thead><tr>{top}</tr></thead>\n<tbody>{''.join(body)}</tbody>"
    return _framed(caption, content, frame="scroll tall", attributes=' id="units" class="sortable"')


def samples(runs: Sequence[Run]) -> str:
    rows = [
        (f"run {run.number}, {duration(sample.at)}", memory(sample.memory), str(sample.compilers))
        for run in runs
        for sample in charts.thinned(run.samples, max(4, _SAMPLES // len(runs)))
    ]
    caption = "Memory over time: the highest of each stretch"
    return table(caption, ("moment", "#memory", "#compilers"), rows)


def runs(report: Report) -> str:
    rows = [
        (
            f"run {run.number}" + (" (an earlier build)" if run.earlier else ""),
            f'<time datetime="{run.began}">{_moment(run.began)}</time>',
            duration(run.seconds),
            str(run.jobs or ""),
            str(len(run.units)),
            duration(sum(unit.seconds for unit in run.units)),
            _load(run),
            escape(run.ended or ("" if report.outcome == "running" else "ended well")),
        )
        for run in report.runs
    ]
    heads = ("run", "began (UTC)", "#time", "#jobs", "#units", "#core time", "#busy", "how it ended")
    return table("Runs of setup.py", heads, rows)


def comparison(report: Report, other: Comparison) -> str:
    now, then = report.figures, other.figures
    rows: list[tuple[str, str, str, str]] = []

    def seconds(name: str, before: float | None, after: float | None) -> None:
        if before is None and after is None:
            return
        both = change(before, after) if before is not None and after is not None else ""
        rows.append((escape(name), _or(before, duration), _or(after, duration), both))

    seconds("whole build", then.seconds, now.seconds)
    for stage in dict.fromkeys([*then.stages, *now.stages]):
        seconds(f"stage {stage}", then.stages.get(stage), now.stages.get(stage))
    seconds("core time of units", then.core_seconds, now.core_seconds)
    counted = (
        ("units", then.units, now.units, str),
        ("compiler cache hits", then.hits, now.hits, str),
        ("compiler cache misses", then.misses, now.misses, str),
        ("most memory", then.peak_memory, now.peak_memory, memory),
    )
    for name, before, after, words in counted:
        if before is not None or after is not None:
            differs = "the same" if before == after else ""
            rows.append((name, _or(before, words), _or(after, words), differs))
    return table("Figures of both builds", ("figure", "#then", "#now", "#change"), rows)


def changes(other: Comparison) -> str:
    rows = [
        (_path(one.name), duration(one.before), duration(one.now), change(one.before, one.now))
        for one in other.changes
    ]
    caption = f"Units whose time changed most, of {other.kept} that were compiled by both"
    return f'<div class="paths">{table(caption, ("unit", "#then", "#now", "#change"), rows)}</div>'


def _path(name: str) -> str:
    """A path that may be broken after each slash."""
    return escape(name).replace("/", "/<wbr>")


def _phases(unit: Unit) -> str:
    return ", ".join(f"{escape(phase.name)} {duration(phase.seconds)}" for phase in unit.phases)


def _load(run: Run) -> str:
    spans = [(unit.start, unit.start + unit.seconds) for unit in run.units]
    if not spans or not run.jobs:
        return ""
    wall = max(end for _, end in spans) - min(start for start, _ in spans)
    return percent(sum(end - start for start, end in spans), wall * run.jobs)


def _moment(iso: str) -> str:
    return iso[:19].replace("T", " ")


def _or(value: object, words: object) -> str:
    return "" if value is None else words(value)  # type: ignore[operator]


def _mark(head: str) -> str:
    return 'class="n"' if head.startswith("#") else ""
