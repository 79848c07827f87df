"""CMake: commands are found by grammar, and edits touch the bytes of arguments only."""

from __future__ import annotations

from pathlib import Path

import pytest
from patch_helpers import contents, run, write

from vllm_builder.errors import PatchFailed, PatchMiss
from vllm_builder.stages.patch.cmake import CMakeFile, Edit, spell

TEXT = b"""\
# set (ENABLE_NUMA TRUE) in a comment
set (ENABLE_NUMA TRUE)  # keep me
set(TEXT "set(ENABLE_NUMA TRUE)")
if (APPLE AND
    X)
    SET( ENABLE_NUMA   OFF )
elseif(Y)
    set(Z [[a b]])
else()
    option(OPT "some ) text" ON)
endif()
set(CACHED one two CACHE STRING "doc" FORCE)
set(EMPTY)
set(_C_LIBS numa dnnl_ext)
set(_C_AVX2_LIBS numa)
list(APPEND LIBS "numa"
     other # numa
     numa)
FetchContent_Declare(
    cutlass
    # where
    GIT_REPOSITORY https://example.org/cutlass.git
    GIT_TAG "v1.0")
"""


def cmake(tmp_path: Path, text: bytes = TEXT, **operation: object) -> bytes:
    write(tmp_path, {"cmake/cpu.cmake": text})
    run(tmp_path, {"files": ["cmake/*.cmake"], **operation})
    return contents(tmp_path)["cmake/cpu.cmake"]


def test_commands_are_found_by_name_and_arguments() -> None:
    file = CMakeFile(TEXT)
    assert file.error is None
    assert [command.line for command in file.commands("set", ["ENABLE_NUMA"])] == [2, 6]
    assert [c.values for c in file.commands("SET", ["_C*_LIBS"])] == [
        ("_C_LIBS", "numa", "dnnl_ext"),
        ("_C_AVX2_LIBS", "numa"),
    ]
    (declare,) = file.commands("fetchcontent_declare")
    tag = declare.keyword("GIT_TAG")
    assert tag is not None
    assert (tag.value, tag.quoted) == ("v1.0", True)
    assert declare.keyword("SOURCE_DIR") is None


def test_commands_know_the_conditions_around_them() -> None:
    file = CMakeFile(TEXT)
    assert file.commands("set", ["ENABLE_NUMA"])[1].conditions == ("APPLE AND X",)
    assert file.commands("set", ["Z"])[0].conditions == ("Y",)
    assert file.commands("option")[0].conditions == ("NOT Y",)
    assert file.commands("set", ["EMPTY"])[0].conditions == ()


def test_a_variable_gets_another_value_wherever_it_is_set(tmp_path: Path) -> None:
    result = cmake(tmp_path, action="set_cmake_variable", name="ENABLE_NUMA", value="OFF")
    assert result == TEXT.replace(b"\nset (ENABLE_NUMA TRUE)  #", b"\nset (ENABLE_NUMA OFF)  #")


def test_where_narrows_it_to_a_present_value(tmp_path: Path) -> None:
    result = cmake(tmp_path, action="set_cmake_variable", name="ENABLE_NUMA", value="X", where=["OFF"])
    assert result == TEXT.replace(b"ENABLE_NUMA   OFF", b"ENABLE_NUMA   X")


@pytest.mark.parametrize(
    ("name", "value", "old", "new"),
    [
        ("CACHED", "three", b"CACHED one two CACHE", b"CACHED three CACHE"),
        ("CACHED", ["a", "b c"], b"CACHED one two CACHE", b'CACHED a "b c" CACHE'),
        ("EMPTY", "x", b"set(EMPTY)", b"set(EMPTY x)"),
        ("OPT", "OFF", b'text" ON)', b'text" OFF)'),
        ("Z", "${CMAKE_SOURCE_DIR}/x", b"[[a b]]", b"${CMAKE_SOURCE_DIR}/x"),
        ("Z", "", b"[[a b]]", b'""'),
    ],
)
def test_values_of_all_kinds(tmp_path: Path, name: str, value: object, old: bytes, new: bytes) -> None:
    assert cmake(tmp_path, action="set_cmake_variable", name=name, value=value) == TEXT.replace(old, new)


def test_arguments_are_removed_with_the_blanks_before_them(tmp_path: Path) -> None:
    result = cmake(
        tmp_path, action="remove_cmake_argument", command="set", arguments=["_C*_LIBS"], remove="numa"
    )
    expected = TEXT.replace(b"_C_LIBS numa dnnl", b"_C_LIBS dnnl").replace(b"AVX2_LIBS numa)", b"AVX2_LIBS)")
    assert result == expected


def test_a_comment_never_swallows_what_follows(tmp_path: Path) -> None:
    result = cmake(
        tmp_path, action="remove_cmake_argument", command="list", arguments=["APPEND", "LIBS"], remove="numa"
    )
    (command,) = CMakeFile(result).commands("list")
    assert command.values == ("APPEND", "LIBS", "other")
    assert CMakeFile(result).error is None
    assert b"# numa\n" in result


@pytest.mark.parametrize(
    "operation",
    [
        {"action": "set_cmake_variable", "name": "NOPE", "value": "1"},
        {"action": "set_cmake_variable", "name": "TEXT", "value": "1", "where": ["other"]},
        {"action": "remove_cmake_argument", "command": "list", "remove": "nope"},
        {"action": "set_cmake_variable", "name": "A", "value": "1", "files": ["nope/*.cmake"]},
    ],
)
def test_what_is_not_there_is_a_miss(tmp_path: Path, operation: dict[str, object]) -> None:
    with pytest.raises(PatchMiss):
        cmake(tmp_path, **operation)


def test_an_edit_that_breaks_the_file_is_refused() -> None:
    file = CMakeFile(TEXT, "x.cmake")
    (command,) = file.commands("set", ["EMPTY"])
    with pytest.raises(PatchFailed, match=r"x\.cmake") as failure:
        file.edited([Edit(command.start, command.stop, "set(EMPTY")])
    assert failure.value.why.startswith("x.cmake:")


def test_overlapping_edits_are_refused() -> None:
    with pytest.raises(PatchFailed, match="overlap"):
        CMakeFile(TEXT).edited([Edit(0, 10, "#"), Edit(5, 12, "#")])


@pytest.mark.parametrize(
    "value", ["a b", 'say "x"', "a;b", "back\\slash", "(x)", "#x", "", "${A}/b", "plain"]
)
def test_spelled_values_are_one_argument(value: str) -> None:
    (command,) = CMakeFile(f"set(X {spell(value)})\n".encode()).commands("set")
    assert len(command.arguments) == 2
    text = command.arguments[1].value
    if command.arguments[1].quoted:
        text = text.replace('\\"', '"').replace("\\\\", "\\")
    assert text == value
