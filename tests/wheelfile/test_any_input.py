"""Whatever the bytes are: a wheel, or WheelError."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wheel_helpers import NAME, Entry, wheel_entries, zip_bytes

from vllm_builder.errors import WheelError
from vllm_builder.wheelfile import open_wheel

_ENTRIES = [*wheel_entries(), Entry("demo/b.so", b"\x7fELF" * 40, method=0), Entry("demo/é", bytes(300))]
SEEDS = (zip_bytes(_ENTRIES), zip_bytes(_ENTRIES, zip64=True, comment=b"c"))


def read_all(path: Path) -> None:
    """Everything that is asked of a wheel."""
    with suppress(WheelError), open_wheel(path) as wheel:
        with suppress(WheelError):
            assert wheel.metadata.version
        with suppress(WheelError):
            assert wheel.wheel_tags
            assert wheel.wheel_fields.expanded
        with suppress(WheelError):
            assert wheel.build_record is None or wheel.build_record.digest
        assert len(wheel.verify_record()) <= 1000
        for member in wheel.members.values():
            with suppress(WheelError), wheel.mapped(member.name) as view:
                assert len(view) == member.size <= 200 << 20


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        match draw(st.sampled_from(["replace", "number", "insert", "cut", "move"])):
            case "replace":
                data[at:end] = draw(st.binary(min_size=end - at, max_size=end - at))
            case "number":
                data[at : at + 4] = draw(
                    st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0", b"\xff\xff", b"PK\5\6"])
                )
            case "insert":
                data[at:at] = draw(st.binary(max_size=12))
            case "cut":
                del data[at:end]
            case "move":
                start = draw(st.integers(0, len(data)))
                data[at:at] = data[start : start + 60]
    return bytes(data)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(mutated(), st.binary(max_size=200)))
def test_mutated_wheels(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / NAME
    path.write_bytes(data)
    read_all(path)


_LINES = [
    "Name: demo",
    "Version: 1.0",
    "Metadata-Version: 2.1",
    "Tag: a-b-c",
    "Wheel-Version: 1.0",
    " more",
    "",
    "Name: =?utf-8?q?=C3?=",
    "Content-Type: multipart/mixed; boundary=x",
    "Content-Transfer-Encoding: base64",
    "--x",
    "Keywords: a,b",
    "Project-URL: a",
]
_TEXT = st.text(max_size=300) | st.lists(st.sampled_from(_LINES)).map("\n".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=_TEXT, wheel=_TEXT, record=st.binary(max_size=300))
def test_any_text_in_dist_info(tmp_path: Path, metadata: str, wheel: str, record: bytes) -> None:
    path = tmp_path / NAME
    entries = wheel_entries()
    for entry, data in zip(entries[-3:], (metadata, wheel, record), strict=True):
        entry.data = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    path.write_bytes(zip_bytes(entries))
    read_all(path)


@settings(max_examples=300, deadline=None)
@given(name=st.text(max_size=60) | st.from_regex(r"[\w.+-]*\.whl", fullmatch=True))
def test_any_file_name(name: str) -> None:
    with suppress(WheelError):
        open_wheel(name)
    with suppress(WheelError):
        open_wheel(f"file:///nowhere/{name}")
