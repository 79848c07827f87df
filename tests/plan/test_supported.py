"""What the releases' own CMake files compile for: our reading against CMake's."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_builder.stages.plan.supported import guarded_extensions, supported_archs

ASKED = (
    "7.0",
    "7.2",
    "7.5",
    "8.0",
    "8.7",
    "8.8",
    "8.9",
    "9.0",
    "9.0a",
    "10.0",
    "10.0a",
    "10.3",
    "12.0",
    "12.1",
)


def _tree(folder: Path, text: str) -> Path:
    (folder / "CMakeLists.txt").write_text(text)
    return folder


def test_a_list_under_no_condition(tmp_path: Path) -> None:
    found = supported_archs(_tree(tmp_path, 'set(CUDA_SUPPORTED_ARCHS "7.0;7.5")\n'), "13.0")
    assert found is not None
    assert (found.archs, found.loose) == (("7.0", "7.5"), False)


@pytest.mark.parametrize(("regex", "kept"), [("[0-9]+a?", None), ("[0-9]+[af]?", "10.0f")])
def test_a_family_is_dropped_where_cmake_takes_only_the_number(
    tmp_path: Path, regex: str, kept: str | None
) -> None:
    (tmp_path / "cmake").mkdir()
    (tmp_path / "cmake" / "utils.cmake").write_text(
        f'string(REGEX MATCH "arch=compute_\\({regex}\\)" _COMPUTE ${{_ARCH}})\n'
    )
    text = 'set(CUDA_SUPPORTED_ARCHS "9.0;10.0")\ncuda_archs_loose_intersection(CUDA_ARCHS "" "")\n'
    found = supported_archs(_tree(tmp_path, text), "13.0")
    assert found is not None
    assert found.kept_as("10.0f") == kept
    assert found.kept_as("10.0a") == "10.0a"


@pytest.mark.parametrize(
    ("nvcc", "archs"), [("13.1", ("7.5",)), ("13.0", ("7.5",)), ("12.8", ("7.0",)), ("11.8", ("6.0",))]
)
def test_branches_over_the_version_of_nvcc(tmp_path: Path, nvcc: str, archs: tuple[str, ...]) -> None:
    text = (
        "if(DEFINED CMAKE_CUDA_COMPILER_VERSION AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)\n"
        '  set(CUDA_SUPPORTED_ARCHS "7.5")\n'
        "elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER 12.1)\n  set(CUDA_SUPPORTED_ARCHS 7.0)\n"
        'else()\n  set(CUDA_SUPPORTED_ARCHS "6.0")\nendif()\n'
    )
    found = supported_archs(_tree(tmp_path, text), nvcc)
    assert found is not None
    assert found.archs == archs


@pytest.mark.parametrize("text", ["", 'if(WIN32)\n  set(CUDA_SUPPORTED_ARCHS "7.0")\nendif()\n'])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, text: str) -> None:
    assert supported_archs(_tree(tmp_path, text), "13.0") is None
    assert supported_archs(tmp_path / "nowhere", "13.0") is None


@pytest.mark.corpus
@pytest.mark.parametrize("version", ["0.6.4", "0.9.2", "0.11.1", "0.20.0", "0.33.0"])
@pytest.mark.parametrize("nvcc", ["12.6", "12.8", "13.0"])
def test_cmake_itself_keeps_the_same(
    sdist: Callable[[str], Path], tmp_path: Path, version: str, nvcc: str, cmake: Path
) -> None:
    with tarfile.open(sdist(version)) as archive:
        for name in ("CMakeLists.txt", "cmake/utils.cmake"):
            member = archive.extractfile(f"vllm-{version}/{name}")
            assert member is not None
            (tmp_path / Path(name).name).write_bytes(member.read())
    found = supported_archs(tmp_path, nvcc)
    assert found is not None
    for arch in ASKED:
        (tmp_path / "ask.cmake").write_text(
            "cmake_minimum_required(VERSION 3.18)\n"
            f'set(CUDA_ARCHS "{arch}")\n'  # early ones read this one instead of their argument
            "include(${CMAKE_CURRENT_LIST_DIR}/utils.cmake)\n"
            f'cuda_archs_loose_intersection(KEPT "{";".join(found.archs)}" "{arch}")\n'
            'message("kept=${KEPT}")\n'
        )
        said = subprocess.run(
            [str(cmake), "-P", str(tmp_path / "ask.cmake")], capture_output=True, text=True, check=True
        ).stderr
        kept = said.strip().removeprefix("kept=")
        if kept.split(".")[0] != arch.split(".")[0]:
            # Early ones take code of an earlier major version, which cannot run there: as good as dropped.
            kept = ""
        ours = found.kept_as(arch) or ""
        assert ours.rstrip("af") == kept.rstrip("af"), (arch, kept, ours)


def test_modules_that_cmake_makes_only_for_some_architectures(tmp_path: Path) -> None:
    (tmp_path / "cmake").mkdir()
    (tmp_path / "CMakeLists.txt").write_text("define_gpu_extension_target(_C DESTINATION vllm)\n")
    (tmp_path / "cmake" / "mla.cmake").write_text(
        'set(SUPPORT_ARCHS)\nlist(APPEND SUPPORT_ARCHS 9.0a)\nif(NEW)\nlist(APPEND SUPPORT_ARCHS "10.0f")\nendif()\n'
        'cuda_archs_loose_intersection(MLA_ARCHS "${SUPPORT_ARCHS}" "${CUDA_ARCHS}")\n'
        "if(NEW AND MLA_ARCHS)\ndefine_extension_target(_mla_C DESTINATION vllm)\nendif()\n"
        'cuda_archs_loose_intersection(X_ARCHS "${FROM_ELSEWHERE}" "${CUDA_ARCHS}")\n'
        "if(X_ARCHS)\ndefine_extension_target(_x_C DESTINATION vllm)\nendif()\n"
    )
    # Of _x_C it cannot be told, and _C is made for all.
    assert guarded_extensions(tmp_path) == {"_mla_C": ("10.0f", "9.0a")}
