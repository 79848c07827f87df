"""Native layers on the command line: ``cache`` lists, shows, checks and removes them, ``plan`` tells of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from native_helpers import NativeToy

from vllm_builder.cli.cache import cache as command
from vllm_builder.cli.plan import show
from vllm_builder.settings.model import Settings
from vllm_builder.stages.store import Store


def _run(toy: NativeToy, *arguments: str) -> str:
    found = CliRunner().invoke(command, [*arguments, "--cache-dir", str(toy.cache.root)])
    assert found.exception is None, (found.output, found.exception)
    return found.stdout


def _layer(toy: NativeToy) -> str:
    (entry,) = Store(toy.cache.native).entries()
    return entry.digest


def test_list_names_wheels_and_layers(again: NativeToy) -> None:
    found: list[dict[str, Any]] = json.loads(_run(again, "list", "--json"))
    assert [(one["kind"], one["digest"]) for one in found] == [
        ("wheel", again.first.digest),
        ("native", _layer(again)),
    ]
    assert "inputs" not in found[1]["native"]
    assert _layer(again)[:12] in _run(again, "list")


def test_show_tells_where_the_layer_of_a_wheel_was_compiled(again: NativeToy) -> None:
    again.edit("vllm/__init__.py", "42", "43")
    packed = again.build()
    text = _run(again, "show", packed.digest[:12])
    assert f"{_layer(again)} (reused)" in text
    assert f"1.2.3+cpu, plan {again.first.digest[:12]}" in text
    assert "because there is no native layer yet" in _run(again, "show", again.first.digest[:12])
    assert "native layer" in _run(again, "show", _layer(again)[:12])


def test_verify_finds_a_damaged_layer(again: NativeToy) -> None:
    assert "2 entries, 0 damaged" in _run(again, "verify")
    assert "1 entries, 0 damaged" in _run(again, "verify", _layer(again)[:12])
    (entry,) = Store(again.cache.native).entries()
    entry.wheel.unlink()
    found = CliRunner().invoke(command, ["verify", "--json", "--cache-dir", str(again.cache.root)])
    report = json.loads(found.stdout)
    assert [one["state"] for one in report["checked"]] == ["intact", "damaged"]
    assert found.exit_code == 60


def test_prune_keeps_layers_unless_their_kind_is_named(again: NativeToy) -> None:
    root = again.cache.native
    _run(again, "prune", "--keep", "0", "--last")
    assert not Store(again.cache.store).digests()
    assert _layer(again)
    _run(again, "prune", "--kind", "native", "--older-than", "1h")
    assert _layer(again)
    _run(again, "prune", "--kind", "native")
    assert not Store(root).digests()
    assert not [path for path in root.glob("*") if len(path.name) == 64]


def test_prune_removes_a_superseded_layer_and_never_one_in_use(again: NativeToy) -> None:
    store = Store(again.cache.native, noun="native layer")
    (entry,) = store.entries()
    store.add(entry.digest, entry.wheel, entry.record, force=True)
    with store.lock(entry.digest):
        assert "in use by a running build" in _run(again, "prune", "--kind", "native")
    assert len(store.entries()) == 2
    _run(again, "prune", "--yes")
    assert [one.generation for one in store.entries()] == [2]


def test_plan_says_reuse_or_compile(again: NativeToy, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(workspace=Path(again.folder / "build"))
    show(again.plan(), settings, again.cache)
    assert f"native   reuse, {_layer(again)[:12]}, compiled for 1.2.3+cpu on" in capsys.readouterr().out
    again.edit("csrc/both.h", "1", "2")
    show(again.plan(), settings, again.cache)
    assert "native   compile, because csrc/both.h differs (nearest:" in capsys.readouterr().out
    show(again.plan(), settings.model_copy(update={"reuse": False}), again.cache)
    assert "native   compile, because of --no-reuse" in capsys.readouterr().out
