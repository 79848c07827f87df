"""Which torch and toolkit go together: the golden cases, and what is said where none does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vllm_builder import errors
from vllm_builder.stages.plan.compatibility import compatibility, cuda_version
from vllm_builder.stages.plan.resolution import (
    Outcome,
    Question,
    ToolkitOption,
    TorchOption,
    resolve,
)
from vllm_builder.stages.plan.supported import Supported

V092 = ("7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.1", "12.0")


def torch(version: str, cuda: str | None, backend: str = "", origin: str = "the pin") -> TorchOption:
    return TorchOption(version, cuda, origin, backend)


PIN_27 = [torch("2.7.0", "12.6"), torch("2.7.0", "12.8", "cu128"), torch("2.7.0", "11.8", "cu118")]
TRIED = [torch("2.8.0", "12.9", "cu129", "tried"), torch("2.11.0", "13.0", origin="tried")]


def ask(
    archs: Sequence[str],
    torches: Sequence[TorchOption],
    nvccs: Sequence[str],
    *,
    keeps: Sequence[str] = V092,
    host: str | None = None,
    packaged: bool = False,
) -> Outcome:
    toolkits = [ToolkitOption(v, "usual folder", home=f"/cuda-{v}") for v in nvccs]
    if packaged:
        toolkits.append(ToolkitOption("13.0", "from packages", packaged="13.0.2"))
    return resolve(
        Question(
            release="0.9.2",
            archs=tuple(archs),
            torches=torches,
            toolkits=toolkits,
            supported=lambda _: Supported(tuple(keeps), loose=True),
            host=lambda _: host,
            machine="x86_64",
            free=[*PIN_27, *TRIED],
        )
    )


@pytest.mark.parametrize(
    ("archs", "nvccs", "packaged", "chosen", "nvcc"),
    [
        (["10.0"], ["12.8"], True, "torch 2.7.0+cu128", "12.8"),
        (["10.0"], ["12.9"], True, "torch 2.8.0+cu129", "12.9"),
        (["10.0"], ["13.0"], True, "torch 2.11.0+cu130", "13.0"),
        (["10.0"], [], True, "torch 2.11.0+cu130", "13.0"),
        (["10.0"], ["11.8", "12.4"], True, "torch 2.11.0+cu130", "13.0"),
        (["7.0"], ["11.8"], True, "torch 2.7.0+cu118", "11.8"),
        (["7.0"], ["13.0", "12.6"], True, "torch 2.7.0+cu126", "12.6"),
        (["9.0"], ["12.4", "12.6"], True, "torch 2.7.0+cu126", "12.6"),
    ],
)
def test_golden_cases_of_0_9_2(
    archs: list[str], nvccs: list[str], packaged: bool, chosen: str, nvcc: str
) -> None:
    found = ask(archs, [*PIN_27, *TRIED], nvccs, packaged=packaged)
    assert (str(found.torch), found.toolkit.version) == (chosen, nvcc)
    assert bool(found.toolkit.packaged) == (nvcc not in nvccs)


def test_everything_else_is_accounted_for() -> None:
    torches = [*PIN_27, *TRIED]
    found = ask(["10.0"], torches, ["13.0"], packaged=True)
    named = {f.what for f in found.fallen} | {str(t) for t, _ in found.runners_up} | {str(found.torch)}
    assert named == {str(t) for t in torches}
    assert [kit.packaged for _, kit in found.runners_up] == ["13.0.2"]


def test_a_toolkit_of_the_machine_comes_before_packages() -> None:
    assert ask(["10.0"], TRIED, ["13.0"], packaged=True).toolkit.home == "/cuda-13.0"


def test_sm_70_refuses_cuda_13_with_the_chain() -> None:
    with pytest.raises(errors.ArchError) as caught:
        ask(["7.0"], PIN_27, ["13.0"])
    assert "sm_70 (V100) needs nvcc >=9.0,<13.0; found 13.0 only" in caught.value.why
    assert "nvcc 11.8" in caught.value.next
    assert "torch 2.7.0+cu126 with nvcc 12.6" in caught.value.next


def test_torch_and_toolkit_must_agree_in_the_major_version() -> None:
    with pytest.raises(errors.ContradictionError) as caught:
        ask(["10.0"], [torch("2.8.0", "12.9", "cu129", "recipe b200")], ["13.0"])
    assert "built for CUDA 12.9 (recipe b200) -> needs nvcc 12.x; found 13.0 only" in caught.value.why
    assert "nvcc 12.9" in caught.value.next


def test_a_minor_difference_compiles_and_the_nearest_is_taken() -> None:
    found = ask(["10.0"], [torch("2.8.0", "12.9")], ["12.8"])
    assert found.toolkit.version == "12.8"
    assert ask(["10.0"], [torch("2.8.0", "12.9")], ["12.8", "12.9"]).toolkit.version == "12.9"


def test_torch_2_7_does_not_go_with_cuda_12_9() -> None:
    with pytest.raises(errors.ContradictionError, match="do not go together") as caught:
        ask(["10.0"], [torch("2.7.0", "12.8")], ["12.9"])
    assert "nvToolsExt" in caught.value.why


def test_an_arch_that_cmake_would_drop_is_an_error() -> None:
    with pytest.raises(errors.ArchError) as caught:
        ask(["7.0"], [torch("2.7.0", "12.6")], ["12.6"], keeps=["7.5", "8.0", "9.0"])
    assert "drop sm_70" in caught.value.why


def test_an_arch_that_the_release_serves_by_one_that_nvcc_does_not_know() -> None:
    with pytest.raises(errors.ArchError) as caught:
        ask(["10.3"], TRIED, ["13.0"])
    assert "sm_101" in caught.value.why


def test_an_arch_served_by_an_earlier_one_is_said() -> None:
    assert ask(["10.3"], TRIED, ["13.0"], keeps=["9.0", "10.0"]).kept_as == {"10.3": "10.0"}


def test_a_torch_that_cannot_run_there() -> None:
    with pytest.raises(errors.ArchError) as caught:
        ask(["10.0"], [torch("2.7.0", "12.6")], ["12.8"])
    assert "cannot run on sm_100" in caught.value.why
    assert "torch 2.7.0+cu128 with nvcc 12.8" in caught.value.next


def test_a_torch_without_cuda() -> None:
    with pytest.raises(errors.ContradictionError, match="without CUDA"):
        ask(["10.0"], [torch("2.13.0+cpu", None)], ["13.0"])


def test_a_family_needs_a_later_nvcc_than_its_base() -> None:
    with pytest.raises(errors.ArchError) as caught:
        ask(["10.0f"], TRIED, ["12.8"])
    assert "sm_100f (B200) needs nvcc >=12.9; found 12.8 only" in caught.value.why
    assert ask(["10.0f"], TRIED, ["12.8", "12.9"]).toolkit.version == "12.9"


def test_the_host_compiler_alone_in_the_way() -> None:
    with pytest.raises(errors.CompilerTooOld) as caught:
        ask(["10.0"], TRIED, ["13.0"], host="CUDA 13.0 supports gcc older than 16, but /usr/bin/c++ is 16.1")
    assert "16.1" in caught.value.why


def test_no_toolkit_at_all_says_what_would_work() -> None:
    with pytest.raises(errors.CompilerMissing) as caught:
        ask(["10.0"], [*PIN_27, *TRIED], [])
    assert "torch 2.7.0+cu128 with nvcc 12.8" in caught.value.next


def test_nvcc_itself_is_the_authority() -> None:
    kit = ToolkitOption("12.8", "x", home="/x", archs=("8.0", "9.0"))
    with pytest.raises(errors.ArchError):
        resolve(
            Question(
                release="0.9.2",
                archs=("10.0",),
                torches=[torch("2.7.0", "12.8")],
                toolkits=[kit],
                supported=lambda _: None,
                host=lambda _: None,
                machine="x86_64",
            )
        )


def test_the_table_is_consistent() -> None:
    table = compatibility()
    for version, entry in table.torch.items():
        assert entry.default in entry.builds
        for build in entry.builds:
            archs = table.archs_of_torch(f"{version}.0", cuda_version(build), "x86_64")
            assert archs, (version, build)
    for tried in table.also_tried:
        builds = table.torch_builds(tried.torch)
        assert builds is not None
        assert set(tried.builds) <= set(builds.builds)
    assert table.archs_of_torch("2.11.0", "12.6", "x86_64") != table.archs_of_torch(
        "2.11.0", "13.0", "x86_64"
    )


@pytest.mark.parametrize(
    ("arch", "loose", "kept"),
    [
        ("9.0", True, "9.0"),
        ("9.0a", True, "9.0a"),
        ("8.9", True, "8.6"),
        ("7.0", True, None),
        ("12.1", True, "12.0"),
        ("9.0a", False, None),
        ("8.9", False, None),
        ("8.6", False, "8.6"),
    ],
)
def test_what_cmake_keeps(arch: str, loose: bool, kept: str | None) -> None:
    assert Supported(("7.5", "8.0", "8.6", "9.0", "12.0"), loose).kept_as(arch) == kept
