"""A wheel of which only Python is packed, and each thing that makes it be compiled instead."""

from __future__ import annotations

import multiprocessing

import pytest
from native_helpers import NativeToy, members, patch_of

from vllm_builder.cache import Workspace
from vllm_builder.report import finding
from vllm_builder.stages.compile.model import Compiler
from vllm_builder.stages.environment.model import Torch
from vllm_builder.stages.native import Layers
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.store import Store
from vllm_builder.stages.verify.model import Report

EXTENSION = "vllm/_C.abi3.so"


def _layers(toy: NativeToy, cache: str = "cache") -> Store:
    return Store(toy.folder / cache / "store" / "native")


def _later(toy: NativeToy) -> Plan:
    """The toy's next release, in which no native code changed."""
    toy.edit("vllm/__init__.py", "42", "43")
    toy.write("vllm/further.py", "new = True\n")
    toy.write("tests/test_it.py", "assert True\n")
    toy.write("README.md", "other\n")
    return toy.plan(spec_version="1.2.4+cpu", spec_scm_version="1.2.4+cpu")


def test_a_change_in_python_starts_no_compiler_and_gives_the_wheel_of_a_compile(
    base: NativeToy, again: NativeToy
) -> None:
    assert base.first.record.native["reused"] is False
    assert base.compiled == 2
    plan = _later(again)

    assert again.forecast(plan).outcome == "reuse"
    packed = again.build(plan)

    assert again.compiled == 0
    record = packed.record
    assert record.native["reused"] is True
    assert record.native["compiled"]["plan"] == base.first.digest
    assert record.native["compiled"]["version"] == "1.2.3+cpu"
    assert record.compile.units == 0
    assert not [f for f in record.verify["findings"] if f["severity"] == "error"]
    assert f"reuse {record.native['digest'][:12]}, compiled for 1.2.3+cpu" in again.notes
    found = members(packed.wheel)
    assert found["vllm/__init__.py"] == b"answer = 43\n"
    assert found["vllm/attention/interface.py"] == b"made = True\n"
    assert found["vllm/_version.py"] == b"version = '1.2.4+cpu'"
    assert found[EXTENSION] == members(base.first.wheel)[EXTENSION]
    assert not list(again.folder.glob("build/trees/*/build/vllm-builder/layer"))
    workspace = Workspace(again.folder / "build")
    reused = finding.report(workspace, finding.find(workspace, packed.digest)).reused
    assert [(one.what, one.detail[:12]) for one in reused] == [("native layer", record.native["digest"][:12])]

    compiled = again.build(plan, cache="other", workspace="elsewhere")
    assert again.compiled == 2
    assert compiled.wheel.read_bytes() == packed.wheel.read_bytes()

    # In the tree that was packed: nothing of the layer is taken for what was compiled.
    forced = again.build(plan, force=True)
    assert again.compiled == 4
    assert forced.wheel.read_bytes() == packed.wheel.read_bytes()
    assert forced.record.native["reason"] == "because of --force"
    assert [e.generation for e in _layers(again).entries()] == [2, 1]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("csrc/one.cpp", "BOTH", "BOTH + 5"),
        ("csrc/both.h", "BOTH 1", "BOTH 2"),
        ("cmake/units.cmake", "csrc/*.cpp)", "csrc/*.cpp)\nadd_compile_definitions(FURTHER)"),
        ("CMakeLists.txt", "LANGUAGES CXX", "VERSION 1.0 LANGUAGES CXX"),
        ("setup.py", "jobs = int", "jobs = 0 + int"),
    ],
)
def test_a_change_in_native_code_is_named_before_it_is_compiled(
    again: NativeToy, path: str, old: str, new: str
) -> None:
    patched = again.forecast(again.plan(patches=patch_of(path, old, new)))
    assert (patched.outcome, patched.differing) == ("compile", (f"{path} differs",))
    again.edit(path, old, new)
    edited = again.forecast()
    assert (edited.outcome, edited.differing) == ("compile", (f"{path} differs",))
    assert edited.digest == patched.digest


def test_what_is_forecast_is_done(again: NativeToy) -> None:
    patch = patch_of("csrc/both.h", "BOTH 1", "BOTH 2")
    plan = again.plan(patches=patch)
    told = again.forecast(plan)
    result = again.build(plan)
    assert again.compiled == 2
    assert result.record.native["reused"] is False
    assert result.record.native["digest"] == told.digest
    assert "native layer: compile, because csrc/both.h differs (nearest: " in again.notes
    assert members(result.wheel)[EXTENSION] != members(again.first.wheel)[EXTENSION]
    # A patch that touches Python alone asks for no compiler.
    plan = again.plan(patches=patch_of("vllm/__init__.py", "42", "44"))
    assert again.build(plan).record.native["reused"] is True
    assert again.compiled == 2


def _gcc(version: str) -> Compiler:
    return Compiler(language="CXX", id="GNU", version=version, target="x86_64", path="/usr/bin/c++")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec_compilers": (_gcc("13.1.0"),)}, "compilers.CXX.version is 13.1.0, not 12.2.0"),
        ({"spec_build_type": "Debug"}, "build_type is Debug, not Release"),
        ({"spec_variables": {"CXXFLAGS": "-O1"}}, "variables.CXXFLAGS is -O1, not none"),
        ({"spec_limited_api": None, "python_abi": "cp311"}, "limited_api is none, not cp38"),
        ({"torch": Torch(version="2.13.0+cpu")}, "torch.version is 2.13.0+cpu, not none"),
        ({"platform": "linux-aarch64"}, "platform is linux-aarch64, not linux-x86_64"),
        ({"folders": {"VLLM_CUTLASS_SRC_DIR": "abc"}}, "folders.VLLM_CUTLASS_SRC_DIR is abc, not none"),
    ],
)
def test_another_toolchain_compiles(again: NativeToy, changes: dict[str, object], said: str) -> None:
    told = again.forecast(again.plan(**changes))
    assert told.outcome == "compile"
    assert said in told.differing
    assert said in told.reason


@pytest.mark.parametrize(
    "changes", [{"spec_jobs": 7}, {"spec_compiler_cache": "ccache"}, {"spec_isolate": True}]
)
def test_how_it_is_compiled_does_not_count(again: NativeToy, changes: dict[str, object]) -> None:
    assert again.forecast(again.plan(**changes)).outcome == "reuse"


def test_no_reuse_compiles_and_keeps_the_layer_that_is_there(again: NativeToy) -> None:
    result = again.build(_later(again), reuse=False)
    assert again.compiled == 2
    assert result.record.native["reason"] == "because of --no-reuse"
    assert [e.generation for e in _layers(again).entries()] == [1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("FURTHER = []", 'FURTHER = ["-DCMAKE_CXX_FLAGS=-DMORE"]', "with -DCMAKE_CXX_FLAGS=-DMORE"),
        ("VARIABLES = {}", 'VARIABLES = {"CPATH": "/elsewhere"}', "with CPATH=/elsewhere"),
    ],
)
def test_python_code_that_makes_setup_py_configure_otherwise_compiles(
    again: NativeToy, old: str, new: str, said: str
) -> None:
    again.edit("vllm/envs.py", old, new)
    assert again.forecast().outcome == "reuse"
    result = again.build()
    assert again.compiled == 2
    assert result.record.native["reused"] is False
    assert said in result.record.native["reason"]
    assert said in again.notes
    assert EXTENSION in members(result.wheel)


def test_a_damaged_layer_is_set_aside_and_compiled_again(again: NativeToy) -> None:
    (entry,) = _layers(again).entries()
    entry.wheel.chmod(0o644)
    data = bytearray(entry.wheel.read_bytes())
    data[len(data) // 2] ^= 1
    entry.wheel.write_bytes(data)
    result = again.build(_later(again))
    assert again.compiled == 2
    assert result.record.native["reused"] is False
    assert f"The stored native layer {entry.digest[:12]} is damaged, so not used." in again.notes
    assert not _layers(again).intact(_layers(again).entries()[0])
    assert len(list((_layers(again).root / "damaged").iterdir())) == 1


def test_an_archive_that_holds_no_layer_is_not_used(again: NativeToy) -> None:
    layers = Layers(again.cache)
    (entry,) = layers.entries()
    record = entry.record
    junk = again.folder / record.wheel.filename
    junk.write_bytes(b"no archive")
    forged = record.model_copy(update={"wheel": type(record.wheel).of(junk)})
    layers.store.add(entry.digest, junk, forged, force=True)
    result = again.build(_later(again))
    assert result.record.native["reused"] is False
    assert "cannot be read" in again.notes
    assert again.compiled == 2


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("csrc/one.cpp", '#include "both.h"\n#include "../vllm/table.txt"\nint one() { return BOTH; }\n'),
        (
            "cmake/units.cmake",
            "file(GLOB units csrc/*.cpp)\nset(f vllm)\nconfigure_file(${f}/table.txt t COPYONLY)\n",
        ),
    ],
)
def test_a_build_that_reads_what_the_digest_does_not_cover_leaves_no_layer(
    toy: NativeToy, path: str, text: str
) -> None:
    toy.write("vllm/table.txt", "\n")
    toy.write(path, text)
    result = toy.build()
    assert result.record.native["kept"] is False
    assert "its build read vllm/table.txt, which its digest does not cover" in toy.notes
    assert not _layers(toy).digests()


def test_what_cannot_be_captured_costs_the_layer_and_not_the_wheel(toy: NativeToy) -> None:
    toy.edit("setup.py", '"--component", name]', '"--component", name, "--strip"]')
    result = toy.build()
    assert EXTENSION in members(result.wheel)
    assert "setup.py calls cmake in a way that no layer can answer" in toy.notes
    assert not _layers(toy).digests()


def test_part_of_the_extensions_makes_no_layer_and_takes_none(again: NativeToy) -> None:
    result = again.build(again.plan(spec_extensions=("_C",)))
    assert again.compiled == 2
    assert result.record.native == {}
    assert len(_layers(again).entries()) == 1


def _built(toy: NativeToy, name: str, version: str) -> None:
    toy.build(toy.plan(spec_version=version, spec_scm_version=version), workspace=name)


def test_two_builders_of_one_layer_compile_once(toy: NativeToy) -> None:
    fork = multiprocessing.get_context("fork")
    builders = [
        fork.Process(target=_built, args=(toy, "one", "1.2.3+cpu")),
        fork.Process(target=_built, args=(toy, "two", "1.2.4+cpu")),
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(120)
    assert [builder.exitcode for builder in builders] == [0, 0]
    assert toy.compiled == 2
    found = sorted(entry.record.native["reused"] for entry in Store(toy.cache.store).entries())
    assert found == [False, True]


def test_a_report_of_a_packed_wheel_is_read_back(base: NativeToy) -> None:
    assert Report.model_validate(base.first.record.verify).good
