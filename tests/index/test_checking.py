"""Damage is planted, and check has to name it; rebuild heals what can be made from the rest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from index_helpers import S3Server, make_wheel, s3_client

from vllm_builder.errors import CheckFailed, IndexDamaged
from vllm_builder.index import layout
from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.checking import CheckReport, check, judge
from vllm_builder.index.manifest import commit, load
from vllm_builder.index.model import File
from vllm_builder.index.promoting import promote
from vllm_builder.index.pruning import prune
from vllm_builder.index.publishing import publish
from vllm_builder.index.rebuilding import rebuild
from vllm_builder.index.storage import open_storage
from vllm_builder.index.storage.base import Storage
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.yanking import yank

VARIANTS = ("cpu", "cu130")


def wheels(folder: Path, *versions: str) -> list[Path]:
    return [
        make_wheel(folder, "vllm", f"{version}+{variant}") for version in versions for variant in VARIANTS
    ]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index in a folder, and the wheels that it was made of: a release and two nightlies in two variants, one yanked."""
    folder = tmp_path_factory.mktemp("template")
    storage = Folder(folder / "index")
    found = [read_candidate(path) for path in wheels(folder / "dist", "0.9.2", "1.0.dev0", "1.0.dev1")]
    publish(storage, found[:2])
    publish(storage, found[2:])
    yank(storage, "1.0.dev0+cpu", 'wrong <b>results</b> & "worse"')
    assert errors(storage) == set()
    return folder


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path / "index"


def report(storage: Storage, **more: object) -> CheckReport:
    return check(storage, jobs=2, **more)  # type: ignore[arg-type]


def errors(storage: Storage, **more: object) -> set[str]:
    return {one.check for one in report(storage, **more).findings if one.severity == "error"}


def remarks(storage: Storage, **more: object) -> set[str]:
    return {one.check for one in report(storage, **more).findings if one.severity != "error"}


def a_file(root: Path, version: str = "0.9.2+cpu") -> File:
    snapshot = load(Folder(root))
    assert snapshot is not None
    return next(file for _, file in snapshot.files() if file.version == version)


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _flip_wheel(root: Path) -> None:
    flip(root / a_file(root).key)


def _cut_wheel(root: Path) -> None:
    path = root / a_file(root).key
    path.write_bytes(path.read_bytes()[:-10])


def _no_wheel(root: Path) -> None:
    (root / a_file(root).key).unlink()


def _no_sidecar(root: Path) -> None:
    (root / a_file(root).metadata_key).unlink()


def _other_sidecar(root: Path) -> None:
    flip(root / a_file(root).metadata_key, 5)


def _no_page(root: Path) -> None:
    (root / "nightly/cpu/vllm/index.json").unlink()


def _no_project_list(root: Path) -> None:
    (root / "nightly/cpu/index.html").unlink()


def _edited_page(root: Path) -> None:
    rebuild(Folder(root))
    path = root / "release/cpu/vllm/index.html"
    path.write_text(path.read_text().replace("sha256=", "sha256=0"))


def _old_page(root: Path) -> None:
    path = root / "release/cpu/vllm/index.json"
    old = path.read_bytes()
    promote(Folder(root), "1.0.dev1", keep=True)
    path.write_bytes(old)


def _page_of_the_future(root: Path) -> None:
    path = root / "release/cpu/vllm/index.json"
    found = json.loads(path.read_text())
    found["meta"]["_revision"] = 99
    path.write_text(json.dumps(found))


def _foreign_page(root: Path) -> None:
    (root / "release/cpu/vllm/index.html").write_text("<html><body>hello</body></html>")


def _flip_shard(root: Path) -> None:
    flip(next((root / "manifest/vllm/cpu").glob(_current(root, "cpu"))), 20)


def _no_shard(root: Path) -> None:
    next((root / "manifest/vllm/cpu").glob(_current(root, "cpu"))).unlink()


def _current(root: Path, variant: str) -> str:
    snapshot = load(Folder(root))
    assert snapshot is not None
    return next(ref.sha256 for ref in snapshot.root.shards if ref.variant == variant) + ".json"


def _no_root(root: Path) -> None:
    (root / layout.ROOT).unlink()


def _cut_root(root: Path) -> None:
    path = root / layout.ROOT
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES: list[tuple[Callable[[Path], None], str, str, bool]] = [
    (_flip_wheel, "file-damaged", "vllm-0.9.2+cpu-py3-none-any.whl", False),
    (_cut_wheel, "file-size", "vllm-0.9.2+cpu-py3-none-any.whl", False),
    (_no_wheel, "file-missing", "vllm-0.9.2+cpu-py3-none-any.whl", False),
    (_no_sidecar, "sidecar-missing", ".whl.metadata", True),
    (_other_sidecar, "sidecar-damaged", ".whl.metadata", True),
    (_no_page, "page-missing", "nightly/cpu/vllm/index.json", True),
    (_no_project_list, "page-missing", "nightly/cpu/index.html", True),
    (_edited_page, "page-altered", "release/cpu/vllm/index.html", True),
    (_old_page, "page-stale", "release/cpu/vllm/index.json", True),
    (_page_of_the_future, "page-newer", "release/cpu/vllm/index.json", True),
    (_foreign_page, "page-altered", "release/cpu/vllm/index.html", True),
    (_flip_shard, "shard-damaged", "manifest/vllm/cpu/", False),
    (_no_shard, "shard-damaged", "manifest/vllm/cpu/", False),
    (_no_root, "root-missing", layout.ROOT, False),
    (_cut_root, "root-damaged", layout.ROOT, False),
]


@pytest.mark.parametrize(
    ("damage", "name", "where", "heals"), DAMAGES, ids=[one[0].__name__.strip("_") for one in DAMAGES]
)
def test_each_damage_is_named_where_it_is(
    root: Path, damage: Callable[[Path], None], name: str, where: str, heals: bool
) -> None:
    storage = Folder(root)
    damage(root)
    found = [one for one in report(storage).findings if one.severity == "error"]
    assert {one.check for one in found} == {name}
    assert any(where in one.where for one in found)
    assert all(one.cure for one in found)
    with pytest.raises(CheckFailed) as failed:
        judge(report(storage))
    assert any(name in line for line in failed.value.details)
    if heals:
        rebuild(storage)
        assert errors(storage) == set()


@pytest.mark.parametrize("damage", [_flip_wheel, _cut_wheel, _no_wheel, _no_sidecar])
def test_the_cure_for_a_damaged_wheel_works(
    root: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    file = a_file(root)
    damage(root)
    (root / file.key).unlink(missing_ok=True)
    publish(Folder(root), [read_candidate(tmp_path / "dist" / file.filename)])
    assert errors(Folder(root)) == set()


def test_quick_reads_no_wheel_and_still_sees_what_lacks(root: Path) -> None:
    _flip_wheel(root)
    assert errors(Folder(root), quick=True) == set()
    _no_sidecar(root)
    assert errors(Folder(root), quick=True) == {"sidecar-missing"}


def test_what_the_manifest_says_wrongly_of_a_wheel(root: Path) -> None:
    def lie(draft) -> None:  # type: ignore[no-untyped-def]
        files = draft.files("vllm", "cpu")
        name = "vllm-0.9.2+cpu-py3-none-any.whl"
        files[name] = files[name].model_copy(update={"requires_python": ">=3.99"})

    commit(Folder(root), lie)
    rebuild(Folder(root))
    found = [one for one in report(Folder(root)).findings if one.severity == "error"]
    assert [one.check for one in found] == ["metadata-differs"]
    assert "Requires-Python" in found[0].what


def test_a_page_of_another_version_that_reads_the_same_is_a_remark(root: Path) -> None:
    for name in ("index.html", "index.json"):
        path = root / "release/cpu/vllm" / name
        path.write_text(path.read_text().replace("</body>", "<!-- older --></body>").replace('": "', '":"'))
    assert errors(Folder(root)) == set()
    found = [one.where for one in report(Folder(root)).findings if one.check == "page-differs"]
    assert found == ["release/cpu/vllm/index.html", "release/cpu/vllm/index.json"]
    rebuild(Folder(root))
    assert remarks(Folder(root)) & {"page-differs"} == set()


def test_files_of_somebody_else_are_named(root: Path) -> None:
    (root / "notes.txt").write_text("mine")
    (root / Path(a_file(root).key).parent / "stray").write_text("x")
    found = [one for one in report(Folder(root)).findings if one.check == "extra"]
    assert [one.severity for one in found] == ["warning"]
    assert "notes.txt" in found[0].where
    assert "stray" in found[0].where
    with pytest.raises(CheckFailed):
        judge(report(Folder(root)), strict=True)
    rebuild(Folder(root))
    assert (root / "notes.txt").read_text() == "mine"


def test_an_upload_that_was_never_entered(root: Path) -> None:
    key = layout.wheel_key("vllm", "3", "2" * 64, "vllm-3-py3-none-any.whl")
    Folder(root).create(key, b"x", content_type="", cache_control="")
    assert "orphans" not in remarks(Folder(root))  # somebody may be at work
    old = (datetime.now(UTC) - timedelta(days=3)).timestamp()
    os.utime(root / key, (old, old))
    assert "orphans" in remarks(Folder(root))


def test_a_publisher_who_was_ended_before_the_pages(root: Path, tmp_path: Path) -> None:
    storage = Folder(root)
    commit(storage, lambda draft: draft.files("vllm", "cpu").pop("vllm-1.0.dev0+cpu-py3-none-any.whl"))
    # Just now: the publisher may still come to it.
    assert errors(storage) == set()
    assert "page-stale" in remarks(storage)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert "page-stale" in errors(storage, clock=lambda: later)
    assert "unfinished" in remarks(storage, clock=lambda: later)
    assert rebuild(storage, clock=lambda: later).finished == 1
    assert remarks(storage, clock=lambda: later) & {"unfinished", "page-stale"} == set()
    assert errors(storage) == set()


def test_a_journal_that_cannot_be_read(root: Path) -> None:
    (root / "journal").mkdir(exist_ok=True)
    (root / "journal/x.json").write_text("{")
    assert "journal-damaged" in remarks(Folder(root))
    rebuild(Folder(root))
    assert "journal-damaged" not in remarks(Folder(root))


def test_a_group_that_waits_for_long(root: Path, tmp_path: Path) -> None:
    one = read_candidate(make_wheel(tmp_path / "dist", "vllm", "1.0.dev2+cpu"))
    publish(Folder(root), [one], group="n2", expects=VARIANTS)
    assert "group-waits" not in remarks(Folder(root))
    later = datetime.now(UTC) + timedelta(days=2)
    found = report(Folder(root), clock=lambda: later)
    assert any(one.check == "group-waits" and "cu130" in one.what for one in found.findings)
    # What waits is checked as well.
    (root / one.key()).unlink()
    assert "file-missing" in errors(Folder(root))


def test_an_old_nightly(root: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=3)
    assert errors(Folder(root), max_age=timedelta(days=4), clock=lambda: later) == set()
    found = report(Folder(root), max_age=timedelta(days=2), clock=lambda: later).findings
    assert [one.what for one in found if one.check == "stale"] == [
        "The newest nightly for cpu is 3 d old; 2 d are allowed.",
        "The newest nightly for cu130 is 3 d old; 2 d are allowed.",
    ]
    yank(Folder(root), "1.0.dev0", "x")
    yank(Folder(root), "1.0.dev1", "x")
    assert "stale" in errors(Folder(root), max_age=timedelta(days=2))


def test_a_clock_that_was_ahead(root: Path) -> None:
    earlier = datetime.now(UTC) - timedelta(days=1)
    assert "clock" in remarks(Folder(root), clock=lambda: earlier)


def test_pages_of_what_is_gone_stay_empty_until_they_are_rebuilt(root: Path) -> None:
    storage = Folder(root)
    now = datetime.now(UTC)
    prune(storage, keep=1, grace=timedelta(0))
    prune(storage, keep=1, grace=timedelta(0), clock=lambda: now + timedelta(hours=2))
    assert errors(storage) == set()
    assert "emptied-pages" in remarks(storage)
    assert "extra" not in remarks(storage)
    page = root / "1.0.dev0/cpu/vllm/index.html"
    # One that still shows what is gone is wrong.
    page.write_text(page.read_text().replace("</body>", '<a href="x.whl">x.whl</a></body>'))
    assert "page-altered" in errors(storage)
    assert rebuild(storage).removed
    assert not page.exists()
    assert not (root / "1.0.dev0").exists()
    assert errors(storage) == set()
    assert "emptied-pages" not in remarks(storage)


def test_what_variants_share_is_one_fault(root: Path, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "vllm", "0.9.2+cu130")
    publish(Folder(root), [read_candidate(wheel, channels=["release"])])
    assert {path.parent.name for path in root.glob("release/*/index.html")} >= {"cpu", "cu130"}
    (root / "release" / "index.html").unlink()
    (found,) = (one for one in report(Folder(root)).findings if one.severity == "error")
    assert (found.check, found.where) == ("page-missing", "release/index.html")
    rebuild(Folder(root))
    assert errors(Folder(root)) == set()


def test_a_copied_index_is_in_order_and_can_be_rebuilt(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns(".index"))
    assert errors(Folder(tmp_path / "copy")) == set()
    rebuild(Folder(tmp_path / "copy"))
    assert errors(Folder(tmp_path / "copy")) == set()


def test_all_pages_from_the_manifest_alone(root: Path) -> None:
    before = {p.relative_to(root): p for p in root.rglob("index.*")}
    for name in root.iterdir():
        if name.name not in {"files", "manifest"}:
            shutil.rmtree(name) if name.is_dir() else name.unlink()
    rebuild(Folder(root))
    assert {p.relative_to(root) for p in root.rglob("index.*")} == set(before)
    assert errors(Folder(root)) == set()


def test_a_lost_root_is_made_anew_from_what_the_pages_show(root: Path) -> None:
    storage = Folder(root)
    before = load(storage)
    assert before is not None
    files = list(before.files())
    # A publisher who was ended before his root leaves a state that nobody has acknowledged.
    unborn = Folder(root)
    original = unborn.replace

    def fail(key, *args, **more):  # type: ignore[no-untyped-def]
        if key == layout.ROOT:
            raise KeyboardInterrupt
        return original(key, *args, **more)

    unborn.replace = fail  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        yank(unborn, "0.9.2", "never acknowledged")
    (root / layout.ROOT).unlink()
    with pytest.raises(IndexDamaged):
        rebuild(storage)
    said = rebuild(storage, from_shards=True).recovered
    assert any("cpu" in line for line in said)
    after = load(storage)
    assert after is not None
    assert list(after.files()) == files
    assert after.root.revision > before.root.revision
    assert errors(storage) == set()


def test_a_lost_root_and_a_lost_part_are_not_guessed(root: Path) -> None:
    storage = Folder(root)
    _no_shard(root)
    (root / layout.ROOT).unlink()
    before = {stat.key: stat.modified for stat in storage.list("")}
    with pytest.raises(IndexDamaged) as error:
        rebuild(storage, from_shards=True)
    assert any("vllm cpu" in line for line in error.value.details)
    assert {stat.key: stat.modified for stat in storage.list("")} == before


def test_a_damaged_root_is_made_anew(root: Path) -> None:
    _cut_root(root)
    rebuild(Folder(root), from_shards=True)
    assert errors(Folder(root)) == set()


def test_a_good_root_is_left_as_it_is(root: Path) -> None:
    assert rebuild(Folder(root), from_shards=True).recovered == ()
    assert errors(Folder(root)) == set()


def test_an_object_store_is_walked_too(s3: S3Server, s3_url: str, tmp_path: Path) -> None:
    storage = open_storage(s3_url)
    publish(storage, [read_candidate(path) for path in wheels(tmp_path / "dist", "0.9.2")])
    first = report(storage)
    assert [one for one in first.findings if one.severity != "info"] == []
    assert first.files == 2
    client = s3_client(s3)
    key = "team/release/cpu/vllm/"
    body = client.get_object(Bucket=s3.bucket, Key=key)["Body"].read()
    client.put_object(Bucket=s3.bucket, Key=key, Body=body, ContentType="binary/octet-stream")
    client.delete_object(Bucket=s3.bucket, Key="team/json/release/cu130/vllm/")
    found = {(one.check, one.where) for one in report(storage).findings if one.severity == "error"}
    assert found == {
        ("content-type", "release/cpu/vllm/"),
        ("page-missing", "json/release/cu130/vllm/"),
    }
    rebuild(storage)
    assert errors(storage) == set()
