"""Checking what came out, and counting what the compiler cache answered."""

from __future__ import annotations

import platform
import zipfile
from pathlib import Path

import pytest

from vllm_builder.errors import WheelMismatch
from vllm_builder.stages.compile.compilercache import arrange, ccache_answers
from vllm_builder.stages.compile.model import Compiler, CompileSpec
from vllm_builder.stages.compile.wheel import check_wheel, read_wheel

ABI3 = "vllm/_C.abi3.so"
ONE = "vllm/third_party/deep_gemm/_C.cpython-312-x86_64-linux-gnu.so"


def wheel(
    root: Path,
    *members: str,
    tag: str = "cp38-abi3",
    version: str = "1.0+cpu",
    name: str = "vllm",
    file: str = "",
) -> Path:
    path = root / (file or f"vllm-1.0+cpu-{tag}-linux_{platform.machine()}.whl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "vllm-1.0+cpu.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        for member in members:
            archive.writestr(member, b"")
    return path


def spec(**changes: object) -> CompileSpec:
    return CompileSpec.model_validate(
        {"device": "cpu", "version": "1.0+cpu", "scm_version": "1.0", **changes}
    )


def test_a_good_wheel(tmp_path: Path) -> None:
    facts, remarks = check_wheel(wheel(tmp_path, ABI3, "vllm/libs/libtcmalloc.so.4"), spec())
    assert (facts.abi3, facts.one_python, remarks) == ((ABI3,), (), ())


@pytest.mark.parametrize(
    ("members", "more", "words"),
    [
        ((ABI3, ONE), {}, "deep_gemm"),
        ((ABI3,), {"version": "1.0+cu130"}, "1.0+cu130"),
        ((ABI3,), {"name": "other"}, "other"),
        ((), {}, "no compiled extension"),
        ((ABI3,), {"file": "vllm-1.0+cpu-7_mine-cp38-abi3-linux_x86_64.whl"}, "7_mine"),
        ((ABI3,), {"file": "other-1.0+cpu-cp38-abi3-linux_x86_64.whl"}, "other"),
        ((ABI3,), {"file": "vllm-2.0+cpu-cp38-abi3-linux_x86_64.whl"}, "2.0+cpu"),
        ((ABI3,), {"file": "vllm-1.0+cpu-cp38-abi3-manylinux_2_17_s390x.whl"}, "manylinux_2_17_s390x"),
        ((ABI3,), {"tag": "cp312-abi3"}, "cp312"),
    ],
)
def test_mismatches(tmp_path: Path, members: tuple[str, ...], more: dict[str, str], words: str) -> None:
    with pytest.raises(WheelMismatch) as caught:
        check_wheel(wheel(tmp_path, *members, **more), spec(limited_api="cp38"))
    assert words in f"{caught.value.what} {caught.value.why}"


def test_one_python_tagged_so_is_fine(tmp_path: Path) -> None:
    _, remarks = check_wheel(wheel(tmp_path, ABI3, ONE, tag="cp312-cp312"), spec())
    assert remarks == ()


def test_versions_are_compared_as_versions(tmp_path: Path) -> None:
    check_wheel(wheel(tmp_path, ABI3, version="v1.0+CPU"), spec())


def test_empty_needs_no_extension(tmp_path: Path) -> None:
    path = wheel(tmp_path, version="1.0+empty", file="vllm-1.0+empty-py3-none-any.whl")
    check_wheel(path, spec(device="empty", version="1.0+empty"))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut off"])
def test_a_cut_off_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vllm-1.0-py3-none-any.whl"
    path.write_bytes(data)
    with pytest.raises(WheelMismatch):
        read_wheel(path)


def test_ccache_answers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = "# a.cpp\nrecache\nlocal_storage_write\ndirect_cache_miss\n"
    log.write_text(
        first
        + "# b.cpp\ndirect_cache_hit\nlocal_storage_hit\nlocal_storage_read_hit\n"
        + "# c.cpp\npreprocessed_cache_hit\n"
        + "# d.cpp\ncalled_for_link\n"
    )
    assert ccache_answers(log) == {"hits": 2, "misses": 1, "uncacheable": 1}
    assert ccache_answers(log, offset=len(first)) == {"hits": 2, "misses": 0, "uncacheable": 1}
    assert ccache_answers(tmp_path / "none") == {"hits": 0, "misses": 0, "uncacheable": 0}


def ccache_variables(tmp_path: Path, environ: dict[str, str], **changes: object) -> dict[str, str]:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ccache").write_text("#!/bin/sh\n")
    (tools / "ccache").chmod(0o755)
    env = {"PATH": str(tools), **environ}
    arrange(
        spec(compiler_cache="ccache", compiler_cache_dir="/cache", **changes),
        env,
        tree=Path("/place/tree"),
        state=tmp_path / "state",
    )
    return env


def test_ccache_settings_are_only_defaults(tmp_path: Path) -> None:
    mine = {"CCACHE_DIR": "/mine", "CCACHE_NODEPEND": "1", "CCACHE_BASEDIR": "/b"}
    env = ccache_variables(tmp_path, mine)
    assert mine.items() <= env.items()
    assert "CCACHE_DEPEND" not in env
    assert env["CCACHE_NOHASHDIR"] == "1"


def test_ccache_settings_for_nvcc(tmp_path: Path) -> None:
    toolkit = tmp_path / "cuda"
    for name in ("nvvm/bin/cicc", "bin/ptxas", "bin/nvcc"):
        (toolkit / name).parent.mkdir(parents=True, exist_ok=True)
        (toolkit / name).touch()
    nvcc = Compiler(
        language="CUDA", id="NVIDIA", version="13.0.88", target="t", path=str(toolkit / "bin/nvcc")
    )
    env = ccache_variables(tmp_path, {}, device="cuda", compilers=(nvcc,))
    assert env["CCACHE_DEPEND"] == "1"
    assert env["CCACHE_IGNOREOPTIONS"] == "--threads=* -Xcompiler=-ffile-prefix-map=*"
    assert env["CCACHE_EXTRAFILES"] == ":".join(
        (f"{tmp_path}/state/headers-alike.txt", f"{toolkit}/nvvm/bin/cicc", f"{toolkit}/bin/ptxas")
    )
    assert (env["CCACHE_BASEDIR"], env["CCACHE_DIR"]) == ("/place/tree", "/cache")
