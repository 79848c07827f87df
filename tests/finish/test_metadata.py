"""Single fields are changed, every other byte stays."""

from __future__ import annotations

from email.parser import BytesParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_builder.stages.finish.metadata import require_torch, tag_wheel

NEW = "torch~=2.9.1"


def requirements(metadata: bytes) -> list[str]:
    return BytesParser().parsebytes(metadata, headersonly=True).get_all("Requires-Dist", [])


@pytest.mark.parametrize(
    "old",
    [
        b"torch",
        b"torch==2.7.0",
        b"Torch >= 2",
        b"torch[opt-einsum]",
        b"torch @ https://example.org/torch.whl",
        b'torch==2.7.0+cpu; platform_machine == "x86_64"',
        b'torch==2.7.0; extra == "fast"',
        b"torch==2.7.0;\n  python_version > '3'",
    ],
)
def test_a_requirement_of_torch_is_replaced_in_its_place(old: bytes) -> None:
    metadata = b"Name: vllm\nRequires-Dist: numpy\nRequires-Dist: %b\nRequires-Dist: six\n\nbody\n" % old
    found, removed = require_torch(metadata, NEW)
    assert (
        found
        == b"Name: vllm\nRequires-Dist: numpy\nRequires-Dist: torch~=2.9.1\nRequires-Dist: six\n\nbody\n"
    )
    assert removed == (" ".join(old.decode().split()),)


def test_of_several_one_is_left() -> None:
    metadata = b"Requires-Dist: torch==1; extra == 'a'\nRequires-Dist: six\nRequires-Dist: torch==2\n\n"
    found, removed = require_torch(metadata, NEW)
    assert found == b"Requires-Dist: torch~=2.9.1\nRequires-Dist: six\n\n"
    assert len(removed) == 2


@pytest.mark.parametrize(
    "other", [b"torchvision==0.2", b"torch-npu", b"torch_geometric", b"torch.x", b"pytorch", b"nvidia-torch"]
)
def test_others_of_its_family_stay(other: bytes) -> None:
    found, removed = require_torch(b"Requires-Dist: %b\n\n" % other, NEW)
    assert found == b"Requires-Dist: %b\nRequires-Dist: torch~=2.9.1\n\n" % other
    assert removed == ()


def test_without_requirements_it_comes_last() -> None:
    assert require_torch(b"Name: vllm\n", NEW)[0] == b"Name: vllm\nRequires-Dist: torch~=2.9.1\n"
    assert require_torch(b"Name: vllm", NEW)[0] == b"Name: vllm\nRequires-Dist: torch~=2.9.1\n"
    assert require_torch(b"Name: vllm\n\nbody", NEW)[0] == b"Name: vllm\nRequires-Dist: torch~=2.9.1\n\nbody"


def test_the_text_below_is_never_looked_at() -> None:
    metadata = b"Requires-Dist: six\n\nRequires-Dist: torch==1\n"
    found, removed = require_torch(metadata, NEW)
    assert found.endswith(b"\n\nRequires-Dist: torch==1\n")
    assert removed == ()


_TEXT = st.text(st.characters(blacklist_characters="\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"), max_size=30)
_NAMES = st.sampled_from(["Name", "Summary", "License", "Requires-Dist", "Classifier", "X-Y"])
_FOLDED = st.lists(st.tuples(st.sampled_from([" ", "\t", "        "]), _TEXT), max_size=3)
_FIELD = st.builds(
    lambda name, value, more: f"{name}: {value}" + "".join(f"\n{indent}|{line}" for indent, line in more),
    _NAMES,
    _TEXT.filter(lambda text: not text.strip().lower().startswith("torch")),
    _FOLDED,
)


@given(
    st.lists(_FIELD, max_size=8), st.integers(0, 8), st.booleans(), st.text(), st.sampled_from(["\n", "\r\n"])
)
@example(["Summary: é" * 50], 0, False, "", "\r\n")
def test_everything_but_torch_stays_byte_for_byte(
    fields: list[str], place: int, pinned: bool, body: str, newline: str
) -> None:
    lines = [field.replace("\n", newline) for field in fields]
    rest = newline + body
    before = [*lines[:place], *(["Requires-Dist: torch==1.0"] if pinned else []), *lines[place:]]
    text = "".join(line + newline for line in before) + rest
    found, _ = require_torch(text.encode("utf-8", "surrogatepass"), NEW)
    new = f"Requires-Dist: {NEW}"
    ours = f"{new}\r\n" if newline == "\r\n" and before else f"{new}\n"
    assert found.count(new.encode()) >= 1
    left = found.replace(ours.encode(), b"", 1)
    assert left == ("".join(line + newline for line in lines) + rest).encode("utf-8", "surrogatepass")
    # And again: it is the only one, and nothing changes any more.
    assert require_torch(found, NEW)[0] == found


def test_all_tags_of_a_wheel_are_replaced() -> None:
    wheel = b"Wheel-Version: 1.0\nTag: cp38-abi3-linux_x86_64\nTag: cp39-abi3-linux_x86_64\nBuild: 1\n\n"
    assert tag_wheel(wheel, ("cp38-abi3-manylinux_2_28_x86_64",)) == (
        b"Wheel-Version: 1.0\nTag: cp38-abi3-manylinux_2_28_x86_64\nBuild: 1\n\n"
    )
