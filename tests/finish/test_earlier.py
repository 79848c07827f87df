"""What a wheel before it holds compressed is copied; the bytes are the same with it and without."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
from finish_helpers import INFO, finished, make_wheel, members

from vllm_builder.errors import WheelError

LARGE = random.Random(1).randbytes(700_000) * 4 + bytes(1 << 20)
"""Several pieces of what is read and written at a time."""
FILES = {"vllm/large.bin": LARGE, "vllm/a.py": b"a = 1\n" * 100, "vllm/empty.py": b""}


def _packed(wheel: Path) -> dict[str, bytes]:
    """The members as they lie in the file, compressed."""
    found = {}
    with zipfile.ZipFile(wheel) as archive, wheel.open("rb") as file:
        for info in archive.infolist():
            file.seek(info.header_offset)
            header = file.read(30)
            file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
            found[info.filename] = file.read(info.compress_size)
    return found


def _at_another_level(wheel: Path) -> Path:
    """A wheel with the same members, compressed to other bytes."""
    content = members(wheel)
    other = wheel.parent / "other" / wheel.name
    other.parent.mkdir()
    with zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return other


def test_the_bytes_are_the_same_with_it_and_without(tmp_path: Path) -> None:
    before = finished(make_wheel(tmp_path / "before", FILES), tmp_path / "one").wheel
    later = make_wheel(tmp_path / "later", {**FILES, "vllm/a.py": b"a = 2\n" * 100, "vllm/new.py": b""})
    plain = finished(later, tmp_path / "two").wheel
    helped = finished(later, tmp_path / "three", earlier=before).wheel
    assert helped.read_bytes() == plain.read_bytes()
    assert helped.read_bytes() != before.read_bytes()


def test_what_is_the_same_is_copied_and_all_else_compressed(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "before", FILES, compression=zipfile.ZIP_STORED)
    before = _at_another_level(finished(wheel, tmp_path / "one").wheel)
    # Another content of the same size, and one that is new.
    changes = {"vllm/a.py": b"a = 2\n" * 100, "vllm/new.py": b"new = 1\n" * 100}
    later = make_wheel(tmp_path / "later", {**FILES, **changes}, compression=zipfile.ZIP_STORED)
    plain = _packed(finished(later, tmp_path / "two").wheel)
    made = finished(later, tmp_path / "three", earlier=before).wheel
    found, there = _packed(made), _packed(before)
    assert there["vllm/large.bin"] != plain["vllm/large.bin"]
    assert found["vllm/large.bin"] == there["vllm/large.bin"]
    assert {n: found[n] for n in changes} == {n: plain[n] for n in changes}
    content = members(made)
    assert content["vllm/large.bin"] == LARGE
    assert {n: content[n] for n in changes} == changes


def test_a_member_that_is_not_what_its_record_says_is_refused(tmp_path: Path) -> None:
    before = finished(make_wheel(tmp_path / "before", FILES), tmp_path / "one").wheel
    later = make_wheel(tmp_path / "later", FILES, compression=zipfile.ZIP_STORED)
    lying = tmp_path / "lying" / later.name
    lying.parent.mkdir()
    with zipfile.ZipFile(lying, "w") as archive:
        for name, data in members(later).items():
            archive.writestr(name, data.replace(b"a = 1", b"a = 3") if name == "vllm/a.py" else data)
    with pytest.raises(WheelError, match=r"vllm/a\.py is not what RECORD"):
        finished(lying, tmp_path / "two", earlier=before)
    assert not list((tmp_path / "two").glob("*"))
    # Without help nothing depends on that RECORD: it is made anew.
    assert b"a = 3" in members(finished(lying, tmp_path / "three").wheel)["vllm/a.py"]


@pytest.mark.parametrize("damage", ["gone", "cut", "no record"])
def test_one_that_cannot_be_read_is_passed_over(tmp_path: Path, damage: str) -> None:
    later = make_wheel(tmp_path / "later", FILES)
    plain = finished(later, tmp_path / "one").wheel
    before = tmp_path / "before" / plain.name
    before.parent.mkdir()
    if damage == "cut":
        before.write_bytes(plain.read_bytes()[:-100])
    elif damage == "no record":
        with zipfile.ZipFile(before, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members(plain).items():
                archive.writestr(name, b"nothing,\xff\r" if name == f"{INFO}/RECORD" else data)
    helped = finished(later, tmp_path / "two", earlier=before).wheel
    assert helped.read_bytes() == plain.read_bytes()
