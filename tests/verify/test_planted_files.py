"""Faults in the files and tags of a sound wheel, each of which has to be found, by the command line."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from verify_helpers import (
    NAME,
    Sketch,
    Verify,
)


def test_a_byte_flipped(wheel: Sketch, verify: Verify, tmp_path: Path) -> None:
    path = wheel.write(tmp_path)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("vllm/_C.abi3.so")
        start = info.header_offset + 30 + len(info.filename)
    data = bytearray(path.read_bytes())
    data[start + info.compress_size // 2] ^= 1
    path.write_bytes(bytes(data))
    outcome = verify(path)
    assert outcome.status == 81
    assert outcome.found("error") >= {"damaged", "record"}
    assert all("_C.abi3.so" in f["where"] for f in outcome.findings("error", "record"))


def test_a_hash_that_is_not_the_members(wheel: Sketch, verify: Verify, tmp_path: Path) -> None:
    outcome = verify(wheel.write(tmp_path, false_hash="vllm/__init__.py"))
    assert outcome.status == 81
    assert outcome.found("error") == {"record"}
    assert outcome.findings("error")[0]["where"] == "vllm/__init__.py"


def test_a_stale_tag(wheel: Sketch, verify: Verify, tmp_path: Path) -> None:
    path = wheel.write(tmp_path, name=NAME.replace("linux_x86_64", "manylinux_2_35_x86_64"))
    outcome = verify(path)
    assert outcome.status == 81
    assert outcome.found("error") == {"stale-tag"}


def test_of_a_foreign_wheel_a_renamed_platform_is_a_warning(
    wheel: Sketch, verify: Verify, tmp_path: Path
) -> None:
    """So are upstream's public wheels, and installers go by the name."""
    foreign = wheel.having(record=False)
    path = foreign.write(tmp_path, name=NAME.replace("linux_x86_64", "manylinux_2_35_x86_64"))
    assert "stale-tag" in verify(path).found("warning")
    path = foreign.write(tmp_path, name=NAME.replace("cp38-abi3", "cp311-cp311"))
    assert "stale-tag" in verify(path).found("error")


def test_a_tag_that_promises_an_older_system(wheel: Sketch, verify: Verify, tmp_path: Path) -> None:
    tag = "cp38-abi3-manylinux_2_5_x86_64"
    newer = wheel.having(tag=tag)
    path = newer.put("vllm/_C.abi3.so", wheel.members["vllm/_C.abi3.so"])
    path = path.put("vllm/vllm-rs", wheel.members["vllm/vllm-rs"])
    outcome = verify(path.write(tmp_path, name=NAME.replace("linux_x86_64", "manylinux_2_5_x86_64")))
    assert outcome.status == 81
    assert outcome.found("error") == {"platform"}


def test_max_glibc(wheel: Sketch, verify: Verify) -> None:
    assert verify(wheel, "--max-glibc", "2.2").found("error") == {"max-glibc"}
    assert verify(wheel, "--max-glibc", "9.0").status == 0


def test_an_executable_bit_lost(wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel.having(modes={}))
    assert outcome.status == 81
    assert outcome.found("error") == {"executable"}
    assert outcome.findings("error")[0]["where"] == "vllm/vllm-rs"


@pytest.mark.parametrize("name", ["tests/__init__.py", "vllm/csrc/a.o", "vllm/__pycache__/a.cpython-311.pyc"])
def test_a_stray_file(name: str, wheel: Sketch, verify: Verify) -> None:
    stray = wheel.put(name, b"x")
    assert verify(stray).found("warning") == {"stray-file"}
    assert verify(stray, "--strict").status == 82


def test_a_wheel_that_is_too_large(wheel: Sketch, verify: Verify) -> None:
    assert verify(wheel, "--max-size", "1k").found("error") == {"size"}
    assert verify(wheel, "--max-size", "400M").status == 0


def test_of_a_wheel_for_another_system_nothing_is_said_of_its_libraries(
    wheel: Sketch, verify: Verify, tmp_path: Path
) -> None:
    tag = "cp38-abi3-win_amd64"
    there = Sketch(
        {"vllm/__init__.py": b"", "vllm/_C.pyd": b"MZ" * 100, "vllm/old.so": b"\xcf\xfa\xed\xfe"},
        tag=tag,
        record=False,
    )
    outcome = verify(there.write(tmp_path, name=NAME.replace("cp38-abi3-linux_x86_64", tag)))
    checks = outcome.report["checks"]
    assert not {"symbols", "architectures", "RPATH"} & set(checks)  # type: ignore[call-overload]
    assert any("win_amd64" in f["why"] for f in outcome.findings("info", "not-checked"))
    assert outcome.findings(check="damaged") == []
    assert outcome.findings(check="platform") == []
