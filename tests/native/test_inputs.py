"""Which files count as native, and what a call of cmake is taken for."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_helpers import NativeToy

from vllm_builder import treestate
from vllm_builder.stages.native.inputs import native_files
from vllm_builder.stages.native.standin import call_of, fingerprint


def _native(tree: Path, files: dict[str, str]) -> set[str]:
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    return set(native_files(tree, treestate.listing(tree)).files)


def test_sources_count_and_python_does_not(tmp_path: Path) -> None:
    files = [
        "csrc/a.cu",
        "csrc/generate.py",
        "cmake/utils.cmake",
        "cmake/hipify.py",
        "CMakeLists.txt",
        "setup.py",
    ]
    files += ["vllm/kernels/b.cuh", "third_party/c.h"]
    others = ["vllm/a.py", "vllm/config.json", "tests/kernels/a.cu", "docs/CMakeLists.txt", "pyproject.toml"]
    others += ["requirements/build.txt", "vllm/third_party/cutlass.src/include/d.h", "tools/unnamed.py"]
    assert _native(tmp_path, dict.fromkeys(files + others, "")) == set(files)


def test_what_cmake_names_counts(tmp_path: Path) -> None:
    text = """
    # configure_file(vllm/comment.py x)
    set(script "${CMAKE_SOURCE_DIR}/tools/build.py")
    file(READ vllm/table.json table)
    add_custom_command(COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/scripts ARGS x)
    install(TARGETS a DESTINATION vllm/attention)
    """
    files = {"CMakeLists.txt": text, "tools/build.py": "import near\nfrom far import x", "tools/near.py": ""}
    files |= {"tools/other.py": "", "vllm/table.json": "", "vllm/comment.py": "", "scripts/run/all.sh": ""}
    files |= {"vllm/attention/layer.py": ""}
    wanted = {"CMakeLists.txt", "tools/build.py", "tools/near.py", "vllm/table.json", "scripts/run/all.sh"}
    assert _native(tmp_path, files) == wanted


def test_an_external_source_counts_by_its_lock_and_a_patch_in_it_by_itself(tmp_path: Path) -> None:
    place = "vllm/third_party/cutlass.src/include/a.h"
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("")
    listed = treestate.listing(tmp_path)
    assert not native_files(tmp_path, listed).files
    assert set(native_files(tmp_path, listed, [place]).files) == {place}


def test_the_version_counts_where_native_code_asks_for_it(again: NativeToy) -> None:
    other = {"spec_version": "1.2.4+cpu", "spec_scm_version": "1.2.4+cpu"}
    assert again.forecast(again.plan(**other)).outcome == "reuse"
    again.edit("cmake/units.cmake", "file(", "message(STATUS $ENV{SETUPTOOLS_SCM_PRETEND_VERSION})\nfile(")
    one, two = again.forecast(), again.forecast(again.plan(**other))
    assert "version is 1.2.3+cpu, not none" in one.differing
    assert one.digest != two.digest


def test_a_source_that_is_not_here_is_decided_later(again: NativeToy) -> None:
    plan = again.plan()
    lost = plan.model_copy(
        update={"source": plan.source.model_copy(update={"identity": "sha256:" + "0" * 64, "kind": "sdist"})}
    )
    told = again.forecast(lost)
    assert (told.outcome, told.reason) == ("unknown", "decided once the source is here")


def test_an_empty_store_says_so(toy: NativeToy) -> None:
    assert toy.forecast().line() == "compile, because there is no native layer yet"


SETTINGS = {"places": {"/x/tree": "<tree>", "/x/tree/env": "<environment>"}, "environment": {}}


def _call(*arguments: str, **environ: str) -> dict[str, object]:
    settings = SETTINGS | {"environment": {"GIVEN": fingerprint("as it was")}}
    return call_of(arguments, {"GIVEN": "as it was", **environ}, settings)


@pytest.mark.parametrize(
    ("arguments", "kind", "kept"),
    [
        (
            ["/x/tree", "-GNinja", "-DA=/x/tree/env/bin"],
            "configure",
            ["<tree>", "-GNinja", "-DA=<environment>/bin"],
        ),
        (["/x/tree", "-DA=/x/tree-2;/x/trees"], "configure", ["<tree>", "-DA=/x/tree-2;/x/trees"]),
        (["/x/tree", "-DCMAKE_JOB_POOLS:STRING=compile=8", "-DNVCC_THREADS=2"], "configure", ["<tree>"]),
        (["/x/tree", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"], "configure", ["<tree>"]),
        (["--build", ".", "-j=8", "--target=_C"], "build", ["--build", ".", "--target=_C"]),
        (["--build", ".", "-j", "8", "--target=_C"], "build", ["--build", ".", "--target=_C"]),
        (["--install", ".", "--prefix", "/y", "--component", "_C"], "install", ["--component", "_C"]),
        (["--install", ".", "--prefix", "/y"], "other", ["--install", ".", "--prefix", "/y"]),
        (["--preset", "x"], "other", ["--preset", "x"]),
    ],
)
def test_a_call_means_the_same_in_any_folder(arguments: list[str], kind: str, kept: list[str]) -> None:
    assert _call(*arguments) == {"kind": kind, "arguments": _without_jobs(kept), "environment": {}}


def _without_jobs(arguments: list[str]) -> list[str]:
    return [a for a in arguments if a != "-j"]


def test_variables_that_setup_py_changes_count(tmp_path: Path) -> None:
    assert _call("/x/tree", MORE="/x/tree/a")["environment"] == {"MORE": "<tree>/a"}
    assert _call("/x/tree", GIVEN="other")["environment"] == {"GIVEN": "other"}
    assert _call("/x/tree", SETUPTOOLS_SCM_PRETEND_VERSION="1", PWD="/y")["environment"] == {}
    gone = call_of(["/x/tree"], {}, SETTINGS | {"environment": {"GIVEN": "f"}})
    assert gone["environment"] == {"GIVEN": None}


@given(st.lists(st.text(max_size=8), max_size=6), st.integers(1, 999))
def test_jobs_never_count(arguments: list[str], jobs: int) -> None:
    options = ["--build", ".", *arguments]
    assert call_of([*options, f"-j={jobs}"], {}, SETTINGS) == call_of([*options, "-j=1"], {}, SETTINGS)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("one", "two"), [("0.8.5", "0.8.5.post1"), ("0.10.1", "0.10.1.1"), ("0.27.0", "0.27.1")]
)
def test_pairs_of_releases_that_share_their_native_files(
    sdist: Callable[[str], Path], tmp_path: Path, one: str, two: str
) -> None:
    found = []
    for version in (one, two):
        with tarfile.open(sdist(version)) as archive:
            archive.extractall(tmp_path / version, filter="data")
        tree = tmp_path / version / f"vllm-{version}"
        found.append(native_files(tree, treestate.listing(tree)))
    assert found[0] == found[1]
    assert not found[0].asks_version
    assert len(found[0].files) > 100
