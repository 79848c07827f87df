"""Whole plans for CUDA on machines with made-up toolkits and an index of empty wheels. No network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cuda_machine import SETUP, Machine, decided

from vllm_builder import errors
from vllm_builder.cache import Cache, Workspace
from vllm_builder.events import Event, Note
from vllm_builder.pipeline import run
from vllm_builder.resources import shipped
from vllm_builder.stages.compile import isolation
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.store import CompileFacts, Record, Store, WheelFile, now


def test_without_a_toolkit_one_is_put_together_and_said(machine: Machine) -> None:
    machine.toolkit_packages()
    made = machine.plan(arch=("sm_100",))
    assert made.torch is not None
    assert (made.torch.version, made.torch.cuda) == ("2.11.0", "13.0")
    assert made.toolkit is not None
    assert made.toolkit.spec is not None
    assert "nvidia-nvvm==13.0.88" in made.toolkit.spec.lock
    assert made.compile.cuda_home == made.toolkit.home
    assert not Path(made.toolkit.home).exists(), "a plan makes nothing"
    assert [c.version for c in made.compile.compilers if c.language == "CUDA"] == ["13.0.88"]
    assert made.compile.version == "0.9.2+cu130"
    (line,) = decided(made, "CUDA toolkit")
    assert "no toolkit of this machine fits" in line
    assert any("torch 2.7.0+cu126" in line for line in decided(made, "fell out"))


def test_the_plan_says_what_its_wheel_has_to_be(machine: Machine) -> None:
    names = ("_C", "_moe_C", "_vllm_fa3_C", "_rocm_C")
    requirements = """
def get_requirements():
    if _is_cuda():
        requirements = _read_requirements("cuda.txt")
"""
    extensions = "".join(f'ext_modules.append(CMakeExtension(name="vllm.{name}"))\n' for name in names)
    source = machine.release(
        "0.9.2",
        files={
            "setup.py": SETUP + requirements + extensions,
            "requirements/cuda.txt": "torch==2.7.0\nnumpy\n",
            "CMakeLists.txt": 'cuda_archs_loose_intersection(ALLSPARK_ARCHS "8.0;8.6" "${CUDA_ARCHS}")\n',
        },
    )
    machine.toolkit("13.0")
    made = machine.plan(arch=("sm_100",), torch="2.11.0", source=str(source))
    expected = made.expectations
    assert expected is not None
    assert (expected.release, expected.version, expected.torch) == ("0.9.2", "0.9.2+cu130", "2.11.0")
    assert (expected.device, expected.archs) == ("cuda", ("10.0",))
    assert expected.limited_api == (made.compile.limited_api or "")
    by_name = {one.name: one for one in expected.extensions or ()}
    assert set(by_name) == {"_C", "_moe_C", "_vllm_fa3_C"}  # what this setup.py has of the release's
    assert by_name["_C"].required
    assert not by_name["_vllm_fa3_C"].required
    assert "left out on purpose" in by_name["_vllm_fa3_C"].reason
    assert expected.lists == ("8.0;8.6",)
    assert expected.requirements == ("torch==2.7.0", "numpy")
    # It follows from the rest, and is no part of the digest.
    assert made.model_copy(update={"expectations": None}).digest == made.digest


def test_the_lock_of_the_toolkit_is_part_of_the_digest(machine: Machine) -> None:
    machine.toolkit_packages()
    made = machine.plan(arch=("sm_100",))
    machine.toolkit("13.0")
    of_the_machine = machine.plan(arch=("sm_100",))
    assert of_the_machine.toolkit is not None
    assert of_the_machine.toolkit.spec is None
    assert made.digest != of_the_machine.digest
    assert machine.plan(arch=("sm_100",), cuda="pypi").digest == made.digest


def test_the_pin_with_a_toolkit_that_fits(machine: Machine) -> None:
    machine.toolkit("12.6")
    machine.toolkit("13.0")
    made = machine.plan(arch=("sm_90",))
    assert made.torch is not None
    assert made.torch.version == "2.7.0"
    assert made.toolkit is not None
    assert made.toolkit.version == "12.6"


def test_b200_plans_as_the_procedure_does_by_hand(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch's own indexes are not asked here: the folder of links stands for the one that the recipe names.
    monkeypatch.setattr("vllm_builder.stages.plan.torch.PYTORCH_INDEX", re.compile("none of them"))
    machine.wheel("torch", "2.8.0+cu129")
    recipe = Path(str(shipped("recipes") / "b200.toml")).read_text().replace('python = "3.12"\n', "")
    (machine.folder / "b200.toml").write_text(recipe)
    machine.toolkit("13.0")
    with pytest.raises(errors.ContradictionError) as caught:
        machine.plan(recipe=str(machine.folder / "b200.toml"))
    assert "torch 2.8.0+cu129: built for CUDA 12.9" in caught.value.why
    assert "needs nvcc 12.x; found 13.0 only" in caught.value.why
    machine.toolkit("12.9")
    made = machine.plan(recipe=str(machine.folder / "b200.toml"))
    assert made.toolkit is not None
    assert (made.toolkit.version, made.compile.archs) == ("12.9", ("10.0",))
    assert made.compile.version == "0.9.2+cu129"


def test_the_order_and_spelling_of_a_recipes_architectures_do_not_change_the_digest(machine: Machine) -> None:
    machine.toolkit("12.6")
    digests = set()
    for number, archs in enumerate(('["8.0", "9.0"]', '["sm_90", "8.0", "9.0"]')):
        recipe = machine.folder / f"mine{number}.toml"
        recipe.write_text(f"arch = {archs}\n")
        digests.add(machine.plan(recipe=str(recipe)).digest)
    assert len(digests) == 1


def test_v100_plans_with_cuda_12_and_refuses_13(machine: Machine) -> None:
    machine.toolkit("13.0")
    with pytest.raises(errors.ArchError) as caught:
        machine.plan(recipe="v100")
    assert "sm_70 (V100) needs nvcc >=9.0,<13.0; found 13.0 only" in caught.value.why
    machine.toolkit("12.6")
    made = machine.plan(recipe="v100")
    assert made.toolkit is not None
    assert (made.toolkit.version, made.torch.version if made.torch else "") == ("12.6", "2.7.0")


def test_an_arch_that_the_release_drops_is_refused_before_anything_is_fetched(machine: Machine) -> None:
    machine.toolkit("12.4")
    with pytest.raises(errors.ArchError) as caught:
        machine.plan(arch=("sm_90", "sm_120"), cuda="system")
    assert "sm_120" in caught.value.what
    assert "sm_90" not in caught.value.what
    machine.toolkit("13.0")
    with pytest.raises(errors.ArchError) as caught:
        machine.plan(arch=("sm_110",))
    assert "drop sm_110 without a word" in caught.value.why
    assert not (machine.folder / "cache" / "environments").exists()


def test_a_base_arch_with_its_suffixed_form(machine: Machine) -> None:
    with pytest.raises(errors.ArchError, match="exclude each other"):
        machine.plan(arch=("sm_100", "10.0a"))


def test_a_gcc_that_is_too_new_for_this_cuda(machine: Machine) -> None:
    machine.toolkit("12.6")
    machine.gcc("15.1.0")
    with pytest.raises(errors.CompilerTooOld) as caught:
        machine.plan(arch=("sm_90",), cuda="system")
    assert "gcc older than 14" in caught.value.why
    assert "15.1.0" in caught.value.why


def test_half_a_toolkit_is_passed_over_unless_it_is_named(machine: Machine) -> None:
    half = machine.toolkit("12.8")
    (half / "include" / "cuda_runtime.h").unlink()
    machine.toolkit("12.6")
    made = machine.plan(arch=("sm_90",))
    assert made.toolkit is not None
    assert made.toolkit.version == "12.6"
    (line,) = decided(made, "toolkit passed over")
    assert "lacks cuda_runtime.h" in line
    for named in ({"cuda_home": half}, {"cuda": str(half)}):
        with pytest.raises(errors.CompilerMissing, match="whole CUDA toolkit") as caught:
            machine.plan(arch=("sm_90",), **named)
        assert "lacks cuda_runtime.h" in caught.value.why
    machine.environ["CUDA_HOME"] = str(half)
    with pytest.raises(errors.CompilerMissing, match="CUDA_HOME"):
        machine.plan(arch=("sm_90",))


def test_a_broken_nvcc_that_is_named(machine: Machine) -> None:
    home = machine.toolkit("12.6")
    (home / "bin" / "nvcc").write_text("#!/bin/sh\necho no such library >&2\nexit 127\n")
    with pytest.raises(errors.CompilerMissing) as caught:
        machine.plan(arch=("sm_90",), cuda_home=home)
    assert "no such library" in caught.value.why


def test_options_overrule_the_environment_and_each_other_never(machine: Machine) -> None:
    machine.environ["CUDA_HOME"] = str(machine.toolkit("13.0"))
    other = machine.toolkit("12.6")
    made = machine.plan(arch=("sm_90",), cuda_home=other)
    assert made.toolkit is not None
    assert made.toolkit.version == "12.6"
    with pytest.raises(errors.ContradictionError, match="--cuda-home"):
        machine.plan(arch=("sm_90",), cuda_home=other, cuda="pypi")
    with pytest.raises(errors.SettingsError):
        machine.plan(arch=("sm_90",), cuda="conda")


def test_no_toolkit_and_none_wanted_from_packages(machine: Machine) -> None:
    with pytest.raises(errors.CompilerMissing) as caught:
        machine.plan(arch=("sm_90",), cuda="system")
    assert "Would work" in caught.value.next


def test_a_torch_that_was_asked_for_and_no_toolkit_for_it(machine: Machine) -> None:
    machine.toolkit("12.9")
    with pytest.raises(errors.ContradictionError) as caught:
        machine.plan(arch=("sm_90",), torch="2.11.0", torch_index="cu130", cuda="system")
    assert "--torch-index cu130" in caught.value.why
    assert "--cuda pypi" in caught.value.next
    with pytest.raises(errors.ContradictionError, match="cu118"):
        machine.plan(arch=("sm_90",), torch="2.11.0", torch_index="cu118")


def test_an_index_whose_build_is_for_another_cuda_has_the_last_word(machine: Machine) -> None:
    # A mirror that holds cu118 under the plain version: the table expects CUDA 12.6 there.
    machine.wheel("torch", "2.7.0+cu118")
    machine.toolkit("12.6")
    with pytest.raises(errors.ContradictionError) as caught:
        machine.plan(arch=("sm_90",), cuda="system")
    assert "built for CUDA 11.8" in caught.value.why


@pytest.mark.parametrize(
    ("max_jobs", "threads", "compilers"), [("8", "2", 4), ("8", "1", 8), ("1", "4", 1), ("7", "2", 3)]
)
def test_max_jobs_is_divided_among_the_threads_of_nvcc(
    machine: Machine, max_jobs: str, threads: str, compilers: int
) -> None:
    machine.toolkit("12.6")
    machine.environ |= {"MAX_JOBS": max_jobs, "NVCC_THREADS": threads}
    made = machine.plan(arch=("sm_90",))
    assert made.compile.jobs == compilers
    assert made.compile.nvcc_threads == int(threads)
    # What was said to vllm-builder itself counts compilers.
    assert machine.plan(arch=("sm_90",), jobs=5).compile.jobs == 5


@pytest.mark.skipif(isolation.refusal() is not None, reason="this kernel allows no namespaces")
def test_isolation_is_no_input_of_the_wheel_and_a_wheel_from_the_store_is_told_apart(
    machine: Machine, tmp_path: Path
) -> None:
    machine.toolkit("12.6")
    open_, alone = machine.plan(arch=("sm_90",)), machine.plan(arch=("sm_90",), isolate=True)
    assert (open_.compile.isolate, alone.compile.isolate) == (False, True)
    assert open_.digest == alone.digest
    assert decided(alone, "network while compiling") == ["none: --isolate (command line)"]

    cache, workspace = Cache(tmp_path / "cache"), Workspace(tmp_path / "build")
    wheel = tmp_path / "vllm-0.9.2+cu126-cp38-abi3-linux_x86_64.whl"
    wheel.write_bytes(b"x")
    facts: dict[str, Any] = {"release": "0.9.2", "version": "0.9.2+cu126", "device": "cuda", "created": now()}
    record = Record(digest=alone.digest, wheel=WheelFile.of(wheel), **facts)

    def warnings(made: Plan) -> list[str]:
        events: list[Event] = []
        assert run(made, cache=cache, workspace=workspace, environ={}, emit=events.append).from_store
        return [e.message for e in events if isinstance(e, Note) and e.level == "warning"]

    Store(cache.store).add(alone.digest, wheel, record)
    assert warnings(open_) == []
    (said,) = warnings(alone)
    assert "--force" in said
    isolated = record.model_copy(update={"compile": CompileFacts(isolated=True)})
    Store(cache.store).add(alone.digest, wheel, isolated, force=True)
    assert warnings(alone) == []


def test_isolation_and_sccache_are_refused_together(machine: Machine) -> None:
    with pytest.raises(errors.ContradictionError, match="sccache"):
        machine.plan(arch=("sm_90",), isolate=True, compiler_cache="sccache")


def test_the_plan_says_whether_nvcc_is_split(machine: Machine) -> None:
    machine.toolkit_packages()
    split = machine.plan(arch=("sm_90",))
    whole = machine.plan(arch=("sm_90",), compiler_cache="ccache")
    assert (bool(split.compile.passes_dir), bool(whole.compile.passes_dir)) == (True, False)
    assert split.digest == whole.digest
    assert [d.value for d in split.decisions if d.what == "compiler cache"] == [
        "ccache, then each pass of nvcc"
    ]
    with pytest.raises(errors.ContradictionError, match="without CUDA"):
        machine.plan(device="cpu", compiler_cache="split")
