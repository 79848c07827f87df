"""Content that is deleted while somebody publishes it again: nobody loses what was acknowledged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from index_helpers import make_wheel

from vllm_builder.index import layout
from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.manifest import Draft, commit, load
from vllm_builder.index.model import Entry, to_bytes
from vllm_builder.index.publishing import publish
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change, finish_leftovers

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Watched(Folder):
    """Calls ``before_root`` once, before the root is replaced."""

    before_root = None

    def replace(self, key, data, **more):  # type: ignore[no-untyped-def]
        if key == layout.ROOT and self.before_root is not None:
            todo, self.before_root = self.before_root, None
            todo()
        return super().replace(key, data, **more)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path / "dist", "vllm", "0.9.2+cpu")


def _remove_all(draft: Draft) -> None:
    for _, files in draft.everywhere():
        for file in list(files.values()):
            draft.condemn(files.pop(file.filename).keys)


def _served(storage: Folder) -> list[str]:
    snapshot = load(storage)
    assert snapshot is not None
    keys = [key for _, file in snapshot.files() for key in file.keys]
    assert all(storage.stat(key) is not None for key in keys)
    return keys


def test_what_was_deleted_comes_back_under_another_key(tmp_path: Path, wheel: Path) -> None:
    storage = Folder(tmp_path / "index")
    one = read_candidate(wheel)
    publish(storage, [one])
    first = _served(storage)
    change(storage, _remove_all)
    assert _served(storage) == []
    assert not any(storage.stat(key) for key in first)
    publish(storage, [one])
    assert _served(storage)
    assert not set(_served(storage)) & set(first)
    # And a third time, and again without a change.
    change(storage, _remove_all)
    publish(storage, [one])
    publish(storage, [one])
    assert len(_served(storage)) == 2


def test_a_deletion_that_comes_late_hits_nobody(tmp_path: Path, wheel: Path) -> None:
    storage = Folder(tmp_path / "index")
    one = read_candidate(wheel)
    publish(storage, [one])
    made = commit(storage, _remove_all)  # and its process stops here, before it deletes
    publish(storage, [one])
    keys = _served(storage)
    assert made.entry is not None
    storage.replace(
        layout.journal_key("late"),
        to_bytes(made.entry.model_copy(update={"begun": LONG_AGO})),
        content_type="",
        cache_control="",
        token=None,
    )
    assert finish_leftovers(storage, older=timedelta(0)) >= 1
    assert _served(storage) == keys
    assert not any(storage.stat(key) for key in made.entry.delete)


def test_content_condemned_between_upload_and_manifest_is_uploaded_again(tmp_path: Path, wheel: Path) -> None:
    storage = Watched(tmp_path / "index")
    one = read_candidate(wheel)
    other = read_candidate(make_wheel(tmp_path / "dist", "vllm", "0.9.1+cpu"))
    publish(storage, [other])

    def prune() -> None:
        found = [stat.key for stat in storage.list(layout.FILES) if one.sha256 in stat.key]
        assert found
        change(storage, lambda draft: draft.condemn(found))

    storage.before_root = prune  # type: ignore[assignment]
    publish(storage, [one])
    assert any(one.sha256 in key for key in _served(storage))


def test_a_deletion_that_never_came_about_deletes_nothing(tmp_path: Path, wheel: Path) -> None:
    storage = Folder(tmp_path / "index")
    one = read_candidate(wheel)
    publish(storage, [one])
    keys = _served(storage)
    orphan = layout.wheel_key("vllm", "1.0", "0" * 64, "vllm-1.0-py3-none-any.whl")
    storage.create(orphan, b"on its way in", content_type="", cache_control="")
    entry = Entry(begun=LONG_AGO, pages=(), delete=(*keys, orphan, layout.ROOT))
    storage.replace(
        layout.journal_key("never"), to_bytes(entry), content_type="", cache_control="", token=None
    )
    assert finish_leftovers(storage, older=timedelta(0)) == 1
    assert _served(storage) == keys
    assert storage.stat(orphan) is not None
