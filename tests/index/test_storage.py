"""What a storage promises, on each kind of it, and what each kind's failures become."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from index_helpers import CREDENTIALS, S3Server, in_threads, s3_client

from vllm_builder.errors import BuilderError, NoSpace, NotWritable, SettingsError, StorageFailed
from vllm_builder.index.storage import Folder, open_storage
from vllm_builder.index.storage.base import FRESH, IMMUTABLE, Altered, Changed, Exists, Storage

TEXT = {"content_type": "text/html", "cache_control": FRESH}


@pytest.fixture(params=["folder", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(str(tmp_path / "index"))
    if request.param == "memory":
        return open_storage(f"memory://{tmp_path.name}/x")
    return open_storage(request.getfixturevalue("s3_url"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try in place of six."""
    from vllm_builder.index.storage import objects

    monkeypatch.setitem(objects.RETRY, "max_retries", 0)  # type: ignore[misc]


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return sorted(found.key for found in storage.list(prefix))


def test_what_is_put_is_there(storage: Storage) -> None:
    assert storage.read("a/b") is None
    assert storage.stat("a/b") is None
    storage.create("a/b+c.whl", b"one", content_type="text/plain", cache_control=IMMUTABLE)
    found = storage.read("a/b+c.whl")
    assert found is not None
    assert found.data == b"one"
    stat = storage.stat("a/b+c.whl")
    assert stat is not None
    assert (stat.key, stat.size) == ("a/b+c.whl", 3)
    assert b"".join(storage.chunks("a/b+c.whl")) == b"one"
    with pytest.raises(KeyError):
        list(storage.chunks("a/other"))
    empty = storage.replace("a/empty", b"", token=None, **TEXT)
    there = storage.read("a/empty", limit=10)
    assert there is not None
    assert (there.data, there.token) == (b"", empty)
    limited = storage.read("a/b+c.whl", limit=2)
    assert limited is not None
    assert (limited.data[:2], limited.token) == (b"on", found.token)


def test_create_never_replaces(storage: Storage) -> None:
    storage.create("k/a", b"1", **TEXT)
    with pytest.raises(Exists):
        storage.create("k/a", b"2", **TEXT)
    found = storage.read("k/a")
    assert found is not None
    assert found.data == b"1"


def test_replace_wants_the_present_token(storage: Storage) -> None:
    first = storage.replace("k/a", b"1", token=None, **TEXT)
    second = storage.replace("k/a", b"2", token=first, **TEXT)
    for stale in (first, None):
        with pytest.raises(Changed):
            storage.replace("k/a", b"3", token=stale, **TEXT)
    read = storage.read("k/a")
    assert read is not None
    assert (read.data, read.token) == (b"2", second)
    storage.delete(["k/a"])
    with pytest.raises(Changed):
        storage.replace("k/a", b"3", token=second, **TEXT)


def test_delete_and_list(storage: Storage) -> None:
    for key in ("p/a", "p/q/b", "pq/c"):
        storage.create(key, b"x", **TEXT)
    assert keys(storage) == ["p/a", "p/q/b", "pq/c"]
    assert keys(storage, "p/") == ["p/a", "p/q/b"]
    assert keys(storage, "none/") == []
    storage.delete(["p/a", "p/never"])
    storage.delete([])
    assert keys(storage, "p/") == ["p/q/b"]


def test_a_file_that_changes_while_it_is_put_in_does_not_come_in(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"other")
    with pytest.raises(Altered):
        storage.create("k/w", tmp_path / "w", sha256="0" * 64, **TEXT)
    assert keys(storage) == []


def test_counting_from_many_threads(storage: Storage) -> None:
    storage.replace("n", b"0", token=None, **TEXT)

    def count() -> None:
        done = 0
        while done < 8:
            blob = storage.read("n")
            assert blob is not None
            try:
                storage.replace("n", b"%d" % (int(blob.data) + 1), token=blob.token, **TEXT)
            except Changed:
                continue
            done += 1

    in_threads(count)
    blob = storage.read("n")
    assert blob is not None
    # On an object store one's own content is taken for one's own write: two who write the same count as one.
    assert 8 <= int(blob.data) <= 32
    if isinstance(storage, Folder):
        assert int(blob.data) == 32


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x", "a//b", "./a", "a\0b", ""])
def test_no_key_leaves_the_index(storage: Storage, key: str) -> None:
    with pytest.raises(StorageFailed, match="no key"):
        storage.read(key)
    with pytest.raises(StorageFailed, match="no key"):
        storage.create(key, b"x", **TEXT)
    with pytest.raises(StorageFailed, match="no key"):
        storage.delete([key])


# Objects ---------------------------------------------------------------------------------------
def test_what_a_client_needs_is_set(s3: S3Server, s3_url: str) -> None:
    storage = open_storage(s3_url)
    storage.create("a/page", b"x", content_type="text/html; charset=utf-8", cache_control="no-cache")
    storage.replace("a/page/", b"y", content_type="text/html", cache_control="no-cache", token=None)
    for key, kind in (("a/page", "text/html; charset=utf-8"), ("a/page/", "text/html")):
        found = s3_client(s3).head_object(Bucket=s3.bucket, Key=f"team/{key}")
        assert (found["ContentType"], found["CacheControl"]) == (kind, "no-cache")


def test_keys_that_end_in_a_slash_are_objects_of_their_own(s3_url: str) -> None:
    storage = open_storage(s3_url)
    assert storage.slash_keys
    assert storage.read("nightly/cpu/") is None
    first = storage.replace("nightly/cpu/", b"page 1", token=None, **TEXT)
    with pytest.raises(Changed):
        storage.replace("nightly/cpu/", b"page 2", token=None, **TEXT)
    second = storage.replace("nightly/cpu/", b"page 2", token=first, **TEXT)
    with pytest.raises(Changed):
        storage.replace("nightly/cpu/", b"page 3", token=first, **TEXT)
    blob = storage.read("nightly/cpu/", limit=4)
    assert blob is not None
    assert (blob.data[:4], blob.token) == (b"page", second)
    assert storage.read("nightly/cpu") is None
    stat = storage.stat("nightly/cpu/")
    assert stat is not None
    assert stat.size == 6
    assert keys(storage) == ["nightly/cpu/"]
    storage.delete(["nightly/cpu/"])
    assert keys(storage) == []
    with pytest.raises(Changed):
        storage.replace("nightly/cpu/", b"page 3", token=second, **TEXT)


def test_large_files_go_up_in_parts(
    s3: S3Server, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_builder.fs import sha256_file
    from vllm_builder.index.storage import objects

    monkeypatch.setattr(objects, "_AT_ONCE", 1000)
    storage = open_storage(s3_url)
    (tmp_path / "w").write_bytes(os.urandom(20 << 20))
    with pytest.raises(Altered):
        storage.create("k/w", tmp_path / "w", sha256="0" * 64, **TEXT)
    assert keys(storage) == []
    storage.create("k/w", tmp_path / "w", sha256=sha256_file(tmp_path / "w"), **TEXT)
    with pytest.raises(Exists):
        storage.create("k/w", tmp_path / "w", **TEXT)
    s3.fail("stop", method="PUT", path="k/broken", times=2)
    storage.create("k/broken", tmp_path / "w", **TEXT)
    s3.faults.clear()
    assert b"".join(storage.chunks("k/broken")) == (tmp_path / "w").read_bytes()
    s3.fail("stop", method="PUT", path="k/never")
    monkeypatch.setitem(objects.RETRY, "max_retries", 0)  # type: ignore[misc]
    with pytest.raises(StorageFailed):
        open_storage(s3_url).create("k/never", tmp_path / "w", **TEXT)
    assert "k/never" not in keys(storage)
    assert b"".join(storage.chunks("k/w")) == (tmp_path / "w").read_bytes()


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [
        (401, NotWritable, "refuses"),
        (403, NotWritable, "AccessDenied"),
        (404, StorageFailed, "no such bucket"),
        (500, StorageFailed, "500"),
        (503, StorageFailed, "503"),
        ("cut", StorageFailed, "error sending request|Connection"),
        ("stop", StorageFailed, "error sending request|Connection"),
    ],
)
@pytest.mark.parametrize("key", ["a/b", "a/b/"])
@pytest.mark.usefixtures("quick")
def test_every_failure_is_an_error_that_says_what_to_do(
    s3: S3Server, s3_url: str, status: int | str, kind: type[BuilderError], why: str, key: str
) -> None:
    storage = open_storage(s3_url)
    s3.fail(status)
    calls = [
        lambda: storage.read(key),
        lambda: storage.create(key, b"x", **TEXT),
        lambda: storage.replace(key, b"x", token=None, **TEXT),
        lambda: storage.delete([key]),
        lambda: list(storage.list("a/")),
        lambda: list(storage.chunks(key)),
    ]
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        error = caught.value
        assert s3_url in error.what
        assert re.search(why, error.why, re.I), error.why
        assert error.next
        text = str(error.as_dict())
        assert not any(
            value in text for value in (*CREDENTIALS.values(), "Signature") if value != "us-east-1"
        )


@pytest.mark.usefixtures("quick")
def test_a_412_is_a_conflict(s3: S3Server, s3_url: str) -> None:
    storage = open_storage(s3_url)
    s3.fail(412, method="PUT")
    with pytest.raises(Exists):
        storage.create("a", b"x", **TEXT)
    for key in ("a", "a/"):
        with pytest.raises(Changed):
            storage.replace(key, b"x", token=None, **TEXT)


@pytest.mark.parametrize("status", [500, 503, "cut", "lost"])
@pytest.mark.parametrize("key", ["k/a", "k/a/"])
def test_what_passes_is_tried_again(s3: S3Server, s3_url: str, status: int | str, key: str) -> None:
    storage = open_storage(s3_url)
    for number in range(2):
        before = storage.read(key)
        s3.faults.clear()
        s3.fail(status, method="PUT", times=1)
        s3.fail(503, method="GET", times=1)
        token = storage.replace(key, b"%d" % number, token=before.token if before else None, **TEXT)
        after = storage.read(key)
        assert after is not None
        assert (after.data, after.token) == (b"%d" % number, token)


@pytest.mark.usefixtures("quick")
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, s3: S3Server, s3_url: str) -> None:
    del s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageFailed) as caught:
        open_storage(s3_url).read("a")
    assert "127.0.0.1:1" in caught.value.why
    assert caught.value.next


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, s3_url: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SettingsError, match="no credentials"):
        open_storage(s3_url)


def test_an_endpoint_without_encryption_only_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, s3_url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example:9000")
    with pytest.raises(SettingsError, match="not encrypted"):
        open_storage(s3_url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    open_storage(s3_url)


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("s4://bucket/x", "s3"),
        ("S3:/bucket", "bucket"),
        ("gcs://bucket", "gs"),
        ("s3://", "no bucket"),
        ("s3://key:secret@bucket/x", "more than a bucket"),
        ("s3://bucket/a/../b", "prefix"),
        ("s3://bucket/a?x=1", "more than a bucket"),
        ("https://user:secret@server/x", "is a server"),
        ("file://host/x", "another machine"),
        ("", "no place"),
    ],
)
def test_addresses_that_are_none(to: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_storage(to)
    text = f"{caught.value.what} {caught.value.next}"
    assert says in text
    assert "secret" not in str(caught.value.as_dict())


def test_addresses_of_folders(tmp_path: Path) -> None:
    for to in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a%20b"):
        found = open_storage(to)
        assert isinstance(found, Folder)
        assert found.root == tmp_path / "a b"


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(SettingsError) as caught:
        open_storage("s3://bucket/x")
    assert "vllm-builder[objects]" in caught.value.next


# Folders ---------------------------------------------------------------------------------------
def test_links_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    index = tmp_path / "index"
    (index / "files").mkdir(parents=True)
    (index / "files/demo").symlink_to("../../outside")
    (index / "page").symlink_to("../outside/secret")
    storage = Folder(index)
    for key in ("files/demo/secret", "files/demo/new", "page"):
        for call in (
            lambda key=key: storage.read(key),
            lambda key=key: storage.stat(key),
            lambda key=key: storage.create(key, b"y", **TEXT),
            lambda key=key: storage.replace(key, b"y", token=None, **TEXT),
            lambda key=key: storage.delete([key]),
        ):
            with pytest.raises(StorageFailed, match="leads out"):
                call()
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    (tmp_path / "link").symlink_to(index)
    Folder(tmp_path / "link").create("ok", b"x", **TEXT)
    assert (index / "ok").read_bytes() == b"x"


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    temporary = tmp_path / ".index/tmp"
    temporary.mkdir(parents=True)
    (temporary / "1-dead").write_text("x")
    (temporary / "2-young").write_text("x")
    os.utime(temporary / "1-dead", (1, 1))
    writer = Folder(tmp_path)
    with writer._written(b"in the middle") as held:
        os.utime(held.path, (1, 1))
        Folder(tmp_path).create("a", b"x", **TEXT)
        assert sorted(p.name for p in temporary.iterdir()) == sorted(["2-young", Path(held.path).name])
    assert [p.name for p in temporary.iterdir()] == ["2-young"]


def test_a_folder_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage = Folder(tmp_path)
    storage.create("a/b", b"1", **TEXT)
    with pytest.raises(Exists):
        storage.create("a/b", b"2", **TEXT)
    assert (tmp_path / "a/b").read_bytes() == b"1"
    assert list((tmp_path / ".index/tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EROFS, NotWritable),
        (errno.EIO, StorageFailed),
    ],
)
def test_a_disk_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BuilderError]
) -> None:
    def full(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    storage = Folder(tmp_path)
    for call in (
        lambda: storage.create("a", b"1", **TEXT),
        lambda: storage.replace("a", b"1", token=None, **TEXT),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert os.strerror(number) in caught.value.why
    assert keys(storage) == []
    assert list((tmp_path / ".index/tmp").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_may_only_be_read(tmp_path: Path) -> None:
    Folder(tmp_path).create("a", b"1", **TEXT)
    tmp_path.chmod(0o555)
    (tmp_path / ".index/tmp").chmod(0o555)
    try:
        storage = Folder(tmp_path)
        assert keys(storage) == ["a"]
        with pytest.raises(NotWritable):
            storage.create("b", b"1", **TEXT)
    finally:
        tmp_path.chmod(0o755)
        (tmp_path / ".index/tmp").chmod(0o755)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("x")
    storage = Folder(tmp_path)
    with pytest.raises(StorageFailed) as caught:
        storage.create("files/a", b"x", **TEXT)
    assert caught.value.next
    (tmp_path / "index").write_text("x")
    with pytest.raises(StorageFailed):
        Folder(tmp_path / "index").create("a", b"x", **TEXT)
