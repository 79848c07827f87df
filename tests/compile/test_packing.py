"""Which units wait for which: never too much memory at once, whatever the times turn out to be, and near to the bound."""

from __future__ import annotations

import random
from dataclasses import replace

import fitting
from hypothesis import given, settings
from hypothesis import strategies as st
from ninjasim import Run, simulate

from vllm_builder.stages.compile import buildfile, packing
from vllm_builder.stages.compile.packing import GIB, Packing, Schedule, Unit

units_strategy = st.lists(
    st.builds(
        Unit,
        seconds=st.one_of(st.just(0.0), st.floats(0.1, 500)),
        peak=st.integers(1, 20 * GIB),
        known=st.just(True),
        timed=st.just(True),
    ),
    max_size=25,
)
jobs_strategy = st.integers(1, 64)
memory_strategy = st.integers(1 << 20, 256 * GIB)


def written(units: list[Unit], jobs: int, found: Packing) -> str:
    """The build file that the packing leads to."""
    names = [f"u{n}.o" for n in range(len(units))]
    text = "".join(f"build {name}: CXX_COMPILER__x {name}.cpp || order_x\n\n" for name in names)
    text += f"build all: phony {' '.join(names)}\n"
    after = {name: [names[i] for i in others] for name, others in zip(names, found.after, strict=True)}
    starts = dict(zip(names, found.starts, strict=True))
    by_name = dict(zip(names, units, strict=True))
    return buildfile.rearrange(text, by_name, Schedule(jobs), after, starts)


def run(units: list[Unit], text: str, jobs: int, took: list[float], memory: int) -> Run:
    """What ninja makes of it when the units take what they take; one over all memory counts as all of it."""
    number = {f"u{n}.o": n for n in range(len(units))}
    return simulate(
        text,
        jobs,
        lambda e: took[number[e.name]] if e.name in number else 0.0,
        lambda e: min(memory, units[number[e.name]].peak) if e.name in number else 0,
        ["all"],
    )


@given(units_strategy, jobs_strategy, memory_strategy, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_memory_is_never_exceeded_and_every_unit_runs(
    units: list[Unit], jobs: int, memory: int, dice: random.Random
) -> None:
    found = packing.packed(units, jobs, memory, tries=300)
    text = written(units, jobs, found)
    planned = run(units, text, jobs, [u.seconds for u in units], memory)
    assert planned.memory <= memory
    assert len(planned.started) == len(units)
    assert planned.makespan <= found.seconds * (1 + 1e-9) + 1e-9
    # However wrong the times are; and what waits for what bounds the jobs too.
    otherwise = run(units, text, 10**6, [dice.uniform(0, 500) for _ in units], memory)
    assert otherwise.memory <= memory
    assert len(otherwise.started) == len(units)
    ones = [replace(u, peak=1) for u in units]
    assert run(ones, text, 10**6, [dice.uniform(0, 500) for _ in units], memory).memory <= jobs


@given(units_strategy.filter(bool), jobs_strategy, memory_strategy)
@settings(max_examples=60, deadline=None)
def test_never_over_three_times_the_bound_and_never_under_it(
    units: list[Unit], jobs: int, memory: int
) -> None:
    """Three is what Garey and Graham proved of any order on machines with one resource (1975)."""
    least = packing.bound(units, jobs, memory)
    found = packing.packed(units, jobs, memory, tries=300)
    assert found.seconds >= least * (1 - 1e-9)
    assert found.seconds <= 3 * least + 1e-6


@given(units_strategy, jobs_strategy, memory_strategy)
@settings(max_examples=60, deadline=None)
def test_a_pool_is_never_under_the_bound_and_takes_what_was_expected(
    units: list[Unit], jobs: int, memory: int
) -> None:
    units = [replace(u, peak=min(u.peak, memory)) for u in units]
    chosen = packing.choose(units, jobs, memory)
    seconds = packing.pooled_seconds(units, chosen)
    assert seconds >= packing.bound(units, jobs, memory) * (1 - 1e-9)
    text = buildfile.rearrange(
        written(units, jobs, Packing((0.0,) * len(units), (frozenset(),) * len(units), 0.0)),
        {f"u{n}.o": u for n, u in enumerate(units)},
        chosen,
    )
    found = run(units, text, chosen.jobs, [u.seconds for u in units], memory)
    assert found.memory <= memory
    assert abs(found.makespan - seconds) <= 1e-6 * max(1.0, seconds)


def test_two_large_compilers_and_six_small_ones_run_together() -> None:
    units = [Unit(100, 5 * GIB)] * 2 + [Unit(100, GIB)] * 6
    found = packing.packed(units, 8, 16 * GIB)
    assert found.seconds == 100
    assert not any(found.after)
    # With a byte less, one has to wait for another.
    assert packing.packed(units, 8, 16 * GIB - 1).seconds == 200


def test_what_no_memory_suffices_for_runs_alone() -> None:
    units = [Unit(10, 9 * GIB), Unit(10, GIB), Unit(10, GIB)]
    found = packing.packed(units, 4, 4 * GIB)
    assert found.seconds == 20
    assert len({found.starts[1], found.starts[2]} - {found.starts[0]}) == 1


def test_the_bound_knows_how_many_fit() -> None:
    # Of three that need over a third, two fit at once, and beside one over two thirds none of them does.
    assert packing.bound([Unit(60, 4 * GIB)] * 4, 8, 10 * GIB) == 120
    assert packing.bound([Unit(60, 7 * GIB)] * 2 + [Unit(60, 4 * GIB)] * 2, 8, 10 * GIB) == 180


@given(units_strategy.filter(bool), st.integers(1, 8), st.integers(GIB, 32 * GIB))
@settings(max_examples=40, deadline=None)
def test_the_linear_programs_bound_is_one_too(units: list[Unit], jobs: int, memory: int) -> None:
    assert fitting.least(units, jobs, memory) <= packing.packed(units, jobs, memory, tries=300).seconds * (
        1 + 1e-9
    )


def test_the_linear_program_sees_that_cores_and_memory_cannot_both_be_full() -> None:
    # Two of 6 GiB fill the memory and leave cores; four at once leave memory. 20 s of the one and 80 s of the other.
    units = [Unit(60, 6 * GIB)] * 2 + [Unit(60, GIB)] * 4
    assert packing.bound(units, 4, 12 * GIB) == 90
    assert abs(fitting.least(units, 4, 12 * GIB) - 100) < 1e-6


def test_the_same_units_are_packed_the_same_way() -> None:
    dice = random.Random(3)
    units = [Unit(dice.uniform(10, 400), dice.randrange(GIB, 6 * GIB)) for _ in range(40)]
    found = packing.packed(units, 8, 16 * GIB, tries=4000)
    assert found == packing.packed(units, 8, 16 * GIB, tries=4000)
