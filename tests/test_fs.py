"""Files and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_builder.fs import remove_tree


def folder(path: Path) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "inner/file").touch()
    return path


@pytest.mark.parametrize("name", [f".tree.removing-{os.getpid()}", ".other.removing-1-0123abcd"])
def test_what_a_killed_process_left_is_in_nobodys_way_and_is_removed(tmp_path: Path, name: str) -> None:
    folder(tmp_path / name)
    remove_tree(folder(tmp_path / "tree"))
    assert list(tmp_path.iterdir()) == []
    folder(tmp_path / name)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    for name in ("tree", ".tree", "tree.removing-1", ".tree.removing-now", "other"):
        folder(tmp_path / name)
    remove_tree(tmp_path / "tree")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(".tree", ".tree.removing-now", "other", "tree.removing-1"),
    ]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    remove_tree(tmp_path / "no" / "such")
