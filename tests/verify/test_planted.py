"""Faults in the libraries of a sound wheel, each of which has to be found, by the command line."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from binary_helpers import compile_cuda
from verify_helpers import (
    CHECK_FAIL,
    GONE,
    INFO,
    NAME,
    OLD_CHECK_FAIL,
    OTHER_CHECK_FAIL,
    Machine,
    Sketch,
    Verify,
    fatbin,
    library,
    module,
    run,
)


def test_a_sound_wheel(wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel, "--strict")
    assert outcome.findings("error") == []
    assert outcome.findings("warning") == []
    assert outcome.status == 0
    assert outcome.report["good"] is True
    assert outcome.report["expected"] == "its build record"
    answers = outcome.report["answers"]["10.0"]["vllm/_C.abi3.so"]  # type: ignore[index]
    assert answers == {"native": 2, "dead": 2}


def test_an_extension_removed(wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel.without("vllm/_moe_C.abi3.so"))
    assert outcome.status == 81
    assert outcome.found("error") == {"missing-extension"}
    assert "_moe_C is not in the wheel" in outcome.findings("error")[0]["what"]


def test_what_was_left_out_on_purpose_is_no_fault(wheel: Sketch, verify: Verify) -> None:
    said = [f["what"] for f in verify(wheel).findings("info", "missing-extension")]
    assert any("_vllm_fa3_C is not in the wheel: left out on purpose" in text for text in said)


@pytest.mark.parametrize("archs", ["9.0", "10.3", "12.0", "9.0a"])
def test_compiled_for_another_arch(archs: str, wheel: Sketch, at: Machine, verify: Verify) -> None:
    other = wheel.put("vllm/_C.abi3.so", module(at, "_C", gpu=fatbin(archs, archs)))
    outcome = verify(other)
    assert outcome.status == 81
    assert "missing-arch" in outcome.found("error")
    assert (
        f"_C has no native code for 10.0: it holds {archs}"
        in outcome.findings("error", "missing-arch")[0]["what"]
    )


def test_compiled_for_another_arch_by_nvcc(
    wheel: Sketch, at: Machine, verify: Verify, tmp_path: Path
) -> None:
    compiled = compile_cuda(tmp_path, "-fatbin", "-gencode=arch=compute_90,code=sm_90", name="k.fatbin")
    outcome = verify(wheel.put("vllm/_moe_C.abi3.so", module(at, "_moe_C", gpu=compiled.read_bytes())))
    assert outcome.status == 81
    assert outcome.found("error") == {"missing-arch", "dead-kernels"}
    dead = outcome.findings("error", "dead-kernels")[0]["what"]
    assert "1 of 1 units of _moe_C are dead on 10.0: they hold 9.0 only: " in dead
    assert "plain" in dead  # the kernel's name, read from the cubin


def test_sm_120_lost_while_sm_100_stays(wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel.having(archs=("10.0", "12.0")))
    assert outcome.status == 81
    lost = [f["what"] for f in outcome.findings("error", "missing-arch")]
    assert any("_C has no native code for 12.0" in text for text in lost)
    assert any("_moe_C has no native code for 12.0" in text for text in lost)
    assert not any("for 10.0:" in text for text in lost)
    assert "dead-kernels" in outcome.found("error")


def test_a_single_unit_that_lost_its_architecture(wheel: Sketch, at: Machine, verify: Verify) -> None:
    outcome = verify(wheel.put("vllm/_C.abi3.so", module(at, "_C", gpu=fatbin("10.0", "10.0", "9.0"))))
    assert outcome.status == 81
    assert outcome.found("error") == {"dead-kernels"}
    assert "1 of 3 units of _C are dead on 10.0" in outcome.findings("error")[0]["what"]


def test_jit_is_a_warning_that_names_the_kernels(wheel: Sketch, at: Machine, verify: Verify) -> None:
    jit = wheel.put("vllm/_C.abi3.so", module(at, "_C", gpu=fatbin("10.0", "9.0 9.0+PTX")))
    outcome = verify(jit)
    assert outcome.status == 0
    assert outcome.found("warning") == {"jit-kernels"}
    what = outcome.findings("warning")[0]["what"]
    assert what == "1 of 2 units of _C answer 10.0 by JIT from PTX 9.0: kernel."
    assert verify(jit, "--strict").status == 82


def test_gpus_of_the_command_line_count_in_place_of_the_records(wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel, "--arch", "sm_120")
    assert outcome.status == 81
    assert "missing-arch" in outcome.found("error")


def test_an_extension_of_a_torch_with_the_old_string_abi(wheel: Sketch, at: Machine, verify: Verify) -> None:
    old = module(at, "_C", wants=(OLD_CHECK_FAIL, "cudaMalloc", "PyModule_Create2"), gpu=fatbin("10.0"))
    outcome = verify(wheel.put("vllm/_C.abi3.so", old))
    assert outcome.status == 81
    assert outcome.found("error") == {"torch-abi"}
    assert "old std::string ABI" in outcome.findings("error")[0]["what"]


@pytest.mark.parametrize(
    ("symbol", "said"), [(OTHER_CHECK_FAIL, "other parameters"), (GONE, "which has these")]
)
def test_an_extension_for_another_torch(
    symbol: str, said: str, wheel: Sketch, at: Machine, verify: Verify
) -> None:
    other = module(at, "_moe_C", wants=(symbol, "PyModule_Create2"), gpu=fatbin("10.0"))
    outcome = verify(wheel.put("vllm/_moe_C.abi3.so", other))
    assert outcome.status == 81
    assert outcome.found("error") == {"torch-abi"}
    finding = outcome.findings("error")[0]
    assert said in finding["what"]
    assert "2.11.0+cu130" in finding["what"]


def test_the_torch_that_it_was_compiled_for_is_named(
    wheel: Sketch, at: Machine, verify: Verify, tmp_path: Path
) -> None:
    """A torch that was read earlier has what this one lacks."""
    from verify_helpers import library

    lib = tmp_path / "other" / "torch" / "lib"
    library(lib, "libtorch.so")
    library(lib, "libc10.so", defines=(OLD_CHECK_FAIL,))
    (lib.parent / "version.py").write_text("__version__ = '2.5.1+cu124'\ncuda: Optional[str] = '12.4'\n")
    verify(wheel, torch=str(lib.parent))
    old = module(at, "_C", wants=(OLD_CHECK_FAIL, "PyModule_Create2"), gpu=fatbin("10.0"))
    finding = verify(wheel.put("vllm/_C.abi3.so", old)).findings("error", "torch-abi")[0]
    assert "torch 2.5.1+cu124" in finding["why"]


def test_a_function_of_the_stable_abi_that_came_later(wheel: Sketch, at: Machine, verify: Verify) -> None:
    late = module(at, "_C", wants=("torch_get_const_data_ptr", "PyModule_Create2"), gpu=fatbin("10.0"))
    torch = at.folder / "old" / "torch"
    shutil.copytree(at.torch, torch, dirs_exist_ok=True)
    (torch / "version.py").write_text("__version__ = '2.9.0+cu130'\ncuda: Optional[str] = '13.0'\n")
    outcome = verify(wheel.put("vllm/_C.abi3.so", late), torch=str(torch))
    assert outcome.status == 81
    assert outcome.found("error") == {"stable-abi"}
    assert "torch is 2.9.0+cu130" in outcome.findings("error")[0]["what"]


def test_another_cuda_than_torchs(wheel: Sketch, at: Machine, verify: Verify) -> None:
    torch = at.folder / "cu12" / "torch"
    shutil.copytree(at.torch, torch, dirs_exist_ok=True)
    (torch / "version.py").write_text("__version__ = '2.11.0+cu129'\ncuda: Optional[str] = '12.9'\n")
    outcome = verify(wheel, torch=str(torch))
    assert outcome.status == 81
    assert "libcudart.so.13 is needed" in outcome.findings("error", "cuda-runtime")[0]["what"]


def test_a_torch_without_cuda(wheel: Sketch, at: Machine, verify: Verify) -> None:
    libtorch_cuda = at.folder / "libtorch_cuda.so"
    if not libtorch_cuda.exists():
        from verify_helpers import library

        library(at.folder, "libtorch_cuda.so", defines=("_ZN3c104cuda5thingEv",))
    needs = module(
        at,
        "_C",
        wants=("_ZN3c104cuda5thingEv", "PyModule_Create2"),
        needed=(libtorch_cuda,),
        gpu=fatbin("10.0"),
    )
    outcome = verify(wheel.put("vllm/_C.abi3.so", needs))
    assert outcome.status == 81
    assert outcome.found("error") == {"missing-library", "torch-abi"}
    assert (
        "does not have libtorch_cuda.so, needed by _C"
        in outcome.findings("error", "missing-library")[0]["what"]
    )


def test_linked_against_an_empty_stub_of_the_driver(wheel: Sketch, at: Machine, verify: Verify) -> None:
    stub = module(
        at,
        "cumem_allocator",
        wants=("cuMemCreate", "cuMemMap", "PyArg_ParseTuple"),
        needed=(),
        flags=("-Wl,--as-needed", str(at.empty_cuda)),
    )
    outcome = verify(wheel.put("vllm/cumem_allocator.abi3.so", stub))
    assert outcome.status == 81
    assert outcome.found("error") == {"driver-stub"}
    assert "libcuda.so.1" in outcome.findings("error")[0]["what"]


def test_a_symbol_that_nobody_defines(wheel: Sketch, at: Machine, verify: Verify) -> None:
    lost = module(at, "_C", wants=("launch_marlin", "PyModule_Create2"), gpu=fatbin("10.0"))
    outcome = verify(wheel.put("vllm/_C.abi3.so", lost))
    assert outcome.status == 81
    assert outcome.found("error") == {"undefined-symbol"}
    assert "launch_marlin" in outcome.findings("error")[0]["what"]


def test_what_only_the_next_library_defines_is_found(wheel: Sketch, at: Machine, verify: Verify) -> None:
    """libtorch.so needs libc10.so: the closure counts, not what is named."""
    far = module(at, "_C", wants=(CHECK_FAIL, "PyModule_Create2"), needed=(at.libtorch,), gpu=fatbin("10.0"))
    assert verify(wheel.put("vllm/_C.abi3.so", far)).findings("error") == []


def test_without_a_torch_its_symbols_are_said_to_be_unchecked(
    wheel: Sketch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capsys, wheel.write(tmp_path), "--cache-dir", str(tmp_path / "cache"))
    assert outcome.status == 0
    assert any("symbols of torch" in f["what"] for f in outcome.findings("info", "not-checked"))
    assert outcome.findings("error") == []


def test_a_build_path_in_rpath(wheel: Sketch, at: Machine, verify: Verify) -> None:
    linked = module(at, "_C", gpu=fatbin("10.0"), flags=("-Wl,-rpath,/build/cmake:$ORIGIN/lib",))
    outcome = verify(wheel.put("vllm/_C.abi3.so", linked))
    assert outcome.status == 81
    assert outcome.found("error") == {"rpath"}
    assert "_C: libraries are looked for in /build/cmake " in outcome.findings("error")[0]["what"]


@pytest.mark.parametrize(
    ("path", "severity"), [("/home/eve/vllm/csrc/a.cu", "warning"), ("/src/csrc/a.cu", "info")]
)
def test_a_build_path_in_a_string(
    path: str, severity: str, wheel: Sketch, at: Machine, verify: Verify
) -> None:
    telling = module(at, "_C", gpu=fatbin("10.0"), text=path)
    outcome = verify(wheel.put("vllm/_C.abi3.so", telling))
    assert outcome.status == 0
    assert "build-path" in outcome.found(severity)
    relative = module(at, "_C", gpu=fatbin("10.0"), text="vllm/../csrc/a.cu")
    assert not verify(wheel.put("vllm/_C.abi3.so", relative)).findings(check="build-path")


def test_debug_info_left_in(wheel: Sketch, at: Machine, verify: Verify) -> None:
    little = module(at, "_C", gpu=fatbin("10.0"), flags=("-g",))
    outcome = verify(wheel.put("vllm/_C.abi3.so", little))
    assert outcome.status == 0
    assert outcome.found("warning") == {"debug-info"}
    much = module(at, "_C", gpu=fatbin("10.0"), debug=3 << 20)
    outcome = verify(wheel.put("vllm/_C.abi3.so", much))
    assert outcome.status == 81
    assert outcome.found("error") == {"debug-info"}


def test_a_dishonest_abi3_module(wheel: Sketch, at: Machine, verify: Verify) -> None:
    liar = module(at, "_C", wants=("PyFrame_GetLocals", "PyModule_Create2"), gpu=fatbin("10.0"))
    outcome = verify(wheel.put("vllm/_C.abi3.so", liar))
    assert outcome.status == 81
    assert outcome.found("error") == {"abi3"}
    assert "PyFrame_GetLocals" in outcome.findings("error")[0]["what"]


def test_a_function_of_a_later_python_than_the_tag(wheel: Sketch, at: Machine, verify: Verify) -> None:
    late = wheel.put(
        "vllm/_C.abi3.so",
        module(at, "_C", wants=("PyObject_GetBuffer", "PyModule_Create2"), gpu=fatbin("10.0")),
    )
    outcome = verify(late)
    assert outcome.status == 81
    assert "since Python 3.11" in outcome.findings("error", "abi3")[0]["what"]
    # So is upstream's 0.33.0: harmless, as no older Python installs it.
    assert verify(late.having(requires_python=">=3.11")).found("error") == set()


def test_a_module_of_one_python_in_a_wheel_for_all(wheel: Sketch, at: Machine, verify: Verify) -> None:
    moved = wheel.without("vllm/_C.abi3.so").put(
        "vllm/_C.cpython-311-x86_64-linux-gnu.so", wheel.members["vllm/_C.abi3.so"]
    )
    outcome = verify(moved)
    assert outcome.status == 81
    assert outcome.found("error") == {"abi3"}


def test_against_a_wheel_that_has_more(wheel: Sketch, at: Machine, verify: Verify, tmp_path: Path) -> None:
    base = wheel.put("vllm/_C.abi3.so", module(at, "_C", gpu=fatbin("10.0", "12.0")))
    base = base.put("vllm/extra_C.abi3.so", module(at, "extra_C"))
    base = base.having(requirements=(*wheel.requirements, "einops"))
    outcome = verify(wheel, "--against", str(base.write(tmp_path / "base")))
    assert outcome.status == 81
    said = " ".join(f["what"] for f in outcome.findings("error", "against"))
    assert "extra_C is in" in said
    assert "lost code for 12.0" in said
    assert "requires einops" in said
    assert verify(wheel, "--against", str(wheel.write(tmp_path / "same"))).found("error") == set()


def test_errors_of_the_command_line(
    wheel: Sketch, tmp_path: Path, capsys: pytest.CaptureFixture[str], at: Machine
) -> None:
    path = wheel.write(tmp_path)
    options = ["--cache-dir", str(tmp_path / "cache")]
    assert run(capsys, path, *options, "--torch", "9.9.9").status == 23
    assert run(capsys, path, *options, "--torch", str(tmp_path)).status == 10
    assert run(capsys, path, *options, "--torch", "no version").status == 10
    assert run(capsys, path, *options, "--max-size", "much").status == 10
    assert run(capsys, path, *options, "--max-glibc", "new").status == 10
    assert run(capsys, path, *options, "--arch", "sm_1").status == 13
    assert run(capsys, tmp_path / "none-1.0-py3-none-any.whl", *options).status == 80
    path.write_bytes(path.read_bytes()[:-100])
    assert run(capsys, path, *options).status == 80


def test_a_person_sees_it_in_one_look(
    wheel: Sketch, at: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vllm_builder.cli import main

    bad = replace(wheel, requirements=("regex",)).without("vllm/_moe_C.abi3.so").write(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["verify", str(bad), "--torch", str(at.torch), "--offline", "--cache-dir", str(tmp_path)])
    assert end.value.code == 81
    out = capsys.readouterr().out
    assert out.index("missing-extension") < out.index("checked:")
    assert "NOT what was asked for: 3 errors" in out
    assert f"{INFO}/METADATA" in out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "It is empty."),
        (b"version https://git-lfs.github.com/spec/v1\n", "It is no shared library"),
        (b"INPUT(libown.so.1)\n", "It is no shared library"),
        (b"\x7fELF but no more", "cannot be read"),
    ],
)
def test_an_extension_that_is_no_library(content: bytes, said: str, wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel.put("vllm/_moe_C.abi3.so", content))
    assert outcome.status == 81
    (finding,) = outcome.findings("error", "damaged")
    assert finding["where"] == "vllm/_moe_C.abi3.so"
    assert said in finding["why"]


def test_what_looks_like_a_library_and_is_sound(wheel: Sketch, verify: Verify) -> None:
    """A script for the linker, and a program that is a script."""
    whole = wheel.put("vllm/libfoo.so", b"/* GNU ld script */\nINPUT(libfoo.so.1)\n")
    whole = whole.put(f"{INFO.removesuffix('.dist-info')}.data/scripts/tool", b"#!/bin/sh\n" * 1000)
    assert verify(whole, "--strict").status == 0


def test_a_wheel_without_gpu_code_serves_no_gpu(wheel: Sketch, verify: Verify, tmp_path: Path) -> None:
    """The wheel for CPU, by mistake; it is called alike."""
    bare = Sketch({"vllm/__init__.py": b""}, record=False, tag="py3-none-any")
    path = bare.write(tmp_path, name=NAME.replace("cp38-abi3-linux_x86_64", "py3-none-any"))
    outcome = verify(path, "--arch", "sm_100")
    assert outcome.status == 81
    said = [f["what"] for f in outcome.findings("error", "missing-arch")]
    assert said == ["The wheel holds no GPU code at all, and has to serve 10.0."]
    assert not verify(path).findings("error", "missing-arch")


def test_a_library_that_is_not_at_hand_is_no_reason_to_give_a_torch(
    wheel: Sketch, at: Machine, verify: Verify
) -> None:
    """One that no torch brings."""
    other = module(
        at,
        "_moe_C",
        gpu=fatbin("9.0 10.0"),
        wants=("rocblas_create", "PyModule_Create2"),
        needed=(at.libtorch, at.libc10, library(at.folder / "rocm", "librocblas.so.5")),
    )
    (finding,) = verify(wheel.put("vllm/_moe_C.abi3.so", other)).findings("warning", "undefined-symbol")
    assert "librocblas.so.5" in finding["why"]
    assert finding["cure"] == "Verify on a machine that has these libraries."
