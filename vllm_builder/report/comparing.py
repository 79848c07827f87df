"""The last build of the same kind, and what differs in the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vllm_builder.report.model import Change, Comparison, PlanFacts, Report, Unit

_SHOWN = 20
_SMALLEST = 0.5
"""Seconds of change of a unit that are worth a line."""


def likeness(a: PlanFacts, b: PlanFacts) -> tuple[int, str]:
    """How alike two plans are (0: not at all), and the reason in words.

    Same plan, then same release for the same device and architectures, then another release for them, then the same device.
    """
    if a.digest == b.digest:
        return 4, "the last build of the same plan"
    if a.device != b.device or bool(a.extensions) != bool(b.extensions):
        return 0, ""
    target = f"{b.device} {' '.join(b.archs)}".strip()
    if a.archs != b.archs:
        return 1, f"the last build for {b.device}; none for the same architectures is known"
    if a.release != b.release:
        return 2, f"the last build of another release for {target}; none of {a.release} is known"
    return 3, f"the last build of {a.release} for {target}, by another plan"


def choose(now: PlanFacts, others: Iterable[tuple[float, PlanFacts]]) -> tuple[int, str] | None:
    """Index and reason of the one to compare with: the most alike, and of several the latest.

    Args:
        others: when each began, in seconds since 1970, and what it built; all of them ended well.
    """
    best: tuple[int, float, int, str] | None = None
    for index, (began, plan) in enumerate(others):
        rank, why = likeness(now, plan)
        if rank and (best is None or (rank, began) > best[:2]):
            best = (rank, began, index, why)
    return (best[2], best[3]) if best else None


def compare(now: Report, then: Report, why: str) -> Comparison:
    """What differs, and the units whose time changed most."""
    before, after = _compiled(then), _compiled(now)
    both = before.keys() & after.keys()
    changes = [
        Change(name=after[key].name, before=before[key].seconds, now=after[key].seconds) for key in both
    ]
    changes = [change for change in changes if abs(change.now - change.before) >= _SMALLEST]
    changes.sort(key=lambda change: (-abs(change.now - change.before), change.name))
    return Comparison(
        digest=then.plan.digest,
        version=then.plan.version,
        began=then.began,
        why=why,
        figures=then.figures,
        differs=tuple(_differs(now, then)),
        changes=tuple(changes[:_SHOWN]),
        kept=len(both),
    )


def _compiled(report: Report) -> Mapping[str, Unit]:
    """Each unit that a compiler really made: what came from a cache has no time of its own."""
    found: dict[str, Unit] = {}
    for run in report.runs:
        for unit in run.units:
            if unit.kind == "compile" and unit.cache != "hit":
                found[unit.output] = unit
    return found


def _differs(now: Report, then: Report) -> list[str]:
    pairs: Sequence[tuple[str, object, object]] = (
        ("outcome", then.outcome, now.outcome),
        ("release", then.plan.release, now.plan.release),
        ("version", then.plan.version, now.plan.version),
        ("architectures", " ".join(then.plan.archs), " ".join(now.plan.archs)),
        ("torch", then.plan.torch, now.plan.torch),
        ("compilers", ", ".join(then.plan.compilers), ", ".join(now.plan.compilers)),
        ("build type", then.plan.build_type, now.plan.build_type),
        ("jobs", then.figures.jobs, now.figures.jobs),
        ("cores", then.machine.cores, now.machine.cores),
        ("compiler cache", _hits(then), _hits(now)),
        ("resumed from", then.figures.resumed_from or 0, now.figures.resumed_from or 0),
        ("vllm-builder", then.builder, now.builder),
    )
    return [f"{name}: {a or 'none'}, now {b or 'none'}" for name, a, b in pairs if a != b]


def _hits(report: Report) -> str:
    hits, misses = report.figures.hits, report.figures.misses
    return "" if hits is None else f"{hits} of {hits + (misses or 0)} hits"
