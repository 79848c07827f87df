"""nvcc pass by pass: what it makes is what nvcc makes, and only what is new is compiled."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cache_project import MISS, Project

from vllm_builder.binary import read_library
from vllm_builder.stages.toolkit import Toolkit

pytestmark = pytest.mark.realbuild

_CCCL = """\
#include <thrust/detail/config/namespace.h>
THRUST_NAMESPACE_BEGIN
%s
THRUST_NAMESPACE_END
__global__ void k(float* x) { *x = 1.0f; }
"""
_ID = re.compile(rb"_[0-9a-f]{8}_4_k_cu_")


def test_an_architecture_that_is_added_costs_its_own_passes(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    project = Project(tmp_path / "one", assembled, tmp_path / "cache", tools, split=True)
    project.compile(archs=("100",))
    # In another folder, as the tree of another plan is.
    other = Project(tmp_path / "two", assembled, tmp_path / "cache", tools, split=True)
    answer, both = other.compile()
    assert answer == MISS
    assert other.made() == [("", ["cicc", "ptxas"])]
    # It is what comes out with nothing kept, and what nvcc makes, but for the names that it makes out of the folder.
    fresh = Project(tmp_path / "three", assembled, tmp_path / "empty", tools, split=True)
    assert fresh.compile()[1] == both
    plain = fresh.compile(cached=False)[1]
    assert device_code(plain) == device_code(both)
    assert defined(tmp_path, plain) == defined(tmp_path, both)


def test_dependencies_are_those_of_nvcc(assembled: Toolkit, tools: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "one", assembled, tmp_path / "cache", tools, split=True)
    project.compile()
    ours = (project.place / "k.o.d").read_text()
    project.compile(cached=False)
    assert files(ours, project.place) == files((project.place / "k.o.d").read_text(), project.place)
    assert str(tmp_path / "one" / "only120.h") in files(ours, project.place)


def test_names_that_hold_the_list_of_architectures(assembled: Toolkit, tools: Path, tmp_path: Path) -> None:
    """CCCL's namespaces: where they are in names the list is put in, and where a text holds them it is made anew."""
    project = Project(tmp_path / "one", assembled, tmp_path / "cache", tools, split=True)
    for text, made in (
        ("struct nothing { int a; };", ["cicc", "ptxas"]),
        ("__device__ int shown = 1; int host() { return 1; }", ["cicc", "ptxas", "ptxas"]),
        ("const char* told() { return __PRETTY_FUNCTION__; }", ["cicc", "host"]),  # the first kernel again
    ):
        (project.folder / "k.cu").write_text(_CCCL % text)
        project.compile(archs=("100",))
        _, both = project.compile()
        assert project.made()[-1] == ("", made)
        fresh = Project(tmp_path / f"{len(made)}{text[0]}", assembled, tmp_path / text[:2], tools, split=True)
        (fresh.folder / "k.cu").write_text(_CCCL % text)
        assert fresh.compile()[1] == both
    assert b"_SM_1000_1200_NS::told" in both
    assert b"_SM_1000_1200" not in project.compile(archs=("100",))[1]


def test_other_programs_make_other_passes(assembled: Toolkit, tools: Path, tmp_path: Path) -> None:
    home = tmp_path / "toolkit"
    shutil.copytree(assembled.home, home, symlinks=True)
    copied = assembled.model_copy(update={"home": str(home)})
    for number, (program, made) in enumerate(
        {"bin/ptxas": ["ptxas"], "nvvm/bin/cicc": ["cicc"], "bin/cudafe++": ["cudafe++", "host"]}.items()
    ):
        if not number:
            Project(tmp_path / "start", copied, tmp_path / "cache", tools, split=True).compile(archs=("100",))
        path = home / program
        changed = path.read_bytes() + b"\n"  # runs as before, and is another file
        path.unlink()
        path.write_bytes(changed)
        path.chmod(0o755)
        project = Project(tmp_path / str(number), copied, tmp_path / f"cache-{number}", tools, split=True)
        project.env["VLLM_BUILDER_PASSES"] = str(tmp_path / "cache-passes")
        project.compile(archs=("100",))
        assert project.made() == [("", made)]


@pytest.mark.parametrize("options", [("-lineinfo",), ("-Xcompiler=-g",), ("-rdc=true",)], ids=str)
def test_what_is_not_understood_is_left_to_nvcc(
    assembled: Toolkit, tools: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    project = Project(tmp_path / "one", assembled, tmp_path / "cache", tools, split=True)
    assert project.compile(*options, archs=("100",))[0] == MISS
    [(left, made)] = project.made()
    assert left
    assert not made


def test_an_error_is_nvccs_own_and_nothing_of_it_is_kept(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    project = Project(tmp_path / "one", assembled, tmp_path / "cache", tools, split=True)
    project.write(device="no_such_thing")
    with pytest.raises(AssertionError, match=r"no_such_thing.* is undefined"):
        project.compile()
    project.write()
    assert project.compile()[0] == MISS


def test_includes_from_elsewhere_do_not_count_where_nothing_is_read(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    """A unit without torch, for another torch: another folder of headers on the command line."""
    project = Project(tmp_path / "one", assembled, tmp_path / "cache", tools, split=True)
    for name in ("torch-a", "torch-b"):
        (tmp_path / name).mkdir()
    project.compile("-isystem", str(tmp_path / "torch-a"))
    answer, _ = project.compile("-isystem", str(tmp_path / "torch-b"))
    assert answer == MISS
    assert project.made()[-1] == ("", [])


def device_code(obj: bytes) -> list[tuple[str, str, bytes]]:
    library = read_library(obj, name="k.o")
    return [
        (code.kind, code.arch, _ID.sub(b"", obj[code.offset : code.offset + code.stored]))
        for unit in library.units
        for code in unit.codes
    ]


def defined(folder: Path, obj: bytes) -> list[str]:
    path = folder / "read.o"
    path.write_bytes(obj)
    listed = subprocess.run(["nm", "--format=posix", str(path)], capture_output=True, check=True).stdout
    return sorted(" ".join(line.split()[:2]) for line in _ID.sub(b"", listed).decode().splitlines())


def files(rule: str, place: Path) -> set[str]:
    names = rule.replace("\\\n", " ").partition(":")[2].split()
    return {str((place / name).resolve()) for name in names}
