"""Which extension modules are left out, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_builder.architectures import can_run
from vllm_builder.errors import SettingsError, SourceError
from vllm_builder.stages.patch import PatchSelection, apply
from vllm_builder.stages.plan.extensions import (
    LeftOut,
    dead_extensions,
    extensions_left_out,
    leave_out_steps,
    listed,
    not_chosen,
)

NAMES = ("_moe_C", "_vllm_fa2_C", "_vllm_fa3_C", "_flashmla_C", "_C")


@pytest.mark.parametrize(
    ("code", "gpu", "runs"),
    [
        ("8.0", "8.0", True),
        ("8.0", "8.6", True),
        ("8.6", "8.0", False),
        ("8.0", "9.0", False),
        ("8.0", "10.0", False),
        ("8.0+PTX", "10.0", True),
        ("8.0+PTX", "7.0", False),
        ("9.0a", "9.0", True),
        ("9.0a", "9.0a", True),
        ("9.0a", "10.0", False),
        ("10.0f", "10.3", True),
        ("10.0a", "10.3", False),
        ("10.0f", "12.0", False),
        ("12.0", "12.0a", True),
        ("9.0", "10.0", False),
        ("10.0f+PTX", "12.0", False),
        ("9.0a+PTX", "10.0", False),
        ("9.0+PTX", "9.0", True),
    ],
)
def test_what_runs_where(code: str, gpu: str, runs: bool) -> None:
    assert can_run(code, gpu) is runs


@pytest.mark.parametrize(
    ("release", "archs", "dead"),
    [
        ("0.9.2", ("10.0",), {"_vllm_fa3_C"}),
        ("0.9.2", ("9.0", "10.0"), set()),
        ("0.9.2", ("9.0a",), set()),
        ("0.9.2", ("8.6",), set()),  # FA3 of that time has kernels for 8.0 too
        ("0.12.0", ("8.6",), {"_vllm_fa3_C"}),
        ("0.8.5.post1", ("7.0",), {"_vllm_fa2_C", "_vllm_fa3_C"}),
        ("0.8.5.post1", ("7.0", "8.0"), set()),
        ("0.7.3", ("10.0",), {"_vllm_fa2_C", "_vllm_fa3_C"}),
        ("0.33.0", ("12.0",), {"_vllm_fa3_C"}),
        ("0.6.0", ("7.0",), set()),
    ],
)
def test_dead_extensions(release: str, archs: tuple[str, ...], dead: set[str]) -> None:
    found = dead_extensions(NAMES, release, archs)
    assert set(found) == dead
    assert all(archs[0] in reason for reason in found.values())


def test_only_what_the_release_has_can_be_dead() -> None:
    assert dead_extensions(("_C",), "0.9.2", ("10.0",)) == {}


def test_chosen_extensions() -> None:
    assert list(not_chosen(NAMES, ("_C", "_moe_C"))) == ["_vllm_fa2_C", "_vllm_fa3_C", "_flashmla_C"]
    with pytest.raises(SettingsError, match="did you mean _moe_C") as caught:
        not_chosen(NAMES, ("_mo_C",))
    assert "_vllm_fa2_C" in caught.value.why


def test_other_files_go_to_a_module_that_is_built() -> None:
    def keepers(without: tuple[str, ...]) -> set[str]:
        steps = leave_out_steps(NAMES, dict.fromkeys(without, "why"), "test")
        return {getattr(step.operation, "component", "") for step in steps}

    assert keepers(("_vllm_fa3_C",)) == {"_C"}
    assert keepers(("_vllm_fa3_C", "_C")) == {"_moe_C"}
    assert leave_out_steps(NAMES, {}, "test") == ()


def test_a_tree_without_setup_py(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"setup\.py"):
        listed(tmp_path)


def test_the_steps_apply_to_a_tree(tmp_path: Path) -> None:
    lines = "".join(f'ext_modules.append(CMakeExtension(name="vllm.{name}"))\n' for name in NAMES)
    (tmp_path / "setup.py").write_text(lines)
    names = listed(tmp_path)
    assert names == NAMES
    dead = dead_extensions(names, "0.8.5", ("7.0",))
    apply(PatchSelection(steps=leave_out_steps(names, dead, "dead-extensions")), tmp_path)
    assert listed(tmp_path) == ("_moe_C", "_flashmla_C", "_C")


def test_what_the_plan_decides_and_tells(tmp_path: Path) -> None:
    lines = "".join(f'ext_modules.append(CMakeExtension(name="vllm.{name}"))\n' for name in NAMES)
    (tmp_path / "setup.py").write_text(lines)

    def decide(*archs: str, chosen: tuple[str, ...] = (), keep: bool = False) -> LeftOut:
        return extensions_left_out(tmp_path, "0.9.2", archs, chosen=chosen, keep_dead=keep)

    dead = decide("10.0")
    assert list(dead.reasons) == ["_vllm_fa3_C"]
    assert len(dead.steps) == 1
    assert dead.told[0][:2] == ("left out", "_vllm_fa3_C")
    kept = decide("10.0", keep=True)
    assert (kept.reasons, kept.steps) == ({}, ())
    assert "--keep-dead" in kept.told[0][2]
    assert decide("9.0a") == decide() == LeftOut()
    part = decide("10.0", chosen=("_C",))
    assert sorted(part.reasons) == sorted(set(NAMES) - {"_C"})
    assert "not stored" in part.told[0][2]
