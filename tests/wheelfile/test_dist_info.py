"""``.dist-info`` against the file's name and against the members."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from wheel_helpers import INFO, METADATA, NAME, WHEEL, Entry, record_of, wheel_entries, write_wheel, zip_bytes

from vllm_builder.errors import WheelError
from vllm_builder.wheelfile import open_wheel

Change = Callable[[list[Entry]], list[Entry]]


def without(name: str) -> Change:
    return lambda entries: [entry for entry in entries if entry.name != f"{INFO}/{name}"]


@pytest.mark.parametrize("name", ["METADATA", "WHEEL", "RECORD"])
def test_a_file_that_every_wheel_has_is_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / NAME).write_bytes(zip_bytes(without(name)(wheel_entries())))
    with pytest.raises(WheelError, match=f"has no {name}"):
        open_wheel(tmp_path / NAME)


def test_a_zip_file_without_dist_info(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(zip_bytes([Entry("demo/a", b"x")]))
    with pytest.raises(WheelError, match=r"has no \.dist-info"):
        open_wheel(tmp_path / NAME)


@pytest.mark.parametrize(
    "name", ["other-1.0-py3-none-any.whl", "demo-1.1-py3-none-any.whl", "demo-1.0+x-py3-none-any.whl"]
)
def test_a_renamed_wheel(tmp_path: Path, name: str) -> None:
    write_wheel(tmp_path, name)
    with pytest.raises(WheelError, match="are of two wheels"):
        open_wheel(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "info"),
    [
        ("Demo_Thing-1.0.0-1-py3-none-any.whl", "demo.thing-1.0.dist-info"),
        ("demo_thing-1.0-py2.py3-none-any.whl", "Demo_Thing-1.0.dist-info"),
        ("demo_thing-1.0+a.b-py3-none-any.whl", "demo_thing-1.0+a_b.dist-info"),
    ],
)
def test_names_are_compared_as_installers_do(tmp_path: Path, name: str, info: str) -> None:
    version = "1.0+a.b" if "+" in name else "1.0"
    write_wheel(
        tmp_path, name, info=info, metadata=f"Metadata-Version: 2.1\nName: demo-thing\nVersion: {version}\n"
    )
    with open_wheel(tmp_path / name) as wheel:
        assert wheel.metadata.name == "demo-thing"
        assert wheel.verify_record() == []


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("", "has no Name"),
        ("Metadata-Version: 2.1\nName: demo\n", "has no Version"),
        ("Metadata-Version: 2.1\nName: demo\nVersion: 2.0\n", "is of demo 2.0"),
        ("Metadata-Version: 2.1\nName: demo\nVersion: one\n", "is of demo one"),
    ],
)
def test_metadata_of_another_wheel_or_none(tmp_path: Path, metadata: str, words: str) -> None:
    with open_wheel(write_wheel(tmp_path, metadata=metadata)) as wheel, pytest.raises(WheelError) as caught:
        _ = wheel.metadata
    assert words in caught.value.what


def test_strange_metadata_is_shown_as_it_is(tmp_path: Path) -> None:
    text = METADATA.replace(
        "Requires-Python", "Requires-Dist: no valid ( line\nX-Own: 1\nX-Own: 2\nRequires-Python"
    )
    with open_wheel(write_wheel(tmp_path, metadata=text)) as wheel:
        assert wheel.metadata.requires_dist == ("torch==2.7.0", "no valid ( line")
        assert wheel.metadata.fields["x_own"] == ("1", "2")
        assert "description" not in wheel.metadata.fields


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WHEEL.replace("1.0", "2.0"), "has the format '2.0'"),
        ("", "has the format ''"),
        ("Wheel-Version: 1.0\n", "has no valid Tag"),
        (WHEEL.replace("cp38-abi3-", "cp38-"), "has no valid Tag"),
    ],
)
def test_a_file_wheel_that_no_installer_takes(tmp_path: Path, text: str, words: str) -> None:
    with open_wheel(write_wheel(tmp_path, wheel=text)) as wheel, pytest.raises(WheelError) as caught:
        _ = wheel.wheel_tags
    assert words in caught.value.what


def test_a_good_record(tmp_path: Path) -> None:
    with open_wheel(write_wheel(tmp_path)) as wheel:
        assert wheel.verify_record() == []


CODE = {"demo/a.py": b"a = 1\n", "demo/b.py": b"b = 1\n"}
FILES = CODE | {f"{INFO}/METADATA": METADATA.encode(), f"{INFO}/WHEEL": WHEEL.encode()}
GOOD = record_of(FILES, INFO).decode()
ROW_A, ROW_B = GOOD.splitlines()[:2]


@pytest.mark.parametrize(
    ("record", "member", "kind"),
    [
        (GOOD.replace(ROW_A + "\n", ""), "demo/a.py", "unlisted"),
        (GOOD + "demo/c.py,sha256=AAAA,1\n", "demo/c.py", "absent"),
        (GOOD.replace(ROW_A, ROW_B.replace("b.py", "a.py")), "demo/a.py", "hash"),
        (GOOD.replace(ROW_A, ROW_A[:-1] + "7"), "demo/a.py", "size"),
        (GOOD.replace(ROW_A, "demo/a.py,,"), "demo/a.py", "no-hash"),
        (GOOD.replace(ROW_A, "demo/a.py,md5=AAAA,6"), "demo/a.py", "weak-hash"),
        (GOOD.replace(ROW_A, "demo/a.py,sha256=!,6"), "demo/a.py", "hash"),
        (GOOD + ROW_A + "\n", "demo/a.py", "twice"),
        (GOOD.replace(ROW_A, "demo/a.py,sha256,six"), "demo/a.py", "row"),
        (GOOD.replace(ROW_A, "demo/a.py"), "demo/a.py", "row"),
    ],
)
def test_what_record_and_wheel_disagree_on(tmp_path: Path, record: str, member: str, kind: str) -> None:
    with open_wheel(write_wheel(tmp_path, files=CODE, record=record.encode())) as wheel:
        found = wheel.verify_record()
    assert (member, kind) in {(problem.member, problem.kind) for problem in found}
    assert {problem.member for problem in found} == {member}


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b'"' + b"x" * 200_000])
def test_a_record_that_is_none(tmp_path: Path, record: bytes) -> None:
    with open_wheel(write_wheel(tmp_path, files=CODE, record=record)) as wheel:
        assert {p.member for p in wheel.verify_record() if p.kind == "unlisted"} == set(FILES)


def test_a_flipped_byte_is_a_problem_of_its_member(tmp_path: Path) -> None:
    entries = wheel_entries(CODE)
    entries[0] = dataclasses.replace(entries[0], data=b"a = 2\n")
    (tmp_path / NAME).write_bytes(zip_bytes(entries))
    with open_wheel(tmp_path / NAME) as wheel:
        assert [(p.member, p.kind) for p in wheel.verify_record()] == [("demo/a.py", "hash")]


def test_a_damaged_member_is_a_problem_and_not_the_end(tmp_path: Path) -> None:
    entries = wheel_entries(CODE)
    entries[0] = dataclasses.replace(entries[0], packed=b"\xff" * 9)
    (tmp_path / NAME).write_bytes(zip_bytes(entries))
    with open_wheel(tmp_path / NAME) as wheel:
        assert [(p.member, p.kind) for p in wheel.verify_record()] == [("demo/a.py", "damaged")]
