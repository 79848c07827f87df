"""Why a symbol is not there, what libraries at hand define, and where torch is looked for."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from verify_helpers import (
    CHECK_FAIL,
    GONE,
    OLD_CHECK_FAIL,
    OTHER_CHECK_FAIL,
    library,
    machine,
    run,
    sound,
)

from vllm_builder.cache import Cache
from vllm_builder.errors import OfflineMissing, SettingsError
from vllm_builder.events import ignore
from vllm_builder.stages.verify.exports import (
    Provider,
    TorchBuild,
    keep_build,
    kept_build,
    kept_versions,
    provider_of,
    rule_for,
    rules,
)
from vllm_builder.stages.verify.spelling import diagnose, qualified
from vllm_builder.stages.verify.surroundings import Surroundings
from vllm_builder.stages.verify.torches import exports_folder, find_torch, installed

NEW = "_ZN5torch3jit17parseSchemaOrNameERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEb"
OLD = "_ZN5torch3jit17parseSchemaOrNameERKSsb"
# The same with the string named twice, where the mangled names differ in more than the one place.
NEW_TWICE = "_ZN3c1010ClassType11addConstantERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEES8_"
OLD_TWICE = "_ZN3c1010ClassType11addConstantERKSsS2_"


@pytest.mark.parametrize("tool", [True, False])
@pytest.mark.parametrize(
    ("missing", "defined", "kind"),
    [
        (OLD, NEW, "old-string"),
        (NEW, OLD, "new-string"),
        (OLD_TWICE, NEW_TWICE, "old-string"),
        ("_ZNK3c105Error4whatEv", "_ZNK3c105Error4whatB5cxx11Ev", "old-string"),
        (OTHER_CHECK_FAIL, CHECK_FAIL, "signature"),
        (OLD_CHECK_FAIL, CHECK_FAIL, "old-string"),
        (GONE, CHECK_FAIL, "gone"),
        ("_ZN3c104nameEv", "_ZN3c104nameERKSs", "signature"),
        ("aoti_torch_zero_", CHECK_FAIL, "gone"),
    ],
)
def test_what_became_of_a_name(
    missing: str, defined: str, kind: str, tool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tool:
        monkeypatch.setenv("PATH", "/nowhere")
    (found,) = diagnose([missing], {defined, "_ZN2at5otherEv", f"{defined}@VERSION_1"})
    assert found.kind == kind


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("_ZN6marlin6MarlinILi1EEEvPKiS2_", "marlin::Marlin"),
        ("_ZN12_GLOBAL__N_16kernelEv", "{anonymous}::kernel"),
        ("_Z7generalIdEvPT_", "general"),
        ("plain", "plain"),
        ("_ZN99tooshortEv", "_ZN99tooshortEv"),
        ("_ZNK3c105Error4whatEv", "c10::Error::what"),
    ],
)
def test_names_of_kernels(mangled: str, name: str) -> None:
    assert qualified(mangled) == name


@pytest.mark.parametrize(
    ("soname", "name", "defines"),
    [
        ("libcuda.so.1", "cuMemCreate", True),
        ("libcuda.so.1", "cudaMalloc", False),
        ("libcuda.so.1", "cublasCreate", False),
        ("libcudart.so.13", "cudaMalloc", True),
        ("libcudart.so.13", "__cudaRegisterFatBinary", True),
        ("libcublas.so.12", "cublasGemmEx", True),
        ("libcublas.so.12", "cublasLtMatmul", False),
        ("libcublasLt.so.12", "cublasLtMatmul", True),
        ("libcusparse.so.12", "cusparseLtInit", False),
        ("libnuma.so.1", "numa_available", True),
    ],
)
def test_rules_by_name(soname: str, name: str, defines: bool) -> None:
    rule = rule_for(soname)
    assert rule is not None
    assert bool(rule.names.fullmatch(name)) is defines


def test_no_symbol_is_claimed_by_two_of_cudas_libraries() -> None:
    names = (
        "cuMemCreate",
        "cudaMalloc",
        "cublasGemmEx",
        "cublasLtMatmul",
        "cusparseCreate",
        "cusparseLtInit",
        "ncclSend",
    )
    for name in names:
        assert len([rule for rule in rules() if rule.names.fullmatch(name)]) == 1


def test_the_closure_goes_breadth_first_and_says_what_is_missing() -> None:
    libraries = {
        "liba.so": Provider("liba.so", frozenset({"a"}), ("libb.so", "libcuda.so.1")),
        "libb.so": Provider("libb.so", frozenset({"b"}), ("liba.so", "libnowhere-at-all.so.7")),
    }
    found = Surroundings("x86_64", TorchBuild("1", "", libraries, "here")).closure(["liba.so"])
    assert [one.soname for one in found.providers] == ["liba.so", "libb.so"]
    assert found.missing == ("libnowhere-at-all.so.7",)
    assert found.defines("b")
    assert not found.defines("cuMemCreate")
    assert found.may_define("cuMemCreate") == "libcuda.so.1"


def test_a_kept_build_comes_back_and_a_broken_one_does_not(tmp_path: Path) -> None:
    build = TorchBuild(
        "2.11.0+cu130", "13.0", {"libc10.so": Provider("libc10.so", frozenset({"a"}), ("x",))}, "here"
    )
    keep_build(build, tmp_path, "x86_64")
    assert kept_versions(tmp_path, "x86_64") == ("2.11.0+cu130",)
    assert kept_versions(tmp_path, "aarch64") == ()
    back = kept_build(tmp_path, "2.11.0+cu130", "x86_64")
    assert back is not None
    assert back.libraries["libc10.so"].names == {"a"}
    assert back.cuda == "13.0"
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    assert kept_build(tmp_path, "2.11.0+cu130", "x86_64") is None


def test_places_of_an_installed_torch(tmp_path: Path) -> None:
    at = machine(tmp_path)
    environment = at.torch.parents[3]
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {at.torch}\n")
    python.chmod(0o755)
    for place in (at.torch, at.torch.parent, environment, python):
        found = installed(place, dict(os.environ))
        assert (found.version, found.cuda) == ("2.11.0+cu130", "13.0")
        assert set(found.libraries) == {"libtorch.so", "libc10.so"}
    python.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(SettingsError, match="no torch"):
        installed(python, dict(os.environ))


def test_an_installed_torch_is_read_again_as_soon_as_a_library_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = machine(tmp_path)
    kept = tmp_path / "kept"
    kept.mkdir()
    first = installed(at.torch, dict(os.environ), kept)
    (file,) = kept.iterdir()
    read: list[str] = []

    def provider(path: Path) -> Provider | None:
        read.append(path.name)
        return provider_of(path)

    monkeypatch.setattr("vllm_builder.stages.verify.torches.provider_of", provider)
    assert installed(at.torch, dict(os.environ), kept) == first
    assert read == []
    library = at.torch / "lib/libc10.so"
    library.write_bytes(library.read_bytes())
    assert installed(at.torch, dict(os.environ), kept) == first
    assert {"libc10.so", "libtorch.so"} <= {*read}
    read.clear()
    for path in kept.iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    assert installed(at.torch, dict(os.environ), kept) == first
    assert read
    assert file in kept.iterdir()


def test_a_version_is_read_from_the_wheel_of_an_index_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = machine(tmp_path)
    links = tmp_path / "links"
    links.mkdir()
    name = "torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(links / name, "w") as archive:
        for path in sorted(at.torch.rglob("*")):
            if path.is_file() and path.suffix != ".c":
                archive.write(path, f"torch/{path.relative_to(at.torch)}")
        archive.writestr(
            "torch-2.11.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0\n"
        )
        archive.writestr(
            "torch-2.11.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_28_x86_64\n"
        )
        archive.writestr("torch-2.11.0.dist-info/RECORD", "")
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)}
    cache = Cache(tmp_path / "cache")

    def find(version: str, **more: bool) -> TorchBuild:
        offline = more.pop("offline", False)
        return find_torch(
            version, machine="x86_64", cache=cache, environ=environ, offline=offline, emit=ignore, **more
        )

    with pytest.raises(OfflineMissing):
        find("2.11.0", offline=True)
    assert find("2.11.0").version == "2.11.0+cu130"
    assert CHECK_FAIL in find("2.11.0", offline=True).all_names
    assert find("2.11.0+cu130", offline=True).cuda == "13.0"
    with pytest.raises(OfflineMissing):
        find("2.11.0+cpu", offline=True)
    with pytest.raises(SettingsError, match="no torch"):
        find("2.12.0")
    # A wheel for CUDA is not held against a build without it that happens to have been read before.
    keep_build(TorchBuild("2.9.0+cpu", "", {}, "here"), exports_folder(cache), "x86_64")
    assert find("2.9.0", offline=True).version == "2.9.0+cpu"
    with pytest.raises(OfflineMissing):
        find("2.9.0", offline=True, needs_cuda=True)
    # With what was read, the whole command works without network.
    wheel = sound(at).write(tmp_path / "wheels")
    outcome = run(capsys, wheel, "--torch", "2.11.0", "--cache-dir", str(cache.root))
    assert outcome.status == 0
    assert "symbols" in outcome.report["checks"]  # type: ignore[operator]


def test_a_library_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    at = machine(tmp_path)
    (at.torch / "lib" / "libtorch_linker_script.so").write_text("INPUT(libtorch.so)\n")
    (at.torch / "lib" / "libempty.so").write_bytes(b"")
    library(at.torch / "lib", "libtorch_more.so", defines=("more",))
    found = installed(at.torch, dict(os.environ))
    assert set(found.libraries) == {"libtorch.so", "libc10.so", "libtorch_more.so"}
