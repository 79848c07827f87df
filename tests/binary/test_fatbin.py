"""Containers written by hand: what is read of them, and that nothing is guessed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from binary_helpers import container, entry, library_with, parts
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.binary import answer, loaded, read_fatbin, read_library
from vllm_builder.binary.model import Unit
from vllm_builder.errors import WheelError


def units(data: bytes) -> tuple[Unit, ...]:
    return read_fatbin(data, name="x")


@pytest.mark.parametrize(
    ("sm", "flags", "arch"),
    [
        (75, 0x11, "7.5"),
        (90, 0x100011, "9.0a"),
        (100, 0x1000011, "10.0"),
        (100, 0x1200011, "10.0f"),
        (103, 0x1100011, "10.3a"),
        (121, 0x13, "12.1"),
    ],
)
def test_architecture(sm: int, flags: int, arch: str) -> None:
    [unit] = units(container(entry(b"payload", sm=sm, flags=flags)))
    assert [code.arch for code in unit.codes] == [arch]


def test_what_an_entry_says() -> None:
    ptx = entry(b"1234567", kind=1, sm=80, version=(9, 0), flags=0x8011, raw=771, extra=b"options!" * 2)
    [unit] = units(container(entry(b"p" * 24), ptx))
    sass, text = unit.codes
    assert (unit.section, unit.offset) == ("fatbin", 0)
    assert (sass.kind, sass.version, sass.compression) == ("sass", (1, 8), "none")
    assert (sass.offset, sass.stored, sass.size) == (80, 24, 24)
    assert (text.kind, text.version, text.compression) == ("ptx", (9, 0), "zstd")
    assert (text.offset, text.stored, text.size) == (80 + 24 + 80, 7, 771)
    assert units(container(entry(b"x", kind=1, flags=0x2011, raw=9)))[0].codes[0].compression == "lz4"
    assert units(container(entry(b"x", kind=8, flags=0x18011, raw=9)))[0].codes[0].kind == "ltoir"


def test_codes_that_were_compressed_together() -> None:
    listed = parts((0, 4712, 80, 0x11), (4712, 5320, 90, 0x100011))
    data = container(entry(b"z" * 1514, kind=256, sm=0, flags=0x8011, raw=10032, extra=listed))
    [unit] = units(data)
    first, second = unit.codes
    assert [code.arch for code in unit.codes] == ["8.0", "9.0a"]
    assert (first.start, first.size, second.start, second.size) == (0, 4712, 4712, 5320)
    assert first.block == second.block == (1514, 10032)
    assert 1512 <= first.stored + second.stored <= 1514
    assert data[first.offset :].startswith(b"zzz")


def test_sections_of_a_library(tmp_path: Path) -> None:
    section = container(entry(b"a")) + bytes(24) + container(entry(b"b", sm=100), entry(b"c")) + bytes(8)
    library = read_library(library_with(tmp_path, section).read_bytes(), name="x")
    assert [len(unit.codes) for unit in library.units] == [1, 2]
    assert {unit.section for unit in library.units} == {".nv_fatbin"}
    raw = (tmp_path / "lib.so").read_bytes()
    assert all(raw[unit.offset :].startswith(b"\x50\xed\x55\xba") for unit in library.units)
    assert [raw[code.offset : code.offset + 1] for unit in library.units for code in unit.codes] == [
        b"a",
        b"b",
        b"c",
    ]


@pytest.mark.parametrize("name", ["__nv_relfatbin", ".nv_fatbin.part", ".lnv_fatbin"])
def test_other_sections(tmp_path: Path, name: str) -> None:
    library = read_library(library_with(tmp_path, container(entry(b"a")), name).read_bytes(), name="x")
    assert [unit.section for unit in library.units] == [name]


def test_code_of_other_makers_is_not_read(tmp_path: Path) -> None:
    path = library_with(tmp_path, b"__CLANG_OFFLOAD_BUNDLE__" + bytes(40), ".hip_fatbin")
    assert read_library(path.read_bytes(), name="x").units == ()


def test_an_empty_section_and_an_empty_container() -> None:
    assert units(b"") == ()
    assert units(container()) == (Unit(section="fatbin", offset=0, codes=()),)


good = container(entry(b"p" * 16))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (container(entry(), magic=0xBA55ED51), "begins with ba55ed51"),
        (container(entry(), version=2), "version 2"),
        (container(entry(), header=24), "header of 24"),
        (container(entry(), body=1000), "claims 1000 bytes of 64"),
        (container(entry(), body=(1 << 64) - 1), "claims"),
        (container(entry(), body=40), "cut off"),
        (good[:12], "cut off"),
        (good + b"rest", "cut off"),
        (good + b"\0" * 8 + b"something else that is no GPU code", "begins with"),
        (bytes(64), "only zeros"),
        (good + bytes(5000) + good, "hole"),
        (bytes(5000), "hole"),
        (container(entry(kind=3)), "kind 3"),
        (container(entry(kind=0)), "kind 0"),
        (container(entry(mark=0x0102)), "mark 0x102"),
        (container(entry(header=56)), "header of 56"),
        (container(entry(header=68)), "header of 68"),
        (container(entry(header=1 << 31)), "claims"),
        (container(entry(room=8)), "claims 72 bytes of 64"),
        (container(entry(room=(1 << 64) - 64)), "claims"),
        (container(entry(flags=0x40)), "flags 0x40"),
        (container(entry(flags=0x400000)), "flags 0x400000"),
        (container(entry(flags=0x300011)), "SM 90 with the flags 0x300011"),
        (container(entry(sm=0)), "SM 0"),
        (container(entry(sm=9)), "SM 9"),
        (container(entry(sm=1000)), "SM 1000"),
        (container(entry(b"x", flags=0xA011, raw=8)), "flags 0xa011"),
        (container(entry(b"x", flags=0x11, raw=8)), "not compressed by its flags"),
        (container(entry(b"x", flags=0x2011)), "compressed to 0"),
        (container(entry(b"x" * 8, flags=0x2011, raw=9, packed=9)), "compressed to 9 in a place of 8"),
        (container(entry(b"x" * 16, flags=0x2011, raw=9, packed=8)), "compressed to 8 in a place of 16"),
        (container(entry(b"x", flags=0x2011, raw=1 << 40)), "claims to be"),
        (container(entry(kind=256, sm=0)), "what it is made of"),
        (container(entry(kind=256, sm=0, extra=parts())), "claims 0 parts"),
        (
            container(entry(b"x" * 64, kind=256, extra=parts((0, 9, 80, 17))[:64])),
            "claims 1 parts in 64 bytes",
        ),
        (container(entry(b"x" * 64, kind=256, extra=struct.pack("<II", 1 << 31, 72) + bytes(64))), "parts"),
        (container(entry(b"x" * 8, kind=256, extra=parts((0, 9, 80, 17)))), "within its block"),
        (
            container(entry(b"x" * 8, kind=256, extra=parts((0, 4, 80, 17), (3, 4, 90, 17)))),
            "within its block",
        ),
        (container(entry(b"x" * 8, kind=256, extra=parts((0, 4, 80, 0x800)))), "flags 0x800"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(WheelError) as caught:
        units(data)
    assert why in caught.value.why
    assert "fatbin" in caught.value.why


def test_a_refusal_says_section_and_place(tmp_path: Path) -> None:
    path = library_with(tmp_path, container(entry(), entry(kind=77)), "__nv_relfatbin")
    place = path.read_bytes().index(b"\x4d\x00\x01\x01\x40")
    with pytest.raises(WheelError) as caught:
        read_library(path.read_bytes(), name="vllm/_C.abi3.so")
    assert f"the entry at 0x{place:x} of section __nv_relfatbin" in caught.value.why.lower()


def test_more_containers_than_anyone_has() -> None:
    with pytest.raises(WheelError) as caught:
        units(container() * 200_001)
    assert "more than 200000" in caught.value.why


def test_more_entries_than_anyone_has() -> None:
    with pytest.raises(WheelError) as caught:
        units(container(entry() * 200_001))
    assert "more than 200000" in caught.value.why


def test_a_section_that_the_runtime_would_not_find(tmp_path: Path) -> None:
    path = library_with(tmp_path, container(entry(b"x")))
    data = bytearray(path.read_bytes())
    table, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    for number in range(count):
        flags, offset = struct.unpack_from("<8xQ8xQ", data, table + 64 * number)
        if data[offset : offset + 4] == b"\x50\xed\x55\xba":
            struct.pack_into("<Q", data, table + 64 * number + 8, flags | 0x800)
    with pytest.raises(WheelError) as caught:
        read_library(bytes(data), name="x")
    assert "compressed" in caught.value.why


SEED = container(
    entry(b"p" * 16), entry(b"z" * 9, kind=1, flags=0x8011, raw=77, extra=bytes(16))
) + container(
    entry(
        b"z" * 20, kind=256, sm=0, flags=0x8011, raw=99, extra=parts((0, 50, 80, 17), (50, 49, 90, 0x100011))
    )
)


@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SEED)
    for place, value in changes:
        data[place] = value
    consistent(bytes(data))


@given(st.integers(0, len(SEED)), st.integers(0, len(SEED)), st.binary(max_size=90))
def test_pieces_left_out_and_put_in(start: int, end: int, put: bytes) -> None:
    consistent(SEED[:start] + put + SEED[end:])


def consistent(data: bytes) -> None:
    """Refused, or read so that all of it lies within the data and one after the other."""
    try:
        found = units(data)
    except WheelError:
        return
    position = 0
    for unit in found:
        assert unit.offset >= position
        position = unit.offset
        for code in unit.codes:
            assert position <= code.offset
            position = code.offset
            assert code.offset + (code.block[0] or code.stored) <= len(data)
            assert code.start + code.size <= (code.block[1] or code.size)


def test_units_that_were_linked_into_another_do_not_count() -> None:
    linked, part = (Unit(section=name, offset=0, codes=()) for name in (".nv_fatbin", "__nv_relfatbin"))
    assert loaded([part, linked, part]) == (linked,)
    assert loaded([part]) == (part,)
    assert loaded([]) == ()


@pytest.mark.parametrize(
    ("codes", "gpu", "expected"),
    [
        ([("sass", "9.0")], "9.0", "native"),
        ([("sass", "8.0")], "8.6", "native"),
        ([("sass", "8.6")], "8.0", "dead"),
        ([("sass", "9.0")], "10.0", "dead"),
        ([("sass", "9.0"), ("ptx", "9.0")], "10.0", "jit"),
        ([("sass", "9.0"), ("ptx", "9.0")], "8.9", "dead"),
        ([("sass", "10.0")], "10.3", "native"),
        ([("sass", "10.0f")], "10.3", "native"),
        ([("sass", "10.0a")], "10.3", "dead"),
        ([("sass", "10.3f")], "10.0", "dead"),
        ([("sass", "10.0f")], "12.0", "dead"),
        ([("ptx", "9.0a")], "10.0", "dead"),
        ([("ptx", "9.0a")], "9.0", "jit"),
        ([("ptx", "10.0f")], "10.3", "jit"),
        ([("ptx", "10.0f")], "12.0", "dead"),
        ([("ptx", "7.5")], "12.1", "jit"),
        ([("ptx", "8.0"), ("sass", "10.0")], "10.0a", "native"),
        ([("ltoir", "9.0")], "9.0", "dead"),
        ([], "9.0", "dead"),
    ],
)
def test_how_a_unit_answers(codes: list[tuple[str, str]], gpu: str, expected: str) -> None:
    kinds = {"ptx": 1, "sass": 2, "ltoir": 8}
    suffixes = {"a": 0x100000, "f": 0x200000}
    entries = [
        entry(
            b"x",
            kind=kinds[kind],
            sm=int(arch.rstrip("af").replace(".", "")),
            flags=0x11 | suffixes.get(arch[-1], 0),
        )
        for kind, arch in codes
    ]
    [unit] = units(container(*entries))
    assert [code.arch for code in unit.codes] == [arch for _, arch in codes]
    assert answer(unit, gpu) == expected
