"""The shared cache breaks, fills up, slows down or lies while a build runs: the wheel is the same, one warning says so."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import UNITS, Built, Team
from cache_servers import redis_server
from faulty_server import FaultyServer

from vllm_builder.events import Event, Note
from vllm_builder.shared import sealing
from vllm_builder.shared.address import parse
from vllm_builder.shared.artifacts import Kind, fetch
from vllm_builder.shared.remote import LAYOUT, Remote
from vllm_builder.stages.store import Store


@pytest.fixture
def right(built: Built) -> Callable[[Any], None]:
    """Checks a result: the wheel is that of a build that never saw a shared cache."""

    def check(result: Any) -> None:
        assert result.wheel.read_bytes() == built.wheel

    return check


@pytest.fixture
def team(later: Team) -> Team:
    """Who has not built anything yet, of a toy that others have built."""
    return later


Check = Callable[[Any], None]
Impatient = Callable[[float], None]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/cache", "connection refused"),
        ("/dev/null/cache", "Not a directory"),
    ],
)
def test_there_is_none(team: Team, right: Check, url: str, said: str) -> None:
    right(team.build("bob", url))
    assert team.compiled == UNITS
    assert len(team.warnings) == 1
    assert said.lower() in team.warnings[0].lower()
    assert url in team.warnings[0]


@pytest.mark.parametrize(
    ("moment", "mode", "said"),
    [
        (("GET", "unit"), "killed", "connection"),
        (("PUT", "unit"), "killed", "connection"),
        (("PUT", "piece"), "killed", "connection"),
        (("GET", "unit"), "503", "it answers 503"),
        (("GET", "unit"), "401", "it wants a user name and a password"),
        (("PUT", "unit"), "full", "no space is left there (507)"),
    ],
)
def test_it_breaks_in_the_middle(
    team: Team, right: Check, faulty: FaultyServer, mode: str, said: str, moment: tuple[str, str]
) -> None:
    faulty.later = (*moment, mode)
    right(team.build("bob", faulty.url))
    assert faulty.mode == mode
    assert team.compiled == UNITS
    # Where it dies with the last request, it can be that the one failure is all.
    assert len(team.warnings) == 1, team.warnings
    assert said in team.warnings[0]


def test_a_server_that_is_killed_in_the_middle(team: Team, right: Check, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server:

        def kill(event: object) -> None:
            if isinstance(event, Note) and event.message.startswith("native layer: compile"):
                server.stop()

        team.on_event = kill
        right(team.build("bob", server.url))
    assert team.compiled == UNITS
    assert len(team.warnings) == 1
    assert "is left out for the rest of this build" in team.warnings[0]


def test_memory_that_is_full(team: Team, right: Check, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", "--maxmemory", "1") as server:
        right(team.build("bob", server.url))
    assert ["its memory is full (OOM)" in text for text in team.warnings] == [True]


@pytest.mark.skipif(not Path("/dev/full").exists() or os.geteuid() != 0, reason="needs root and Linux")
def test_a_disk_that_is_full(team: Team, right: Check, tmp_path: Path) -> None:
    import subprocess

    root = tmp_path / "small"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(root)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        right(team.build("bob", str(root)))
    finally:
        subprocess.run(["umount", str(root)], check=True)
    assert ["no space is left" in text for text in team.warnings] == [True]


@pytest.mark.parametrize("mode", ["slow", "dripping"])
def test_it_becomes_slow(
    team: Team, right: Check, filled: FaultyServer, impatient: Impatient, mode: str
) -> None:
    filled.entries = {k: v for k, v in filled.entries.items() if "/v1/unit/" in k}
    impatient(0.5)
    filled.later = ("GET", "unit", mode)
    result = team.build("bob", filled.url)
    right(result)
    assert team.compiled == UNITS
    assert len(team.warnings) == 1, team.warnings
    assert "no answer within 0.5 s" in team.warnings[0]


def _flipped(key: str, data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :]


def _page(key: str, data: bytes) -> bytes:
    return b"<html>Please log in</html>"


@pytest.mark.parametrize("lie", [_flipped, _page])
def test_it_lies(team: Team, right: Check, filled: FaultyServer, lie: Callable[[str, bytes], bytes]) -> None:
    filled.mode, filled.lie = "lying", lie
    right(team.build("bob", filled.url))
    assert team.compiled == UNITS
    assert "gave an entry that cannot be used" in team.warnings[0]
    assert len(team.warnings) <= 2
    # What was compiled is written over it: the next one has it again.
    filled.mode = "well"
    assert team.build("carol", filled.url).shared == filled.url
    assert (team.compiled, team.warnings) == (0, [])


def test_it_hangs_up_in_the_middle_of_entries(team: Team, right: Check, filled: FaultyServer) -> None:
    filled.mode = "cut"
    right(team.build("bob", filled.url))
    assert team.compiled == UNITS
    assert len(team.warnings) == 1
    assert "the connection broke" in team.warnings[0]


def test_entries_of_ccache_under_other_keys(team: Team, right: Check, filled: FaultyServer) -> None:
    units = {k: v for k, v in filled.entries.items() if "/v1/unit/" in k}
    filled.entries = dict(zip(units, [*list(units.values())[1:], next(iter(units.values()))], strict=True))
    right(team.build("bob", filled.url))
    assert team.compiled == UNITS
    assert "its seal is of other content" in team.warnings[0]


class Forger:
    """Makes entries with seals that are right: somebody who may write to the cache, and knows this program."""

    def __init__(self, faulty: FaultyServer, kind: str) -> None:
        (self.path,) = faulty.of_kind(kind)
        self.faulty = faulty
        self.kind = kind
        self.known = json.loads(self.unsealed(self.path))

    @staticmethod
    def key(path: str) -> str:
        return path[path.index(f"{LAYOUT}/") :]

    def unsealed(self, path: str) -> bytes:
        return sealing.unseal(self.key(path), self.faulty.entries[path])

    def archive(self) -> bytes:
        return b"".join(self.unsealed(self.piece(name)) for name, _ in self.known["pieces"])

    def piece(self, name: str) -> str:
        return f"/cache/{LAYOUT}/piece/{name[:2]}/{name[2:]}"

    def put(self, path: str, content: bytes) -> None:
        self.faulty.entries[path] = sealing.seal(self.key(path), content)

    def put_known(self) -> None:
        self.put(self.path, json.dumps(self.known).encode())

    def put_archive(self, data: bytes) -> None:
        import hashlib

        name = hashlib.sha256(data).hexdigest()
        self.put(self.piece(name), data)
        self.known["pieces"] = [[name, len(data)]]
        self.known["record"]["wheel"] |= {"sha256": name, "size": len(data)}
        self.put_known()


def _other_record(forger: Forger) -> None:
    forger.known["record"]["digest"] = "0" * 64
    forger.put_known()


def _other_inputs(forger: Forger) -> None:
    record = forger.known["record"]
    (record["native"] if forger.kind == "native" else record["plan"])["inputs"]["platform"] = "other"
    forger.put_known()


def _other_kind(forger: Forger) -> None:
    forger.known["kind"] = "piece"
    forger.put_known()


def _no_json(forger: Forger) -> None:
    forger.put(forger.path, b"[" * 5000)


def _leading_out(forger: Forger) -> None:
    forger.known["record"]["wheel"]["filename"] = "../../evil.whl"
    forger.put_known()


def _other_pieces(forger: Forger) -> None:
    forger.known["pieces"] = [["00" * 32, 8], *forger.known["pieces"]]
    forger.put_known()


def _endless(forger: Forger) -> None:
    forger.known["record"]["wheel"]["size"] = 1 << 50
    forger.known["pieces"] = [["00" * 32, 1 << 50]]
    forger.put_known()


def _garbage(forger: Forger) -> None:
    forger.put_archive(b"PK\x03\x04" + b"garbage" * 50)


def _hostile_names(forger: Forger) -> None:
    made = io.BytesIO(forger.archive())
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("files/../../../evil", "evil")
    forger.put_archive(made.getvalue())


FORGERIES = [_other_record, _other_inputs, _other_kind, _no_json, _leading_out, _other_pieces, _endless, _garbage,
             _hostile_names]  # fmt: skip


@pytest.mark.parametrize("kind", ["wheel", "native"])
@pytest.mark.parametrize("forge", FORGERIES)
def test_forged_entries_are_refused_and_nothing_of_them_is_left(
    filled: FaultyServer, tmp_path: Path, forge: Callable[[Forger], None], kind: Kind
) -> None:
    forger = Forger(filled, kind)
    digest = forger.known["record"]["digest"]
    said: list[Event] = []
    store = Store(tmp_path / "store")
    forge(forger)
    assert fetch(Remote(parse(filled.url), emit=said.append), kind, digest, store) is None
    assert len(said) == 1
    assert "gave an entry that cannot be used" in str(said[0])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_build_with_forged_entries(team: Team, right: Check, filled: FaultyServer) -> None:
    _garbage(Forger(filled, "wheel"))
    _hostile_names(Forger(filled, "native"))
    right(team.build("bob", filled.url))
    assert team.compiled == 0, "ccache has it all"
    assert ["gave an entry that cannot be used" in text for text in team.warnings] == [True]
    assert not list(team.toy.folder.rglob("*evil*"))


def test_a_part_is_missing(team: Team, right: Check, filled: FaultyServer) -> None:
    filled.entries = {k: v for k, v in filled.entries.items() if "/v1/piece/" not in k}
    right(team.build("bob", filled.url))
    assert team.compiled == 0, "ccache has it all"
    assert len(team.warnings) == 2
    assert all("lacks a part" in text for text in team.warnings)


def test_a_record_of_a_later_version_is_left_alone(team: Team, right: Check, filled: FaultyServer) -> None:
    forger = Forger(filled, "wheel")
    forger.known["record"]["schema_version"] = 99
    forger.put_known()
    result = team.build("bob", filled.url)
    right(result)
    assert (result.shared, result.record.native["reused"], team.warnings) == ("", True, [])


def test_a_build_that_fails_tells_of_the_cache_too(fresh: Team, faulty: FaultyServer) -> None:
    from vllm_builder.errors import CompileFailed

    fresh.toy.edit("csrc/two.cpp", "return", "retrun")
    faulty.later = ("GET", "unit", "killed")
    with pytest.raises(CompileFailed):
        fresh.build("bob", faulty.url)
    assert len(fresh.warnings) == 1


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    """Whatever happened, nothing of a build goes on asking."""
    import threading

    yield
    servers = [t for t in threading.enumerate() if t.name == "shared-cache-server"]
    for thread in servers:
        thread.join(5)
    assert not [t for t in servers if t.is_alive()]
