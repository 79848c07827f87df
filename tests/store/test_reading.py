"""Finding entries, and what a damaged one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from store_helpers import NAME, digest_of, make_record, make_wheel

from vllm_builder.errors import NotWritable, StoreError
from vllm_builder.events import Event, Note, Progress
from vllm_builder.stages.store import Entry, Record, Store, read_record

Put = Callable[..., Entry]


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def truncate(entry: Entry) -> None:
    rewrite(entry.wheel, entry.wheel.read_bytes()[:-1])


def flip(entry: Entry) -> None:
    content = bytearray(entry.wheel.read_bytes())
    content[len(content) // 2] ^= 1
    rewrite(entry.wheel, bytes(content))


def lose_wheel(entry: Entry) -> None:
    entry.wheel.unlink()


def lose_record(entry: Entry) -> None:
    (entry.folder / "record.json").unlink()


def garble_record(entry: Entry) -> None:
    rewrite(entry.folder / "record.json", b"\x00\xff{")


def cut_record(entry: Entry) -> None:
    path = entry.folder / "record.json"
    rewrite(path, path.read_bytes()[:100])


def empty_record(entry: Entry) -> None:
    rewrite(entry.folder / "record.json", b"{}")


def list_record(entry: Entry) -> None:
    rewrite(entry.folder / "record.json", b"[]")


def foreign_record(entry: Entry) -> None:
    path = entry.folder / "record.json"
    record = json.loads(path.read_bytes())
    rewrite(path, json.dumps(record | {"digest": digest_of("another plan")}).encode())


def wandering_record(entry: Entry) -> None:
    """A file name that leaves the folder must not be followed."""
    path = entry.folder / "record.json"
    record = json.loads(path.read_bytes())
    record["wheel"]["filename"] = "../../x.whl"
    rewrite(path, json.dumps(record).encode())


DAMAGES = [
    truncate,
    flip,
    lose_wheel,
    lose_record,
    garble_record,
    cut_record,
    empty_record,
    list_record,
    foreign_record,
    wandering_record,
]


def test_what_was_added_is_found_with_its_record(store: Store, put: Put) -> None:
    put("a", b"the bytes")
    found = store.get(digest_of("a"))
    assert found is not None
    assert found.wheel.name == NAME
    assert found.wheel.read_bytes() == b"the bytes"
    assert found.record.plan == {"torch": "2.13.0+cpu"}
    assert store.intact(found) == []
    assert store.verify().ok


def test_an_empty_or_absent_store_holds_nothing_and_is_not_made_by_reading(store: Store) -> None:
    assert store.get(digest_of("a")) is None
    assert store.find(digest_of("a")) is None
    assert store.entries() == []
    assert store.verify().ok
    assert store.prune(dry_run=True).removed == ()
    assert not store.root.exists()


def test_a_prefix_names_an_entry_when_it_is_long_and_unambiguous(store: Store, put: Put) -> None:
    # Two labels whose digests begin with the same four digits, found by search.
    seen: dict[str, str] = {}
    for number in range(10_000):
        label = f"plan {number}"
        first = digest_of(label)[:4]
        if first in seen:
            break
        seen[first] = label
    other = seen[first]
    put(label)
    put(other)
    entry = store.find(digest_of(label)[:20].upper())
    assert entry is not None
    assert entry.digest == digest_of(label)
    with pytest.raises(StoreError) as ambiguous:
        store.find(first)
    assert set(ambiguous.value.details) == {digest_of(label), digest_of(other)}
    with pytest.raises(StoreError, match="too short"):
        store.find(first[:3])
    for wrong in ("", "latest", "../../etc", digest_of("a") + "0"):
        with pytest.raises(StoreError, match="not the beginning"):
            store.find(wrong)
    absent = "0" * 12 if not digest_of(label).startswith("0" * 12) else "1" * 12
    assert store.find(absent) is None
    with pytest.raises(StoreError, match="no entry"):
        store.verify([absent])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_reported_set_aside_and_never_served(
    store: Store, put: Put, damage: Callable[[Entry], None]
) -> None:
    entry = put("a", b"some content")
    sound = put("b")
    damage(entry)

    report = store.verify()
    assert [c.digest for c in report.damaged] == [entry.digest]
    assert report.damaged[0].problems
    assert entry.folder.exists(), "verifying changes nothing"

    events: list[Event] = []
    assert store.get(entry.digest, emit=events.append) is None
    assert [e.level for e in events if isinstance(e, Note)] == ["warning"]
    aside = list((store.root / "damaged").iterdir())
    assert len(aside) == 1
    assert (aside[0] / "problems.txt").read_text().strip()
    assert store.find(entry.digest) is None
    assert store.verify().ok
    assert store.get(sound.digest) is not None

    again = put("a", b"some content")
    assert store.get(again.digest) == again


def test_adding_over_a_damaged_entry_replaces_it(store: Store, put: Put) -> None:
    flip(put("a", b"first"))
    put("a", b"second")
    found = store.get(digest_of("a"))
    assert found is not None
    assert found.wheel.read_bytes() == b"second"


def test_an_older_generation_serves_when_the_newest_is_damaged(store: Store, put: Put) -> None:
    put("a", b"old")
    newest = put("a", b"new", force=True)
    flip(newest)
    found = store.get(newest.digest)
    assert found is not None
    assert found.wheel.read_bytes() == b"old"


@pytest.mark.parametrize("change", [{"schema_version": 99}, {"a_key_of_tomorrow": 1}])
def test_a_record_of_a_newer_version_is_a_clear_error_and_stays(
    store: Store, put: Put, change: dict[str, object]
) -> None:
    entry = put("a")
    path = entry.folder / "record.json"
    rewrite(path, json.dumps(json.loads(path.read_bytes()) | change | {"builder": "9.9"}).encode())
    for read in (store.find, store.get):
        with pytest.raises(StoreError, match=r"9\.9|newer|unknown") as error:
            read(entry.digest)
        assert error.value.next
    assert store.verify().ok, "it is not damaged: it cannot be judged"
    assert [c.state for c in store.verify().checked] == ["newer"]
    assert store.prune(keep=0).removed == ()
    assert entry.wheel.exists()
    # With --force the person gets a wheel all the same, and nothing is lost.
    put("a", b"rebuilt", force=True)
    found = store.get(entry.digest)
    assert found is not None
    assert found.wheel.read_bytes() == b"rebuilt"
    assert entry.wheel.exists()


def test_records_survive_the_round_trip_with_any_text(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, b"w")
    record = make_record(
        digest_of("a"),
        wheel,
        plan={"nested": {"list": [1, 2.5, None, True, 'ü\u2028\ud7ff\\"\n']}},
        patch_report={"entries": []},
        timings={"compile": 63.2},
        tools={"cmake": "4.1"},
        archs=("10.0", "12.0a"),
        compile={"units": 8, "cache": {"hits": 8}, "left_out": ("rust: no cargo",)},
    )
    path = tmp_path / "record.json"
    path.write_text(record.to_json(), encoding="utf-8")
    assert read_record(path) == record
    assert Record.model_validate_json(record.to_json()) == record


def test_a_record_for_another_digest_or_another_wheel_is_refused(store: Store, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, b"w")
    with pytest.raises(StoreError):
        store.add(digest_of("b"), wheel, make_record(digest_of("a"), wheel))
    record = make_record(digest_of("a"), wheel)
    wheel.write_bytes(b"changed since")
    with pytest.raises(StoreError, match="not the wheel"):
        store.add(digest_of("a"), wheel, record)
    assert store.entries() == []
    assert list((store.root / "tmp").iterdir()) == []
    for wrong in ("", "abcd", "../" + "a" * 61, "G" * 64):
        with pytest.raises(StoreError):
            store.get(wrong)


def test_verify_tells_how_far_it_is(store: Store, put: Put) -> None:
    put("a", b"x" * 1000)
    put("b", b"x" * 500)
    events: list[Event] = []
    report = store.verify(emit=events.append)
    steps = [e for e in events if isinstance(e, Progress)]
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (0, 1500, 1500)
    assert report.bytes_read == 1500
    assert len(store.verify([digest_of("b")[:10]]).checked) == 1


def test_a_read_only_store_serves_and_says_clearly_that_it_cannot_take(
    store: Store, put: Put, tmp_path: Path, powerless: Callable[[], object]
) -> None:
    entry, bad = put("a", b"good"), put("b", b"bad")
    truncate(bad)
    folders = [store.root, *(p for p in store.root.rglob("*") if p.is_dir())]
    wheel = make_wheel(tmp_path / "new", b"new")
    for folder in folders:
        folder.chmod(0o555)
    try:
        with powerless():  # type: ignore[attr-defined]
            assert store.get(entry.digest) is not None
            assert store.entries() != []
            assert not store.verify().ok
            events: list[Event] = []
            assert store.get(bad.digest, emit=events.append) is None
            assert "could not be moved" in str(events)
            assert store.prune(keep=0, last_good=True, dry_run=True).removed
            with pytest.raises(NotWritable), store.lock(digest_of("c")):
                pass
            with pytest.raises(NotWritable):
                store.add(digest_of("c"), wheel, make_record(digest_of("c"), wheel))
            with pytest.raises(NotWritable):
                store.prune(keep=0, last_good=True)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert bad.folder.exists()
    assert store.get(entry.digest) is not None


def test_strangers_in_the_folder_do_no_harm(store: Store, put: Put) -> None:
    entry = put("a")
    (store.root / "README").write_text("hello")
    (store.root / digest_of("a file")).write_text("not a folder")
    (store.root / digest_of("empty")).mkdir()
    (entry.folder.parent / "notes").mkdir()
    assert [e.digest for e in store.entries()] == [entry.digest]
    assert store.get(digest_of("empty")) is None
    assert store.get(digest_of("a file")) is None
    assert store.verify().ok
    assert store.prune().removed == ()


def test_a_wheel_with_chosen_extensions_only_is_never_stored(store: Store, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, b"a part")
    with pytest.raises(StoreError, match="chosen extensions"):
        store.add("a" * 64, wheel, make_record("a" * 64, wheel, extensions=("_C",)))
    assert store.get("a" * 64) is None
