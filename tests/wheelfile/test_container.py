"""What is refused of a wheel's zip file, and what is not."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from wheel_helpers import INFO, NAME, Entry, deflate, wheel_entries, write_wheel, zip_bytes

from vllm_builder.errors import WheelError
from vllm_builder.wheelfile import Wheel, open_wheel

Opened = Callable[..., Wheel]
ENTRY = Entry("demo/a.bin", b"abc" * 100)


def test_an_honest_wheel_is_read(opened: Opened) -> None:
    with opened(Entry("demo/run", b"#!/bin/sh\n", mode=0o100755), Entry("demo/é.txt", b"")) as wheel:
        assert (wheel.name, str(wheel.version), wheel.dist_info) == ("demo", "1.0", INFO)
        assert [str(tag) for tag in wheel.tags] == ["cp38-abi3-linux_x86_64"]
        assert wheel.wheel_tags == ("cp38-abi3-linux_x86_64",)
        assert wheel.metadata.requires_dist == ("torch==2.7.0",)
        assert wheel.members["demo/run"].executable
        assert wheel.members["demo/é.txt"].size == 0
        assert wheel.read("demo/run") == b"#!/bin/sh\n"
        assert wheel.build_record is None


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("way", ["known size", "streamed", "zip64"])
def test_what_python_writes_is_read(tmp_path: Path, method: int, way: str) -> None:
    """Streamed: sizes stand in data descriptors. zip64: as for a member of unknown, possibly huge size."""

    class Pipe:
        """Cannot seek, as standard output."""

        def __init__(self, file: object) -> None:
            self.write, self.flush = file.write, file.flush  # type: ignore[attr-defined]

    path = tmp_path / NAME
    with (
        path.open("wb") as file,
        zipfile.ZipFile(Pipe(file) if way == "streamed" else file, "w", method) as archive,
    ):  # type: ignore[call-overload]
        for entry in [*wheel_entries(), ENTRY]:
            assert isinstance(entry.name, str)
            with archive.open(entry.name, "w", force_zip64=way == "zip64") as member:
                member.write(entry.data)
        archive.mkdir("demo/empty") if way != "streamed" else None
    with open_wheel(path) as wheel:
        assert wheel.read("demo/a.bin") == ENTRY.data
        assert [p for p in wheel.verify_record() if p.member != "demo/a.bin"] == []


def test_a_zip64_end_and_a_comment_are_read(opened: Opened) -> None:
    with opened(ENTRY, zip64=True, comment=b"made by hand") as wheel:
        assert wheel.read("demo/a.bin") == ENTRY.data
        assert wheel.directory.comment == b"made by hand"


HUGE = deflate(bytes(100 << 20))
BAD: dict[str, tuple[list[Entry], dict[str, object], str]] = {
    "encrypted": ([Entry("demo/a", b"abc", flags=1)], {}, "is encrypted"),
    "strongly encrypted": ([Entry("demo/a", b"abc", flags=0x2041)], {}, "is encrypted"),
    "patch data": ([Entry("demo/a", b"abc", flags=0x20)], {}, "flags of an unknown meaning"),
    "bzip2": ([Entry("demo/a", b"abc", method=12)], {}, "bzip2"),
    "unheard of": ([Entry("demo/a", b"abc", method=77)], {}, "method 77"),
    "symlink": ([Entry("demo/a", b"/etc/passwd", mode=0o120777)], {}, "is a symbolic link"),
    "device": ([Entry("demo/a", b"", mode=0o020644)], {}, "neither a file nor a folder"),
    "absolute": ([Entry("/etc/passwd", b"x")], {}, "name that is not allowed"),
    "parent": ([Entry("demo/../../x", b"x")], {}, "name that is not allowed"),
    "drive": ([Entry("C:/x", b"x")], {}, "name that is not allowed"),
    "backslash": ([Entry("demo\\x", b"x")], {}, "name that is not allowed"),
    "dot": ([Entry("demo/./x", b"x")], {}, "name that is not allowed"),
    "empty part": ([Entry("demo//x", b"x")], {}, "name that is not allowed"),
    "no name": ([Entry("", b"x")], {}, "name that is not allowed"),
    "nul": ([Entry("demo/a\0b", b"x")], {}, "name that is not allowed"),
    "not text": ([Entry(b"demo/\xff", b"x")], {}, "neither ASCII nor marked"),
    "not utf-8": ([Entry(b"demo/\xff", b"x", flags=0x800)], {}, "neither ASCII nor marked"),
    "twice": ([Entry("demo/a", b"x"), Entry("demo/a", b"y")], {}, "two members are called demo/a"),
    "case": ([Entry("demo/A", b"x"), Entry("demo/a", b"y")], {}, "have the same name on some disks"),
    "accents": ([Entry("demo/\u00e9", b"x"), Entry("demo/e\u0301", b"y")], {}, "have the same name on some disks"),
    "file and folder": ([Entry("demo/a", b"x"), Entry("demo/a/b", b"y")], {}, "is a file and the folder of"),
    "file and folder in another case": ([Entry("demo/a", b"x"), Entry("demo/A/b", b"y")], {}, "and the folder of"),
    "folder with content": ([Entry("demo/d/", b"x" * 99, mode=0o040755)], {}, "is a folder with content"),
    "bytes before": ([ENTRY], {"prefix": b"#!/bin/sh\n"}, "bytes that belong to nothing"),
    "bytes between": ([Entry("demo/a", b"x", before=b"hidden")], {}, "6 bytes that belong to nothing"),
    "bytes before the directory": ([ENTRY], {"gap": b"hidden"}, "6 bytes that belong to nothing"),
    "hidden member": ([Entry("demo/a", b"x", hidden=True), ENTRY], {}, "bytes that belong to nothing"),
    "bytes behind": ([ENTRY], {"suffix": b"more"}, "bytes after its end"),
    "two ends": ([ENTRY], {"comment": b"PK\5\6" + bytes(18)}, "bytes after its end, or two ends"),
    "too few listed": ([ENTRY], {"count": 1}, "its directory holds more than the 1 members"),
    "too many listed": ([ENTRY], {"count": 99}, "its directory is truncated"),
    "several parts": ([Entry("demo/a", b"x", disk=1)], {}, "in several parts"),
    "overlap": ([Entry("demo/a", b"x", offset=0)], {}, "share bytes: a zip bomb"),
    "beyond": ([Entry("demo/a", b"x", compressed=1 << 30, size=1 << 30)], {}, "reaches beyond the end"),
    "ratio": ([Entry("demo/a", packed=HUGE, size=100 << 20)], {}, "a zip bomb"),
    "absurd": ([Entry(f"demo/{n}", packed=b"x", size=64 << 20) for n in range(1025)], {}, "a zip bomb"),
    "other name": ([Entry("demo/a", b"x", local_name=b"demo/b")], {}, "two headers that disagree (name"),
    "other size": ([Entry("demo/a", b"x", local_size=7)], {}, "two headers that disagree (sizes"),
    "other checksum": ([Entry("demo/a", b"x", local_crc=7)], {}, "two headers that disagree (sizes or checksum)"),
    "second name": ([Entry("demo/a", b"x", extra=struct.pack("<HH", 0x7075, 0))], {}, "second name"),
    "cut extra": ([Entry("demo/a", b"x", extra=b"\1\0\xff\0")], {}, "damaged extra fields"),
    "stored, two sizes": ([Entry("demo/a", b"abc", method=0, size=4)], {}, "two sizes"),
    "no descriptor": ([Entry("demo/a", b"x", flags=8)], {}, "disagree"),
    "false descriptor": ([Entry("demo/a", b"x", flags=8, after=struct.pack("<LLL", 1, 2, 3))], {}, "disagree"),
    "second dist-info": ([Entry("other-1.0.dist-info/METADATA", b"")], {}, "has 2 .dist-info folders"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_no_wheel_has_is_refused(opened: Opened, what: str) -> None:
    entries, options, words = BAD[what]
    with pytest.raises(WheelError) as caught:
        opened(*entries, **options)
    assert words in caught.value.what
    assert caught.value.exit_code == 80
    assert caught.value.next


LIES: dict[str, tuple[Entry, str]] = {
    "longer": (
        Entry("demo/a", b"x" * 999, size=10, crc=zlib.crc32(b"x" * 10)),
        "longer than the directory states",
    ),
    "shorter": (Entry("demo/a", b"x" * 10, size=999), "shorter than the directory states"),
    "checksum": (Entry("demo/a", b"x" * 10, crc=5), "is damaged"),
    "stored, checksum": (Entry("demo/a", b"x" * 10, crc=5, method=0), "is damaged"),
    "garbage": (Entry("demo/a", packed=b"\xff" * 40, size=100), "cannot be inflated"),
    "cut": (Entry("demo/a", b"x", packed=deflate(os.urandom(999))[:-50], size=999), "data ends too early"),
    "more behind": (Entry("demo/a", b"x", packed=deflate(b"x") + b"more"), "bytes after the end of its data"),
    "much more behind": (Entry("demo/a", b"x", packed=deflate(b"x") + bytes(1 << 20)), "bytes after the end"),
}


@pytest.mark.parametrize("what", LIES)
def test_content_that_is_not_what_the_directory_states_is_refused(opened: Opened, what: str) -> None:
    entry, words = LIES[what]
    with opened(entry) as wheel:
        with pytest.raises(WheelError) as read:
            wheel.read("demo/a")
        with pytest.raises(WheelError), wheel.mapped("demo/a"):
            pass
        assert words in read.value.what


def test_a_bomb_in_one_member_is_stopped_at_its_stated_size(opened: Opened) -> None:
    entry = Entry("demo/a", packed=HUGE, size=1000, crc=zlib.crc32(bytes(1000)))
    with opened(entry) as wheel, pytest.raises(WheelError, match="longer than the directory states"):
        next(wheel.chunks("demo/a"))


def test_no_more_than_the_stated_size_is_handed_on(opened: Opened) -> None:
    sizes: list[int] = []
    with opened(Entry("demo/a", packed=HUGE, size=20 << 20)) as wheel:
        chunks = map(len, wheel.chunks("demo/a"))
        with pytest.raises(WheelError, match="longer than the directory states"):
            sizes.extend(chunks)
    assert 0 < max(sizes) <= 1 << 20
    assert sum(sizes) <= 20 << 20


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = zip_bytes([*wheel_entries(), ENTRY])
    path = tmp_path / NAME
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WheelError) as caught:
            open_wheel(path)
        assert "truncated" in caught.value.what or "no zip file" in caught.value.what


def test_a_file_that_shrinks_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(zip_bytes([Entry("demo/a", os.urandom(1 << 20)), *wheel_entries()]))
    with open_wheel(path) as wheel:
        os.truncate(path, 1000)
        with pytest.raises(WheelError, match="truncated"):
            wheel.read("demo/a")


@pytest.mark.parametrize("size", [0, 1, 70 << 20])
def test_a_mapped_member_is_its_content_and_read_only(opened: Opened, size: int) -> None:
    data = (os.urandom(1000) * (size // 1000 + 1))[:size]
    with opened(Entry("demo/a", data, packed=deflate(data, 1))) as wheel, wheel.mapped("demo/a") as view:
        assert view == data
        assert view.readonly


def test_reading_stops_at_a_limit(opened: Opened) -> None:
    with opened(ENTRY) as wheel, pytest.raises(WheelError, match="300 bytes"):
        wheel.read("demo/a.bin", limit=299)


def test_no_zip_file(tmp_path: Path) -> None:
    path = tmp_path / NAME
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n" * 9, b"PK"):
        path.write_bytes(content)
        with pytest.raises(WheelError, match="is no zip file"):
            open_wheel(path)


def test_paths_that_are_no_wheel(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match="cannot be opened"):
        open_wheel(tmp_path / NAME)
    with pytest.raises(WheelError, match="is a folder"):
        open_wheel(tmp_path)
    os.mkfifo(tmp_path / "pipe.whl")
    with pytest.raises(WheelError, match="no regular file"):
        open_wheel(tmp_path / "pipe.whl")
    (tmp_path / "demo.zip").write_bytes(zip_bytes(wheel_entries()))
    with pytest.raises(WheelError, match="not named as a wheel"):
        open_wheel(tmp_path / "demo.zip")


def test_a_file_address_is_a_path(tmp_path: Path) -> None:
    path = write_wheel(tmp_path, "demo-1.0+cu130-cp38-abi3-linux_x86_64.whl", info="demo-1.0+cu130.dist-info",
                       metadata="Metadata-Version: 2.1\nName: demo\nVersion: 1.0+cu130\n")  # fmt: skip
    with open_wheel(path.as_uri().replace("+", "%2B")) as wheel:
        assert wheel.location == str(path)
        assert wheel.metadata.version == "1.0+cu130"
