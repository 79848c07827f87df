"""``cache shared`` and the doctor's line about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import Team
from click.testing import CliRunner
from faulty_server import FaultyServer

from vllm_builder.cli.app import cli
from vllm_builder.doctor.network import shared_cache
from vllm_builder.errors import SettingsError, StorageFailed
from vllm_builder.settings.model import Settings


def test_it_says_that_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_BUILDER_SHARED_CACHE", str(tmp_path / "shared"))
    done = CliRunner().invoke(cli, ["cache", "shared"], catch_exceptions=False)
    assert f"{tmp_path / 'shared'}: an entry was written and read back in" in done.output
    done = CliRunner().invoke(cli, ["cache", "shared", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["writes"] is True


def test_it_says_what_is_wrong(faulty: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def ask(*more: str) -> str:
        return CliRunner().invoke(cli, ["cache", "shared", *more], catch_exceptions=False).output

    with pytest.raises(SettingsError, match="No shared cache is set"):
        ask()
    faulty.mode = "read-only"
    assert "only read (it does not take that method (405))" in ask("--shared-cache", faulty.url)
    faulty.mode = "401"
    with pytest.raises(StorageFailed) as caught:
        ask("--shared-cache", faulty.url)
    assert "It wants a user name and a password" in caught.value.why
    with pytest.raises(SettingsError, match="holds a user name or a password"):
        ask("--shared-cache", "redis://:x@host/0")


@pytest.mark.parametrize(
    ("mode", "verdict", "said"),
    [
        ("well", "good", "answers"),
        ("read-only", "note", "is only read"),
        ("503", "warning", "it answers 503"),
    ],
)
def test_the_doctor_looks_at_it(faulty: FaultyServer, mode: str, verdict: str, said: str) -> None:
    faulty.mode = mode
    (check,) = shared_cache(Settings(shared_cache=faulty.url), {})
    assert (check.verdict, said in check.found) == (verdict, True)
    (check,) = shared_cache(Settings(shared_cache=faulty.url, offline=True), {})
    assert check.verdict == "note"
    assert not list(shared_cache(Settings(), {}))


def test_what_was_built_before_is_put_there(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = str(tmp_path / "shared")
    built = team.toy.build(team.plan("alice"))
    arguments = ["cache", "shared", "--shared-cache", url, "--cache-dir", str(team.toy.folder / "cache")]
    done = CliRunner().invoke(cli, [*arguments, "--put", built.digest[:12]], catch_exceptions=False)
    assert done.exit_code == 0
    assert team.build("bob", url).shared == url
    assert team.warnings == []
    assert list((tmp_path / "shared/v1/native").rglob("*"))
