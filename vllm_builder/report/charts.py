"""The drawings of the page, as SVG. Places are percentages, so that a drawing is as wide as it is given room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_builder.report.model import Report, Run, Sample, Unit
from vllm_builder.report.words import escape, memory, times

COLOURS = 7
"""Extensions that have a colour of their own; the others share one."""
_MEMORY_HEIGHT = 120
_AXIS = 22
_POINTS = 600
"""Of the memory curve in one run: more would not be seen."""
_LABELLED = 1.2
"""Percent of the width from which on a bar has its name in it; the script hides those that do not fit."""
_APART = 9.0
"""Percent of the width between the last time of a run and the name of the next one: neither may cover the other."""
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


@dataclass(frozen=True, slots=True)
class Scale:
    """All runs one after the other on one line: ``offsets`` of each, and ``total`` seconds."""

    offsets: tuple[float, ...]
    total: float

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Scale:
        lengths = [max(run.seconds, 0.001) for run in runs]
        gap = 0.012 * sum(lengths) if len(lengths) > 1 else 0.0
        offsets, at = [], 0.0
        for length in lengths:
            offsets.append(at)
            at += length + gap
        return cls(tuple(offsets), max(0.001, at - gap))

    def x(self, run: int, seconds: float) -> float:
        return 100 * (self.offsets[run] + seconds) / self.total


def colours(report: Report) -> dict[str, str]:
    """Extension -> class of its colour, those with the most work first."""
    work: dict[str, float] = {}
    for run in report.runs:
        for unit in run.units:
            if unit.kind == "compile":
                work[unit.extension] = work.get(unit.extension, 0) + unit.seconds
    ranked = sorted(work, key=lambda name: (-work[name], name))
    return {name: f"c{min(rank, COLOURS)}" for rank, name in enumerate(ranked)}


def timeline(report: Report, classes: dict[str, str]) -> str:
    """Units over job slots; each bar has ``data-i``, its place among all units."""
    scale = Scale.of(report.runs)
    rows = max((unit.slot for run in report.runs for unit in run.units), default=0) + 1
    row = 26 if rows <= 16 else 16 if rows <= 40 else 9
    height = rows * row + _AXIS
    out = [_grid(scale, rows * row)]
    number = 0
    packed = any(one.what == "native layer" for one in report.reused)
    for at, run in enumerate(report.runs):
        unfinished = bool(run.ended) or (report.outcome == "running" and run is report.runs[-1])
        after = "not finished" if unfinished else "pack"
        out.append(_background(scale, at, run, rows * row, after, packed=packed))
        for unit in run.units:
            out.append(_bar(scale, at, unit, number, row, _class(unit, classes)))
            number += 1
    label = (
        f"Timeline of {times(number, 'unit')} over {times(rows, 'job slot')} in {times(len(report.runs), 'run')} "
        "of setup.py. The table of all units has the same data."
    )
    return (
        f'<svg class="timeline" role="img" aria-label="{escape(label)}" width="100%" height="{height}">'
        f"{''.join(out)}</svg>"
    )


def memory_curve(report: Report) -> str:
    """Memory of all compilers over the same time as the timeline's."""
    scale = Scale.of(report.runs)
    highest = max((s.memory for run in report.runs for s in run.samples), default=0)
    step = _step(
        highest / (1 << 20) / 3, (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
    )
    top = step * max(1, math.ceil(highest / (1 << 20) / step)) * (1 << 20)
    lines = []
    for count in range(1, int(top / (1 << 20) / step) + 1):
        y = _MEMORY_HEIGHT * (1 - count * step * (1 << 20) / top) + 14
        lines.append(f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text class="tick" x="4" y="{y - 3:.1f}">{_plain_memory(count * step)}</text>')
    curves = "".join(_curve(scale, at, run, top) for at, run in enumerate(report.runs))
    words = f"Memory of all compilers over time, at most {memory(highest)}. A table of it follows."
    return (
        f'<svg class="memory" role="img" aria-label="{escape(words)}" width="100%" height="{_MEMORY_HEIGHT + 15}">'
        f'<svg y="14" width="100%" height="{_MEMORY_HEIGHT}" viewBox="0 0 10000 1000" preserveAspectRatio="none">'
        f"{curves}</svg>{''.join(lines)}</svg>"
    )


def thinned(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many samples, each the highest of its stretch."""
    if len(samples) <= most:
        return list(samples)
    size = math.ceil(len(samples) / most)
    return [max(samples[i : i + size], key=lambda s: s.memory) for i in range(0, len(samples), size)]


def bar(share: float, kind: str = "c0", start: float = 0.0) -> str:
    """A bar in a table's cell: the table says the same in numbers, so it is hidden from those who listen."""
    return (
        '<svg class="bar" aria-hidden="true" width="100%" height="14"><rect class="track" width="100%" height="14" rx="3"/>'
        f'<rect class="{kind}" x="{100 * start:.2f}%" width="{max(100 * share, 0.4):.2f}%" height="14" rx="3"/></svg>'
    )


def _class(unit: Unit, classes: dict[str, str]) -> str:
    kind = classes[unit.extension] if unit.kind == "compile" else "link" if unit.kind == "link" else "other"
    return f"{kind} hit" if unit.cache == "hit" else kind


def _bar(scale: Scale, run: int, unit: Unit, number: int, row: int, kind: str) -> str:
    x, width = scale.x(run, unit.start), 100 * unit.seconds / scale.total
    y = unit.slot * row
    wide = " wide" if width > 0.4 else ""
    drawn = (
        f'<rect class="unit {kind}{wide}" data-i="{number}" x="{x:.3f}%" y="{y + 1}" width="{max(width, 0.06):.3f}%" '
        f'height="{row - 2}" rx="{2 if width > 0.5 else 0}"/>'
    )
    if width < _LABELLED or row < 16:
        return drawn
    name = escape(unit.name.rpartition("/")[2])
    size = "big" if width > 12 else "small"
    return (
        f'{drawn}<svg class="label {size}" x="{x:.3f}%" y="{y}" width="{width:.3f}%" height="{row}">'
        f'<text class="on {kind}" x="5" y="{row / 2 + 4:.0f}">{name}</text></svg>'
    )


def _background(scale: Scale, at: int, run: Run, height: int, after: str, *, packed: bool) -> str:
    """What is no unit: configuring before the first one, what is ``after`` the last; and where the next run begins."""
    out = []
    first = min((unit.start for unit in run.units), default=run.seconds)
    last = max((unit.start + unit.seconds for unit in run.units), default=run.seconds)
    begun = "configure" if run.units else "pack" if packed and not run.ended else "no unit was finished"
    for start, end, words in ((0.0, first, begun), (last, run.seconds, after)):
        share = 100 * (end - start) / scale.total
        if share > 0.2:
            x = f"{scale.x(at, start):.3f}%"
            out.append(f'<rect class="idle" x="{x}" width="{share:.3f}%" height="{height}"/>')
            if share > 3:
                out.append(
                    f'<svg class="label {"big" if share > 12 else "small"}" x="{x}" width="{share:.3f}%" height="{height}">'
                    f'<text class="quiet" x="5" y="17">{words}</text></svg>'
                )
    if at:
        x = f"{scale.x(at, 0):.3f}%"
        out.append(f'<line class="divide" x1="{x}" x2="{x}" y1="0" y2="{height + 6}"/>')
    return "".join(out)


def _grid(scale: Scale, height: int) -> str:
    """Time within each run: what lies between two runs has no width."""
    step = _step(scale.total / 8, _STEPS)
    out = []
    for at, offset in enumerate(scale.offsets):
        end = scale.offsets[at + 1] if at + 1 < len(scale.offsets) else scale.total
        for count in range(int((end - offset) / step) + 1):
            x = 100 * (offset + count * step) / scale.total
            if x > 99.9 or (count and 100 * end / scale.total - x < _APART and end < scale.total):
                continue
            out.append(f'<line class="grid" x1="{x:.3f}%" x2="{x:.3f}%" y1="0" y2="{height + 4}"/>')
            words = f"run {at + 1}" if not count and len(scale.offsets) > 1 else _clock(count * step)
            if x < 93:
                out.append(f'<text class="tick" x="{x:.3f}%" dx="3" y="{height + 16}">{words}</text>')
    return "".join(out)


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _curve(scale: Scale, at: int, run: Run, top: float) -> str:
    points = [(100 * scale.x(at, s.at), 1000 * (1 - s.memory / top)) for s in thinned(run.samples, _POINTS)]
    if not points:
        return ""
    line = " ".join(f"L{x:.0f} {y:.0f}" for x, y in points)
    return (
        f'<path class="area" d="M{points[0][0]:.0f} 1000 {line} L{points[-1][0]:.0f} 1000Z"/>'
        f'<path class="line" d="M{line[1:]}"/>'
    )


def _step(least: float, steps: Sequence[float]) -> float:
    return next((step for step in steps if step >= least), steps[-1])


def _plain_memory(mebibytes: float) -> str:
    return f"{mebibytes / 1024:g} GiB" if mebibytes >= 1024 else f"{mebibytes:g} MiB"
