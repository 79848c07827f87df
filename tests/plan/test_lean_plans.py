"""The setting lean_headers and what it does to a plan."""

from __future__ import annotations

from typing import Any

import pytest
from cuda_machine import Machine
from cuda_person import Person

from vllm_builder.errors import BuilderError, ContradictionError, SettingsError
from vllm_builder.resources import shipped
from vllm_builder.stages.plan.model import Plan


def _plan(machine: Machine, **options: Any) -> Plan:
    machine.toolkit("13.0")
    return machine.plan(arch=("10.0",), **options)


def _sets(made: Plan) -> set[str]:
    return {step.set for step in made.patches.steps}


def test_lean_headers_take_part_and_can_be_switched_off(machine: Machine) -> None:
    lean = _plan(machine)
    full = _plan(machine, lean_headers=False)
    assert _sets(lean) - _sets(full) == {"lean-headers"}
    assert lean.digest != full.digest
    by_name = ("existing-torch-script", "torch-pins", "license-field", "lean-headers")
    assert _plan(machine, without_patch=by_name).digest == full.digest
    assert _plan(machine, lean_headers=False, without_patch=by_name).digest == full.digest


def test_asking_for_them_and_switching_them_off_exclude_each_other(machine: Machine) -> None:
    with pytest.raises(ContradictionError, match="no-lean-headers"):
        _plan(machine, lean_headers=False, with_patch=("lean-headers",))


def test_the_environment_can_switch_them_off(machine: Machine) -> None:
    machine.environ["VLLM_BUILDER_LEAN_HEADERS"] = "false"
    assert "lean-headers" not in _sets(_plan(machine))


def test_what_the_header_includes_is_part_of_the_digest(machine: Machine) -> None:
    lean = _plan(machine)
    own = machine.folder / "sets"
    own.mkdir()
    text = (shipped("patches") / "lean-headers.toml").read_text()
    (own / "lean-headers.toml").write_text(text.replace("#include <torch/types.h>\n", ""))
    assert _plan(machine, patches=(own,)).digest != lean.digest


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (("--arch", "10.0", "--all", "--units", "3"), ContradictionError, "--units"),
        (("--arch", "10.0", "--no-lean-headers"), SettingsError, "--no-lean-headers"),
        (("--arch", "10.0", "--without-patch", "lean-headers"), SettingsError, "--without-patch"),
    ],
)
def test_there_must_be_something_to_prove(
    person: Person, arguments: tuple[str, ...], error: type[BuilderError], told: str
) -> None:
    person.machine.toolkit("13.0")
    assert told in person.fails(error, "prove-lean", *arguments)
