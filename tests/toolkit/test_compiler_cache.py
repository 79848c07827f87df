"""The compiler cache under a real nvcc with several architectures: an edit for any of them must not be missed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cache_project import HIT, MISS, Project

from vllm_builder.stages.toolkit import Toolkit

pytestmark = pytest.mark.realbuild


WHOLE_AND_SPLIT = pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])


@WHOLE_AND_SPLIT
def test_edits_for_each_architecture_and_for_the_host_miss_and_everything_else_hits(
    assembled: Toolkit, tools: Path, tmp_path: Path, split: bool
) -> None:
    cache = tmp_path / "ccache"
    one = Project(tmp_path / "one", assembled, cache, tools, split=split)

    assert one.compile()[0] == MISS
    answer, first = one.compile()
    assert answer == HIT
    # Another folder, and another number of threads, are the same object.
    other = Project(tmp_path / "two", assembled, cache, tools, split=split)
    answer, moved = other.compile("--threads=2")
    assert (answer, moved) == (HIT, first)

    # What the preprocessor of the first architecture does not show.
    one.write(device="91.0f")
    answer, edited = one.compile()
    assert answer == MISS
    assert edited != first
    one.write(device="91.0f", header="#define PLACED 1\n")
    answer, header = one.compile()
    assert answer == MISS
    assert header != edited
    one.write(device="91.0f", header="#define PLACED 1\n", host="2")
    answer, host = one.compile()
    assert answer == MISS
    assert host != header
    # Options of the host's compiler, and other architectures, in number or order, are other objects.
    assert one.compile("-Xcompiler=-O0")[0] == MISS
    assert one.compile(archs=("100",))[0] == MISS
    assert one.compile(archs=("120", "100"))[0] == MISS
    # And back again: the very first object.
    one.write()
    answer, back = one.compile()
    assert (answer, back) == (HIT, first)
    if split:
        assert one.made() == [
            ("", ["cudafe++", "cicc", "cicc", "ptxas", "ptxas", "host"]),
            ("", ["cicc", "ptxas"]),  # for 120 alone
            ("", ["cicc", "ptxas"]),
            ("", ["cudafe++", "host"]),
            ("", ["host"]),
            ("", []),  # 100 alone: all of it is there
            ("", []),
        ]


@WHOLE_AND_SPLIT
def test_a_header_that_is_found_before_another_one_misses(
    assembled: Toolkit, tools: Path, tmp_path: Path, split: bool
) -> None:
    """It is none of the files that were read when the object was made."""
    cache = tmp_path / "ccache"
    answer, first = Project(tmp_path / "one", assembled, cache, tools, split=split).compile()
    assert answer == MISS
    other = Project(tmp_path / "two", assembled, cache, tools, split=split, headers=["first/placed.h"])
    answer, second = other.compile()
    assert answer == MISS
    assert second != first
    third = Project(tmp_path / "three", assembled, cache, tools, split=split, headers=["first/other.h"])
    assert third.compile()[0] == HIT


def test_another_assembler_under_the_same_nvcc_misses(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    """nvcc is only a driver: it is hashed as the compiler, and cicc and ptxas make the code."""
    home = tmp_path / "toolkit"
    shutil.copytree(assembled.home, home, symlinks=True)
    copied = assembled.model_copy(update={"home": str(home)})
    cache = tmp_path / "ccache"
    assert Project(tmp_path / "one", copied, cache, tools).compile()[0] == MISS
    assert Project(tmp_path / "two", copied, cache, tools).compile()[0] == HIT
    for name in ("bin/ptxas", "nvvm/bin/cicc"):
        program = home / name
        changed = program.read_bytes() + b"\n"  # runs as before, and is another file
        program.unlink()
        program.write_bytes(changed)
        program.chmod(0o755)
        assert Project(tmp_path / program.name, copied, cache, tools).compile()[0] == MISS


def test_options_that_nvcc_takes_from_the_environment_miss(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    """ccache does not look at these variables, and would give the object of other options."""
    cache = tmp_path / "ccache"
    for number, name in enumerate(("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")):
        places = [tmp_path / f"{number}-{place}" for place in "abc"]
        options = ["-DA=1", "-DA=2", "-DA=1"]
        answers = [
            Project(place, assembled, cache, tools, **{name: option}).compile()[0]
            for place, option in zip(places, options, strict=True)
        ]
        assert answers == [MISS, MISS, HIT]


def test_an_object_names_neither_its_folder_nor_a_process(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "ccache"
    one = Project(tmp_path / "one", assembled, cache, tools)
    answer, first = one.compile()
    assert answer == MISS
    assert str(tmp_path).encode() not in first
    assert b"tmpxft" not in first
    assert b"./k.cu\0" in first
    # In the same folder it is the same again, with the cache and without.
    assert one.compile(cached=False)[1] == first
    # Elsewhere nvcc gives other names to what is internal; the cache gives the same object.
    other = Project(tmp_path / "two" / "deeper", assembled, cache, tools)
    answer, second = other.compile()
    assert (answer, second) == (HIT, first)
    assert str(tmp_path).encode() not in other.compile(cached=False)[1]
