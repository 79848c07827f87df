"""What is read of a shared library, against what binutils say of it."""

from __future__ import annotations

import mmap
import re
import struct
import subprocess
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from binary_helpers import compile_c, readelf, symbols_by_readelf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_builder.binary import exports, is_elf, read_library
from vllm_builder.binary.model import Library
from vllm_builder.errors import WheelError

SOURCE = """
#include <math.h>
#include <stdio.h>
extern int elsewhere(int);
extern int perhaps(int) __attribute__((weak));
int shown(int x) { printf("%f", pow(x, 2.5)); return elsewhere(x) + (perhaps ? perhaps(x) : 0); }
__attribute__((visibility("hidden"))) int concealed(int x) { return x; }
static int local(int x) { return x; }
int data = 3;
void *PyInit_thing(void) { return (void *)local; }
"""


def read(path: Path) -> Library:
    return read_library(path.read_bytes(), name=path.name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elf")
    flags = ("-g", "-lm", "-Wl,-soname,libthing.so.1", "-Wl,--enable-new-dtags", "-Wl,--build-id=sha1")
    return compile_c(folder, SOURCE, *flags, "-Wl,-rpath,$ORIGIN/../lib:/opt/lib")


def test_what_a_library_is(built: Path) -> None:
    library = read(built)
    assert library.name == "lib.so"
    assert library.machine in readelf(built, "-h").replace("-", "_").replace("AArch64", "aarch64").lower()
    assert library.soname == "libthing.so.1"
    assert library.runpath == ("$ORIGIN/../lib", "/opt/lib")
    assert library.rpath == ()
    assert library.init == ("PyInit_thing",)
    assert library.units == ()
    assert library.build_id == re.search(r"Build ID: (\w+)", readelf(built, "-n"))[1]
    assert any("GCC" in comment for comment in library.comments)


def test_needed_in_order(built: Path) -> None:
    told = re.findall(r"\(NEEDED\).*\[(.*)\]", readelf(built, "-d"))
    assert list(read(built).needed) == told
    assert len(told) > 1


def test_symbols_as_readelf_shows_them(built: Path) -> None:
    undefined, defined = symbols_by_readelf(built)
    library = read(built)
    assert {f"{s.name}@{s.version}" if s.version else s.name for s in library.imports} == undefined
    assert exports(built.read_bytes()) == defined
    assert library.exports == len(defined)
    assert {"shown", "data", "PyInit_thing"} <= defined


def test_where_a_symbol_has_to_come_from(built: Path) -> None:
    imports = {symbol.name: symbol for symbol in read(built).imports}
    assert imports["pow"].library == "libm.so.6"
    assert imports["pow"].version.startswith("GLIBC_2.")
    assert imports["printf"].library == "libc.so.6"
    assert (imports["elsewhere"].version, imports["elsewhere"].library) == ("", "")
    assert imports["perhaps"].weak
    assert not imports["elsewhere"].weak


def test_rpath_of_the_old_kind(tmp_path: Path) -> None:
    library = read(compile_c(tmp_path, "int x;", "-Wl,--disable-new-dtags", "-Wl,-rpath,/build/lib"))
    assert library.rpath == ("/build/lib",)
    assert library.runpath == ()


def test_versions_that_a_library_defines(tmp_path: Path) -> None:
    (tmp_path / "map").write_text("V1 { global: old; local: *; }; V2 { global: new; } V1;")
    source = "int old(void) { return 1; } int new(void) { return 2; } int gone(void) { return 3; }"
    path = compile_c(tmp_path, source, f"-Wl,--version-script={tmp_path / 'map'}")
    names = exports(path.read_bytes())
    assert {"old", "old@V1", "new", "new@V2"} <= names
    assert "gone" not in names


def test_debug_information_and_symbol_table(built: Path, tmp_path: Path) -> None:
    whole = read(built)
    assert whole.debug == sum(size for name, size in sections_by_readelf(built).items() if ".debug" in name)
    assert whole.debug > 1000
    assert whole.symtab > 0
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "-o", stripped, built], check=True)
    bare = read(stripped)
    assert (bare.debug, bare.symtab) == (0, 0)
    assert bare.imports == whole.imports
    assert bare.exports == whole.exports


def test_compressed_debug_information_counts_as_it_lies_in_the_file(tmp_path: Path) -> None:
    path = compile_c(tmp_path, SOURCE, "-g", "-gz")
    assert read(path).debug == sum(
        size for name, size in sections_by_readelf(path).items() if "debug" in name
    )


def test_sizes_of_sections(built: Path) -> None:
    assert read(built).sections == sections_by_readelf(built)


def sections_by_readelf(path: Path) -> dict[str, int]:
    found = re.findall(r"\[ *\d+\] (\S+) +(\S+) +\w+ \w+ (\w+)", readelf(path, "-S"))
    return {name: int(size, 16) for name, kind, size in found if kind != "NOBITS" and int(size, 16)}


def test_the_python_that_runs_this() -> None:
    """A large real one, where there is a shared libpython; otherwise an extension module of the standard library."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/")
    shared = [folder / (sysconfig.get_config_var("INSTSONAME") or "none"), Path(sys.executable)]
    shared += sorted(Path(sysconfig.get_path("platstdlib"), "lib-dynload").glob("_s*.so"))[:3]
    paths = [path for path in shared if path.is_file() and is_elf(path.read_bytes()[:4])]
    assert paths
    for path in paths:
        undefined, defined = symbols_by_readelf(path)
        library = read(path)
        assert {f"{s.name}@{s.version}" if s.version else s.name for s in library.imports} == undefined, path
        assert exports(path.read_bytes()) == defined, path


def test_a_mapped_file_can_be_closed_afterwards(built: Path) -> None:
    with built.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert read_library(mapped, name="x").soname == "libthing.so.1"
        mapped.close()
        whole = bytearray(built.read_bytes())
        assert read_library(memoryview(whole), name="x").soname == "libthing.so.1"
        whole.clear()


def test_a_mapped_file_can_be_closed_after_a_refusal(built: Path) -> None:
    with built.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 100, access=mmap.ACCESS_READ)
        with pytest.raises(WheelError):
            read_library(mapped, name="x")
        mapped.close()


def test_static_programs_and_objects(tmp_path: Path) -> None:
    (tmp_path / "o.c").write_text("int f(void) { return 0; }")
    subprocess.run(["gcc", "-c", tmp_path / "o.c", "-o", tmp_path / "o.o"], check=True)
    library = read(tmp_path / "o.o")
    assert library.needed == ()
    assert library.imports == ()
    assert exports((tmp_path / "o.o").read_bytes()) == frozenset()


@pytest.mark.parametrize("cut", [0, 3, 40, 63, 64, 2000, -1, -64, -1000])
def test_cut_off(built: Path, cut: int) -> None:
    with pytest.raises(WheelError):
        read_library(built.read_bytes()[:cut], name="cut.so")


def changed(path: Path, offset: int, form: str, value: int) -> bytes:
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "form", "value", "why"),
    [
        (0, "<I", 0x21726100, "does not begin like an ELF file"),
        (4, "<B", 1, "64 bits"),
        (5, "<B", 2, "little endian"),
        (16, "<H", 4, "type 4"),
        (40, "<Q", 0, "no table of sections"),
        (40, "<Q", 1 << 63, "beyond the end"),
        (32, "<Q", 1 << 60, "beyond the end"),
        (54, "<H", 8, "unknown size"),
        (58, "<H", 10, "unknown size"),
        (60, "<H", 1, "cannot have their names"),
        (60, "<H", 0xFF00, "beyond the end"),
        (62, "<H", 0xFF00, "cannot have their names"),
    ],
)
def test_headers_that_lie(built: Path, offset: int, form: str, value: int, why: str) -> None:
    with pytest.raises(WheelError) as caught:
        read_library(changed(built, offset, form, value), name="vllm/_C.abi3.so")
    assert why in caught.value.why
    assert "vllm/_C.abi3.so" in caught.value.what
    assert caught.value.next


@cache
def place(path: Path, name: str) -> tuple[int, int, int]:
    """Offset of a section's header, of the section, and its size."""
    number, offset, size = re.search(
        rf"\[ *(\d+)\] {re.escape(name)} +\S+ +\w+ (\w+) (\w+)", readelf(path, "-S")
    ).groups()
    table = struct.unpack_from("<Q", path.read_bytes(), 40)[0]
    return table + 64 * int(number), int(offset, 16), int(size, 16)


@pytest.mark.parametrize(
    ("section", "field", "form", "value"),
    [
        (".dynsym", 40, "<I", 9999),  # its strings are in no section
        (".dynsym", 32, "<Q", 1 << 62),
        (".dynsym", 16, "<Q", 64),  # the loader sees another table
        (".gnu.version", 32, "<Q", 2),  # fewer versions than symbols
        (".gnu.version_r", 44, "<I", 1 << 31),  # more libraries than there are
        (".dynstr", 32, "<Q", 4),  # strings without end
        (".dynamic", 24, "<Q", 0),  # the loader sees another one
        (".dynamic", 4, "<I", 11),  # two tables of symbols
        (".note.gnu.build-id", 32, "<Q", 16),
        (".comment", 24, "<Q", 1 << 40),
    ],
)
def test_sections_that_lie(built: Path, section: str, field: int, form: str, value: int) -> None:
    header, _, _ = place(built, section)
    with pytest.raises(WheelError):
        read_library(changed(built, header + field, form, value), name="x")


def test_a_version_that_is_not_listed(built: Path) -> None:
    _, offset, size = place(built, ".gnu.version")
    data = bytearray(built.read_bytes())
    data[offset : offset + size] = b"\x77\x00" * (size // 2)
    with pytest.raises(WheelError, match="cannot be read") as caught:
        read_library(bytes(data), name="x")
    assert "version 119" in caught.value.why
    with pytest.raises(WheelError):
        exports(bytes(data))


def test_symbols_that_all_share_an_endless_name(built: Path) -> None:
    """Many symbols, each a little further into one long string: quadratic work for who believes it."""
    count = 20_000
    names = b"x" * 7_000 + b"\0"
    symbols = b"".join(struct.pack("<IBBHQQ", 1 + i, 0x12, 0, 0, 0, 0) for i in range(count))
    data = with_symbols(built, names, symbols)
    with pytest.raises(WheelError) as caught:
        read_library(data, name="x")
    assert "overlap" in caught.value.why


def test_more_symbols_than_anyone_has(built: Path) -> None:
    data = with_symbols(built, b"\0a\0", bytes(24 * 1_000_001))
    with pytest.raises(WheelError) as caught:
        read_library(data, name="x")
    assert "dynamic symbols" in caught.value.why


def test_more_imports_than_anyone_has(built: Path) -> None:
    symbols = struct.pack("<IBBHQQ", 1, 0x12, 0, 0, 0, 0) * 200_001
    data = with_symbols(built, b"\0a\0" + bytes(200_000), symbols)
    with pytest.raises(WheelError) as caught:
        read_library(data, name="x")
    assert "200000 symbols" in caught.value.why


def test_sections_that_all_lie_on_the_same_comment(built: Path) -> None:
    """Thousands of sections, each naming the same megabyte: a lot of work, for who reads them all."""
    data = bytearray(built.read_bytes())
    header, _, _ = place(built, ".comment")
    label = struct.unpack_from("<I", data, header)[0]
    text = len(data)
    data += b"GCC\0" * (1 << 18)
    old, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    table = bytes(data[old : old + 64 * count])
    more = struct.pack("<IIQQQQIIQQ", label, 1, 0, 0, text, 1 << 20, 0, 0, 1, 0) * (7_000 - count)
    struct.pack_into("<Q", data, 40, len(data))
    struct.pack_into("<H", data, 60, 7_000)
    library = read_library(bytes(data) + table + more, name="x")
    assert len(library.comments) < 10


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_headers(built: Path, data: st.DataObject) -> None:
    """Refused or read, never anything else, whatever stands in the headers and the tables about symbols."""
    original = built.read_bytes()
    table = struct.unpack_from("<Q", original, 40)[0]
    ranges = [(0, 64), (64, 64 + 56 * 8), (table, len(original))]
    for name in (".dynamic", ".dynsym", ".dynstr", ".gnu.version", ".gnu.version_r", ".note.gnu.build-id"):
        _, offset, size = place(built, name)
        ranges.append((offset, offset + size))
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 5))):
        first, last = data.draw(st.sampled_from(ranges))
        position = data.draw(st.integers(first, last - 1))
        width = data.draw(st.sampled_from([1, 2, 4, 8]))
        value = data.draw(st.integers(0, (1 << 8 * width) - 1))
        changed[position : position + width] = value.to_bytes(width, "little")
    with suppress(WheelError):
        assert read_library(bytes(changed), name="x").model_dump_json()
    with suppress(WheelError):
        exports(bytes(changed))


def with_symbols(path: Path, names: bytes, symbols: bytes) -> bytes:
    """The library with other dynamic symbols and strings, appended at its end, and without versions."""
    data = bytearray(path.read_bytes())
    for section, content in ((".dynstr", names), (".dynsym", symbols)):
        header, _, _ = place(path, section)
        struct.pack_into("<QQ", data, header + 24, len(data), len(content))
        data += content
    header, _, _ = place(path, ".gnu.version")
    struct.pack_into("<I", data, header + 4, 1)
    header, start, size = place(path, ".dynamic")
    data[start : start + size] = bytes(size)
    return bytes(data)


def test_names_that_are_no_text_can_be_printed(built: Path) -> None:
    data = built.read_bytes().replace(b"\0elsewhere\0", b"\0else\xff\xfeere\0")
    library = read_library(data, name="x")
    name = next(symbol.name for symbol in library.imports if symbol.name.startswith("else"))
    assert name == "else\\xff\\xfeere"
    assert Library.model_validate_json(library.model_dump_json()) == library
