"""What prune keeps, yanks and deletes, and when."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from index_helpers import make_wheel

from vllm_builder.errors import SettingsError
from vllm_builder.index import layout
from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.manifest import load
from vllm_builder.index.promoting import promote
from vllm_builder.index.pruning import Pruned, prune
from vllm_builder.index.publishing import publish
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.yanking import unyank, yank

DAY = timedelta(days=1)
NOW = datetime.now(UTC)
"""The files of a test are written now, whatever its clock says."""


class Index:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = Folder(folder / "index")
        self.now = NOW

    def clock(self) -> datetime:
        return self.now

    def publish(
        self,
        version: str,
        variants: Iterable[str] = ("cpu",),
        *,
        channels: Iterable[str] = (),
        project: str = "vllm",
        **more: object,
    ) -> None:
        wheels = [make_wheel(self.folder / "dist", project, f"{version}+{variant}") for variant in variants]
        found = [read_candidate(wheel, channels=channels) for wheel in wheels]
        publish(self.storage, found, clock=self.clock, **more)  # type: ignore[arg-type]

    def nightlies(self, count: int, variants: Iterable[str] = ("cpu",)) -> None:
        for number in range(count):
            self.publish(f"1.0.dev{number}", variants)
            self.now += DAY

    def prune(self, keep: int = 2, **more: object) -> Pruned:
        return prune(self.storage, keep=keep, clock=self.clock, **more)  # type: ignore[arg-type]

    def versions(self, *, yanked: bool = False) -> list[str]:
        snapshot = load(self.storage)
        assert snapshot is not None
        return sorted(
            {file.version for _, file in snapshot.files() if bool(file.yanked) == yanked},
        )

    def content(self) -> list[str]:
        return sorted(one.key for one in self.storage.list(layout.FILES) if one.key.endswith(".whl"))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path)


def test_the_last_nightlies_stay_with_all_their_variants(index: Index) -> None:
    index.nightlies(4, ("cpu", "cu130"))
    report = index.prune(keep=2)
    assert report.kept == ("vllm 1.0.dev3", "vllm 1.0.dev2")
    assert {one.version for one in report.yanked} == {
        "1.0.dev0+cpu",
        "1.0.dev0+cu130",
        "1.0.dev1+cpu",
        "1.0.dev1+cu130",
    }
    assert report.deleted == ()
    assert len(index.content()) == 8
    page = (index.storage.root / "nightly/cpu/vllm/index.html").read_text()
    assert "superseded: of the nightlies the last 2 are kept" in page


def test_what_was_yanked_is_deleted_when_its_grace_period_is_over_and_not_before(index: Index) -> None:
    index.nightlies(3)
    index.prune(keep=1, grace=7 * DAY)
    index.now += 7 * DAY - timedelta(seconds=1)
    early = index.prune(keep=1, grace=7 * DAY)
    assert early.deleted == ()
    assert [one.version for one in early.waiting] == ["1.0.dev1+cpu", "1.0.dev0+cpu"]
    index.now += timedelta(seconds=1)
    late = index.prune(keep=1, grace=7 * DAY)
    assert {one.version for one in late.deleted} == {"1.0.dev1+cpu", "1.0.dev0+cpu"}
    assert index.versions() == ["1.0.dev2+cpu"]
    assert len(index.content()) == 1
    assert "1.0.dev0" not in (index.storage.root / "nightly/cpu/vllm/index.html").read_text()
    assert "1.0.dev0" not in (index.storage.root / "1.0.dev0/cpu/vllm/index.html").read_text()


def test_a_run_never_yanks_and_deletes_the_same_file(index: Index) -> None:
    index.nightlies(3)
    report = index.prune(keep=1, grace=timedelta(0))
    assert len(report.yanked) == 2
    assert len(index.content()) == 3


def test_a_clock_that_runs_backwards_deletes_nothing_early(index: Index) -> None:
    index.nightlies(3)
    yanked_at = index.now
    index.prune(keep=1, grace=7 * DAY)
    # Somebody whose clock is a year ahead publishes, and the next prune runs where the clock is right.
    index.now = yanked_at + 365 * DAY
    index.publish("1.0.dev9")
    index.now = yanked_at + DAY
    assert index.prune(keep=1, grace=7 * DAY).deleted == ()
    # One whose clock is behind all that is recorded.
    index.now = yanked_at - 365 * DAY
    report = index.prune(keep=1, grace=7 * DAY)
    assert (report.deleted, report.groups, report.leftovers) == ((), (), ())
    assert len(index.content()) == 4


def test_releases_and_named_channels_stay(index: Index) -> None:
    index.publish("0.9.2")
    index.publish("1.0.dev0", channels=("nightly", "customer"))
    index.publish("0.9.3.dev0", channels=("customer",))
    index.nightlies(3)
    promote(index.storage, "1.0.dev1", keep=True)
    index.prune(keep=1, grace=timedelta(0))
    index.now += DAY
    report = index.prune(keep=1, grace=timedelta(0))
    assert report.kept == ("vllm 1.0.dev2",)
    assert report.deleted == ()  # dev0 is the customer's, dev1 a release
    assert index.versions() == ["0.9.2+cpu", "0.9.3.dev0+cpu", "1.0.dev0+cpu", "1.0.dev1+cpu", "1.0.dev2+cpu"]


def test_each_project_has_nightlies_of_its_own(index: Index) -> None:
    index.nightlies(2)
    index.publish("3.0.dev0", project="plugin")
    assert index.prune(keep=1).kept == ("plugin 3.0.dev0", "vllm 1.0.dev1")


def test_a_nightly_yanked_for_a_fault_is_none_to_fall_back_on(index: Index) -> None:
    index.nightlies(4)
    yank(index.storage, "1.0.dev3", "wrong results", clock=index.clock)
    report = index.prune(keep=2)
    assert report.kept == ("vllm 1.0.dev3", "vllm 1.0.dev2", "vllm 1.0.dev1")
    assert [one.version for one in report.yanked] == ["1.0.dev0+cpu"]


def test_a_persons_reason_stays_and_the_file_is_deleted_in_time(index: Index) -> None:
    index.nightlies(2)
    yank(index.storage, "1.0.dev0", "wrong results", clock=index.clock)
    index.prune(keep=1, grace=DAY)
    assert "wrong results" in (index.storage.root / "nightly/cpu/vllm/index.html").read_text()
    index.now += DAY
    assert len(index.prune(keep=1, grace=DAY).deleted) == 1


def test_what_is_offered_again_begins_a_new_grace_period(index: Index) -> None:
    index.nightlies(2)
    index.prune(keep=1, grace=DAY)
    index.now += 2 * DAY
    assert "prune" in unyank(index.storage, "1.0.dev0", clock=index.clock)[0].note
    assert len(index.prune(keep=1, grace=DAY).yanked) == 1
    assert len(index.content()) == 2


def test_a_larger_keep_saves_what_waits(index: Index) -> None:
    index.nightlies(3)
    index.prune(keep=1, grace=DAY)
    index.now += 2 * DAY
    # Two are yanked and count for nothing: all three are within the last two that are offered.
    assert index.prune(keep=2, grace=DAY).deleted == ()


def test_a_dry_run_changes_nothing_and_says_the_same(index: Index) -> None:
    index.nightlies(3)

    def state() -> dict[str, float]:
        return {one.key: one.modified for one in index.storage.list("")}

    before = state()
    said = index.prune(keep=1, dry_run=True)
    assert state() == before
    assert said == index.prune(keep=1)


def test_an_abandoned_group_goes_after_the_grace_period(index: Index) -> None:
    index.publish("1.0.dev0", group="n0", expects=("cpu", "cu130"))
    index.now += DAY
    assert index.prune(grace=7 * DAY).groups == ()
    index.now += 7 * DAY
    assert index.prune(grace=7 * DAY).groups == ("n0",)
    assert index.content() == []
    index.publish("1.0.dev0", ("cpu", "cu130"), group="n0", expects=("cpu", "cu130"))
    assert index.versions() == ["1.0.dev0+cpu", "1.0.dev0+cu130"]
    assert len(index.content()) == 2


def test_uploads_that_nobody_entered_and_older_states_go(index: Index) -> None:
    index.nightlies(2)
    key = layout.wheel_key("vllm", "0.1", "1" * 64, "vllm-0.1-py3-none-any.whl")
    # Of a publisher who was ended before his root.
    shard = layout.shard_key("vllm", "cpu", "3" * 64)
    for one in (key, key + layout.SIDECAR, shard):
        index.storage.create(one, b"half", content_type="", cache_control="")
    half = index.storage.root / ".index/tmp/left"
    half.write_bytes(b"x")
    os.utime(half, (NOW.timestamp() - 120, NOW.timestamp() - 120))
    index.now = NOW + timedelta(minutes=10)
    assert index.prune(keep=9, grace=timedelta(0)).leftovers == ()  # somebody may be at work
    index.now = NOW + 8 * DAY
    report = index.prune(keep=9)
    found = {one.kind for one in report.leftovers}
    assert found == {"content", "manifest", "temporary"}
    assert index.storage.stat(key) is None
    assert index.storage.stat(shard) is None
    assert not half.exists()
    assert len(index.content()) == 2
    assert index.versions() == ["1.0.dev0+cpu", "1.0.dev1+cpu"]


def test_what_lies_beside_a_served_wheel_is_no_leftover(index: Index) -> None:
    index.nightlies(1)
    wheel = index.content()[0]
    index.storage.create(wheel + layout.PROVENANCE, b"{}", content_type="", cache_control="")
    old = (NOW - 30 * DAY).timestamp()
    os.utime(index.storage.root / (wheel + layout.PROVENANCE), (old, old))
    assert [one for one in index.prune().leftovers if one.kind == "content"] == []
    assert index.storage.stat(wheel) is not None


@pytest.mark.parametrize(("keep", "grace"), [(-1, DAY), (1, -DAY)])
def test_a_negative_rule_is_refused(index: Index, keep: int, grace: timedelta) -> None:
    index.nightlies(1)
    with pytest.raises(SettingsError):
        index.prune(keep=keep, grace=grace)


def test_the_same_bytes_under_two_names(index: Index) -> None:
    index.nightlies(1)
    first = next((index.folder / "dist").iterdir())
    other = first.with_name(first.name.replace("-py3-", "-1-py3-"))
    other.write_bytes(first.read_bytes())
    one = read_candidate(other, channels=("release",))
    publish(index.storage, [one], clock=index.clock)
    index.now += DAY
    index.publish("1.0.dev1")
    index.prune(keep=1, grace=timedelta(0))
    index.now += DAY
    assert len(index.prune(keep=1, grace=timedelta(0)).deleted) == 1
    snapshot = load(index.storage)
    assert snapshot is not None
    names = {file.filename for _, file in snapshot.files()}
    assert names == {other.name, "vllm-1.0.dev1+cpu-py3-none-any.whl"}
    assert all(index.storage.stat(key) for _, file in snapshot.files() for key in file.keys)
    publish(index.storage, [one], clock=index.clock)


def test_nobody_loses_what_is_published_while_it_is_pruned(index: Index) -> None:
    """Three publishers publish the same wheels again and again, while somebody deletes all that is superseded."""
    from concurrent.futures import ThreadPoolExecutor

    from vllm_builder.index.checking import check

    dist = [make_wheel(index.folder / "dist", "vllm", f"1.0.dev{number}+cpu") for number in range(4)]
    found = [read_candidate(path) for path in dist]
    lost: list[str] = []

    def publisher(first: int) -> None:
        storage = Folder(index.storage.root)
        for turn in range(4):
            one = found[(first + turn) % len(found)]
            publish(storage, [one])
            # What is named is there, at every moment after it was acknowledged; it may have been deleted since.
            snapshot = load(storage)
            assert snapshot is not None
            for _, file in snapshot.files():
                if any(storage.stat(key) is None for key in file.keys):
                    now = load(storage)
                    assert now is not None
                    if file in [other for _, other in now.files()]:
                        lost.append(file.key)

    def pruner() -> None:
        for turn in range(8):
            later = NOW + timedelta(hours=2 * turn)
            prune(Folder(index.storage.root), keep=1, grace=timedelta(0), clock=lambda now=later: now)  # type: ignore[misc]

    publish(index.storage, found[:1])
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(publisher, first) for first in range(3)] + [pool.submit(pruner)]
        for one in running:
            one.result()
    assert lost == []
    publish(index.storage, found)
    assert {file.sha256 for _, file in _files(index)} == {one.sha256 for one in found}
    ahead = NOW + timedelta(days=2)
    assert [
        one for one in check(index.storage, clock=lambda: ahead).findings if one.severity == "error"
    ] == []


def _files(index: Index) -> list[tuple[str, object]]:
    snapshot = load(index.storage)
    assert snapshot is not None
    return list(snapshot.files())


def test_an_object_store_is_pruned_too(s3_url: str, tmp_path: Path) -> None:
    from vllm_builder.index.checking import check
    from vllm_builder.index.storage import open_storage

    storage = open_storage(s3_url)
    for number in range(2):
        path = make_wheel(tmp_path / "dist", "vllm", f"1.0.dev{number}+cpu")
        publish(storage, [read_candidate(path)], clock=lambda n=number: NOW + n * DAY)  # type: ignore[misc]
    orphan = layout.wheel_key("vllm", "0.1", "1" * 64, "vllm-0.1-py3-none-any.whl")
    storage.create(orphan, b"x", content_type="application/octet-stream", cache_control="no-cache")
    later = NOW + 3 * DAY
    first = prune(storage, keep=1, grace=timedelta(0), clock=lambda: later)
    assert [one.version for one in first.yanked] == ["1.0.dev0+cpu"]
    assert orphan in {one.key for one in first.leftovers}
    assert storage.stat(orphan) is None
    after = later + timedelta(hours=2)
    second = prune(storage, keep=1, grace=timedelta(0), clock=lambda: after)
    assert [one.version for one in second.deleted] == ["1.0.dev0+cpu"]
    wheels = {one.key for one in storage.list(layout.FILES) if one.key.endswith(".whl")}
    assert len(wheels) == 1
    assert [one for one in check(storage, clock=lambda: after).findings if one.severity != "info"] == []
