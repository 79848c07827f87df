"""Handing the wheel over: the person's files are never lost, the store's never shared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from store_helpers import NAME

from vllm_builder.errors import BuilderError, NotWritable, StoreError
from vllm_builder.events import Event, Note
from vllm_builder.stages.store import Entry, Store, deliver

Put = Callable[..., Entry]


def test_the_copy_is_the_persons_own(put: Put, store: Store, tmp_path: Path) -> None:
    entry = put("a", b"bytes")
    out = tmp_path / "deep" / "out"
    wheel = deliver(entry, out)
    assert wheel == out / NAME
    assert wheel.read_bytes() == b"bytes"
    wheel.write_bytes(b"edited")
    assert store.intact(entry) == []


def test_the_same_bytes_are_left_alone(put: Put, tmp_path: Path) -> None:
    entry = put("a")
    wheel = deliver(entry, tmp_path / "out")
    os.utime(wheel, (1, 1))
    before = wheel.stat().st_ino
    assert deliver(entry, tmp_path / "out") == wheel
    assert (wheel.stat().st_ino, wheel.stat().st_mtime) == (before, 1)


def test_an_earlier_delivery_is_replaced_without_a_trace(put: Put, tmp_path: Path) -> None:
    out = tmp_path / "out"
    deliver(put("a", b"old"), out)
    deliver(put("a", b"new", force=True), out)
    deliver(put("b", b"another plan, same file name"), out)
    assert [p.name for p in out.iterdir()] == [NAME]
    assert (out / NAME).read_bytes() == b"another plan, same file name"


def test_a_file_of_the_person_is_put_by_and_said(put: Put, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    entry = put("a", b"ours")
    for number in range(3):
        (out / NAME).write_bytes(f"theirs {number}".encode())
        events: list[Event] = []
        deliver(entry, out, emit=events.append)
        assert [e.level for e in events if isinstance(e, Note)] == ["warning"]
        assert (out / NAME).read_bytes() == b"ours"
    others = {p.name: p.read_bytes() for p in out.iterdir() if p.name != NAME}
    assert others == {
        f"{NAME}.previous": b"theirs 0",
        f"{NAME}.previous-2": b"theirs 1",
        f"{NAME}.previous-3": b"theirs 2",
    }


def test_a_delivery_whose_bytes_the_store_lost_counts_as_the_persons(
    put: Put, store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    deliver(put("a", b"old"), out)
    entry = put("a", b"new", force=True)
    store.prune()
    deliver(entry, out)
    assert (out / f"{NAME}.previous").read_bytes() == b"old"


def test_a_link_is_put_by_and_its_target_is_not_written_through(put: Put, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    precious = tmp_path / "precious.whl"
    precious.write_bytes(b"precious")
    (out / NAME).symlink_to(precious)
    deliver(put("a", b"ours"), out)
    assert precious.read_bytes() == b"precious"
    assert (out / f"{NAME}.previous").is_symlink()
    (out / NAME).unlink()
    (out / NAME).symlink_to(tmp_path / "nowhere")
    deliver(put("a"), out)
    assert (out / NAME).read_bytes() == b"ours"


def test_where_it_cannot_be_put_the_error_says_so_and_nothing_is_lost(
    put: Put, tmp_path: Path, powerless: Callable[[], object]
) -> None:
    entry = put("a", b"ours")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(BuilderError):
        deliver(entry, tmp_path / "file")
    (tmp_path / "out" / NAME).mkdir(parents=True)
    with pytest.raises(BuilderError, match="is a folder") as error:
        deliver(entry, tmp_path / "out")
    assert error.value.next
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / NAME).write_bytes(b"theirs")
    closed.chmod(0o555)
    try:
        with powerless(), pytest.raises(NotWritable):  # type: ignore[attr-defined]
            deliver(entry, closed)
    finally:
        closed.chmod(0o755)
    assert {p.name: p.read_bytes() for p in closed.iterdir()} == {NAME: b"theirs"}


def test_an_entry_pruned_meanwhile_is_a_clear_error(put: Put, store: Store, tmp_path: Path) -> None:
    entry = put("a")
    store.prune(keep=0, last_good=True)
    with pytest.raises(StoreError, match="removed") as error:
        deliver(entry, tmp_path / "out")
    assert "again" in error.value.next
    assert list((tmp_path / "out").iterdir()) == []
