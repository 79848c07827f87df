"""What a real ninja leaves, in the journal and in the report of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from compile_helpers import build

from vllm_builder.errors import BuilderError
from vllm_builder.events import Event
from vllm_builder.report.collecting import collect
from vllm_builder.report.journal import Journal
from vllm_builder.report.reading import read
from vllm_builder.stages.compile import compile_wheel
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import Environment

FACTS = {"digest": "c0ffee", "release": "0.9.2", "version": "0.9.2+cpu", "device": "cpu"}


def begin(path: Path, tree: Path) -> Journal:
    journal = Journal(path)
    journal.begin({"plan": FACTS, "tree": str(tree.resolve())})
    return journal


def test_units_of_a_build_that_failed_and_of_the_next_one(
    spec: CompileSpec, make_tree: Callable[..., Path], environment: Environment, tmp_path: Path
) -> None:
    tree, path = make_tree(units=4), tmp_path / "journal"
    right = (tree / "csrc/unit_2.cpp").read_text()
    (tree / "csrc/unit_2.cpp").write_text("no c++\n")
    journal = begin(path, tree)
    with pytest.raises(BuilderError):
        compile_wheel(
            spec, tree=tree, environment=environment, dist=tmp_path / "dist", log=tmp_path / "log",
            environ=os.environ, emit=journal,
        )  # fmt: skip
    journal.write("end", outcome="failed", fault=None)
    journal.close()

    (tree / "csrc/unit_2.cpp").write_text(right)
    journal = begin(path, tree)
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        journal(event)

    result = compile_wheel(
        spec, tree=tree, environment=environment, dist=tmp_path / "dist", log=tmp_path / "log",
        environ=os.environ, emit=emit,
    )  # fmt: skip
    journal.write("end", outcome="built", cache={}, left_out=[], resumed_from=result.resumed_from)
    journal.close()

    report = collect(read(path))
    first, second = report.runs
    assert (first.earlier, second.earlier) == (True, False)
    assert len(first.units) == result.resumed_from
    assert len(second.units) == result.units
    compiled = [unit.name for run in report.runs for unit in run.units if unit.kind == "compile"]
    assert sorted(compiled) == [f"csrc/unit_{n}.cpp" for n in range(4)]
    assert "csrc/unit_2.cpp" in [unit.name for unit in second.units]
    for run in report.runs:
        for unit in run.units:
            # ninja's clock and the file system's agree with ours to some milliseconds.
            assert 0 < unit.start < unit.start + unit.seconds <= run.seconds + 0.5
    # The link comes after everything, whatever its time stamp says.
    link = next(unit for unit in second.units if unit.kind == "link")
    assert all(unit.start + unit.seconds <= link.start + 0.1 for unit in second.units if unit is not link)


def test_a_build_that_is_heard_by_nobody_goes_on(
    spec: CompileSpec, make_tree: Callable[..., Path], environment: Environment
) -> None:
    assert build(spec, make_tree(units=1), environment).units == 2
