"""What happens between two steps of one publisher, because another one, the network or a clock did something."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from index_helpers import assert_sound, make_wheel

from vllm_builder.errors import IndexDamaged, InternalError, PublishRefused
from vllm_builder.index import layout
from vllm_builder.index.candidates import Candidate, digest_of, read_candidate
from vllm_builder.index.manifest import Draft, commit, load
from vllm_builder.index.model import Shard
from vllm_builder.index.publishing import publish
from vllm_builder.index.storage.base import Changed
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change, finish_leftovers


class Ended(BaseException):
    pass


class Meddled(Folder):
    """Calls something once, before or after the root is replaced; what it raises comes out of the replacement."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before_root: Callable[[], None] | None = None
        self.after_root: Callable[[], None] | None = None

    def replace(self, key: str, data: bytes, **more: Any) -> str:
        if key == layout.ROOT and (todo := self.before_root) is not None:
            self.before_root = None
            todo()
        token = super().replace(key, data, **more)
        if key == layout.ROOT and (todo := self.after_root) is not None:
            self.after_root = None
            todo()
        return token


@pytest.fixture
def storage(tmp_path: Path) -> Meddled:
    return Meddled(tmp_path / "index")


@pytest.fixture
def wheel(tmp_path: Path) -> Callable[..., Candidate]:
    def make(version: str, name: str = "vllm", **more: Any) -> Candidate:
        return read_candidate(make_wheel(tmp_path / "dist", name, version, **more), channels=["nightly"])

    return make


Make = Callable[..., Candidate]


def journal(storage: Folder) -> list[str]:
    return [found.key for found in storage.list(layout.JOURNAL)]


def test_an_answer_that_was_lost(storage: Meddled, wheel: Make) -> None:
    one = wheel("1.0+cpu")

    def lose() -> None:
        raise Changed

    storage.after_root = lose
    publish(storage, [one])
    assert_sound(storage)
    assert journal(storage) == []


def test_an_answer_that_was_lost_and_another_publisher_after_it(storage: Meddled, wheel: Make) -> None:
    one, other = wheel("1.0+cpu"), wheel("2.0+cpu")

    def lose() -> None:
        publish(Folder(storage.root), [other])
        raise Changed

    storage.after_root = lose
    publish(storage, [one])
    snapshot = assert_sound(storage)
    assert snapshot is not None
    assert {file.filename for _, file in snapshot.files()} == {one.filename, other.filename}


def test_an_answer_that_was_lost_and_then_half_of_it_undone(storage: Meddled, wheel: Make) -> None:
    """The pages of the first try are written, though the second one does not touch all of them."""
    first, second = wheel("1.0+cpu"), wheel("2.0+cu130")

    def drop(draft: Draft) -> None:
        del draft.files("vllm", "cu130")[second.filename]

    def lose() -> None:
        commit(Folder(storage.root), drop)
        raise Changed

    storage.after_root = lose
    publish(storage, [first, second])
    assert_sound(storage)


def test_the_journal_of_one_at_work_stays_whatever_the_clocks_say(storage: Meddled, wheel: Make) -> None:
    publish(storage, [wheel("0.1+cpu")])
    finished = []

    def another() -> None:
        far = lambda: datetime.now(UTC) + timedelta(days=400)  # noqa: E731
        finished.append(finish_leftovers(Folder(storage.root), clock=far))

    def end() -> None:
        raise Ended

    storage.before_root, storage.after_root = another, end
    with pytest.raises(Ended):
        publish(storage, [wheel("1.0+cpu")])
    assert finished == [0]
    publish(storage, [wheel("0.1+cpu")])  # changes nothing, and finds what was left
    assert_sound(storage)
    assert journal(storage) == []


def test_somebody_finishes_the_first_try_while_the_second_is_at_work(storage: Meddled, wheel: Make) -> None:
    def another() -> None:
        publish(Folder(storage.root), [wheel("2.0+cpu")])
        finish_leftovers(Folder(storage.root), older=timedelta(0))

    publish(storage, [wheel("0.1+cpu")])
    storage.before_root = another
    publish(storage, [wheel("1.0+cpu")])
    assert_sound(storage)
    assert journal(storage) == []


def test_a_slow_publisher_does_not_put_old_pages_over_new_ones(storage: Meddled, wheel: Make) -> None:
    one, other = wheel("1.0+cpu"), wheel("2.0+cpu")
    storage.after_root = lambda: [publish(Folder(storage.root), [other]), None][1]
    publish(storage, [one])
    assert_sound(storage)


def test_files_go_only_when_no_page_names_them(storage: Meddled, wheel: Make, tmp_path: Path) -> None:
    """One who took a file out of a channel ended before the page was written; then the file is deleted."""
    one = wheel("1.0+cpu")
    publish(storage, [one])

    def leave(draft: Draft) -> None:
        files = draft.files("vllm", "cpu")
        files[one.filename] = files[one.filename].model_copy(update={"channels": ("1.0",)})

    def delete(draft: Draft) -> None:
        draft.condemn(draft.files("vllm", "cpu").pop(one.filename).keys)

    commit(storage, leave)
    change(storage, delete)
    snapshot = assert_sound(storage)
    assert snapshot is not None
    assert not list(snapshot.files())


def test_nothing_is_condemned_that_is_still_offered(storage: Meddled, wheel: Make) -> None:
    publish(storage, [wheel("1.0+cpu")])
    with pytest.raises(InternalError):
        change(storage, lambda draft: draft.condemn(draft.files("vllm", "cpu").copy().popitem()[1].keys))
    assert_sound(storage)


def test_shards_go_once_nobody_reads_them(storage: Meddled, wheel: Make) -> None:
    start = datetime.now(UTC)
    for number in range(6):
        if number == 3:  # a conflict leaves none behind either
            storage.before_root = lambda: [publish(Folder(storage.root), [wheel("9.0+cpu")]), None][1]
        publish(storage, [wheel(f"{number}.0+cpu")])
    assert len(list(storage.list("manifest/vllm/"))) == 7
    publish(storage, [wheel("8.0+cpu")], clock=lambda: start + timedelta(hours=2))
    # The present one, and the one that was replaced in this moment.
    assert len(list(storage.list("manifest/vllm/"))) == 2
    assert_sound(storage)


@pytest.mark.parametrize("days", [-4000, 4000])
def test_a_clock_that_jumps(storage: Meddled, wheel: Make, days: int) -> None:
    start = datetime.now(UTC)
    clocks = [start, start + timedelta(days=days), start, start - timedelta(seconds=1)]
    seen = []
    for number, now in enumerate(clocks):
        publish(storage, [wheel(f"{number}.0+cpu")], clock=lambda now=now: now)
        snapshot = assert_sound(storage)
        assert snapshot is not None
        seen.append(snapshot.root.updated)
        assert max(file.uploaded for _, file in snapshot.files()) == snapshot.root.updated
    assert seen == sorted(seen)


def test_a_wheel_that_changes_while_it_is_published(storage: Meddled, wheel: Make) -> None:
    one = wheel("1.0+cpu")
    one.path.write_bytes(one.path.read_bytes() + b"more")
    with pytest.raises(PublishRefused, match="changed while"):
        publish(storage, [one])
    assert list(storage.list("files/")) == []


def test_two_statements_about_the_same_wheel(storage: Meddled, wheel: Make) -> None:
    from dataclasses import replace

    one = wheel("1.0+cpu")
    publish(storage, [one])
    publish(storage, [replace(one, provenance=b"first")])
    publish(storage, [replace(one, provenance=b"second")])
    snapshot = assert_sound(storage)
    assert snapshot is not None
    ((_, file),) = snapshot.files()
    blob = storage.read(file.provenance_key)
    assert blob is not None
    assert (blob.data, file.provenance_sha256) == (b"first", digest_of(b"first"))


def test_a_name_is_taken_in_all_variants(storage: Meddled, wheel: Make) -> None:
    one = wheel("1.0")
    for variant in ("cpu", "cu129"):
        publish(storage, [wheel(f"0.9+{variant}")])
    path = one.path
    publish(storage, [read_candidate(path, variant="cu129")])
    with pytest.raises(PublishRefused, match="as variant cu129"):
        publish(storage, [read_candidate(path, variant="cpu")])
    other = make_wheel(path.parent / "other", "vllm", "1.0", body="other")
    with pytest.raises(PublishRefused, match="another file of the name"):
        publish(storage, [read_candidate(other, variant="cpu")])


def test_what_is_published_in_one_variant_reads_no_files_of_others(
    storage: Meddled, wheel: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant in ("cpu", "cu129", "cu130"):
        publish(storage, [wheel(f"0.9+{variant}")])
    read = []
    real = Shard.model_validate_json
    monkeypatch.setattr(
        Shard, "model_validate_json", lambda data: [found := real(data), read.append(found.variant)][0]
    )
    publish(storage, [wheel("1.0+cpu")])
    assert set(read) == {"cpu"}


# Groups ----------------------------------------------------------------------------------------
BOTH = ["cpu", "cu130"]


def test_a_group_counts_what_is_there_already(storage: Meddled, wheel: Make) -> None:
    publish(storage, [wheel("1.0+cpu")])
    (first,) = publish(storage, [wheel("1.0+cpu")], group="g", expects=BOTH)
    assert first.outcome == "unchanged"
    (second,) = publish(storage, [wheel("1.0+cu130"), wheel("1.0+cpu")][:1], group="g", expects=["cu130"])
    assert second.outcome == "published"
    assert_sound(storage)


def test_one_that_comes_after_its_group_does_not_wait(storage: Meddled, wheel: Make) -> None:
    publish(storage, [wheel("1.0+cpu")], group="g", expects=BOTH)
    publish(storage, [wheel("1.0+cu130")], group="g", expects=BOTH)
    (late,) = publish(storage, [wheel("1.0+cpu", build="1")], group="g", expects=BOTH)
    assert late.outcome == "published"
    (again,) = publish(storage, [wheel("1.0+cpu")], group="g", expects=BOTH)
    assert again.outcome == "unchanged"
    snapshot = assert_sound(storage)
    assert snapshot is not None
    assert not snapshot.root.groups


def test_a_name_that_waits_in_a_group_is_taken(storage: Meddled, wheel: Make) -> None:
    publish(storage, [wheel("1.0+cpu")], group="g", expects=BOTH)
    with pytest.raises(PublishRefused, match="another file of the name"):
        publish(storage, [wheel("1.0+cpu", body="other")])


def test_one_of_a_group_is_published_by_itself_and_yanked(storage: Meddled, wheel: Make) -> None:
    from vllm_builder.index.model import Yanked

    one = wheel("1.0+cpu")
    publish(storage, [one], group="g", expects=BOTH)
    publish(storage, [one])

    def yank(draft: Draft) -> None:
        files = draft.files("vllm", "cpu")
        files[one.filename] = files[one.filename].model_copy(
            update={"yanked": Yanked(reason="bad", at=draft.at)}
        )

    change(storage, yank)
    (last,) = publish(storage, [wheel("1.0+cu130")], group="g", expects=BOTH)
    assert last.outcome == "published"
    snapshot = assert_sound(storage)
    assert snapshot is not None
    assert {file.filename: file.yanked is not None for _, file in snapshot.files()} == {
        one.filename: True,
        wheel("1.0+cu130").filename: False,
    }


def test_files_of_a_group_count_from_when_they_appeared(storage: Meddled, wheel: Make) -> None:
    start = datetime(2040, 1, 1, tzinfo=UTC)
    publish(storage, [wheel("1.0+cpu")], group="g", expects=BOTH, clock=lambda: start)
    end = start + timedelta(hours=5)
    publish(storage, [wheel("1.0+cu130")], group="g", expects=BOTH, clock=lambda: end)
    snapshot = load(storage)
    assert snapshot is not None
    assert {file.uploaded for _, file in snapshot.files()} == {end}


# What others wrote -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filename", "../../../escaped.whl"),
        ("filename", "a/b.whl"),
        ("project", "../x"),
        ("version", "1.0/../.."),
        ("version", ".."),
        ("channels", ["../../x"]),
        ("channels", ["manifest"]),
        ("sha256", "../" * 10),
        ("generation", -1),
    ],
)
def test_a_manifest_that_names_what_is_no_name(
    storage: Meddled, wheel: Make, field: str, value: object
) -> None:
    import json

    publish(storage, [wheel("1.0+cpu")])
    snapshot = load(storage)
    assert snapshot is not None
    shard = json.loads((storage.root / snapshot.root.shards[0].key).read_bytes())
    shard["files"][0][field] = value
    data = json.dumps(shard).encode()
    root = json.loads((storage.root / layout.ROOT).read_bytes())
    root["shards"][0]["sha256"] = digest_of(data)
    (storage.root / layout.ROOT).write_text(json.dumps(root))
    (storage.root / layout.shard_key("vllm", "cpu", digest_of(data))).write_bytes(data)
    with pytest.raises(IndexDamaged):
        publish(storage, [wheel("2.0+cpu")])
    with pytest.raises(IndexDamaged):
        list(load(storage).files())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "entry",
    [
        b"not json",
        b'{"begun":"2020-01-01T00:00:00Z","pages":[{"channel":"../..","variant":"x"}]}',
        b'{"begun":"2020-01-01T00:00:00Z","pages":[],"delete":["../outside","manifest/root.json","index.html"]}',
        b'{"begun":"2020-01-01T00:00:00Z","pages":[{"channel":"nightly","variant":"cpu","project":"../a"}]}',
    ],
)
def test_a_journal_that_somebody_else_wrote(
    storage: Meddled, wheel: Make, entry: bytes, tmp_path: Path
) -> None:
    publish(storage, [wheel("1.0+cpu")])
    (tmp_path / "outside").write_text("x")
    storage.create("journal/x.json", entry, content_type="", cache_control="")
    finish_leftovers(storage, older=timedelta(0))
    publish(storage, [wheel("2.0+cpu")])
    assert_sound(storage)
    assert (tmp_path / "outside").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dist", "index", "outside"]
