"""What changed between two wheels of which it is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from made_wheels import MODULE, gpu_code, make, metadata, module
from wheel_helpers import Entry, wheel_entries, zip_bytes

from vllm_builder.stages.verify.comparing import compare
from vllm_builder.stages.verify.model import Comparison
from vllm_builder.wheelfile.record import BuildRecord

NAME = "demo-1.0-cp38-abi3-linux_x86_64.whl"


def said(found: Comparison, kind: str) -> list[tuple[str, str, str]]:
    return [(d.where, d.a, d.b) for d in found.differences if d.kind == kind]


def kinds(found: Comparison) -> set[str]:
    return {difference.kind for difference in found.differences}


def packed(folder: Path, entries: list[Entry], **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_bytes(zip_bytes(entries, **options))  # type: ignore[arg-type]
    return folder / NAME


def test_the_same_bytes(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", {"demo/x.py": b"x"}), make(tmp_path / "b", {"demo/x.py": b"x"})
    found = compare(a, b)
    assert (found.identical, found.same_content, found.differences) == (True, True, ())


@pytest.mark.parametrize("kind", ["timestamp", "method", "order", "container"])
def test_the_same_content_in_another_zip_file(tmp_path: Path, kind: str) -> None:
    entries = wheel_entries({"demo/x.py": b"x" * 100, "demo/y.py": b"y"})
    changed = list(entries)
    options: dict[str, object] = {}
    match kind:
        case "timestamp":
            changed[0] = dataclasses.replace(entries[0], stamp=(7, 0x4321))
        case "method":
            changed[0] = dataclasses.replace(entries[0], method=0)
        case "order":
            changed = [entries[1], entries[0], *entries[2:]]
        case "container":
            options["comment"] = b"other"
    found = compare(packed(tmp_path / "a", entries), packed(tmp_path / "b", changed, **options))
    assert (found.identical, found.same_content, kinds(found)) == (False, True, {kind})


def test_members(tmp_path: Path) -> None:
    a = make(
        tmp_path / "a", {"demo/same.py": b"s", "demo/gone.py": b"1", "demo/x.py": b"123", "demo/run": b"r"}
    )
    b = make(
        tmp_path / "b",
        {"demo/same.py": b"s", "demo/new.py": b"22", "demo/x.py": b"321", "demo/run": b"r"},
        modes={"demo/run": 0o100755},
    )
    found = compare(a, b)
    assert not found.same_content
    assert said(found, "member") == [
        ("demo/gone.py", "1 bytes", ""), ("demo/new.py", "", "2 bytes"), ("demo/x.py", "3 bytes", "3 bytes")
    ]  # fmt: skip
    assert said(found, "mode") == [("demo/run", "100644", "100755")]
    assert ("python", "5", "6") in said(found, "size")


def test_equal_checksums_prove_nothing(tmp_path: Path) -> None:
    """Two contents with one CRC-32: what is compared is the content."""
    one, two = b"plumless", b"buckeroo"
    entries = wheel_entries({"demo/x.bin": one})
    other = [dataclasses.replace(entries[0], data=two), *entries[1:]]
    found = compare(packed(tmp_path / "a", entries), packed(tmp_path / "b", other))
    assert said(found, "member") == [("demo/x.bin", "8 bytes", "8 bytes")]


def test_requirements_tags_and_versions(tmp_path: Path) -> None:
    a = make(tmp_path / "a", {}, metadata=metadata("torch==2.7.0", "numpy"))
    b = make(
        tmp_path / "b", {}, name="demo-1.0+cpu-cp38-abi3-manylinux_2_28_x86_64.whl", info="demo-1.0+cpu.dist-info",
        metadata=metadata("torch==2.8.0", "numpy").replace("1.0\n", "1.0+cpu\n").replace(">=3.9", ">=3.10"),
    )  # fmt: skip
    found = compare(a, b)
    assert said(found, "requirement") == [
        ("Requires-Dist", "torch==2.7.0", ""),
        ("Requires-Dist", "", "torch==2.8.0"),
    ]
    assert said(found, "version") == [("METADATA", "1.0", "1.0+cpu")]
    assert ("file name", "", "cp38-abi3-manylinux_2_28_x86_64") in said(found, "tag")
    assert ("requires_python", ">=3.9", "") in said(found, "metadata")
    assert [where for where, _, _ in said(found, "member")] == [".dist-info/METADATA"]


def test_a_library_of_which_only_the_build_id_differs(tmp_path: Path) -> None:
    one, two = (module(tmp_path, MODULE, flags=(f"-Wl,--build-id=0x{n}{n}{n}{n}",)) for n in ("11", "22"))
    found = compare(make(tmp_path / "a", {"demo/_C.so": one}), make(tmp_path / "b", {"demo/_C.so": two}))
    assert kinds(found) == {"member", "section"}
    assert [where for where, _, _ in said(found, "section")] == ["demo/_C.so: .note.gnu.build-id"]


def test_libraries(tmp_path: Path) -> None:
    one = module(tmp_path, MODULE, "libtorch.so", "libcudart.so.12", gpu=gpu_code())
    two = module(
        tmp_path, "extern int torch_list_size(void *, long *);\n"
        "void *PyInit__C(void) { return 0; } int more(void) { return torch_list_size(0, 0); }",
        "libtorch.so", "libcudart.so.13", flags=("-Wl,-rpath,/build",),
    )  # fmt: skip
    found = compare(make(tmp_path / "a", {"demo/_C.so": one}), make(tmp_path / "b", {"demo/_C.so": two}))
    assert ("demo/_C.so: SASS 9.0a", "2 units", "") in said(found, "arch")
    assert ("demo/_C.so: PTX 8.0", "1 unit", "") in said(found, "arch")
    assert said(found, "cuda") == [("demo/_C.so", "12", "13")]
    assert said(found, "needed") == [
        ("demo/_C.so", "libcudart.so.12", ""),
        ("demo/_C.so", "", "libcudart.so.13"),
    ]
    assert said(found, "rpath") == [("demo/_C.so", "", "/build")]
    assert said(found, "import") == [("demo/_C.so", "aoti_torch_get_dim", "")]
    assert said(found, "export") == [("demo/_C.so", "", "more")]


def test_build_records_are_compared_input_by_input(tmp_path: Path) -> None:
    record = BuildRecord(
        builder="vllm-builder 0", digest="0" * 64, release="v1", version="1", device="cpu",
        inputs={"source": {"commit": "abc"}, "patches": ["x", "y"]},
    )  # fmt: skip
    other = record.model_copy(
        update={"digest": "1" * 64, "inputs": {"source": {"commit": "abc"}, "patches": ["x", "z"]}}
    )
    name = "demo-1.0.dist-info/vllm-builder.json"
    a, b = (make(tmp_path / n, {name: r.to_json().encode()}) for n, r in (("a", record), ("b", other)))
    assert said(compare(a, b), "record") == [("digest", "0" * 64, "1" * 64), ("inputs.patches[1]", "y", "z")]
    plain = make(tmp_path / "c", {})
    assert ("release", "v1", "") in said(compare(a, plain), "record")
