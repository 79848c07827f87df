"""The page: one file that loads nothing, readable without JavaScript, with a policy that lets nothing in or out."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Final

from vllm_builder.fs import write_atomic
from vllm_builder.report import charts, tables
from vllm_builder.report.model import Report
from vllm_builder.report.words import duration, escape, memory, percent, times

_FOLDER: Final = Path(__file__).parent / "assets"
_TITLES: Final = {
    "built": "built",
    "failed": "failed",
    "interrupted": "interrupted",
    "broken off": "broken off",
    "running": "running",
}


def write(report: Report, path: Path) -> Path:
    """Write the page, whole or not at all.

    Raises:
        NoSpace, NotWritable
    """
    write_atomic(path, page(report).encode("utf-8", "backslashreplace"))
    return path


def page(report: Report) -> str:
    """The page as text."""
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": escape(policy),
        "TITLE": escape(f"{_what(report)}: build report"),
        "HEAD": _head(report),
        "BODY": "\n".join(section for section in _sections(report) if section),
        "FOOT": f"Made by vllm-builder {escape(report.builder)}. Plan <code>{escape(report.plan.digest)}</code>",
        "STYLE": style,
        "SCRIPT": script,
        "DATA": _data(report),
    }
    text = _asset("report.html")
    before, *rest = text.split("@")
    # One pass: what is put in may itself hold an @.
    out = [before]
    for at in range(0, len(rest), 2):
        out += [parts[rest[at]], rest[at + 1]]
    return "".join(out)


@cache
def _asset(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _what(report: Report) -> str:
    return f"vLLM {report.plan.version}"


def _head(report: Report) -> str:
    plan = report.plan
    target = " ".join([plan.device, *plan.archs])
    where = f"{report.machine.cores} cores, {memory(report.machine.memory)}" if report.machine.cores else ""
    facts = [
        ("for", target),
        ("torch", plan.torch),
        ("compilers", ", ".join(plan.compilers)),
        ("machine", ", ".join(filter(None, (report.machine.system, where)))),
        ("began", f"{report.began[:19].replace('T', ' ')} UTC"),
        ("plan", plan.digest[:16]),
        ("only", ", ".join(plan.extensions)),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts if value)
    state = _TITLES[report.outcome]
    return (
        f'<h1>{escape(_what(report))} <span class="state {state.replace(" ", "-")}">{state}</span></h1>'
        f'<dl class="facts">{shown}</dl>'
    )


def _sections(report: Report) -> list[str]:
    classes = charts.colours(report)
    return [_fault(report), _tiles(report), _where(report), _timeline(report, classes), _slow(report, classes),
            _reused(report), _compared(report), _everything(report), _notes(report)]  # fmt: skip


def _panel(name: str, title: str, body: str, hint: str = "") -> str:
    said = f'<p class="hint">{hint}</p>' if hint else ""
    return (
        f'<section class="panel" id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>'
        f"{said}{body}</section>"
    )


def _fault(report: Report) -> str:
    out = ""
    if report.fault is not None:
        why = f"<p>{escape(report.fault.why)}</p>" if report.fault.why else ""
        out += (
            f'<div class="notice" role="note"><p><strong>{escape(report.fault.what)}</strong> '
            f"({escape(report.fault.name)}, exit code {report.fault.exit_code})</p>{why}</div>"
        )
    out += "".join(f'<p class="notice mild" role="note">{escape(text)}</p>' for text in report.remarks)
    return out


def _tiles(report: Report) -> str:
    figures = report.figures
    own = [run for run in report.runs if not run.earlier]
    asked = (figures.hits or 0) + (figures.misses or 0)
    jobs = f"{figures.jobs} jobs" if figures.jobs else ""
    cache_words = (
        f"of {times(asked, 'unit')} from {report.plan.compiler_cache}" if asked else "no unit was asked for"
    )
    tiles = [
        (
            "whole build",
            duration(figures.seconds or 0),
            f"{duration(figures.stages.get('compile', 0))} compiling",
        ),
        ("core time of units", duration(figures.core_seconds or 0), jobs),
        ("units", str(figures.units or 0), f"in {times(len(own), 'run')} of setup.py"),
    ]
    if figures.peak_memory:
        machine = f"of {memory(report.machine.memory)}" if report.machine.memory else ""
        tiles.append(("most memory", memory(figures.peak_memory), machine))
    if figures.hits is not None:
        tiles.append(("compiler cache", percent(figures.hits, asked) or "0 %", cache_words))
    if (
        report.outcome == "built"
        and report.comparison is not None
        and report.comparison.figures.seconds
        and figures.seconds
    ):
        before = report.comparison.figures.seconds
        word = "faster" if before > figures.seconds else "slower"
        ratio = max(before, figures.seconds) / max(min(before, figures.seconds), 0.001)
        name = f"{word} than last time" if ratio >= 1.01 else "as long as last time"
        tiles.append((name, f"{ratio:.2f} \N{MULTIPLICATION SIGN}", f"{duration(before)} then"))
    out = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in tiles
    )
    return f'<dl class="tiles" aria-label="In short">{out}</dl>'


def _where(report: Report) -> str:
    body = tables.stages(report)
    if report.phases:
        body += f"<h3>Compiling</h3>{tables.phases(report)}{tables.programs(report)}"
    return _panel("where", "Where the time went", body)


def _timeline(report: Report, classes: dict[str, str]) -> str:
    if not any(run.units or run.samples for run in report.runs):
        return _panel("timeline", "Timeline", "<p>setup.py did not come to compile anything.</p>")
    sampled = any(run.samples for run in report.runs)
    memory_part = (
        f'<p class="over" id="memory-title">Memory</p>{charts.memory_curve(report)}' if sampled else ""
    )
    body = (
        f"{_legend(report, classes)}"
        '<p id="zoom" class="buttons" hidden><button type="button" id="zoom-in">Zoom in</button>'
        '<button type="button" id="zoom-out">Zoom out</button><button type="button" id="zoom-fit">Fit</button></p>'
        '<div id="chart" class="chart" tabindex="0" role="group" aria-label="Timeline and memory" '
        'aria-describedby="chart-hint"><div id="canvas">'
        f"{charts.timeline(report, classes)}{memory_part}</div></div>"
        '<p class="readout"><span class="scripted hint" id="nothing" hidden>Point at a bar, or walk through them with the '
        'arrow keys.</span><span id="readout" role="status"></span></p>'
        '<p id="chart-hint" class="hint">A row is a job slot: the first that was free, as ninja does not say which it was.'
        '<span class="scripted" hidden> Left and right walk through the units by time, up and down by slot; '
        "plus and minus zoom.</span></p>"
    )
    if sampled:
        body += f"<details><summary>Memory as a table</summary>{tables.samples(report.runs)}</details>"
    if len(report.runs) > 1 or any(run.ended for run in report.runs):
        body += tables.runs(report)
    return _panel("timeline", "Timeline", body)


def _legend(report: Report, classes: dict[str, str]) -> str:
    shown: dict[str, str] = {}
    for name, kind in classes.items():
        other = kind == f"c{charts.COLOURS}"
        shown[kind] = "other extensions" if other else name
    units = [unit for run in report.runs for unit in run.units]
    if any(unit.kind == "link" for unit in units):
        shown["link"] = "link"
    if any(unit.kind == "other" for unit in units):
        shown["other"] = "anything else"
    if any(unit.cache == "hit" for unit in units):
        shown["c0 hit"] = "from the compiler cache"
    key = "".join(
        f'<li><svg aria-hidden="true" width="14" height="14"><rect class="unit {kind}" x="1" y="1" width="12" height="12" '
        f'rx="2"/></svg>{escape(name)}</li>'
        for kind, name in shown.items()
    )
    return f'<ul class="legend" aria-label="Colours">{key}</ul>'


def _slow(report: Report, classes: dict[str, str]) -> str:
    if not any(run.units for run in report.runs):
        return ""
    return _panel("slowest", "Slowest units", tables.slowest(report, classes))


def _reused(report: Report) -> str:
    if not report.reused:
        return _panel("reused", "Reused", "<p>Nothing: all of it was made by this build.</p>")
    items = "".join(
        f"<li><strong>{escape(one.what)}</strong>: {escape(one.detail)}</li>" for one in report.reused
    )
    return _panel("reused", "Reused", f"<ul>{items}</ul>")


def _compared(report: Report) -> str:
    other = report.comparison
    if other is None:
        return _panel(
            "compared", "Compared with the last build",
            "<p>No earlier build for this device that ended well is in this workspace.</p>",
        )  # fmt: skip
    hint = (
        f"Held against {escape(other.version)} of {escape(other.began[:16].replace('T', ' '))} UTC "
        f"(plan <code>{other.digest[:16]}</code>): {escape(other.why)}."
    )
    body = ""
    if other.differs:
        lines = "".join(f"<li>{escape(line)}</li>" for line in other.differs)
        body += f"<p>What else was different:</p><ul>{lines}</ul>"
    body += tables.comparison(report, other)
    if other.changes:
        body += tables.changes(other)
    elif other.kept:
        body += f"<p>No unit's time changed by half a second or more, of {other.kept} that both compiled.</p>"
    return _panel("compared", "Compared with the last build", body, hint)


def _everything(report: Report) -> str:
    if not any(run.units for run in report.runs):
        return ""
    search = (
        '<p class="scripted" hidden><label for="search">Units whose name or extension contains</label> '
        '<input id="search" type="search" autocomplete="off" spellcheck="false"> <span id="found" role="status"></span></p>'
    )
    return _panel(
        "all",
        "All units",
        f"<details><summary>Show them</summary>{search}{tables.units(report.runs)}</details>",
    )


def _notes(report: Report) -> str:
    out = ""
    for title, lines in (("Left out of the wheel", report.left_out), ("Warnings", report.warnings)):
        if lines:
            items = "".join(f"<li>{escape(line)}</li>" for line in lines)
            out += f"<h3>{title}</h3><ul>{items}</ul>"
    return _panel("notes", "Notes", out) if out else ""


def _data(report: Report) -> str:
    """What the script says of a unit that is pointed at, in the order of ``data-i``."""
    rows = []
    for run in report.runs:
        for unit in run.units:
            facts = [duration(unit.seconds), f"slot {unit.slot + 1}", f"began at {duration(unit.start)}"]
            facts += [memory(unit.peak)] if unit.peak else []
            facts += [{"hit": "from the compiler cache", "miss": "compiled", "uncacheable": "not cacheable"}[unit.cache]] \
                if unit.cache else []  # fmt: skip
            facts += [f"{phase.name} {duration(phase.seconds)}" for phase in unit.phases]
            rows.append(
                [unit.name, unit.extension, ", ".join(facts), run.number, unit.start, unit.seconds, unit.slot]
            )
    # "<" must not end the script element, whatever a file is called.
    return json.dumps(rows, separators=(",", ":")).replace("<", "\\u003c")
