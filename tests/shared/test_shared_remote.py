"""Addresses, seals, places and the limits of what a shared cache may cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cache_servers import KINDS, CacheServer, any_server, redis_server
from faulty_server import FaultyServer
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.errors import SettingsError
from vllm_builder.events import Event, Note
from vllm_builder.settings.layers import gather
from vllm_builder.shared import check_given, remote, sealing
from vllm_builder.shared.address import has_credentials, parse
from vllm_builder.shared.places import open_place
from vllm_builder.shared.places.base import Refused, Unreachable
from vllm_builder.shared.probing import probe
from vllm_builder.shared.remote import Remote


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("/srv/cache", "folder", "/srv/cache"),
        ("file:///srv/a%20b", "folder", "/srv/a b"),
        ("http://host/a/b/", "http", "http://host/a/b"),
        ("https://user:p%40ss@host:8443/a", "http", "https://host:8443/a"),
        ("http://[::1]:80/a", "http", "http://[::1]:80/a"),
        ("redis://:secret@host/3", "redis", "redis://host/3"),
        ("rediss://host", "redis", "rediss://host"),
        ("s3://Bucket.x/team/cache", "objects", "s3://Bucket.x/team/cache"),
    ],
)
def test_addresses(text: str, kind: str, shown: str) -> None:
    found = parse(text)
    assert (found.kind, found.shown) == (kind, shown)
    assert has_credentials(text) == ("@" in text)


def test_the_password_of_an_address_is_as_it_was_meant() -> None:
    found = parse("https://us%3Aer:p%40ss@host/a")
    assert (found.username, found.password) == ("us:er", "p@ss")
    assert "p@ss" not in repr(found)
    assert "p%40ss" not in repr(found)


@pytest.mark.parametrize(
    "text",
    ["", " ", "ftp://host/a", "redis:host", "host:6379", "http://", "http://host/a?token=x", "s3://key:secret@bucket/a",
     "file://host/a", "redis://host/a/b", "http://host:port/", "http://[::1/", "redis://host/3#x", "a\0b"],
)  # fmt: skip
def test_what_is_no_address_is_refused_by_name_of_the_setting(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        gather({"shared_cache": text}, {}).resolve()
    assert "shared-cache" in caught.value.what
    assert "secret" not in str(caught.value.as_dict())


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        return
    if found.password:
        assert f":{found.password}@" not in found.shown


def test_a_password_on_the_command_line_is_refused_and_one_in_the_environment_is_not() -> None:
    url = "redis://:hunter2@host/0"
    with pytest.raises(SettingsError) as caught:
        check_given(gather({"shared_cache": url}, {}).command_line)
    assert "hunter2" not in str(caught.value.as_dict())
    layers = gather({}, {"VLLM_BUILDER_SHARED_CACHE": url})
    check_given(layers.command_line)
    settings = layers.resolve().settings
    assert settings.shared_cache == url
    assert "hunter2" not in repr(settings)


@given(st.text(max_size=30), st.binary(max_size=200), st.binary(max_size=8), st.data())
def test_a_seal_holds_and_any_change_breaks_it(
    key: str, content: bytes, secret: bytes, data: st.DataObject
) -> None:
    entry = sealing.seal(key, content, secret)
    assert sealing.unseal(key, entry, secret) == content
    assert len(entry) <= len(content) + sealing.OVERHEAD
    at = data.draw(st.integers(0, len(entry) - 1))
    with pytest.raises(sealing.Broken):
        sealing.unseal(key, entry[:at] + bytes((entry[at] ^ 0x40,)) + entry[at + 1 :], secret)
    with pytest.raises(sealing.Broken):
        sealing.unseal(key, entry[:at], secret)
    with pytest.raises(sealing.Broken):
        sealing.unseal(f"{key}x", entry, secret)
    with pytest.raises(sealing.Broken):
        sealing.unseal(key, entry, secret + b"x")


@given(st.binary())
def test_any_bytes_are_no_entry(entry: bytes) -> None:
    with pytest.raises(sealing.Broken):
        sealing.unseal("v1/unit/ab/cd", entry)


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheServer]:
    with (
        any_server(request.param, tmp_path_factory.mktemp("place")) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in found.environ.items():
            patch.setenv(name, value)
        yield found


def test_a_place_keeps_what_is_put_there(server: CacheServer) -> None:
    place = open_place(parse(server.url))
    assert place.read("v1/unit/ab/none", 100) is None
    large = bytes(range(256)) * (40 << 10)
    place.write("v1/unit/ab/large", large)
    assert place.read("v1/unit/ab/large", len(large)) == large
    found = place.read("v1/unit/ab/large", 1000)
    assert found is not None
    assert len(found) == 1001
    place.write("v1/unit/ab/large", b"other")
    assert place.read("v1/unit/ab/large", 100) == b"other"


def test_several_at_once_get_whole_entries(server: CacheServer) -> None:
    place = open_place(parse(server.url))
    contents = [bytes((number,)) * 200_000 for number in range(6)]
    place.write("v1/unit/cd/race", contents[0])
    wrong: list[object] = []

    def work(content: bytes) -> None:
        for _ in range(5):
            place.write("v1/unit/cd/race", content)
            found = place.read("v1/unit/cd/race", 1 << 20)
            if found not in contents:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_a_probe_says_that_it_answers(server: CacheServer) -> None:
    found = probe(parse(server.url), {})
    assert (found.address, found.reads, found.writes, found.problem) == (server.url, True, True, "")


def test_folders_and_files_have_the_rights_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o2775)
    open_place(parse(str(root))).write("v1/unit/ab/x", b"x")
    assert (root / "v1/unit/ab").stat().st_mode & 0o7777 == 0o2775
    assert (root / "v1/unit/ab/x").stat().st_mode & 0o777 == 0o664
    assert [p.name for p in (root / "v1/unit/ab").iterdir()] == ["x"]


def test_a_redis_that_wants_a_password_or_only_reads(tmp_path: Path) -> None:
    with redis_server(tmp_path / "one", password="word") as server:
        for url, said in (
            (server.url.replace(":word@", ""), "wants a password"),
            (server.url.replace(":word@", ":other@"), "does not accept"),
        ):
            with pytest.raises(Refused, match=said):
                open_place(parse(url)).read("v1/unit/ab/x", 10)
    with redis_server(
        tmp_path / "two", "--replicaof", "127.0.0.1", "9", "--replica-serve-stale-data", "yes"
    ) as server:
        with pytest.raises(Refused, match="read-only"):
            open_place(parse(server.url)).write("v1/unit/ab/x", b"x")
        found = probe(parse(server.url), {})
        assert (found.reads, found.writes) == (True, False)
        assert "read-only" in found.problem


def test_a_server_that_makes_no_folders_by_itself_is_asked_for_them(faulty: FaultyServer) -> None:
    made: list[str] = []

    class Strict(type(faulty._server.RequestHandlerClass)):  # type: ignore[misc]
        pass

    handler = faulty._server.RequestHandlerClass
    put = handler.do_PUT  # type: ignore[attr-defined]

    def strict_put(self: object) -> None:
        path: str = self.path  # type: ignore[attr-defined]
        if path.rpartition("/")[0] + "/" in made:
            put(self)
            return
        self.rfile.read(int(self.headers["Content-Length"]))  # type: ignore[attr-defined]
        self._answer(409, b"")  # type: ignore[attr-defined]

    def mkcol(self: object) -> None:
        made.append(self.path)  # type: ignore[attr-defined]
        self._answer(201, b"")  # type: ignore[attr-defined]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "do_PUT", strict_put)
        patch.setattr(handler, "do_MKCOL", mkcol, raising=False)
        place = open_place(parse(faulty.url))
        place.write("v1/unit/ab/x", b"x")
        place.write("v1/unit/ab/y", b"y")
    assert made == [f"/cache/{folder}/" for folder in ("v1", "v1/unit", "v1/unit/ab")]
    assert place.read("v1/unit/ab/y", 10) == b"y"


@pytest.mark.parametrize(
    ("mode", "reading", "writing"),
    [
        ("resetting", "the connection broke", "the connection broke"),
        ("cut", "the connection broke", ""),
        ("503", "it answers 503", "it answers 503"),
        ("302", "it answers 302", "it answers 302"),
        ("401", "it wants a user name", "it wants a user name"),
        ("403", "it does not permit that", "it does not permit that"),
        ("413", "it takes no entries of that size", "it takes no entries of that size"),
        ("read-only", "", "it does not take that method"),
        ("full", "", "no space is left there"),
    ],
)
def test_what_a_web_server_answers(faulty: FaultyServer, mode: str, reading: str, writing: str) -> None:
    place = open_place(parse(faulty.url))
    place.write("v1/unit/ab/x", b"x" * 100)
    faulty.mode = mode
    for said, ask in (
        (reading, lambda: place.read("v1/unit/ab/x", 1000)),
        (writing, lambda: place.write("v1/unit/ab/y", b"y")),
    ):
        if not said:
            ask()
            continue
        with pytest.raises((Refused, Unreachable), match=said):
            ask()


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/cache", "redis://no-such-host.invalid/0"])
def test_a_host_that_does_not_exist(url: str) -> None:
    with pytest.raises(Unreachable, match="name"):
        open_place(parse(url)).read("v1/unit/ab/x", 10)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/cache", "redis://127.0.0.1:9/0"])
def test_a_port_where_nobody_listens(url: str) -> None:
    with pytest.raises(Unreachable, match="connection refused"):
        open_place(parse(url)).read("v1/unit/ab/x", 10)


class Asked:
    """A place of the tests: ``answers`` are given in turn, the last for ever."""

    def __init__(self, *answers: bytes | Exception | None, slow: float = 0) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.slow = slow
        self.written: list[str] = []

    def read(self, key: str, limit: int) -> bytes | None:
        self.asked += 1
        time.sleep(self.slow)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def write(self, key: str, data: bytes) -> None:
        self.written.append(key)
        raise Refused("it is full")


def _remote(place: Asked) -> tuple[Remote, list[str]]:
    said: list[str] = []

    def emit(event: Event) -> None:
        assert isinstance(event, Note)
        assert event.level == "warning"
        said.append(event.message)

    return Remote(parse("http://host/cache"), emit=emit, open_place=lambda address: place), said


def test_one_that_never_answered_is_asked_once() -> None:
    place = Asked(Unreachable("connection refused"))
    cache, said = _remote(place)
    assert [cache.get("unit", "ab") for _ in range(5)] == [None] * 5
    cache.close()
    assert place.asked == 1
    assert said == [
        "The shared cache http://host/cache is left out for the rest of this build: connection refused."
    ]


def test_three_failures_in_a_row_are_enough_and_two_are_not() -> None:
    bad = Unreachable("it answers 503")
    place = Asked(None, bad, bad, None, bad, bad, bad, None)
    cache, said = _remote(place)
    for _ in range(10):
        cache.get("unit", "ab")
    assert place.asked == 7
    assert len(said) == 1


def test_a_single_failure_is_told_at_the_end() -> None:
    cache, said = _remote(Asked(None, Unreachable("it answers 503"), None))
    for _ in range(4):
        cache.get("unit", "ab")
    assert said == []
    cache.close()
    assert said == ["1 request to the shared cache http://host/cache failed (the last: it answers 503)."]


def test_a_refused_write_does_not_end_reading() -> None:
    place = Asked(sealing.seal("v1/unit/ab/", b"content"))
    cache, said = _remote(place)
    assert [cache.put("unit", "ab", b"x") for _ in range(3)] == [False] * 3
    assert cache.get("unit", "ab") == b"content"
    assert len(place.written) == 1
    assert said == [
        "Nothing more is written to the shared cache http://host/cache in this build: it is full."
    ]


def test_what_lies_again_and_again_is_not_read_any_more() -> None:
    place = Asked(b"<html>")
    cache, said = _remote(place)
    for _ in range(9):
        assert cache.get("unit", "ab") is None
    assert place.asked == 5
    assert len(said) == 2


def test_a_fault_in_a_client_costs_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, said = _remote(Asked(RuntimeError("secret in a message")))
    assert cache.get("unit", "ab") is None
    assert len(said) == 1
    assert "secret" not in said[0]


def test_waiting_for_many_small_entries_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PATIENCE", 0.05)
    monkeypatch.setattr(remote, "_PROMPT", 0.0)
    place = Asked(None, slow=0.02)
    cache, said = _remote(place)
    for _ in range(20):
        cache.get("unit", "ab")
    assert 2 <= place.asked < 20
    assert "too slow" in said[0]
    # Of a wheel there is only one.
    place = Asked(None, slow=0.02)
    cache, said = _remote(place)
    for _ in range(5):
        cache.get("wheel", "ab")
    assert (place.asked, said) == (5, [])


def test_a_client_that_hangs_for_ever_is_left_to_itself(impatient: Callable[[float], None]) -> None:
    impatient(0.05)
    cache, said = _remote(Asked(None, slow=30))
    assert cache.get("unit", "ab") is None
    assert "no answer within 0.05 s" in said[0]
