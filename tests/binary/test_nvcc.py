"""GPU code as nvcc writes it, in all the ways that it is asked to."""

from __future__ import annotations

from pathlib import Path

import pytest
from binary_helpers import compile_cuda, nvcc

from vllm_builder.binary import answer, demangle, kernels, loaded, read_fatbin, read_library
from vllm_builder.binary.model import Library

NAMES = {"plain", "_Z7generalIdEvPT_"}


@pytest.fixture(autouse=True)
def _needs_nvcc() -> None:
    nvcc()


def read(path: Path) -> Library:
    return read_library(path.read_bytes(), name=path.name)


def gencode(arch: str, *codes: str) -> str:
    return f"-gencode=arch=compute_{arch},code=[{','.join(codes)}]"


def found(library: Library) -> list[tuple[str, str]]:
    return [(code.kind, code.arch) for unit in library.units for code in unit.codes]


def test_architectures_with_their_suffixes(tmp_path: Path) -> None:
    path = compile_cuda(
        tmp_path,
        gencode("80", "compute_80"),
        gencode("90a", "sm_90a", "compute_90a"),
        gencode("100f", "sm_100f", "compute_100f"),
        gencode("103a", "sm_103a"),
        gencode("120", "sm_120"),
    )
    library = read(path)
    assert sorted(found(library)) == [
        ("ptx", "10.0f"),
        ("ptx", "8.0"),
        ("ptx", "9.0a"),
        ("sass", "10.0f"),
        ("sass", "10.3a"),
        ("sass", "12.0"),
        ("sass", "9.0a"),
    ]
    [unit] = library.units
    assert unit.section == ".nv_fatbin"
    told = {gpu: answer(unit, gpu) for gpu in ("7.5", "8.6", "9.0", "10.0", "10.3", "12.1")}
    assert told == {
        "7.5": "dead",
        "8.6": "jit",
        "9.0": "native",
        "10.0": "native",
        "10.3": "native",
        "12.1": "native",
    }


@pytest.mark.parametrize(
    ("flags", "compressions"),
    [
        ((), {"none", "zstd", "lz4"}),  # what nvcc compresses unasked changed with its versions
        (("-Xfatbin=-compress-all",), {"zstd", "lz4"}),
        (("-Xfatbin=-compress-mode=size",), {"zstd"}),
        (("-Xfatbin=-compress-mode=speed",), {"lz4", "none"}),
        (("-Xfatbin=-compress-mode=none",), {"none"}),
        (("-no-compress",), {"none"}),
        (("-lineinfo",), {"none", "zstd", "lz4"}),
        (("-G",), {"zstd", "lz4"}),
    ],
    ids=lambda words: " ".join(sorted(words)),
)
def test_compression(tmp_path: Path, flags: tuple[str, ...], compressions: set[str]) -> None:
    path = compile_cuda(tmp_path, gencode("90a", "sm_90a", "compute_90a"), *flags)
    data = path.read_bytes()
    library = read(path)
    [unit] = library.units
    assert sorted(found(library)) == [("ptx", "9.0a"), ("sass", "9.0a")]
    assert {code.compression for code in unit.codes} <= compressions
    for code in unit.codes:
        assert set(kernels(data, code)) == NAMES
        assert code.size >= code.stored or code.compression == "none"


def test_relocatable_code(tmp_path: Path) -> None:
    library = read(compile_cuda(tmp_path, gencode("80", "sm_80", "lto_80"), "-rdc=true"))
    assert {unit.section for unit in library.units} >= {"__nv_relfatbin"}
    [unit] = [unit for unit in library.units if unit.section == "__nv_relfatbin"]
    assert loaded(library.units) == (unit,)  # nvcc -shared does not link device code
    assert {(code.kind, code.arch) for code in unit.codes} == {("sass", "8.0"), ("ltoir", "8.0")}


def test_a_bare_fatbin(tmp_path: Path) -> None:
    path = compile_cuda(tmp_path, "-fatbin", gencode("80", "sm_80", "compute_80"), name="k.fatbin")
    [unit] = read_fatbin(path.read_bytes(), name="k.fatbin")
    assert [code.kind for code in unit.codes].count("sass") == 1
    assert all(set(kernels(path.read_bytes(), code)) == NAMES for code in unit.codes)


def test_a_unit_without_kernels(tmp_path: Path) -> None:
    library = compile_cuda(tmp_path, gencode("80", "sm_80"), source="int host(void) { return 1; }")
    assert all(not kernels(library.read_bytes(), c) for unit in read(library).units for c in unit.codes)


def test_names_for_people(tmp_path: Path) -> None:
    path = compile_cuda(tmp_path, gencode("80", "sm_80"))
    [unit] = read(path).units
    names = demangle(kernels(path.read_bytes(), unit.codes[0]))
    assert set(names) in ({"plain", "void general<double>(double*)"}, NAMES)
