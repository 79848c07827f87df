"""Requirement files: what goes, and that everything else keeps every byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patch_helpers import contents, run, write

from vllm_builder.errors import PatchFailed, PatchMiss
from vllm_builder.stages.patch.requirement_files import parse, requirement_name

TORCH = ["torch", "torchvision", "torchaudio", "torchcodec", "xformers"]


def remove(**more: object) -> dict[str, object]:
    return {
        "action": "remove_requirements",
        "files": ["requirements*.txt", "requirements/**/*.txt"],
        "names": TORCH,
        **more,
    }


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("torch==2.7.0", "torch"),
        ("Torch == 2.7.0", "torch"),
        ("torch==2.7.0+cpu; platform_machine == 'x86_64'", "torch"),
        ("torch @ https://example.org/torch-2.5.0a0%2Bgit-cp310-cp310-linux_x86_64.whl", "torch"),
        ("https://example.org/torch-2.5.0a0%2Bgit-cp310-cp310-linux_x86_64.whl", "torch"),
        ("./wheels/torchvision-0.22.0-cp310-cp310-linux_x86_64.whl ; python_version > '3'", "torchvision"),
        ("git+https://example.org/pytorch/vision.git#egg=torchvision", "torchvision"),
        ("torch==2.7.0 --hash=sha256:abc", "torch"),
        ("torch==${TORCH_VERSION}", "torch"),
        ("torch==2.7.0dev-nightly", "torch"),
        ("torch", "torch"),
        ("torch_xla[tpu, pallas]==2.8.0", "torch-xla"),
        ("intel_extension_for_pytorch==2.6.0", "intel-extension-for-pytorch"),
        ("open_clip_torch==2.32.0", "open-clip-torch"),
        ("terratorch @ git+https://example.org/terratorch.git@1.1.rc3", "terratorch"),
        ("git+https://example.org/nothing.git", None),
        ("./local/folder", None),
        ("", None),
    ],
)
def test_the_name_is_parsed(line: str, name: str | None) -> None:
    assert requirement_name(line) == name


def test_only_the_named_requirements_go(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "requirements/cuda.txt": (
                "# torch and friends\n"
                "-r common.txt\n"
                "--extra-index-url https://example.org/whl/torch\n"
                "ray[cgraph]>=2.43.0, !=2.44.* # Ray, for torch\n"
                "torch==2.7.0 # this goes\n"
                "torchaudio; platform_machine != 's390x'\n"
                "torch-xla==2.7\n"
                "xformers==0.0.30; platform_system == 'Linux'  # Requires PyTorch >= 2.7\n"
                "    # via torch\n"
            ),
            "requirements/common.txt": "outlines >= 0.0.43, < 0.1 # Requires torch >= 2.1.0\n",
        },
    )
    report = run(tmp_path, remove())
    assert contents(tmp_path) == {
        "requirements/cuda.txt": (
            b"# torch and friends\n"
            b"-r common.txt\n"
            b"--extra-index-url https://example.org/whl/torch\n"
            b"ray[cgraph]>=2.43.0, !=2.44.* # Ray, for torch\n"
            b"torch-xla==2.7\n"
            b"    # via torch\n"
        ),
        "requirements/common.txt": b"outlines >= 0.0.43, < 0.1 # Requires torch >= 2.1.0\n",
    }
    (entry,) = report.entries
    assert (entry.file, entry.status, entry.line) == ("requirements/cuda.txt", "changed", 5)
    assert entry.before == (
        "torch==2.7.0 # this goes",
        "torchaudio; platform_machine != 's390x'",
        "xformers==0.0.30; platform_system == 'Linux'  # Requires PyTorch >= 2.7",
    )
    assert entry.after == ()


def test_continuation_lines_go_with_their_requirement(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "requirements.txt": (
                "numpy==2.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
                "torch==2.7.0 \\\n    --hash=sha256:cc \\\n    --hash=sha256:dd\n"
                "    # via -r x.in\n"
                "wheel==1.0 \\\n    --hash=sha256:ee\n"
            )
        },
    )
    run(tmp_path, remove())
    assert contents(tmp_path)["requirements.txt"] == (
        b"numpy==2.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        b"    # via -r x.in\n"
        b"wheel==1.0 \\\n    --hash=sha256:ee\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a\r\ntorch\r\nb", b"a\r\nb"),
        (b"a\r\nb\ntorch", b"a\r\nb\n"),
        (b"\xef\xbb\xbftorch==1\nb\n", b"b\n"),
        (b"caf\xe9 # not UTF-8\ntorch\n", b"caf\xe9 # not UTF-8\n"),
        (b"\t torch ==1\n \n\n", b" \n\n"),
    ],
)
def test_line_ends_and_odd_bytes_stay(tmp_path: Path, before: bytes, after: bytes) -> None:
    write(tmp_path, {"requirements.txt": before})
    run(tmp_path, remove())
    assert contents(tmp_path)["requirements.txt"] == after


def test_includes_are_followed_inside_the_tree(tmp_path: Path) -> None:
    tree = write(
        tmp_path / "tree",
        {
            "requirements.txt": (
                "-r deep/one.in\n-c deep/pins\n-r ../outside.txt\n-r https://example.org/r.txt\n-r missing.txt\n"
            ),
            "deep/one.in": "--requirement=two.in\ntorch\n",
            "deep/two.in": "-r one.in\ntorchvision\nx\n",
            "deep/pins": "torch==2.0\ny==1\n",
        },
    )
    write(tmp_path, {"outside.txt": "torch\n"})
    run(tree, remove())
    found = contents(tree)
    assert found["deep/one.in"] == b"--requirement=two.in\n"
    assert found["deep/two.in"] == b"-r one.in\nx\n"
    assert found["deep/pins"] == b"y==1\n"
    assert (tmp_path / "outside.txt").read_text() == "torch\n"


def test_nothing_found_is_an_error_only_where_it_is_required(tmp_path: Path) -> None:
    write(tmp_path, {"requirements.txt": "numpy\n"})
    with pytest.raises(PatchMiss, match=r"operation 1 \(remove_requirements\)"):
        run(tmp_path, remove())
    assert run(tmp_path, remove(miss="optional")).entries[0].status == "skipped-optional"
    assert run(tmp_path, remove(miss="already-done")).entries[0].status == "already"


def test_no_requirement_file_at_all_is_not_already_done(tmp_path: Path) -> None:
    with pytest.raises(PatchMiss, match="found nothing"):
        run(tmp_path, remove(miss="already-done"))


def test_utf16_is_refused_instead_of_searched_in_vain(tmp_path: Path) -> None:
    write(tmp_path, {"requirements.txt": "torch\n".encode("utf-16")})
    with pytest.raises(PatchFailed, match="UTF-8"):
        run(tmp_path, remove(miss="already-done"))


_NAMES = st.sampled_from(["torch", "Torch", "torchvision", "numpy", "torch-xla", "open_clip_torch", "a.b"])
_ENTRY = st.one_of(
    st.builds(
        lambda name, extra, spec, marker, comment: f"{name}{extra}{spec}{marker}{comment}",
        _NAMES,
        st.sampled_from(["", "[x]", " [x, y]"]),
        st.sampled_from(["", "==2.7.0", " >= 1, < 3", " @ https://example.org/a#egg=zzz"]),
        st.sampled_from(["", " ; python_version > '3'", " \\\n  --hash=sha256:00"]),
        st.sampled_from(["", "  # torch"]),
    ),
    st.sampled_from(["", "# torch", "   # via torch", "-r torch.txt", "--find-links torch", "-e ./torch"]),
)
_ENDS = st.sampled_from(["\n", "\r\n"])


@given(st.binary(max_size=300))
def test_any_bytes_survive_the_round_trip(data: bytes) -> None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    parsed = parse(data)
    assert b"".join(parsed.lines) == data
    assert parsed.without(lambda entry: False) == data
    covered = [index for entry in parsed.entries for index in range(entry.start, entry.stop)]
    assert covered == list(range(len(parsed.lines)))


@given(st.lists(st.tuples(_ENTRY, _ENDS), max_size=12))
def test_removing_leaves_exactly_the_other_entries(entries: list[tuple[str, str]]) -> None:
    text = [entry.replace("\n", end) + end for entry, end in entries]
    named = [
        entry.lower().startswith(("torch=", "torch ", "torch[", "torch;")) or entry.lower() == "torch"
        for entry, _ in entries
    ]
    left = parse("".join(text).encode()).without(lambda entry: entry.name == "torch")
    assert left == "".join(part for part, gone in zip(text, named, strict=True) if not gone).encode()
