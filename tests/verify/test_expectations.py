"""What is expected of a release's wheel, and the table behind it against the releases' own files."""

from __future__ import annotations

import ast
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.version import Version

from vllm_builder.errors import WheelError
from vllm_builder.stages.patch.cmake import CMakeFile
from vllm_builder.stages.plan.compatibility import within
from vllm_builder.stages.plan.supported import guarded_extensions
from vllm_builder.stages.verify.expectations import (
    Expectations,
    from_options,
    from_record,
    from_release,
    identified,
    parse_expectations,
)
from vllm_builder.stages.verify.requirements import normal, release_requirements, without_extras
from vllm_builder.stages.verify.table import table
from vllm_builder.wheelfile.record import BuildRecord

RELEASES = (  # noqa: SIM905  # one line for some minor versions each
    "0.6.0 0.6.1 0.6.1.post1 0.6.1.post2 0.6.2 0.6.3 0.6.3.post1 0.6.4 0.6.4.post1 0.6.5 0.6.6 0.6.6.post1 "
    "0.7.0 0.7.1 0.7.2 0.7.3 0.8.0 0.8.1 0.8.2 0.8.3 0.8.4 0.8.5 0.8.5.post1 0.9.0 0.9.0.1 0.9.1 0.9.2 "
    "0.10.0 0.10.1 0.10.1.1 0.10.2 0.11.0 0.11.1 0.11.2 0.12.0 0.13.0 0.14.0 0.14.1 0.16.0 0.17.0 0.17.1 "
    "0.18.0 0.18.1 0.19.0 0.19.1 0.20.0 0.20.1 0.20.2 0.21.0 0.22.0 0.22.1 0.23.0 0.24.0 0.25.0 0.25.1 "
    "0.26.0 0.27.0 0.27.1 0.28.0 0.29.0 0.30.0 0.31.0 0.32.0 0.33.0"
).split()


def _named(expected: Expectations, *, required: bool = True) -> set[str]:
    return {one.name for one in expected.extensions or () if one.required is required}


def test_extensions_of_0_9_2() -> None:
    b200 = from_release("0.9.2", "cuda", ("10.0",), cuda="13.0")
    assert _named(b200) == {"_C", "_moe_C", "cumem_allocator", "_vllm_fa2_C"}
    assert _named(b200, required=False) == {"_vllm_fa3_C", "_flashmla_C"}
    h100 = from_release("0.9.2", "cuda", ("9.0",), cuda="12.8")
    assert _named(h100) == {"_C", "_moe_C", "cumem_allocator", "_vllm_fa2_C", "_vllm_fa3_C", "_flashmla_C"}
    fa3 = next(one for one in h100.extensions or () if one.name == "_vllm_fa3_C")
    assert fa3.archs == ("9.0a",)  # its code for 8.0 serves no GPU that was asked for
    old_cuda = from_release("0.9.2", "cuda", ("9.0",), cuda="12.1")
    assert not {"_vllm_fa3_C", "_flashmla_C"} & (_named(old_cuda) | _named(old_cuda, required=False))


def test_extensions_of_other_devices() -> None:
    assert _named(from_release("0.9.2", "cpu")) == {"_C"}
    assert _named(from_release("0.33.0", "cpu", machine="x86_64")) == {
        *("_C", "_C_AVX2", "_C_AVX512", "spinloop", "fs_io_C")
    }
    assert _named(from_release("0.33.0", "cpu", machine="aarch64")) == {"_C", "spinloop", "fs_io_C"}
    assert _named(from_release("0.26.0", "cpu", machine="aarch64", python="3.10")) == {"_C"}
    assert from_release("0.9.2", "empty").extensions == ()


def test_without_gpus_what_depends_on_them_is_not_demanded() -> None:
    found = from_release("0.33.0", "cuda", cuda="13.0")
    assert {"_C_stable_libtorch", "cumem_allocator", "triton_kernels"} <= _named(found)
    assert {"_vllm_fa3_C", "_deepselect_C", "_deep_gemm_C"} <= _named(found, required=False)


def test_pre_releases_are_of_the_release_that_they_lead_to() -> None:
    names = [one.name for one in from_release("0.24.0.dev7", "cuda", ("9.0",)).extensions or ()]
    assert "_moe_C_stable_libtorch" in names
    assert len(names) == len(set(names))


def test_chosen_and_left_out_modules() -> None:
    chosen = from_release("0.9.2", "cuda", ("9.0",), cuda="12.8", chosen=("_C",))
    assert _named(chosen) == {"_C"}
    assert chosen.partial
    left = from_release("0.9.2", "cuda", ("9.0",), cuda="12.8", left_out={"_moe_C": "why not"})
    assert "_moe_C" not in _named(left)
    again = from_options(left, archs=("10.0",))
    assert _named(again) == {"_C", "cumem_allocator", "_vllm_fa2_C"}
    assert again.origin == "the release 0.9.2, --arch 10.0"


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("0.9.2+cu130", ("0.9.2", "cuda", "13.0")),
        ("0.9.2+cpu", ("0.9.2", "cpu", "")),
        ("0.9.2+empty", ("0.9.2", "empty", "")),
        ("0.6.4.post1", ("0.6.4.post1", "cuda", "")),
        ("0.9.2+rocm621", ("0.9.2", "", "")),
        ("0.9.2+precompiled.cu129", ("0.9.2", "cuda", "12.9")),
        ("no version", ("no version", "", "")),
    ],
)
def test_what_a_version_says(version: str, found: tuple[str, str, str]) -> None:
    assert identified(version) == found


def test_expectations_travel_in_the_record() -> None:
    expected = from_release("0.9.2", "cuda", ("10.0",), cuda="13.0")
    record = BuildRecord(
        builder="x", digest="0" * 64, release="0.9.2", version="0.9.2+cu130", device="cuda", archs=("10.0",),
        toolkit="13.0", torch="2.11.0+cu130", left_out={"_moe_C": "for a test"},
        expectations=expected.model_dump(mode="json"),
    )  # fmt: skip
    found = from_record(record)
    assert found.extensions == expected.extensions
    assert found.origin == "its build record"
    # A record of an older version without them still says what was built.
    older = from_record(record.model_copy(update={"expectations": {}}))
    assert _named(older) == _named(expected) - {"_moe_C"}
    assert older.version == "0.9.2+cu130"
    with pytest.raises(WheelError, match="cannot be read"):
        parse_expectations({"device": "toaster"})


def test_extras_do_not_count() -> None:
    assert without_extras(
        ['a; extra == "x"', "b; python_version < '3.10'", 'c; extra=="y" and os_name == "nt"']
    ) == ("b; python_version < '3.10'",)


def test_spelling_of_requirements() -> None:
    assert normal("Foo_Bar >= 1.0,<2") == normal("foo-bar<2,>=1.0")
    assert normal("not a requirement!") == "not a requirement!"


# -- the table against all releases --------------------------------------------------------------------
@pytest.fixture(scope="module", params=RELEASES)
def release(
    request: pytest.FixtureRequest, sdist: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A release and a folder with its setup.py, requirement files and CMake files."""
    folder = tmp_path_factory.mktemp("release")
    wanted = re.compile(
        r"[^/]+/(setup\.py|pyproject\.toml|CMakeLists\.txt|requirements[^/]*\.txt|(requirements|cmake)/.+)"
    )
    with tarfile.open(sdist(request.param)) as archive:
        for member in archive:
            if member.isfile() and wanted.fullmatch(member.name):
                path = folder / member.name.partition("/")[2]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
    return request.param, folder


def _world(device: str, cuda: str, machine: str, python: str) -> dict[str, Any]:
    """Names that setup.py's own conditions ask."""
    envs = SimpleNamespace(VLLM_USE_PRECOMPILED=False, VLLM_TARGET_DEVICE=device)
    torch = SimpleNamespace(version=SimpleNamespace(cuda=cuda or None, hip=None))
    names: dict[str, Any] = {
        f"_is_{other}": lambda: False for other in ("hip", "neuron", "tpu", "hpu", "xpu", "openvino")
    }
    return names | {
        "_is_cuda": lambda: device == "cuda",
        "_is_cpu": lambda: device == "cpu",
        "_no_device": lambda: device == "empty",
        "_build_core_ext": lambda: True,
        "envs": envs,
        "torch": torch,
        "get_nvcc_cuda_version": lambda: Version(cuda or "0"),
        "Version": Version,
        "CUDA_HOME": "/cuda" if cuda else None,
        "USE_PRECOMPILED_EXTENSIONS": False,
        "platform": SimpleNamespace(machine=lambda: machine),
        "sys": SimpleNamespace(version_info=tuple(map(int, python.split("."))), argv=["setup.py"]),
        "List": list,
    }


def _appended(module: ast.Module, world: Mapping[str, Any]) -> Iterator[str]:
    """Names of the modules that setup.py appends where its conditions hold."""

    def walk(body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.If) and "CMakeExtension" in ast.unparse(node):
                holds = eval(compile(ast.Expression(node.test), "setup.py", "eval"), dict(world))
                yield from walk(node.body if holds else node.orelse)
            elif isinstance(node, ast.Expr) and "append(CMakeExtension" in ast.unparse(node):
                yield re.search(r"name='([\w.]+)'", ast.unparse(node))[1]  # type: ignore[index]

    yield from walk(module.body)


def _function(module: ast.Module, name: str, world: dict[str, Any]) -> Any:
    """One function of setup.py, alone in a made-up world."""
    node = next(n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == name)
    exec(compile(ast.Module([node], []), "setup.py", "exec"), world)
    return world[name]


@pytest.mark.corpus
def test_the_table_is_what_setup_py_does(release: tuple[str, Path]) -> None:
    version, folder = release
    module = ast.parse((folder / "setup.py").read_bytes())
    for device, cuda, machine, python in (
        *(
            ("cuda", cuda, "x86_64", "3.12")
            for cuda in ("11.8", "12.1", "12.3", "12.4", "12.8", "12.9", "13.0")
        ),
        ("cuda", "13.0", "aarch64", "3.10"),
        ("cpu", "", "x86_64", "3.12"),
        ("cpu", "", "aarch64", "3.10"),
    ):
        world = _world(device, cuda, machine, python)
        world["_build_custom_ops"] = _function(module, "_build_custom_ops", dict(world))
        theirs = {name.rpartition(".")[2]: name for name in _appended(module, world)}
        every = {entry.name: entry for entry in table().of(version, device, machine)}
        ours = {
            name: entry
            for name, entry in every.items()
            if (not cuda or not entry.cuda or within(entry.cuda, cuda))
            and (not entry.python or within(entry.python, python))
        }
        assert set(ours) <= set(theirs), (device, cuda)
        for name in set(theirs) - set(ours):
            # CMake may be stricter than setup.py, and then makes no such module.
            assert name in every, (device, cuda, name)
            assert every[name].cuda, (device, cuda, name)
        for name, entry in ours.items():
            stem = theirs[name].replace(".", "/")
            if entry.library and name != "_deep_gemm_C":
                assert entry.path == stem


@pytest.mark.corpus
def test_guards_and_places_are_what_cmake_does(release: tuple[str, Path]) -> None:
    version, folder = release
    known = {entry.name: entry for entry in table().of(version, "cuda")}
    for name, codes in guarded_extensions(folder).items():
        assert name in known
        assert not known[name].empty
        # What CMake names for an nvcc that setup.py does not let come so far is of no consequence.
        assert set(known[name].archs) <= set(codes), name
        for code in set(codes) - set(known[name].archs):
            assert code == "10.0a", (name, code)
            assert not within(known[name].cuda, "12.8"), (name, code)
    destinations = set()
    for path in (folder / "CMakeLists.txt", *folder.glob("cmake/**/*.cmake")):
        for command in CMakeFile(path.read_bytes()).commands("install"):
            if (place := command.keyword("DESTINATION")) is not None:
                destinations.add(place.value.rstrip("/"))
    text = " ".join(path.read_text("utf-8", "replace") for path in folder.glob("cmake/**/*.cmake"))
    for entry in known.values():
        if not entry.library or entry.name == "_deep_gemm_C":
            place = (
                str(PurePosixPath(entry.path)) if not entry.library else str(PurePosixPath(entry.path).parent)
            )
            assert any(place.startswith(d) for d in destinations if "$" not in d) or f"/{place}" in text, (
                entry.name
            )


@pytest.mark.corpus
def test_requirements_are_what_setup_py_takes(
    release: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    version, folder = release
    module = ast.parse((folder / "setup.py").read_bytes())
    for device, cuda in (("cuda", "12.1"), ("cuda", "12.8"), ("cuda", "13.0"), ("cpu", ""), ("empty", "")):
        world = _world(device, cuda, "x86_64", "3.12")
        world |= {"ROOT_DIR": folder, "get_path": lambda *parts: str(folder.joinpath(*parts)), "Path": Path}
        monkeypatch.chdir(folder)
        said = _function(module, "get_requirements", world)()
        theirs = {normal(re.split(r"(?:^|\s)#", line)[0].strip()) for line in said}
        theirs = {line for line in theirs if line and not line.startswith("-")}
        ours = release_requirements(folder, version, device, cuda)
        assert ours is not None
        assert set(ours) == theirs, (device, cuda)
