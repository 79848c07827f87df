"""What the CMake files of a release fetch."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendor_helpers import found, release

from vllm_builder.errors import VendorError
from vllm_builder.stages.patch.cmake import CMakeFile
from vllm_builder.stages.vendor.conditions import evaluate
from vllm_builder.stages.vendor.discovery import discover
from vllm_builder.stages.vendor.scope import Scope, World

DEVICE = """
set(VLLM_TARGET_DEVICE "cuda" CACHE STRING "")
find_package(Torch REQUIRED)
if (NOT VLLM_TARGET_DEVICE STREQUAL "cuda" AND NOT VLLM_TARGET_DEVICE STREQUAL "rocm")
  return()
endif()
if (NOT HIP_FOUND AND CUDA_FOUND)
  set(VLLM_GPU_LANG "CUDA")
elseif(HIP_FOUND)
  set(VLLM_GPU_LANG "HIP")
else()
  message(FATAL_ERROR "neither")
endif()
"""


def fetch(name: str, tag: str, more: str = "") -> str:
    return f"""
FetchContent_Declare({name}
    GIT_REPOSITORY https://example.org/{name}.git
    GIT_TAG {tag} {more})
FetchContent_MakeAvailable({name})
"""


def test_the_device_decides(tmp_path: Path) -> None:
    text = DEVICE + f'if(VLLM_GPU_LANG STREQUAL "CUDA")\n{fetch("a", "v1")}\nendif()\n{fetch("b", "v2")}'
    for device, a, b in (
        ("cuda", "yes", "yes"),
        ("rocm", "no", "yes"),
        ("cpu", "no", "no"),
        ("empty", "no", "no"),
    ):
        externals = found(tmp_path / device, text, device)
        assert (externals["a v1"].needed, externals["b v2"].needed) == (a, b), device
    why = found(tmp_path / "why", text, "cpu")["b v2"].why
    assert "returned at CMakeLists.txt:4" in why


def test_variables_are_resolved_and_the_override_is_unset(tmp_path: Path) -> None:
    text = """
set(REPO "https://example.org/cutlass")
set(REVISION "v4.0.0" CACHE STRING "which")
if (DEFINED ENV{THE_SRC_DIR})
  set(THE_SRC_DIR $ENV{THE_SRC_DIR})
endif()
if(THE_SRC_DIR)
  FetchContent_Declare(cutlass SOURCE_DIR ${THE_SRC_DIR} CONFIGURE_COMMAND "")
else()
  FetchContent_Declare(
    cutlass
    GIT_REPOSITORY "${REPO}.git"
    # in step with the line above
    GIT_TAG ${REVISION}
    GIT_SUBMODULES "a/b" "c"
    GIT_SHALLOW TRUE
  )
endif()
FetchContent_MakeAvailable(cutlass)
"""
    (one,) = found(tmp_path / "a", text).values()
    assert (one.url, one.revision, one.written) == (
        "https://example.org/cutlass.git",
        "v4.0.0",
        "${REVISION}",
    )
    assert (one.submodules, one.shallow, one.override, one.needed) == (
        ("a/b", "c"),
        True,
        "THE_SRC_DIR",
        "yes",
    )
    assert one.line == 10
    # With a folder named in the environment, nothing is fetched.
    (other,) = found(tmp_path / "b", text, environment={"THE_SRC_DIR": "/somewhere"}).values()
    assert other.needed == "no"


def test_populate_with_all_details_and_after_declare(tmp_path: Path) -> None:
    text = """
set(_src "${FETCHCONTENT_BASE_DIR}/x-src")
if(EXISTS "${_src}/file")
  set(x_SOURCE_DIR "${_src}")
else()
  FetchContent_Populate(x SUBBUILD_DIR s SOURCE_DIR "${_src}" GIT_REPOSITORY https://example.org/x GIT_TAG 1)
endif()
FetchContent_Declare(y GIT_REPOSITORY https://example.org/y GIT_TAG 2)
FetchContent_GetProperties(y)
if(NOT y_POPULATED)
  FetchContent_Populate(y)
endif()
FetchContent_Declare(never GIT_REPOSITORY https://example.org/never GIT_TAG 3)
"""
    externals = found(tmp_path, text)
    assert {name: (one.form, one.needed) for name, one in externals.items()} == {
        "x 1": ("populate", "yes"),
        "y 2": ("declare", "yes"),
        "never 3": ("declare", "no"),
    }
    assert externals["never 3"].why == "declared, but never made available"


def test_an_undecided_condition_counts_as_needed_and_says_why(tmp_path: Path) -> None:
    text = f"""
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
{fetch("new", "v1")}
endif()
if(${{CMAKE_CUDA_COMPILER_VERSION}} VERSION_LESS 12)
{fetch("old", "v1")}
endif()
"""
    externals = found(tmp_path / "a", text)
    assert [one.needed for one in externals.values()] == ["maybe", "maybe"]
    assert "CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8" in externals["new v1"].why
    externals = found(tmp_path / "b", text, cuda="12.10")
    assert [one.needed for one in externals.values()] == ["yes", "no"]


def test_what_two_undecided_branches_set_alike_is_known(tmp_path: Path) -> None:
    text = """
if(SOMETHING_FOUND)
  set(TAG v1)
  set(OTHER x)
else()
  set(TAG v1)
  set(OTHER y)
endif()
FetchContent_Declare(a GIT_REPOSITORY https://example.org/a GIT_TAG ${TAG})
FetchContent_MakeAvailable(a)
FetchContent_Declare(b GIT_REPOSITORY https://example.org/b GIT_TAG ${OTHER})
FetchContent_MakeAvailable(b)
"""
    externals = found(tmp_path, text)
    assert externals["a v1"].needed == "yes"
    assert externals["b "].revision == ""


def test_the_platform_is_read_from_cpuinfo(tmp_path: Path) -> None:
    text = f"""
execute_process(COMMAND cat /proc/cpuinfo RESULT_VARIABLE RET OUTPUT_VARIABLE CPUINFO)
if(NOT RET EQUAL 0)
  message(FATAL_ERROR "no cpuinfo")
endif()
function (find_isa CPUINFO TARGET OUT)
    string(FIND ${{CPUINFO}} ${{TARGET}} ISA_FOUND)
    if(NOT ISA_FOUND EQUAL -1)
        set(${{OUT}} ON PARENT_SCOPE)
    else()
        set(${{OUT}} OFF PARENT_SCOPE)
    endif()
endfunction()
find_isa(${{CPUINFO}} "asimd" ASIMD_FOUND)
find_isa(${{CPUINFO}} "avx512f" AVX512_FOUND)
set(AVX512_DISABLED $ENV{{NO_AVX512}})
if(ASIMD_FOUND)
{fetch("one", "arm")}
elseif(AVX512_FOUND AND NOT AVX512_DISABLED)
{fetch("one", "x86")}
endif()
"""

    def needs(name: str, **more: object) -> list[str]:
        return [one.needed for one in found(tmp_path / name, text, "cpu", **more).values()]

    assert needs("unknown") == ["maybe", "maybe"]
    assert needs("arm", cpuinfo="Features: fp asimd") == ["yes", "no"]
    assert needs("x86", cpuinfo="flags: avx2 avx512f") == ["no", "yes"]
    assert needs("old", cpuinfo="flags: avx2") == ["no", "no"]
    assert needs("off", cpuinfo="flags: avx512f", environment={"NO_AVX512": "true"}) == ["no", "no"]


def test_included_files_loops_macros_and_returns(tmp_path: Path) -> None:
    tree = release(
        tmp_path,
        {
            "CMakeLists.txt": """
include(${CMAKE_CURRENT_LIST_DIR}/cmake/utils.cmake)
include(FetchContent)
foreach(name IN ITEMS p q)
  fetch(${name} v_${name})
endforeach()
include(cmake/more.cmake)
include(cmake/absent.cmake OPTIONAL)
""",
            "cmake/utils.cmake": """
macro(fetch NAME TAG)
  FetchContent_Declare(${NAME} GIT_REPOSITORY https://example.org/${NAME} GIT_TAG ${TAG})
  FetchContent_MakeAvailable(${NAME})
endmacro()
""",
            "cmake/more.cmake": fetch("before", "1") + "return()\n" + fetch("after", "2"),
        },
    )
    externals = {one.name: one for one in discover(tree, device="cuda")}
    assert externals["before"].needed == "yes"
    assert externals["after"].needed == "no"
    assert externals["before"].file == "cmake/more.cmake"
    # One call in a macro: the place counts, and the last name that it was reached with is not all there is.
    assert any(one.file == "cmake/utils.cmake" for one in externals.values())


def test_the_first_declaration_of_a_name_wins(tmp_path: Path) -> None:
    externals = found(tmp_path, fetch("a", "v1") + fetch("A", "v2"))
    assert externals["a v1"].needed == "yes"
    assert externals["A v2"].needed == "no"


def test_no_tree_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(VendorError, match=r"has no CMakeLists\.txt"):
        discover(tmp_path, device="cuda")
    with pytest.raises(VendorError) as error:
        found(tmp_path, "if(A\n")
    assert "CMakeLists.txt:1" in error.value.why


# Conditions ---------------------------------------------------------------------------------------
_WORDS = st.sampled_from(
    ["TRUE", "FALSE", "1", "0", "ON", "NO", "SET", "EMPTY", "UNSET", '"SET"', '""', '"ON"']
)
_COMPARED = st.builds(
    " ".join,
    st.tuples(
        st.sampled_from(["SET", '"1.10"', "1.9", "12.0", '"abc"', "${SET}", '"${EMPTY}"', "VERSION"]),
        st.sampled_from(["STREQUAL", "VERSION_LESS", "VERSION_GREATER_EQUAL", "EQUAL", "LESS", "MATCHES"]),
        st.sampled_from(["abc", '"abc"', "1.9", '"1.10"', "12", "SET", "VERSION"]),
    ),
)
_CONDITIONS = st.recursive(
    _WORDS | _COMPARED | st.sampled_from(["DEFINED SET", "DEFINED UNSET", "DEFINED ENV{NOBODY_SETS_THIS}"]),
    lambda inner: (
        st.builds("({})".format, inner)
        | st.builds("NOT ({})".format, inner)
        | st.builds("{} AND {}".format, inner, inner)
        | st.builds("{} OR {}".format, inner, inner)
    ),
    max_leaves=6,
)


def test_conditions_agree_with_cmake(tmp_path: Path, cmake: str) -> None:
    """What we say of a condition is what CMake itself says, for many conditions in one run of it."""
    texts: list[str] = []

    @given(_CONDITIONS)
    def collect(text: str) -> None:
        texts.append(text)

    collect()
    texts = list(dict.fromkeys(texts))
    assert len(texts) > 30
    head = 'set(SET "abc")\nset(EMPTY "")\nset(VERSION "1.9")\n'
    body = "".join(f'if({text})\n message("T")\nelse()\n message("F")\nendif()\n' for text in texts)
    script = tmp_path / "script.cmake"
    script.write_text("cmake_minimum_required(VERSION 3.18)\n" + head + body)
    run = subprocess.run([cmake, "-P", str(script)], capture_output=True, text=True, check=True)
    said = [line == "T" for line in run.stderr.splitlines() if line in {"T", "F"}]
    scope = Scope(World({}, {"SET", "EMPTY", "VERSION", "UNSET"}))
    for name, value in (("SET", "abc"), ("EMPTY", ""), ("VERSION", "1.9")):
        scope.set(name, value)
    for text, truth in zip(texts, said, strict=True):
        (block,) = CMakeFile(f"if({text})\nendif()\n".encode()).statements()
        ours = evaluate(block.branches[0].tokens, scope, lambda path: None)  # type: ignore[union-attr]
        assert ours is truth, text


@pytest.fixture
def cmake() -> str:
    path = shutil.which("cmake")
    if path is None:
        from importlib.util import find_spec

        spec = find_spec("cmake")
        assert spec is not None, "the tests need CMake: pip install cmake"
        assert spec.origin is not None
        path = str(Path(spec.origin).parent / "data" / "bin" / "cmake")
    return path


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("0.6.0", "cutlass"),
        ("0.8.5", "cutlass flashmla vllm-flash-attn"),
        ("0.20.0", "cutlass deepgemm flashmla qutlass triton_kernels vllm-flash-attn"),
        (
            "0.33.0",
            "cutlass deepgemm deepselect flashkda flashmla fmha_sm100 qutlass tml_fa4 triton_kernels "
            "vllm-flash-attn",
        ),
    ],
)
def test_real_releases(version: str, names: str, sdist: Callable[[str], Path], tmp_path: Path) -> None:
    from vllm_builder.stages.patch import READ_PATTERNS
    from vllm_builder.stages.source.extraction import extract
    from vllm_builder.stages.source.surveying import matcher

    extract(sdist(version), tmp_path / "tree", select=matcher(READ_PATTERNS))
    externals = discover(tmp_path / "tree", device="cuda", cuda="13.0", machine="x86_64")
    assert " ".join(sorted(one.name for one in externals if one.needed == "yes")) == names
    assert not [one for one in externals if one.needed == "maybe"]
    for device, cpuinfo, needed in (("empty", "", 0), ("cpu", "flags: avx512f", int(version != "0.6.0"))):
        others = discover(tmp_path / "tree", device=device, machine="x86_64", cpuinfo=cpuinfo)
        assert sum(one.needed == "yes" for one in others) == needed, device
