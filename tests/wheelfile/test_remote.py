"""Wheels behind an address."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from range_server import RangeServer, serving
from wheel_helpers import NAME, Entry, wheel_entries, zip_bytes

from vllm_builder.errors import WheelError
from vllm_builder.events import Event, Note
from vllm_builder.wheelfile import open_wheel

LARGE = random.Random(4).randbytes(3 << 20)
CONTENT = zip_bytes([Entry("demo/large.bin", LARGE), *wheel_entries(), Entry("demo/small.txt", b"small")])
OTHER = zip_bytes([Entry("demo/large.bin", LARGE[::-1]), *wheel_entries(), Entry("demo/small.txt", b"other")])


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy or credential of the machine takes part; no test waits between tries."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "UV_", "REQUESTS_", "CURL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("vllm_builder.stages.source.http.BACKOFF", 0.0)


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with serving(CONTENT) as running:
        yield running


def test_only_what_is_asked_for_is_fetched(server: RangeServer) -> None:
    heard: list[Event] = []
    with open_wheel(f"{server.url}/files/{NAME}", emit=heard.append) as wheel:
        assert wheel.remote
        assert wheel.size == len(CONTENT)
        assert wheel.metadata.requires_dist == ("torch==2.7.0",)
        assert wheel.read("demo/small.txt") == b"small"
        assert server.sent < 300_000 < len(CONTENT)
        assert wheel.read("demo/large.bin") == LARGE
        assert [p.member for p in wheel.verify_record()] == ["demo/large.bin", "demo/small.txt"]
    assert len(server.ranges) == len(server.seen)
    assert heard == []


def test_the_many_small_members_of_a_wheel_are_fetched_together(server: RangeServer) -> None:
    files = {f"demo/m{n}.py": b"x = %d\n" % n for n in range(500)}
    server.content = zip_bytes(wheel_entries(files))
    with open_wheel(f"{server.url}/{NAME}") as wheel:
        assert wheel.verify_record() == []
    assert len(server.seen) < 8


FALLBACKS = {
    "whole": "gives it only whole",
    "416": "gives it only whole",
    "multipart": "does not say which bytes",
    "other range": "other bytes than were asked for",
    "other total": "other bytes than were asked for",
    "more": "more than was asked for",
}


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("mode", FALLBACKS)
def test_a_server_without_honest_ranges_gives_the_whole_wheel_once(
    server: RangeServer, mode: str, after: int
) -> None:
    if mode in {"other range", "other total"} and after == 0:
        after = 1  # of the very first bytes both are true, as far as anyone can tell
    server.mode, server.after = mode, after
    heard: list[Event] = []
    with open_wheel(f"{server.url}/{NAME}", emit=heard.append) as wheel:
        assert wheel.read("demo/large.bin") == LARGE
        assert wheel.read("demo/small.txt") == b"small"
    notes = [event.message for event in heard if isinstance(event, Note)]
    assert len(notes) == 1
    assert FALLBACKS[mode] in notes[0]
    assert len(server.seen) - len(server.ranges) == 1


@pytest.mark.parametrize("mode", ["weak", "no validator", "cut once", "redirect", "good"])
def test_ranges_work_over_what_real_servers_do(server: RangeServer, mode: str) -> None:
    server.mode = mode
    with open_wheel(f"{server.url}/{NAME}") as wheel:
        assert wheel.read("demo/large.bin") == LARGE
        assert wheel.remote


def test_a_wheel_that_is_replaced_while_it_is_opened_is_read_of_one_piece(server: RangeServer) -> None:
    class Replaced(RangeServer):
        def answer(self, request: object) -> None:
            if len(self.seen) == 1:
                self.content = OTHER
            super().answer(request)  # type: ignore[arg-type]

    server.__class__ = Replaced
    with open_wheel(f"{server.url}/{NAME}") as wheel:
        assert wheel.read("demo/small.txt") == b"other"
        assert wheel.read("demo/large.bin") == LARGE[::-1]


@pytest.mark.parametrize("mode", ["good", "ignores If-Range"])
def test_a_wheel_that_is_replaced_later_is_an_error_and_never_a_mixture(
    server: RangeServer, mode: str
) -> None:
    server.mode = mode
    with open_wheel(f"{server.url}/{NAME}") as wheel:
        server.content = OTHER
        with pytest.raises(WheelError, match="was replaced by another file"):
            wheel.read("demo/large.bin")


@pytest.mark.parametrize(
    ("mode", "words"), [("403", "403 Forbidden"), ("404", "404 Not Found"), ("500", "500")]
)
def test_a_server_that_refuses(server: RangeServer, mode: str, words: str) -> None:
    server.mode = mode
    with pytest.raises(WheelError) as caught:
        open_wheel(f"{server.url}/{NAME}")
    assert words in caught.value.why
    assert caught.value.next


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("mode", ["cut", "stall"])
def test_a_server_that_never_delivers_is_given_up(
    server: RangeServer, mode: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_builder.stages.source.http.READ_TIMEOUT", 0.1)
    server.mode, server.after = mode, after
    with pytest.raises(WheelError, match="cannot be read from"), open_wheel(f"{server.url}/{NAME}") as wheel:
        wheel.read("demo/large.bin")


def test_a_whole_download_that_is_cut_off_is_no_wheel(server: RangeServer) -> None:
    server.mode = "416"
    server.content = CONTENT

    class Cut(RangeServer):
        def answer(self, request: object) -> None:
            if "Range" not in request.headers:  # type: ignore[attr-defined]
                self.mode = "cut whole"
            super().answer(request)  # type: ignore[arg-type]

    server.__class__ = Cut
    with pytest.raises(WheelError) as caught:
        open_wheel(f"{server.url}/{NAME}")
    assert "5000" in caught.value.why


def test_credentials_are_used_and_never_shown(server: RangeServer) -> None:
    server.mode = "auth"
    address = f"{server.url}/{NAME}?token=hidden".replace("//", "//me:secret@")
    with open_wheel(address) as wheel:
        assert wheel.read("demo/small.txt") == b"small"
        assert wheel.location == f"{server.url}/{NAME}"
    assert server.seen[0][0].endswith("?token=hidden")
    server.mode = "404"
    with pytest.raises(WheelError) as caught:
        open_wheel(address)
    server.mode = "stall"
    with pytest.raises(WheelError) as refused:
        open_wheel(f"http://me:secret@127.0.0.1:1/{NAME}?token=hidden")
    for error in (caught.value, refused.value):
        assert not {"secret", "hidden"} & set(
            str(error.as_dict()).replace("=", " ").replace("'", " ").split()
        )
        assert "secret" not in str(error.as_dict())
        assert "hidden" not in str(error.as_dict())


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1/", "http://127.0.0.1:1/a.zip", f"s3://bucket/{NAME}", f"http:///{NAME}", f"http://[::1/{NAME}",
     f"http://127.0.0.1:99999/{NAME}", f"http://a b/{NAME}", f"file://elsewhere/{NAME}"],
)  # fmt: skip
def test_addresses_of_no_wheel(address: str) -> None:
    with pytest.raises(WheelError):
        open_wheel(address)


def test_hostile_wheels_are_refused_there_too(server: RangeServer) -> None:
    server.content = zip_bytes([*wheel_entries(), Entry("demo/a", b"x", mode=0o120777)])
    with pytest.raises(WheelError, match="symbolic link"):
        open_wheel(f"{server.url}/{NAME}")
    server.content = zip_bytes([*wheel_entries(), Entry("demo/a", b"x", local_name=b"demo/b")])
    with (
        open_wheel(f"{server.url}/{NAME}") as wheel,
        pytest.raises(WheelError, match="headers that disagree"),
    ):
        wheel.read("demo/a")
    server.content = CONTENT[:-9]
    with pytest.raises(WheelError, match="truncated"):
        open_wheel(f"{server.url}/{NAME}")
    server.content = b""
    with pytest.raises(WheelError, match="no zip file"):
        open_wheel(f"{server.url}/{NAME}")
