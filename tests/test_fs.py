"""Files and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_builder.errors import NotWritable
from vllm_builder.fs import remove_tree, write_atomic


def folder(path: Path) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "inner/file").touch()
    return path


@pytest.mark.parametrize(
    "name", [f".tree.removing-{os.getpid()}", ".other.removing-1-0123abcd"], ids=["own", "other"]
)
def test_what_a_killed_process_left_is_in_nobodys_way_and_is_removed(tmp_path: Path, name: str) -> None:
    folder(tmp_path / name)
    remove_tree(folder(tmp_path / "tree"))
    assert list(tmp_path.iterdir()) == []
    folder(tmp_path / name)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """What is no regular file is never replaced by one: a report for /dev/null must leave /dev/null as it is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, "all of it")
        assert os.read(reader, 100) == b"all of it"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_folder_is_not_written_over_and_the_error_says_so(tmp_path: Path) -> None:
    folder(tmp_path / "there")
    with pytest.raises(NotWritable) as caught:
        write_atomic(tmp_path / "there", "x")
    assert caught.value.what == f"{tmp_path / 'there'} is a folder."
    assert caught.value.next
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    for name in ("tree", ".tree", "tree.removing-1", ".tree.removing-now", "other"):
        folder(tmp_path / name)
    remove_tree(tmp_path / "tree")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(".tree", ".tree.removing-now", "other", "tree.removing-1"),
    ]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    remove_tree(tmp_path / "no" / "such")
