"""What is said of a wheel, held against what went into it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from made_wheels import CXX_MODULE, MODULE, gpu_code, make, metadata, module
from range_server import serving

from vllm_builder.errors import WheelError
from vllm_builder.stages.verify.inspecting import inspect, inspect_wheel
from vllm_builder.stages.verify.model import Inspection
from vllm_builder.stages.verify.platforms import provider
from vllm_builder.stages.verify.torch_abi import added_after, cxx_symbols, oldest_torch
from vllm_builder.wheelfile import open_wheel
from vllm_builder.wheelfile.record import BuildRecord


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    files = {
        "demo/_C.abi3.so": module(
            folder,
            MODULE,
            "libtorch.so",
            "libcudart.so.12",
            gpu=gpu_code(),
            flags=("-Wl,-rpath,/build/x:$ORIGIN",),
        ),
        "demo/_D.cpython-312-x86_64-linux-gnu.so": module(folder, CXX_MODULE, "libc10.so", "libnuma.so.1"),
        "demo/libown.so.1": module(
            folder, "int own(void) { return 1; }", flags=("-g", "-Wl,-soname,libown.so.1")
        ),
        "demo/_E.so": module(folder, "void *PyInit__E(void) { return 0; }", "libown.so.1", gpu=gpu_code()),
        "demo/script.so": b"INPUT(libown.so.1)\n",
        "demo/kernel.cubin": b"x" * 1000,
        "demo/__init__.py": b"# code\n" * 30,
        "demo/table.json": b"[1, 2]" * 10,
        "demo-1.0.data/scripts/tool": b"#!/bin/sh\n" * 1000,
        "demo-1.0.dist-info/sboms/x.cdx.json": b"{}",
    }
    return make(folder / "out", files)


@pytest.fixture(scope="module")
def found(wheel: Path) -> Inspection:
    return inspect(wheel)


def names(found: Inspection) -> list[str]:
    return [module.library.name for module in found.modules]


def test_libraries_are_told_by_their_content(found: Inspection) -> None:
    assert names(found) == [
        "demo/_C.abi3.so", "demo/_D.cpython-312-x86_64-linux-gnu.so", "demo/_E.so", "demo/libown.so.1"
    ]  # fmt: skip


def test_gpu_code(found: Inspection) -> None:
    c = found.modules[0]
    assert (c.sass, c.ptx, c.ptx_isa) == ({"8.0": 1, "9.0a": 2}, {"8.0": 1}, "8.7")
    assert c.bytes_by_arch["sm_90a"] == 2 * c.bytes_by_arch["sm_80"] * 2
    assert c.bytes_by_arch["compute_80"] == 32
    assert c.compression == ("none",)
    assert found.modules[1].sass == {}


def test_runtime_abi_and_torch(found: Inspection) -> None:
    c, d, e, own = found.modules
    assert [m.cuda_runtime for m in found.modules] == ["12", "", "static", ""]
    assert [m.abi3 for m in found.modules] == [True, False, False, None]
    assert (c.stable_torch, c.torch_symbols) == ("2.10", 2)
    assert (d.stable_torch, d.torch_symbols) == ("", 2)
    assert (e.stable_torch, own.torch_symbols) == ("", 0)
    assert c.library.runpath + c.library.rpath == ("/build/x", "$ORIGIN")


def test_sizes_of_every_kind_add_up(found: Inspection) -> None:
    kinds = dict(found.size_by_kind)
    assert sum(kinds.values()) == found.unpacked
    gpu = sum(sum(m.bytes_by_arch.values()) for m in found.modules)
    assert kinds["gpu code"] == gpu + 1000
    assert kinds["debug info"] == found.modules[3].library.debug > 0
    assert kinds["python"] == 210
    assert found.largest[0].size == max(m.size for m in found.modules)
    assert found.members == 13
    assert found.sbom


def test_what_nobody_brings_is_named(found: Inspection) -> None:
    assert found.outside == ("libnuma.so.1",)


def test_without_torch_among_the_requirements_its_libraries_are_missing(tmp_path: Path) -> None:
    library = module(tmp_path, MODULE, "libtorch.so", "libcuda.so.1", "libcudart.so.12")
    files = {"demo/_C.abi3.so": library}
    assert inspect(make(tmp_path / "a", files)).outside == ()
    assert inspect(make(tmp_path / "b", files, metadata=metadata("numpy"))).outside == (
        "libcudart.so.12",
        "libtorch.so",
    )
    record = BuildRecord(
        builder="vllm-builder 0", digest="0" * 64, release="v1", version="1", device="cpu", torch="2.9"
    )
    files["demo-1.0.dist-info/vllm-builder.json"] = record.to_json().encode()
    ours = inspect(make(tmp_path / "c", files, metadata=metadata("numpy")))
    assert ours.record == record
    assert ours.outside == ()


def test_a_record_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    files = {"demo-1.0.dist-info/vllm-builder.json": b"{}"}
    found = inspect(make(tmp_path, files))
    assert found.record is None
    assert "build record" in found.not_read[0]


@pytest.mark.parametrize(
    ("function", "floor", "reason"),
    [
        ("abs", "manylinux_2_5_x86_64", ""),
        ("preadv", "manylinux_2_12_x86_64", "_C.so wants GLIBC_2.10 (preadv)"),
        ("getrandom", "manylinux_2_26_x86_64", "_C.so wants GLIBC_2.25 (getrandom)"),
        ("statx", "manylinux_2_28_x86_64", "_C.so wants GLIBC_2.28 (statx)"),
    ],
)
def test_the_oldest_system_comes_from_the_symbols(
    tmp_path: Path, function: str, floor: str, reason: str
) -> None:
    # Without the C library's start files, whose own symbols depend on the machine that the test runs on.
    source = f"extern void {function}(void); void f(void) {{ {function}(); }}"
    library = module(tmp_path, source, flags=("-nostartfiles", "-fno-builtin"))
    found = inspect(make(tmp_path / "out", {"demo/_C.so": library}))
    assert found.platform_floor == floor
    assert reason in found.floor_reason


def test_a_wheel_without_libraries(tmp_path: Path) -> None:
    found = inspect(make(tmp_path, {"demo/__init__.py": b""}))
    assert (found.platform_floor, found.modules, found.outside) == ("", (), ())


def test_a_damaged_library_is_named_beside_the_sound_ones(tmp_path: Path) -> None:
    library = module(tmp_path, MODULE)
    files = {"demo/_C.abi3.so": library[:2000], "demo/_D.abi3.so": library, "demo/_E.abi3.so": b""}
    found = inspect(make(tmp_path / "out", files))
    assert names(found) == ["demo/_D.abi3.so"]
    assert list(found.unreadable) == ["demo/_C.abi3.so", "demo/_E.abi3.so"]
    assert "demo/_C.abi3.so" in found.unreadable["demo/_C.abi3.so"]
    assert found.unreadable["demo/_E.abi3.so"].endswith("It is empty.")


def test_a_server_that_goes_away_is_no_damage_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = module(tmp_path, MODULE) + os.urandom(400_000)
    wheel = make(tmp_path / "out", {"demo/_C.abi3.so": large})
    monkeypatch.setattr("vllm_builder.stages.source.http.BACKOFF", 0.0)
    with serving(wheel.read_bytes()) as server, open_wheel(f"{server.url}/{wheel.name}") as opened:
        server.mode, server.after = "500", 0
        with pytest.raises(WheelError, match="cannot be read from"):
            inspect_wheel(opened)


def test_libraries_of_another_system_are_said_to_be_unread(tmp_path: Path) -> None:
    name = "demo-1.0-cp312-cp312-macosx_11_0_arm64.whl"
    found = inspect(make(tmp_path, {"demo/_C.cpython-312-darwin.so": b"\xcf\xfa\xed\xfe" * 9}, name=name))
    assert found.modules == ()
    assert found.unreadable == {}
    assert "1 library or program (0.0 MB) for macosx_11_0_arm64" in found.not_read[0]


def test_a_remote_wheel_without_its_libraries(wheel: Path, found: Inspection) -> None:
    with serving(wheel.read_bytes()) as server:
        light = inspect(f"{server.url}/{wheel.name}", libraries=False)
        whole = inspect(f"{server.url}/{wheel.name}")
    assert light.modules == ()
    assert "libraries and programs" in light.not_read[0]
    assert light.requires_dist == found.requires_dist
    assert whole.modules == found.modules


def test_an_inspection_survives_json(found: Inspection) -> None:
    assert Inspection.model_validate(json.loads(found.model_dump_json())) == found


def test_names_of_torch() -> None:
    torchs = [
        "_ZN3c104cuda9SetDeviceEa", "_ZNK2at6Tensor3dimEv", "_ZTIN3c105ErrorE", "_ZN5torch8autogradE",
        "_ZTVN6caffe28TypeMetaE",
        "_ZN2at4_ops1t4callERKNS_6TensorE",
    ]  # fmt: skip
    others = [
        "_ZN4vllm3fooEN2at6TensorE",
        "_ZNSt6vectorIN2at6TensorESaIS1_EED1Ev",
        "cudaMalloc",
        "_Z3fooN2at6TensorE",
    ]
    assert cxx_symbols([*torchs, *others]) == tuple(torchs)


def test_when_functions_of_the_stable_abi_came() -> None:
    """Checked by hand against torch's headers: the guards TORCH_VERSION_2_10_0 and so on of stable/c/shim.h."""
    assert oldest_torch(["aoti_torch_get_dim"]) == "2.4"
    assert oldest_torch(["aoti_torch_get_dim", "torch_call_dispatcher"]) == "2.10"
    assert oldest_torch(["torch_exception_get_what"]) == "2.13"
    assert oldest_torch(["torch_of_the_future"]).startswith(">")
    assert added_after(["torch_call_dispatcher", "aoti_torch_get_dim"], "2.9.1+cu128") == (
        "torch_call_dispatcher",
    )
    assert added_after(["torch_call_dispatcher"], "2.10.0") == ()


def test_who_brings_what() -> None:
    assert provider("libcuda.so.1", ()) == "the NVIDIA driver"
    assert provider("libc10_cuda.so", ["torch"]) == "torch"
    assert provider("libcublas.so.12", ["nvidia-cublas-cu12"]) == "CUDA's packages"
    assert provider("libtorch.so", ["numpy"]) == ""
    assert provider("libgomp.so.1", ["torch"]) == ""
