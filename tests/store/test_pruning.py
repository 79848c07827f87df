"""Making room: what goes, what stays, and what never goes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from store_helpers import digest_of, make_record, make_wheel

from vllm_builder.cache import Cache
from vllm_builder.errors import StoreError
from vllm_builder.stages.smoke.room import room
from vllm_builder.stages.store import KINDS, Entry, Store, contents, prune_cache

Put = Callable[..., Entry]


def used(entry: Entry, *, ago: float) -> Entry:
    moment = time.time() - ago
    os.utime(entry.folder / "used", (moment, moment))
    return entry


def damage(entry: Entry) -> None:
    entry.wheel.chmod(0o644)
    entry.wheel.write_bytes(b"?" + entry.wheel.read_bytes())


def test_without_a_rule_only_what_nobody_would_be_served_goes(store: Store, put: Put) -> None:
    put("a", b"1")
    newest = put("a", b"2", force=True)
    other = put("b")
    damage(put("c"))
    assert store.get(digest_of("c")) is None
    report = store.prune()
    assert sorted(i.kind for i in report.removed) == ["damaged", "superseded"]
    assert report.freed > 0
    assert store.entries() == sorted([newest, other], key=lambda e: e.digest)
    assert store.prune().removed == ()


def test_age_counts_from_the_last_use(store: Store, put: Put) -> None:
    old, fresh = used(put("a"), ago=1000), used(put("b"), ago=1000)
    store.get(fresh.digest)
    report = store.prune(older_than=500, last_good=True)
    assert [i.path for i in report.removed] == [old.folder]


def test_the_last_good_wheel_goes_only_when_told(store: Store, put: Put) -> None:
    entry = used(put("a"), ago=1000)
    report = store.prune(older_than=1, max_size=0, keep=0)
    assert report.removed == ()
    assert [(k.item.path, k.reason) for k in report.kept] == [(entry.folder, "last good wheel of its plan")]
    assert store.prune(older_than=1, last_good=True).removed


def test_a_damaged_newest_generation_does_not_make_the_older_one_expendable(store: Store, put: Put) -> None:
    good = put("a", b"1")
    damage(put("a", b"2", force=True))
    store.prune(keep=0)
    assert store.entries() == [good]


def test_size_and_count_take_the_least_recently_used_first(store: Store, put: Put) -> None:
    entries = [used(put(label, b"x" * 10_000), ago=1000 - 100 * n) for n, label in enumerate("abcde")]
    report = store.prune(keep=3, last_good=True)
    assert [i.path for i in report.removed] == [e.folder for e in entries[:2]]
    assert report.remaining == 3
    report = store.prune(max_size=25_000, last_good=True)
    assert [i.path for i in report.removed] == [entries[2].folder]
    assert report.remaining_size <= 25_000


def test_a_rule_that_is_just_met_takes_nothing(store: Store, put: Put) -> None:
    entries = [used(put(label), ago=1000) for label in "ab"]
    total = store.prune(dry_run=True).remaining_size
    assert store.prune(keep=2, max_size=total, older_than=1060, last_good=True, dry_run=True).removed == ()
    for rules in ({"keep": 1}, {"max_size": total - 1}):
        assert len(store.prune(**rules, last_good=True, dry_run=True).removed) == 1  # type: ignore[arg-type]
    assert len(store.prune(older_than=990, last_good=True).removed) == len(entries)


def test_a_build_that_begins_while_pruning_keeps_its_wheel(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = put("a")
    with store.lock(entry.digest):
        # As if the lock had been taken just after pruning asked who runs.
        monkeypatch.setattr(Store, "running", lambda self: [])
        report = store.prune(keep=0, last_good=True)
    assert report.removed == ()
    assert [k.reason for k in report.kept] == ["in use by a running build"]
    assert store.get(entry.digest) is not None


def test_superseded_wheels_go_before_others_whatever_their_age(store: Store, put: Put) -> None:
    ancient = used(put("a"), ago=9000)
    put("b", b"1")
    put("b", b"2", force=True)
    report = store.prune(keep=2, last_good=True)
    assert [i.kind for i in report.removed] == ["superseded"]
    assert ancient in store.entries()


def test_named_digests_alone_are_looked_at(store: Store, put: Put) -> None:
    a, b = put("a"), put("b")
    assert store.prune(only=[a.digest[:12]]).removed == ()
    store.prune(only=[a.digest[:12]], last_good=True)
    assert store.entries() == [b]
    with pytest.raises(StoreError):
        store.prune(only=[a.digest[:12]])


def test_emptying_the_store_by_oversight_and_negative_rules_are_refused(store: Store, put: Put) -> None:
    put("a")
    with pytest.raises(StoreError) as error:
        store.prune(last_good=True)
    assert "--keep 0" in error.value.next
    for wrong in ({"older_than": -1.0}, {"max_size": -1}, {"keep": -1}, {"older_than": float("nan")}):
        with pytest.raises(StoreError):
            store.prune(**wrong)  # type: ignore[arg-type]
    assert len(store.entries()) == 1


class Pruning(RuleBasedStateMachine):
    """Any history of building, damaging, using and pruning keeps the promises."""

    labels = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.store = Store(self.root / "store")
        self.locks: dict[str, ExitStack] = {}
        self.count = 0

    def teardown(self) -> None:
        for lock in self.locks.values():
            lock.close()
        self.folder.cleanup()

    @rule(label=labels, size=st.integers(1, 5000), force=st.booleans(), ago=st.integers(0, 5000))
    def build(self, label: str, size: int, force: bool, ago: int) -> None:
        self.count += 1
        wheel = make_wheel(self.root / str(self.count), os.urandom(size))
        before = self.store.get(digest_of(label))
        record = make_record(digest_of(label), wheel)
        entry = self.store.add(digest_of(label), wheel, record, force=force)
        if before and not force:
            assert entry == before
        else:
            assert entry.record == record
        used(entry, ago=ago)

    @rule(label=labels, newest=st.booleans())
    def damage(self, label: str, newest: bool) -> None:
        found = [e for e in self.store.entries() if e.digest == digest_of(label)]
        if found:
            damage(found[0 if newest else -1])

    @rule(label=labels)
    def use(self, label: str) -> None:
        good = self.last_good().get(digest_of(label))
        assert self.store.get(digest_of(label)) == good

    @rule(label=labels)
    def lock(self, label: str) -> None:
        if label in self.locks:
            self.locks.pop(label).close()
        else:
            stack = ExitStack()
            stack.enter_context(Store(self.store.root).lock(digest_of(label)))
            self.locks[label] = stack

    @rule(
        older_than=st.none() | st.integers(0, 5000),
        max_size=st.none() | st.integers(0, 20_000),
        keep=st.none() | st.integers(0, 6),
        last=st.booleans(),
    )
    def prune(self, older_than: float | None, max_size: int | None, keep: int | None, last: bool) -> None:
        some = (older_than, max_size, keep) != (None, None, None)
        last = last and some
        # A second of slack: the clock goes on between the dry run and the real one.
        if older_than is not None:
            older_than += 0.5
        good = self.last_good()
        everything = {e.folder for e in self.store.entries()}
        rehearsal = self.store.prune(
            older_than=older_than, max_size=max_size, keep=keep, last_good=last, dry_run=True
        )
        assert {e.folder for e in self.store.entries()} == everything
        report = self.store.prune(older_than=older_than, max_size=max_size, keep=keep, last_good=last)
        assert rehearsal.removed == report.removed
        assert rehearsal.kept == report.kept

        gone = {i.path for i in report.removed}
        assert not any(path.exists() for path in gone)
        assert {e.folder for e in self.store.entries()} == everything - gone
        busy = {digest_of(label) for label in self.locks}
        assert not any(path.parent.name in busy or path.name[:64] in busy for path in gone)
        left = [e.folder for e in self.store.entries()]
        if not last:
            assert self.last_good() == good
        # A wheel that is the only one of its plan is not hashed, so it is spared even if it is damaged.
        only = {f for f in everything if len([g for g in everything if g.parent == f.parent]) == 1}
        untouchable = {f for f in left if f.parent.name in busy} | (
            set() if last else {e.folder for e in good.values()} | only
        )
        free = [f for f in left if f not in untouchable]
        if keep is not None:
            assert report.remaining <= keep or not free
        if max_size is not None:
            assert report.remaining_size <= max_size or not free
        if older_than is not None:
            limit = time.time() - older_than - 5
            assert all((f / "used").stat().st_mtime > limit for f in free)
        if not some:
            assert not free

    @invariant()
    def nothing_is_left_lying_about(self) -> None:
        temporary = self.store.root / "tmp"
        assert not temporary.exists() or not any(temporary.iterdir())

    def last_good(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for entry in self.store.entries():  # newest first
            if entry.digest not in found and not self.store.intact(entry):
                found[entry.digest] = entry
        return found


Pruning.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestPruning = Pruning.TestCase


# The other caches ----------------------------------------------------------------------------------
@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    for number, path in enumerate(
        (
            cache.downloads / "sha256" / "aa" / "x.tar.gz",
            cache.downloads / "sha256" / "bb" / "y.tar.gz",
            cache.surveys / "s1" / "setup.py",
            cache.environments / "e1" / "bin" / "python",
            cache.toolkits / "cuda-13.0.2-x" / "version",
            cache.bundles / "0123" / "manifest.json",
            cache.git / "mirror" / "HEAD",
            cache.memo / "index" / "q.json",
            cache.ccache / "0" / "object",
            cache.smoke / "room-1-ab" / "env",
            cache.exports / "torch-2.11.0+cu130-x86_64.json.z",
            cache.native / ("ab" * 32) / "0001" / "record.json",
            cache.passes / "ab" / "cdef",
        )
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 100)
        moment = time.time() - 1000 * (number + 1)
        for p in (path, path.parent):
            os.utime(p, (moment, moment))
    (cache.environments / "e1.lock").touch()
    return cache


def test_each_kind_is_pruned_by_itself(cache: Cache) -> None:
    report = prune_cache(cache, ["downloads"])
    assert sorted(i.name for i in report.removed) == ["aa", "bb"]
    assert report.freed == 200
    assert {i.kind for i in contents(cache)} == set(KINDS) - {"downloads", "sccache"}
    prune_cache(cache, KINDS)
    assert contents(cache) == []
    assert (cache.environments / "e1.lock").exists(), "a lock file is nobody's to remove"
    assert list((cache.root / "tmp").iterdir()) == []


def test_the_rules_hold_over_all_named_kinds(cache: Cache) -> None:
    report = prune_cache(cache, ["downloads", "surveys"], older_than=1500, dry_run=True)
    assert {i.name for i in report.removed} == {"bb", "s1"}
    report = prune_cache(cache, ["downloads", "surveys"], keep=1)
    assert {i.name for i in report.removed} == {"bb", "s1"}
    assert [i.name for i in contents(cache, ["downloads", "surveys"])] == ["aa"]


def test_nothing_is_taken_from_under_a_running_build(cache: Cache) -> None:
    with Store(cache.store).lock(digest_of("a")):
        report = prune_cache(cache, KINDS)
        assert report.removed == ()
        assert {k.reason for k in report.kept} == {"in use by a running build"}
    assert prune_cache(cache, KINDS).removed


def test_the_room_of_a_running_smoke_test_stays(cache: Cache) -> None:
    """What a killed one left goes, and so do the logs of failures."""
    left = cache.smoke / "room-1-ab"
    log = cache.smoke / "logs" / "vllm.log"
    log.parent.mkdir()
    log.write_text("it failed")
    (cache.smoke / "rooms.lock").touch()
    with room(cache.smoke) as running:
        # Making it has removed what was left behind; so once more.
        assert not left.exists()
        (left / "env").mkdir(parents=True)
        report = prune_cache(cache, ["smoke"])
        assert {i.path for i in report.removed} == {left, log}
        assert [(k.item.path, k.reason) for k in report.kept] == [
            (running.root, "in use by a running smoke test")
        ]
        assert running.work.is_dir()
    assert contents(cache, ["smoke"]) == []


def test_an_unknown_kind_is_named_with_the_nearest_right_one(cache: Cache) -> None:
    with pytest.raises(StoreError, match="environments"):
        prune_cache(cache, ["environment"])
