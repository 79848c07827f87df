"""``vllm-builder cache prune`` as a person types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_builder.cli import main, screen
from vllm_builder.stages.store import KINDS, Entry


def _prune(tmp_path: Path, *arguments: str) -> int:
    screen.use_json(False)
    with pytest.raises(SystemExit) as end:
        main(["cache", "prune", "--cache-dir", str(tmp_path / "cache"), *arguments])
    screen.use_json(False)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_without_a_rule_it_only_lists_until_told(
    put: Callable[..., Entry], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = put("a", b"first")
    new = put("a", b"second", force=True)
    assert _prune(tmp_path) == 0
    said = capsys.readouterr()
    assert "would remove" in said.out
    assert "--yes" in said.err
    assert old.wheel.exists()
    assert _prune(tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] is True
    assert old.wheel.exists()
    assert _prune(tmp_path, "--yes") == 0
    said = capsys.readouterr()
    assert "removed" in said.out
    assert "--yes" not in said.err
    assert not old.wheel.exists()
    assert new.wheel.exists()


def test_a_rule_is_word_enough(put: Callable[..., Entry], tmp_path: Path) -> None:
    old = put("a", b"first")
    new = put("a", b"second", force=True)
    assert _prune(tmp_path, "--keep", "1") == 0
    assert not old.wheel.exists()
    assert new.wheel.exists()


def test_help_names_every_kind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert _prune(tmp_path, "--help") == 0
    said = capsys.readouterr().out
    assert [kind for kind in KINDS if kind not in said] == []
