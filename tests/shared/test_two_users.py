"""Two users with folders of their own and one shared cache, on every kind of place that it can lie on."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import UNITS, Built, Team
from cache_servers import KINDS, CacheServer, any_server, of_folder, redis_server
from faulty_server import FaultyServer

from vllm_builder.cache import Cache
from vllm_builder.stages.compile import isolation
from vllm_builder.stages.store import Store


@pytest.fixture(params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CacheServer]:
    with any_server(request.param, tmp_path) as found:
        for name, value in found.environ.items():
            monkeypatch.setenv(name, value)
        yield found


def test_the_second_gets_the_wheel_else_what_was_compiled(team: Team, server: CacheServer) -> None:
    first = team.build("alice", server.url)
    assert (team.compiled, team.warnings, first.shared) == (UNITS, [], "")
    wheel = first.wheel.read_bytes()

    second = team.build("bob", server.url)
    assert (team.compiled, team.warnings, second.shared) == (0, [], server.url)
    assert second.from_store
    assert second.wheel.read_bytes() == wheel
    assert second.record.shared["from"] == server.url
    assert second.record.model_copy(update={"shared": {}}) == first.record

    assert (server.forget("wheel"), server.forget("native")) == (1, 1)
    third = team.build("carol", server.url)
    assert (team.compiled, team.warnings) == (0, [])
    assert third.record.native["reused"] is False
    assert third.record.compile.cache == {"hits": UNITS, "misses": 0, "uncacheable": 0, "shared": UNITS}
    assert third.wheel.read_bytes() == wheel
    assert (server.forget("wheel"), server.forget("native")) == (1, 1), "it was written back"


def test_without_the_wheel_there_is_the_layer(built: Built, later: Team, filled: FaultyServer) -> None:
    filled.entries = {
        k: v for k, v in filled.entries.items() if "/v1/wheel/" not in k and "/v1/unit/" not in k
    }
    result = later.build("bob", filled.url)
    assert (later.compiled, later.warnings) == (0, [])
    assert result.record.native["reused"] is True
    assert result.record.compile.units == 0
    assert result.wheel.read_bytes() == built.wheel
    assert later.build("carol", filled.url).shared == filled.url, "the wheel was written back"


def test_a_wheel_that_was_fetched_is_kept_as_one_that_was_built(later: Team, filled: FaultyServer) -> None:
    fetched = later.build("bob", filled.url)
    assert Store(Cache(later.toy.folder / "bob/cache").store).verify().ok
    filled.entries.clear()
    again = later.build("bob", filled.url)
    assert (again.from_store, again.shared, later.compiled) == (True, "", 0)
    assert filled.entries == {}, "what was fetched is not written back"
    assert again.wheel == fetched.wheel


def test_without_reuse_and_with_force_no_wheel_and_no_layer_is_taken(
    later: Team, filled: FaultyServer
) -> None:
    result = later.build("bob", filled.url, reuse=False, force=True)
    assert (result.shared, result.record.native["reused"]) == ("", False)
    assert filled.requests("GET", "wheel") == filled.requests("GET", "native") == 0
    assert filled.requests("PUT", "wheel") == filled.requests("PUT", "native") == 1


@pytest.mark.skipif(isolation.refusal() is not None, reason="this kernel allows no namespaces")
def test_a_build_without_network_has_the_compile_cache_of_a_server(team: Team, tmp_path: Path) -> None:
    isolated = {"isolate": True}
    with redis_server(tmp_path / "redis") as server:
        first = team.build("alice", server.url, spec=isolated)
        assert first.record.compile.isolated
        server.forget("wheel")
        server.forget("native")
        second = team.build("bob", server.url, spec=isolated)
    assert second.record.compile.isolated
    assert (team.compiled, team.warnings) == (0, [])
    assert second.record.compile.cache["shared"] == UNITS


def test_the_password_of_a_server_is_used_and_told_to_nobody(team: Team, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", password="correct-horse") as server:
        first = team.build("alice", server.url)
        assert team.warnings == []
        second = team.build("bob", server.url)
        assert second.shared == server.url.replace(":correct-horse@", "")
        team.forget("bob")
        team.build("bob", server.url.replace("correct-horse", "battery-staple"))
        assert len(team.warnings) == 1
        assert "it does not accept the password" in team.warnings[0]
    told = [json.dumps(event.as_dict(), default=str) for event in team.events]
    told += [first.record.to_json(), second.record.to_json(), repr(first)]
    told += [
        path.read_text(errors="replace") for path in team.toy.folder.glob("*/build/logs/*") if path.is_file()
    ]
    assert not [text for text in told if "correct-horse" in text or "battery-staple" in text]


def _build_one(team: Team, user: str, url: str) -> None:
    team.build(user, url)


def test_two_at_once_are_both_right(team: Team, tmp_path: Path) -> None:
    server = of_folder(tmp_path / "shared")
    context = multiprocessing.get_context("fork")
    users = ("alice", "bob")
    processes = [context.Process(target=_build_one, args=(team, user, server.url)) for user in users]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    wheels = [next((team.toy.folder / user / "build/wheels").glob("*.whl")).read_bytes() for user in users]
    assert wheels[0] == wheels[1]
    third = team.build("carol", server.url)
    assert (team.compiled, team.warnings) == (0, [])
    assert third.wheel.read_bytes() == wheels[0]


def test_a_secret_of_the_team_refuses_what_others_put_in(later: Team, filled: FaultyServer) -> None:
    secret = {"VLLM_BUILDER_SHARED_CACHE_KEY": "open sesame"}
    later.build("bob", filled.url, environ=secret)
    assert later.compiled == UNITS
    assert "it is not sealed with the key of this build" in later.warnings[0]
    assert later.build("carol", filled.url, environ=secret).shared == filled.url
    assert (later.compiled, later.warnings) == (0, [])


def test_offline_a_folder_is_used_and_a_server_is_not(
    later: Team, filled: FaultyServer, tmp_path: Path
) -> None:
    for path, data in filled.entries.items():
        place = tmp_path / "shared" / path.removeprefix("/cache/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    assert later.build("bob", str(tmp_path / "shared"), offline=True).shared == str(tmp_path / "shared")
    later.build("carol", filled.url, offline=True)
    assert (later.compiled, later.warnings, filled.seen) == (UNITS, [], [])
    assert f"The shared cache {filled.url} is not used (--offline)." in later.toy.notes
