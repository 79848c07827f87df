"""The page about the results: Markdown, made of the results file alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from measuring.model import Ratio, Scenario
from measuring.results import Results, Spread

LOADED = 0.05
"""Share of the cores that others may use before the times count as those of a busy machine."""

_HOW = """\
## How it is measured

- All contenders run in one go on one machine, pair by pair: within a pair everybody runs once, and each of them
  goes first in turn. A ratio is taken within its pair; the tables show the smallest, the median and the largest of
  these ratios, which is not the ratio of the medians.
- Wall time is that of the whole process. CPU time is that of all processes which it started.
- vllm-builder is measured with more to do than the others: it plans, unpacks the release, patches it, makes the
  wheel's record and SBOM, verifies and stores it. Their trees are unpacked and patched beforehand, with the same
  patches except `lean-headers`.
- All use the same Python environment with the same torch, cmake and ninja, the same compiler and the same
  variables, and compile as many units at once. Downloads, environments and toolkits are there before anything is
  measured.
- pip gets `--no-build-isolation`, since an isolated build would not use the given torch. fromager is measured in
  its step `build-wheel` alone, with the environment that is there: its `build` would fetch the release and make an
  environment of its own first, while its patches and settings would have to say what the tree already holds. Both
  compile without a compile cache.
- ccache beside the bare setup.py is used as it comes: in front of the compiler, no setting but its folder.
- Zipping means Python's `zipfile` with zlib at level 6, which is what the wheel itself is compressed with.
"""

_REPEAT = """\
## Repeating it

    python benchmarks/suite.py                     # goes on where it was broken off; --fresh measures all anew
    python benchmarks/suite.py --quick             # one pair of each
    python benchmarks/suite.py --only cpu hotfix   # some scenarios
    python benchmarks/suite.py --render            # this page from docs/benchmarks.json, measuring nothing

`--budget MINUTES` bounds the time: what does not fit is left out and said. `--cache-dir DIR` takes downloads,
environments and toolkits from the cache of earlier builds. Every value is kept in
[benchmarks.json](benchmarks.json) as soon as it is measured, and values of another machine or another state of the
code are never mixed with new ones.
"""


def page(results: Results, scenarios: Sequence[Scenario], *, replay: str = "") -> str:
    """``replay`` is what the page says about simulated machines; empty leaves that section out."""
    parts = [*_head(results)]
    for scenario in scenarios:
        if results.values.get(scenario.name) or results.absent.get(scenario.name):
            parts += ["", *_scenario(results, scenario)]
    if replay:
        parts += ["", "## Machines with more cores", "", replay]
    parts += ["", _HOW, _REPEAT]
    return "\n".join(parts)


def _head(results: Results) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield "Made by `benchmarks/suite.py`; the figures below are seconds and ratios, each as minimum, median and maximum."
    yield ""
    if (foreign := results.foreign) is not None and foreign.middle > LOADED:
        yield (
            f"> **Provisional.** Other processes used {foreign.middle:.0%} of the cores meanwhile (median; at most "
            f"{foreign.high:.0%}), so wall times are too long and only CPU times tell something."
        )
        yield ""
    yield "![Time of each contender](benchmarks.svg)"
    yield ""
    machine = results.machine
    yield "| machine | |"
    yield "| --- | --- |"
    yield f"| processor | {machine.get('processor', '')}, {machine.get('cores', '')} cores |"
    yield f"| memory | {machine.get('memory', '')} GiB |"
    yield f"| system | {machine.get('system', '')}, {machine.get('compiler', '')}, Python {machine.get('python', '')} |"
    if tools := machine.get("tools"):
        yield f"| tools | {', '.join(f'{name} {version}' for name, version in sorted(tools.items()))} |"
    if results.days:
        yield f"| measured | {', '.join(results.days)} |"
    if (foreign := results.foreign) is not None:
        yield f"| used by others meanwhile | {foreign.middle:.1%} of the cores (median), at most {foreign.high:.1%} |"


def _scenario(results: Results, scenario: Scenario) -> Iterator[str]:
    yield f"## {scenario.title}"
    yield ""
    yield scenario.text
    yield ""
    yield "| | wall, s | CPU, s | runs | |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for one in scenario.contenders:
        wall, cpu = (results.spread(scenario.name, one.name, q) for q in ("wall", "cpu"))
        note = one.note([value.facts for value in results.of(scenario.name, one.name).values()])
        why = results.absent.get(scenario.name, {}).get(one.name, "")
        if wall is None or cpu is None:
            yield f"| {one.label} | | | 0 | {_cell(why) or 'not measured'} |"
        else:
            notes = "; ".join(filter(None, (note, f"then: {_cell(why)}" if why else "")))
            yield f"| {one.label} | {_three(wall)} | {_three(cpu)} | {wall.count} | {notes} |"
    rows = [(ratio, found) for ratio in scenario.ratios if (found := results.ratios(scenario.name, ratio))]
    if rows:
        yield ""
        yield "| ratio, pair by pair | min / median / max | pairs | goal (median) |"
        yield "| --- | ---: | ---: | --- |"
        for ratio, found in rows:
            yield _ratio_row(ratio, list(found.values()))
    yield ""
    yield from _every_value(results, scenario)


def _ratio_row(ratio: Ratio, values: list[float]) -> str:
    spread = Spread.of(values)
    assert spread is not None
    three = " / ".join(f"{one:.3f}" if spread.high < 0.1 else f"{one:.2f}" for one in _of(spread))
    goal = ""
    if ratio.goal is not None:
        goal = f"≤ {ratio.goal:g}: {'met' if met(ratio, spread) else '**missed**'}"
    return f"| {ratio.label} | {three} | {spread.count} | {goal} |"


def met(ratio: Ratio, spread: Spread) -> bool:
    return ratio.goal is None or spread.middle <= ratio.goal


def _every_value(results: Results, scenario: Scenario) -> Iterator[str]:
    there = [one for one in scenario.contenders if results.of(scenario.name, one.name)]
    if not there:
        return
    yield "<details><summary>Every value: wall / CPU seconds</summary>"
    yield ""
    yield f"| pair | {' | '.join(one.label for one in there)} |"
    yield f"| --- |{' ---: |' * len(there)}"
    # More than are asked for now, where an earlier run took more.
    measured = [pair for one in there for pair in results.of(scenario.name, one.name)]
    for pair in dict.fromkeys([*scenario.pairs, *measured]):
        values = [results.of(scenario.name, one.name).get(pair) for one in there]
        if any(values):
            cells = [f"{value.wall:.2f} / {value.cpu:.2f}" if value else "" for value in values]
            yield f"| {pair} | {' | '.join(cells)} |"
    yield ""
    yield "</details>"


def _of(spread: Spread) -> tuple[float, float, float]:
    return spread.low, spread.middle, spread.high


def _three(spread: Spread) -> str:
    return " / ".join(f"{one:.2f}" if spread.high < 10 else f"{one:.1f}" for one in _of(spread))


def _cell(text: str) -> str:
    """One line that ends no cell and holds no markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
