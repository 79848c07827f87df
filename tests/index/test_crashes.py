"""A publisher that is ended at any point: before or after each single thing that it does to the storage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from index_helpers import assert_sound, make_wheel

from vllm_builder.index import layout
from vllm_builder.index.candidates import Candidate, read_candidate
from vllm_builder.index.manifest import Draft, load
from vllm_builder.index.publishing import publish
from vllm_builder.index.storage import open_storage
from vllm_builder.index.storage.base import Storage
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change, finish_leftovers


class Ended(BaseException):
    """Nothing catches it."""


class Ending:
    """A storage whose user is ended at the n-th thing that it does: before, or after it is done."""

    def __init__(self, inner: Storage, left: int, *, after: bool = False) -> None:
        self.inner, self.left, self.after = inner, left, after
        self.url, self.slash_keys, self.at_once = inner.url, inner.slash_keys, 1

    def __getattr__(self, name: str) -> Callable[..., object]:
        real = getattr(self.inner, name)

        def call(*arguments: object, **more: object) -> object:
            self.left -= 1
            if self.left < 0 and not self.after:
                raise Ended
            found = real(*arguments, **more)
            if isinstance(found, Iterator):
                found = iter(list(found))
            if self.left < 0:
                raise Ended
            return found

        return call


def later() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def wheels(folder: Path) -> dict[str, Candidate]:
    made = {
        "old": make_wheel(folder, "vllm", "0.9.1+cpu"),
        "new": make_wheel(folder, "vllm", "0.9.2+cpu"),
        "cuda": make_wheel(folder, "vllm", "0.9.2+cu130"),
        "next": make_wheel(folder, "other", "1.0+cpu"),
    }
    return {name: read_candidate(path, channels=["nightly"]) for name, path in made.items()}


@pytest.fixture(params=["folder", "memory"])
def fresh(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Storage]:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # processes end here, not machines
    made = [0]

    def make() -> Storage:
        made[0] += 1
        if request.param == "memory":
            return open_storage(f"memory://{tmp_path.name}{made[0]}")
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        return Folder(tmp_path / "index")

    return make


def names(storage: Storage) -> set[str]:
    snapshot = load(storage)
    return {file.filename for _, file in snapshot.files()} if snapshot is not None else set()


def endings(
    fresh: Callable[[], Storage], before: Callable[[Storage], object], act: Callable[[Storage], object]
):  # type: ignore[no-untyped-def]
    """Storages in which ``act`` was ended after each number of steps, until it is not ended any more."""
    # A folder differs in how a single thing is done, and is slower: there every sixth step.
    stride = 6 if isinstance(fresh(), Folder) else 1
    for after in (False, True):
        for steps in range(int(after) * (stride // 2), 500, stride):
            storage = fresh()
            before(storage)
            ending = Ending(storage, steps, after=after)
            try:
                act(ending)  # type: ignore[arg-type]
            except Ended:
                yield storage, False
            else:
                assert steps > 10
                yield storage, True
                break


def test_publish(fresh: Callable[[], Storage], tmp_path: Path) -> None:
    all_ = wheels(tmp_path)
    seen = set()
    for storage, whole in endings(
        fresh, lambda s: publish(s, [all_["old"]]), lambda s: publish(s, [all_["new"]])
    ):
        assert_sound(storage, settled=whole)
        there = names(storage)
        assert all_["old"].filename in there
        assert all_["new"].filename in there or not whole
        seen.add(len(there))
        # The same command again makes it whole, at once.
        publish(storage, [all_["new"]])
        assert_sound(storage)
        assert names(storage) == {all_["old"].filename, all_["new"].filename}
        finish_leftovers(storage, older=timedelta(0))
        assert [found.key for found in storage.list(layout.JOURNAL)] == []
    assert seen == {1, 2}


def test_what_was_left_is_finished_by_the_next(fresh: Callable[[], Storage], tmp_path: Path) -> None:
    all_ = wheels(tmp_path)
    for storage, _ in endings(
        fresh, lambda s: publish(s, [all_["old"]]), lambda s: publish(s, [all_["new"]])
    ):
        publish(storage, [all_["next"]], clock=later)
        assert_sound(storage)


def test_a_group_appears_whole_or_not_at_all(fresh: Callable[[], Storage], tmp_path: Path) -> None:
    all_ = wheels(tmp_path)
    variants = ["cpu", "cu130"]
    group = {all_["new"].filename, all_["cuda"].filename}

    def begin(storage: Storage) -> None:
        publish(storage, [all_["old"]])
        (first,) = publish(storage, [all_["new"]], group="n1", expects=variants)
        assert (first.outcome, first.waits_for) == ("staged", ("cu130",))

    for storage, whole in endings(
        fresh, begin, lambda s: publish(s, [all_["cuda"]], group="n1", expects=variants)
    ):
        assert_sound(storage, settled=whole)
        assert names(storage) & group in (set(), group)
        assert names(storage) >= group or not whole
        (last,) = publish(storage, [all_["cuda"]], group="n1", expects=variants)
        assert last.outcome in {"published", "unchanged"}
        snapshot = assert_sound(storage)
        assert snapshot is not None
        assert not snapshot.root.groups
        assert names(storage) >= group


def test_deletion(fresh: Callable[[], Storage], tmp_path: Path) -> None:
    all_ = wheels(tmp_path)
    doomed = all_["old"].filename

    def remove(draft: Draft) -> None:
        for _, files in draft.everywhere():
            if doomed in files:
                draft.condemn(files.pop(doomed).keys)

    for storage, whole in endings(
        fresh, lambda s: publish(s, [all_["old"], all_["new"]]), lambda s: change(s, remove)
    ):
        assert_sound(storage, settled=whole)
        assert all_["new"].filename in names(storage)
        publish(storage, [all_["old"]])
        publish(storage, [all_["next"]], clock=later)
        assert_sound(storage)
        assert names(storage) >= {doomed, all_["new"].filename}
