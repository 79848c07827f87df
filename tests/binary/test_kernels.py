"""Names of kernels: decompressing what may be damaged or hostile."""

from __future__ import annotations

import shutil
import struct

import lz4.block
import pytest
import zstandard
from binary_helpers import container, entry
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_builder.binary import demangle, kernels, read_fatbin
from vllm_builder.errors import WheelError

PTX = b"""
.version 9.0
.target sm_80
.file 1 "/tmp/a//b/* .entry wrong.cu"
// .entry commented
/* .entry commented_too( */
.visible .entry _Z7generalIdEvPT_(
  .param .u64 p0
)
.maxntid 32
{ ret; }
.func helper() { ret; }
.weak .entry plain$1(.param .u64 p0) { ret; }
"""
NAMES = ("_Z7generalIdEvPT_", "plain$1")


def names(data: bytes) -> tuple[str, ...]:
    [unit] = read_fatbin(data, name="x")
    return kernels(data, unit.codes[0], name="vllm/_C.so")


def packed(payload: bytes, flags: int, raw: int, kind: int = 1) -> bytes:
    return container(entry(payload, kind=kind, flags=0x11 | flags, raw=raw))


def test_ptx_in_every_compression() -> None:
    assert names(container(entry(PTX, kind=1))) == NAMES
    assert names(packed(lz4.block.compress(PTX, store_size=False), 0x2000, len(PTX))) == NAMES
    assert names(packed(zstandard.compress(PTX), 0x8000, len(PTX))) == NAMES
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(PTX)
    assert names(packed(unsized, 0x8000, len(PTX))) == NAMES


@pytest.mark.parametrize("flags", [0x2000, 0x8000])
@pytest.mark.parametrize("wrong", [-1, 1, 100_000])
def test_another_size_than_claimed(flags: int, wrong: int) -> None:
    payload = lz4.block.compress(PTX, store_size=False) if flags == 0x2000 else zstandard.compress(PTX)
    with pytest.raises(WheelError) as caught:
        names(packed(payload, flags, len(PTX) + wrong))
    assert "0x50" in caught.value.why
    assert "vllm/_C.so" in caught.value.what


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zstandard.compress(bytes(300 << 20))
    with pytest.raises(WheelError, match="cannot be read") as caught:
        names(packed(bomb, 0x8000, 300 << 20))
    assert "more than any known" in caught.value.why
    # The header is modest, the frame inside is not.
    with pytest.raises(WheelError):
        names(packed(bomb, 0x8000, 1000))
    huge = struct.pack("<IBQ", 0xFD2FB528, 0xE0, 1 << 60) + b"\x01\x00\x00"
    with pytest.raises(WheelError):
        names(packed(huge, 0x8000, 1000))


def test_a_comment_without_end() -> None:
    with pytest.raises(WheelError):
        names(container(entry(b".entry a() /* x " + b"/*" * 100_000, kind=1)))


def test_binary_code_that_is_none() -> None:
    with pytest.raises(WheelError):
        names(container(entry(b"\x7fELF" + bytes(200))))
    with pytest.raises(WheelError):
        names(container(entry(b"")))


def test_lto_has_no_names() -> None:
    assert names(packed(b"scrambled", 0x18000, 99, kind=8)) == ()


@settings(max_examples=300)
@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from([0x2000, 0x8000]))
def test_damaged_payloads(place: int, value: int, flags: int) -> None:
    payload = lz4.block.compress(PTX, store_size=False) if flags == 0x2000 else zstandard.compress(PTX)
    damaged = bytearray(payload)
    damaged[place % len(damaged)] = value
    try:
        found = names(packed(bytes(damaged), flags, len(PTX)))
    except WheelError:
        return
    assert all(isinstance(name, str) for name in found)


@pytest.mark.skipif(not shutil.which("c++filt"), reason="c++filt of binutils is not here")
def test_names_as_the_source_has_them() -> None:
    assert demangle(["_Z7generalIdEvPT_", "plain", "_Zbroken"]) == (
        "void general<double>(double*)",
        "plain",
        "_Zbroken",
    )
    assert demangle([]) == ()
    assert demangle(["two\nlines", "_Z1fv"]) == ("two\nlines", "_Z1fv")


def test_without_the_tool_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert demangle(["_Z1fv"]) == ("_Z1fv",)
