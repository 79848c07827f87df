"""The shipped sets over real releases, judged by the benchmark's own rules, and those rules themselves."""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from patch_helpers import contents, write

from vllm_builder.resources import shipped
from vllm_builder.stages.patch import READ_PATTERNS, apply, load, patterns_of, select
from vllm_builder.stages.patch.operations import paths_of

RELEASES = [
    "0.6.0",
    "0.6.4.post1",
    "0.7.3",
    "0.8.5.post1",
    "0.9.0.1",
    "0.9.2",
    "0.10.2",
    "0.14.1",
    "0.20.0",
    "0.27.0",
    "0.33.0",
]
FAMILY = ("torch", "torchaudio", "torchcodec", "torchvision", "xformers")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "patch_releases.py"
    spec = importlib.util.spec_from_file_location("patch_releases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.corpus
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("device", "numa", "setuptools"),
    [("cpu", False, "80.9.0"), ("cpu", True, "69.5.1"), ("cuda", False, "77.0.3"), ("empty", True, "77.0.2")],
)
def test_every_release_is_patched_and_nothing_else_is_touched(
    benchmark: ModuleType,
    sdist: Callable[[str], Path],
    release: str,
    device: str,
    numa: bool,
    setuptools: str,
) -> None:
    row = benchmark.examine(sdist(release), setuptools=setuptools, device=device, numa=numa)
    assert row.violations == []
    assert row.removed > 4


def test_all_that_shipped_sets_read_is_among_the_surveyed_files() -> None:
    sets = load([shipped("patches")])
    beyond = set(patterns_of(sets)) - set(READ_PATTERNS)
    # Narrower patterns of the same files, files that are only ever created, and a few sources by name.
    created = {one.file for made in sets.values() for one in made.operation if one.action == "create_file"}
    sources = {path for path in beyond - created if re.fullmatch(r"csrc/.*\.(cu|cuh|h|hpp)", path)}
    assert not any("*" in path for path in sources | created)
    assert beyond - sources - created == {
        "cmake/cpu_extension.cmake",
        "requirements/**/*.in",
        "requirements/**/*.txt",
    }


@pytest.mark.corpus
@pytest.mark.parametrize("release", RELEASES)
def test_a_torch_for_cuda_is_linked_for_its_cpu_part_alone(
    sdist: Callable[[str], Path], release: str, tmp_path: Path
) -> None:
    with tarfile.open(sdist(release)) as archive:
        member = archive.extractfile(f"vllm-{release}/CMakeLists.txt")
        assert member is not None
        before = member.read()
    sets = {"cpu-torch": load([shipped("patches")])["cpu-torch"]}

    def patched(device: Any, **facts: bool) -> list[str]:
        write(tmp_path, {"CMakeLists.txt": before.decode()})
        for _ in range(2):
            apply(select(sets, release=release, device=device, facts=facts), tmp_path)
        old, new = before.decode().splitlines(), contents(tmp_path)["CMakeLists.txt"].decode().splitlines()
        changes = [line for line in difflib.ndiff(old, new) if line[:1] in "+-"]
        return [line.split("(")[0] for line in changes]

    assert patched("cpu", torch_cuda=True) == [
        "+ add_library",
        "+ if",
        "+   set_target_properties",
        "+ endif",
        "+ list",
    ]
    assert patched("cpu", torch_cuda=False) == patched("cuda", torch_cuda=True) == patched("cpu") == []


def test_the_torch_family_is_the_same_everywhere() -> None:
    sets = load([shipped("patches")])
    named = [
        operation.names
        for name in ("torch-pins", "existing-torch-script")
        for operation in sets[name].operation
        if hasattr(operation, "names")
    ]
    assert named == [FAMILY] * 3


def test_the_index_set_is_opt_in_and_takes_the_persons_address(tmp_path: Path) -> None:
    sets = load([shipped("patches")])
    facts = {"index_url": "https://mirror.example/simple"}
    common: dict[str, Any] = {"release": "0.9.2", "device": "cuda", "facts": facts}
    write(tmp_path, {"pyproject.toml": "[build-system]\nrequires = []\n", "requirements.txt": "x\n"})
    apply(select(sets, **common), tmp_path)
    assert "setup.cfg" not in contents(tmp_path)
    apply(select(sets, enable=["setup-cfg-index"], **common), tmp_path)
    expected = b"[easy_install]\nindex_url = https://mirror.example/simple\n"
    assert contents(tmp_path)["setup.cfg"] == expected


def test_a_tree_without_licence_is_left_alone(tmp_path: Path) -> None:
    text = '[project]\nname = "vllm"\nclassifiers = ["License :: OSI Approved :: Apache Software License"]\n'
    write(tmp_path, {"pyproject.toml": text})
    sets = {"license-field": load([shipped("patches")])["license-field"]}
    for setuptools in ("69.5.1", "80.9.0"):
        selection = select(sets, release="0.9.2", device="cpu", facts={"setuptools": setuptools})
        assert apply(selection, tmp_path).changed == ()


def test_the_licence_goes_there_and_back(tmp_path: Path) -> None:
    """One tree, patched for an old setuptools and then for a new one."""
    text = '[project]\nlicense = "Apache-2.0" # ours\nlicense-files = ["LICENSE"]\nclassifiers = []\n'
    write(tmp_path, {"pyproject.toml": text})
    sets = {"license-field": load([shipped("patches")])["license-field"]}

    def patched(setuptools: str) -> str:
        apply(select(sets, release="0.9.2", device="cpu", facts={"setuptools": setuptools}), tmp_path)
        return contents(tmp_path)["pyproject.toml"].decode()

    assert patched("76.1.0") == '[project]\nlicense = { text = "Apache-2.0" } # ours\nclassifiers = []\n'
    assert patched("77.0.3") == (
        '[project]\nlicense = "Apache-2.0" # ours\nclassifiers = []\nlicense-files = ["LICENSE"]\n'
    )


BEFORE = {
    "pyproject.toml": b'[build-system]\nrequires = [\n    "wheel",\n    "torch == 2.7.0",\n]\n',
    "requirements/a.txt": b"numpy # torch\ntorch==2.7.0\nopen-clip-torch\n",
    "cmake/cpu_extension.cmake": b"set (ENABLE_NUMA TRUE)\nif(ENABLE_NUMA)\n  list(APPEND LIBS numa)\nendif()\n",
    "setup.py": b"x\n",
}
AFTER = {
    "pyproject.toml": b'[build-system]\nrequires = [\n    "wheel",\n]\n',
    "requirements/a.txt": b"numpy # torch\nopen-clip-torch\n",
    "cmake/cpu_extension.cmake": b"set (ENABLE_NUMA OFF)\nif(ENABLE_NUMA)\n  list(APPEND LIBS numa)\nendif()\n",
    "setup.py": b"x\n",
}


@pytest.mark.parametrize(
    ("name", "content", "violation"),
    [
        (None, b"", None),
        ("requirements/a.txt", BEFORE["requirements/a.txt"], "still has 'torch==2.7.0'"),
        ("requirements/a.txt", b"numpy # torch\n", "lost 'open-clip-torch'"),
        ("requirements/a.txt", b"numpy  # torch\nopen-clip-torch\n", "a line changed or came"),
        ("requirements/a.txt", b"numpy # torch\r\nopen-clip-torch\n", "a line changed or came"),
        ("pyproject.toml", BEFORE["pyproject.toml"], "build requirements are"),
        ("pyproject.toml", AFTER["pyproject.toml"] + b"[a]\n", "another value changed"),
        ("pyproject.toml", AFTER["pyproject.toml"] + b"# c\n", "a line changed or came"),
        ("cmake/cpu_extension.cmake", BEFORE["cmake/cpu_extension.cmake"], "numa was not switched off"),
        ("cmake/cpu_extension.cmake", AFTER["cmake/cpu_extension.cmake"] + b"(", "lines came or went"),
        ("setup.py", b"y\n", "setup.py changed"),
        ("new", b"y\n", "new is new"),
    ],
)
def test_the_judge_sees_what_is_wrong(
    benchmark: ModuleType, name: str | None, content: bytes, violation: str | None
) -> None:
    row = benchmark.Row("0.9.2")
    after = AFTER | ({name: content} if name else {})
    benchmark.compare(row, BEFORE, after, setuptools="80.9.0", device="cpu", numa=False)
    if violation is None:
        assert row.violations == []
    else:
        assert any(violation in found for found in row.violations), row.violations


def test_two_sets_that_insert_behind_the_same_command_are_applied_once(tmp_path: Path) -> None:
    text = "cmake_minimum_required(VERSION 3.26)\nproject(vllm_extensions LANGUAGES CXX)\nfind_package(Torch REQUIRED)\n"
    write(tmp_path, {"CMakeLists.txt": text})
    sets = {name: one for name, one in load([shipped("patches")]).items() if name in {"cpu-torch", "rpath"}}
    selection = select(sets, release="0.14.1", device="cpu", facts={"torch_cuda": True})
    apply(selection, tmp_path)
    once = contents(tmp_path)["CMakeLists.txt"]
    assert once.count(b"torch::cudart") == once.count(b"INSTALL_RPATH") == 1
    assert apply(selection, tmp_path).changed == ()
    assert contents(tmp_path)["CMakeLists.txt"] == once


@pytest.mark.corpus
@pytest.mark.parametrize("release", RELEASES)
def test_lean_headers_stand_before_anything_else_on_the_include_path(
    sdist: Callable[[str], Path], release: str, tmp_path: Path
) -> None:
    with tarfile.open(sdist(release)) as archive:
        inside = {member.name.partition("/")[2]: member for member in archive if member.isfile()}
        lists = archive.extractfile(inside["CMakeLists.txt"])
        assert lists is not None
        write(tmp_path, {"CMakeLists.txt": lists.read()})
        sets = {name: one for name, one in load([shipped("patches")]).items() if name == "lean-headers"}
        selection = select(sets, release=release, device="cuda", facts={"torch": "2.9.1"})
        for path in {path for step in selection.steps for path in paths_of(step.operation)} & set(inside):
            source = archive.extractfile(inside[path])
            assert source is not None
            write(tmp_path, {path: source.read()})
    report = apply(selection, tmp_path)
    assert not [entry for entry in report.entries if entry.status == "skipped-optional"]
    found = contents(tmp_path)
    text = found["CMakeLists.txt"].decode()
    line = 'include_directories(BEFORE "${CMAKE_CURRENT_SOURCE_DIR}/cmake/lean-headers/include")'
    ours = text.index(line)
    assert text.count(line) == 1
    # Before any target exists, and before sources from elsewhere are configured.
    assert ours < text.index("find_package(Torch")
    assert not any(0 <= text.find(later) < ours for later in ("add_subdirectory", "FetchContent", "_target("))
    for unit in found.get("cmake/lean-headers/full-headers.tsv", b"").decode().splitlines():
        assert unit.partition("\t")[0] in inside
    assert apply(selection, tmp_path).changed == ()
