"""The drawing: a panel for each scenario, a bar for each contender, as SVG with its text as text.

Bars are medians, the thin line goes from minimum to maximum. It follows the reader's choice of light or dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from measuring.model import Scenario
from measuring.results import Results, Spread

_WIDTH = 840
_LABELS = 330
"""Width of the column of names, to the left of the bars."""
_BARS = 400
_ROW, _BAR, _TITLE, _GAP = 24, 14, 30, 18

_STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 14px }
  .value { font-variant-numeric: tabular-nums }
  .back { fill: #ffffff }
  .other { fill: #8c959f }
  .ours { fill: #0969da }
  .whisker { stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .back { fill: #0d1117 }
    .other { fill: #6e7681 }
    .ours { fill: #4493f8 }
    .whisker { stroke: #e6edf3 }
  }
"""


def plot(results: Results, scenarios: Sequence[Scenario]) -> str:
    """The whole file. Scenarios that nothing was measured of are left out."""
    body: list[str] = []
    said: list[str] = []
    y = 8
    for scenario in scenarios:
        rows = [
            (one.label, one.ours, spread)
            for one in scenario.contenders
            if (spread := results.spread(scenario.name, one.name, scenario.quantity)) is not None
        ]
        if not rows:
            continue
        unit = "CPU seconds" if scenario.quantity == "cpu" else "seconds"
        body.append(f'<text class="title" x="12" y="{y + 18}">{escape(scenario.title)} ({unit})</text>')
        y += _TITLE
        scale = _BARS / max(max(spread.high for _, _, spread in rows), 0.001)
        for label, ours, spread in rows:
            body += _row(label, ours, spread, scale, y)
            y += _ROW
        y += _GAP
        said.append(f"{scenario.title}: " + ", ".join(f"{label} {_told(s.middle)} s" for label, _, s in rows))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" role="img" '
            'aria-labelledby="t d">',
            '<title id="t">Benchmarks of vllm-builder</title>',
            f'<desc id="d">Medians. {escape(". ".join(said))}.</desc>',
            f"<style>{_STYLE}</style>",
            f'<rect class="back" width="{_WIDTH}" height="{y}"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def _row(label: str, ours: bool, spread: Spread, scale: float, y: int) -> Iterator[str]:
    x = _LABELS + 12
    middle = y + _ROW / 2
    kind = "ours" if ours else "other"
    yield f'<text x="{_LABELS}" y="{middle + 4.5:.1f}" text-anchor="end">{escape(label)}</text>'
    width = max(1.0, spread.middle * scale)
    yield f'<rect class="{kind}" x="{x}" y="{middle - _BAR / 2:.1f}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
    end = width
    if spread.high > spread.low:
        low, end = spread.low * scale, max(width, spread.high * scale)
        yield f'<path class="whisker" d="M{x + low:.1f} {middle:.1f}H{x + spread.high * scale:.1f}"/>'
    yield f'<text class="value" x="{x + end + 6:.1f}" y="{middle + 4.5:.1f}">{_told(spread.middle)}</text>'


def _told(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"
