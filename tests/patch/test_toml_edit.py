"""TOML: the value changes, formatting and comments stay."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patch_helpers import contents, run, write

from vllm_builder.errors import PatchFailed, PatchMiss, PatchSetError
from vllm_builder.stages.patch import load

PROJECT = """\
# head
[build-system]
# Should be mirrored
requires = [
    "cmake>=3.26",   # why cmake
    "torch == 2.7.0",
    "torchvision",  # goes too
    'numpy; python_version > "3"',
    "open-clip-torch",
]

[project]
name    = "vllm"   # the name
license = "Apache-2.0"
license-files = ["LICENSE"]
classifiers = ["A", "License :: OSI Approved :: X", "B"]

[project.urls]
Homepage="https://example.org"

[tool.uv]
no-build-isolation-package = ["torch"]
"""


def edited(tmp_path: Path, text: str, **operation: object) -> str:
    write(tmp_path, {"pyproject.toml": text})
    run(tmp_path, operation)
    return contents(tmp_path)["pyproject.toml"].decode()


def test_requirements_leave_an_array(tmp_path: Path) -> None:
    result = edited(
        tmp_path,
        PROJECT,
        action="remove_toml_requirements",
        keys=["build-system.requires"],
        names=["torch", "torchvision"],
    )
    assert result == PROJECT.replace('    "torch == 2.7.0",\n    "torchvision",  # goes too\n', "")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('a = ["torch==1", "x"] # c\n', 'a = ["x"] # c\n'),
        ('a = ["x", "torch==1"]\n', 'a = ["x"]\n'),
        ('a = ["torch"]\n', "a = []\n"),
        ('a = [\r\n  "x",\r\n  "torch",\r\n]\r\n', 'a = [\r\n  "x",\r\n]\r\n'),
        ('a = [\n  "x", # x\n  # about torch\n  "torch" # t\n]', 'a = [\n  "x", # x\n  # about torch\n]'),
    ],
)
def test_arrays_of_all_shapes(tmp_path: Path, before: str, after: str) -> None:
    assert edited(tmp_path, before, action="remove_toml_requirements", keys=["a"], names=["torch"]) == after


def test_items_leave_by_pattern(tmp_path: Path) -> None:
    result = edited(
        tmp_path, PROJECT, action="remove_toml_items", key="project.classifiers", items=["License :: *"]
    )
    assert result == PROJECT.replace('"License :: OSI Approved :: X", ', "")


def test_a_string_becomes_a_table_in_its_place(tmp_path: Path) -> None:
    result = edited(
        tmp_path, PROJECT, action="set_toml_key", key="project.license", value={"text": "Apache-2.0"}
    )
    assert result == PROJECT.replace('license = "Apache-2.0"', 'license = { text = "Apache-2.0" }')


def test_the_comment_behind_a_value_stays(tmp_path: Path) -> None:
    result = edited(tmp_path, PROJECT, action="set_toml_key", key="project.name", value="other")
    assert result == PROJECT.replace('"vllm"', '"other"')


def test_a_new_key_comes_into_its_table_with_the_files_line_ends(tmp_path: Path) -> None:
    result = edited(
        tmp_path,
        "[a]\r\nx = 1\r\n\r\n[b]\r\ny = 2\r\n",
        action="set_toml_key",
        key="a.new",
        value=["v"],
    )
    assert result == '[a]\r\nx = 1\r\nnew = ["v"]\r\n\r\n[b]\r\ny = 2\r\n'


def test_a_missing_table_is_made(tmp_path: Path) -> None:
    result = edited(tmp_path, "[a]\nx = 1\n", action="set_toml_key", key='tool."x.y".z', value=True)
    assert tomllib.loads(result) == {"a": {"x": 1}, "tool": {"x.y": {"z": True}}}
    assert result.startswith("[a]\nx = 1\n")


def test_a_key_is_renamed_in_its_place(tmp_path: Path) -> None:
    result = edited(tmp_path, PROJECT, action="rename_toml_key", key="project.name", to="title")
    assert result == PROJECT.replace("name    =", "title    =")


def test_a_key_in_an_inline_table_is_renamed(tmp_path: Path) -> None:
    result = edited(
        tmp_path, 'a = { "file"= "LICENSE", x = 1 } # c\n', action="rename_toml_key", key="a.file", to="a b"
    )
    assert result == 'a = { "a b"= "LICENSE", x = 1 } # c\n'


def test_a_table_is_renamed(tmp_path: Path) -> None:
    result = edited(tmp_path, PROJECT, action="rename_toml_key", key="tool.uv", to="other")
    assert result == PROJECT.replace("[tool.uv]", "[tool.other]")


def test_a_rename_onto_an_existing_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchFailed, match="both"):
        edited(tmp_path, "a = 1\nb = 2\n", action="rename_toml_key", key="a", to="b")


def test_a_key_is_deleted(tmp_path: Path) -> None:
    result = edited(tmp_path, PROJECT, action="delete_toml_key", key="project.license-files")
    assert result == PROJECT.replace('license-files = ["LICENSE"]\n', "")


def test_what_is_already_so_is_no_change(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": PROJECT})
    report = run(
        tmp_path,
        {"action": "set_toml_key", "key": "project.license", "value": "Apache-2.0"},
        {"action": "rename_toml_key", "key": "project.label", "to": "name"},
    )
    assert [entry.status for entry in report.entries] == ["already", "already"]
    assert contents(tmp_path, own=True) == {"pyproject.toml": PROJECT.encode()}


def test_true_is_not_one(tmp_path: Path) -> None:
    assert edited(tmp_path, "a = 1\n", action="set_toml_key", key="a", value=True) == "a = true\n"


@pytest.mark.parametrize(
    "operation",
    [
        {"action": "delete_toml_key", "key": "project.nope"},
        {"action": "rename_toml_key", "key": "project.nope", "to": "x"},
        {"action": "set_toml_key", "key": "project.nope", "value": 1, "create": False},
        {"action": "set_toml_key", "key": "project.name", "value": 1, "if_type": "table"},
        {"action": "set_toml_key", "key": "project.x", "value": 1, "if_key": "project.nope"},
        {"action": "remove_toml_items", "key": "project.classifiers", "items": ["Z*"]},
        {"action": "remove_toml_requirements", "keys": ["build-system.requires"], "names": ["scipy"]},
        {"action": "remove_toml_requirements", "keys": ["build-system.nope"], "names": ["torch"]},
        {"action": "delete_toml_key", "file": "nope.toml", "key": "a"},
    ],
    ids=lambda operation: "-".join(map(str, operation.values())),
)
def test_what_is_not_there_is_a_miss(tmp_path: Path, operation: dict[str, object]) -> None:
    write(tmp_path, {"pyproject.toml": PROJECT})
    with pytest.raises(PatchMiss):
        run(tmp_path, operation)
    assert contents(tmp_path, own=True) == {"pyproject.toml": PROJECT.encode()}


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": "a = [\n"})
    with pytest.raises(PatchFailed, match=r"pyproject\.toml is not valid TOML"):
        run(tmp_path, {"action": "delete_toml_key", "key": "a"})


def test_a_value_inside_a_text_cannot_become_a_table(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": "a = 1\n"})
    with pytest.raises(PatchFailed, match="not a table"):
        run(tmp_path, {"action": "set_toml_key", "key": "a.b", "value": 1})


def test_a_key_that_is_none_is_refused_at_loading(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"x.toml": 'description = "x"\n[[operation]]\naction = "delete_toml_key"\nkey = "a..b"\n'},
    )
    with pytest.raises(PatchSetError, match="not a TOML key"):
        load([tmp_path])


_WORDS = st.text("abcxyz", min_size=1, max_size=5)
_VALUES = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.text("a #\"'\\é=[]{}\n", max_size=6),
    st.lists(st.sampled_from(["torch==1", "numpy", "torch-xla", "x # y"]), max_size=4),
)


@st.composite
def _documents(draw: st.DrawFn) -> str:
    """A document with comments, blank lines and odd spacing between random keys."""
    out = []
    for table in draw(st.lists(_WORDS, unique=True, min_size=1, max_size=3)):
        out.append(f"[{table}]{draw(st.sampled_from(['', '   # of the table']))}")
        for key, value in draw(st.dictionaries(_WORDS, _VALUES, max_size=4)).items():
            spaces = draw(st.sampled_from(["", " ", "   "]))
            out.append(
                f"{key}{spaces}={spaces}{tomlkit.item(value).as_string()}{draw(st.sampled_from(['', ' # c']))}"
            )
        out.extend(draw(st.lists(st.sampled_from(["", "# alone", "  # indented"]), max_size=2)))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(out) + draw(st.sampled_from(["", end]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_documents(), st.data())
def test_an_edit_touches_one_value_only(tmp_path: Path, document: str, data: st.DataObject) -> None:
    plain = tomllib.loads(document)
    keys = [(table, key) for table, values in plain.items() for key in values]
    if not keys:
        return
    table, key = data.draw(st.sampled_from(keys))
    (tmp_path / ".vllm-builder-patches.json").unlink(missing_ok=True)
    result = edited(tmp_path, document, action="set_toml_key", key=f"{table}.{key}", value="new value")
    plain[table][key] = "new value"
    assert tomllib.loads(result) == plain
    # All lines outside of the value keep their bytes: at most the one run of lines that held it differs.
    before, after = document.splitlines(keepends=True), result.splitlines(keepends=True)
    head = next(
        (i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), len(after)
    )
    tail = len(after) - head - 1
    assert tail <= 0 or before[-tail:] == after[-tail:]
