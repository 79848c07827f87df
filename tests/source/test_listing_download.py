"""What indexes offer, and getting it over connections that break."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from source_helpers import Heard, Reply, Server, make_sdist

from vllm_builder.cache import Cache
from vllm_builder.errors import HashMismatch, SourceError
from vllm_builder.events import Progress
from vllm_builder.indexes import Indexes
from vllm_builder.stages.source import ReleaseFile, releases
from vllm_builder.stages.source.download import ATTEMPTS, download
from vllm_builder.stages.source.http import Http

NOWHERE = "http://127.0.0.1:1/simple"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def get(url: str, cache: Cache, heard: Heard, *, sha256: str | None, indexes: Indexes | None = None) -> Path:
    with Http(indexes or Indexes()) as http:
        return download(url, url.rpartition("/")[2], cache, heard, http, sha256=sha256)[0]


# Listing ----------------------------------------------------------------------------------------
def test_html_index(cache: Cache, server: Server, tmp_path: Path) -> None:
    sdist = make_sdist(tmp_path / "s", "0.9.2")
    found = releases(Indexes(index_url=server.html_index(sdist)), cache)
    assert found == [
        ReleaseFile(
            version="0.9.2",
            filename="vllm-0.9.2.tar.gz",
            url=f"{server.url}/files/vllm-0.9.2.tar.gz",
            kind="sdist",
            sha256=sha(sdist),
            index=f"{server.url}/simple",
        )
    ]


def test_json_index_with_sizes_and_yanks(cache: Cache, server: Server) -> None:
    index = server.json_index(
        [
            {
                "filename": "vllm-0.9.2.tar.gz",
                "url": "x/vllm-0.9.2.tar.gz",
                "hashes": {"sha256": "AB" * 32},
                "size": 7,
            },
            {"filename": "vllm-0.10.0.tar.gz", "url": "y", "hashes": {}, "yanked": "broken"},
            {"filename": "vllm-0.10.0-cp38-abi3-manylinux1_x86_64.whl", "url": "z", "hashes": {}},
            {"filename": "other-1.0.tar.gz", "url": "o", "hashes": {}},
            {"filename": "vllm-not.a.version.tar.gz", "url": "o", "hashes": {}},
        ]
    )
    first, second, third = releases(Indexes(index_url=index), cache)
    assert (first.version, first.sha256, first.size) == ("0.9.2", "ab" * 32, 7)
    assert first.url == f"{server.url}/json/vllm/x/vllm-0.9.2.tar.gz"
    assert (second.kind, third.version, third.kind) == ("wheel", "0.10.0", "sdist")
    assert (third.yanked, third.yanked_reason, third.sha256) == (True, "broken", None)


@pytest.mark.parametrize("as_url", [True, False])
def test_local_index_and_folder_of_files(cache: Cache, tmp_path: Path, as_url: bool) -> None:
    make_sdist(tmp_path / "flat", "0.9.1")
    make_sdist(tmp_path / "index/vllm", "0.9.2")
    make_sdist(tmp_path / "paged/files", "0.10.0")
    (tmp_path / "paged/simple/vllm").mkdir(parents=True)
    (tmp_path / "paged/simple/vllm/index.html").write_text(
        '<a href="../../files/vllm-0.10.0.tar.gz">vllm-0.10.0.tar.gz</a>'
    )
    places = [tmp_path / "flat", tmp_path / "index", tmp_path / "paged/simple"]
    flat, index, paged = (place.as_uri() if as_url else str(place) for place in places)
    found = releases(Indexes(index_url=index, extra_index_urls=(paged,), find_links=(flat,)), cache)
    assert [file.version for file in found] == ["0.9.1", "0.9.2", "0.10.0"]
    assert found[2].url == (tmp_path / "paged/files/vllm-0.10.0.tar.gz").as_uri()


def test_find_links_page_whose_texts_are_no_file_names(cache: Cache, server: Server) -> None:
    page = server.add("/list.html", Reply(b'<a href="d/vllm-0.9.2.tar.gz">download</a>', type="text/html"))
    found = releases(Indexes(no_index=True, find_links=(page,)), cache)
    assert [(file.filename, file.url) for file in found] == [
        ("vllm-0.9.2.tar.gz", f"{server.url}/d/vllm-0.9.2.tar.gz")
    ]


def test_an_index_that_is_down_does_not_hide_the_others(
    cache: Cache, server: Server, tmp_path: Path, heard: Heard
) -> None:
    index = server.html_index(make_sdist(tmp_path, "0.9.2"))
    found = releases(Indexes(index_url=NOWHERE, extra_index_urls=(index,)), cache, emit=heard)
    assert [file.version for file in found] == ["0.9.2"]
    assert f"{NOWHERE} cannot be read" in heard.notes


def test_no_index_at_all_is_an_error(cache: Cache) -> None:
    with pytest.raises(SourceError, match="No package index"):
        releases(Indexes(index_url=NOWHERE), cache)


def test_index_answers_are_retried_on_server_errors(cache: Cache, server: Server, tmp_path: Path) -> None:
    index = server.html_index(make_sdist(tmp_path, "0.9.2"))
    server.replies["/simple/vllm/"][:0] = [Reply(status=503), Reply(status=500)]
    assert len(releases(Indexes(index_url=index), cache)) == 1
    assert server.asked("/simple/vllm/") == 3


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"{", type="application/vnd.pypi.simple.v1+json"),
        Reply(
            b'{"meta": {"api-version": "9.0"}, "name": "vllm", "files": []}',
            type="application/vnd.pypi.simple.v1+json",
        ),
        Reply(b"x", type="image/png"),
        Reply(status=403),
        Reply(status=500),
    ],
    ids=["broken json", "future api", "picture", "forbidden", "always 500"],
)
def test_unusable_pages_are_errors_of_ours(cache: Cache, server: Server, reply: Reply) -> None:
    server.add("/simple/vllm/", reply)
    with pytest.raises(SourceError) as caught:
        releases(Indexes(index_url=f"{server.url}/simple"), cache)
    assert caught.value.why


def test_differing_files_of_one_name_are_reported(
    cache: Cache, server: Server, tmp_path: Path, heard: Heard
) -> None:
    sdist = make_sdist(tmp_path, "0.9.2")
    one = server.html_index(sdist)
    two = server.html_index(sdist, where="/other", digests={sdist.name: "0" * 64})
    found = releases(Indexes(index_url=one, extra_index_urls=(two,)), cache, emit=heard)
    assert found[0].sha256 == sha(sdist)
    assert "differ" in heard.notes


def test_offline_remembers_what_an_index_said(cache: Cache, server: Server, tmp_path: Path) -> None:
    indexes = Indexes(index_url=server.html_index(make_sdist(tmp_path, "0.9.2")))
    online = releases(indexes, cache)
    server.replies.clear()
    asked = len(server.seen)
    assert releases(indexes, cache, offline=True) == online
    assert len(server.seen) == asked


def test_credentials_go_to_their_host_and_nowhere_else(cache: Cache, server: Server, tmp_path: Path) -> None:
    index = server.html_index(make_sdist(tmp_path, "0.9.2")).replace("http://", "http://me:se%40cret@")
    found = releases(Indexes(index_url=index), cache)
    expected = "Basic " + base64.b64encode(b"me:se@cret").decode()
    assert server.seen[-1][1]["Authorization"] == expected
    assert "cret" not in repr(found)
    get(found[0].url, cache, Heard(), sha256=found[0].sha256, indexes=Indexes(index_url=index))
    assert server.seen[-1][1]["Authorization"] == expected
    other = index.replace("127.0.0.1", "localhost")
    get(found[0].url, Cache(tmp_path / "two"), Heard(), sha256=None, indexes=Indexes(index_url=other))
    assert "Authorization" not in server.seen[-1][1]
    for path in cache.memo.rglob("*.json"):
        assert "cret" not in path.read_text()


# Downloading ------------------------------------------------------------------------------------
def test_download_is_kept_by_content_and_not_repeated(
    cache: Cache, server: Server, tmp_path: Path, heard: Heard
) -> None:
    sdist = make_sdist(tmp_path, "0.9.2")
    url = server.add("/f/vllm-0.9.2.tar.gz", Reply(sdist.read_bytes()))
    path = get(url, cache, heard, sha256=sha(sdist))
    assert path == cache.downloads / "sha256" / sha(sdist) / "vllm-0.9.2.tar.gz"
    assert path.read_bytes() == sdist.read_bytes()
    last = [event for event in heard if isinstance(event, Progress)][-1]
    assert (last.done, last.total, last.unit) == (sdist.stat().st_size, sdist.stat().st_size, "B")
    assert get(url, cache, heard, sha256=sha(sdist)) == path
    assert len(server.seen) == 1
    assert list((cache.downloads / "partial").glob("*.part")) == []


def test_damaged_cache_entry_is_fetched_again(cache: Cache, server: Server, heard: Heard) -> None:
    url = server.add("/f/a.tar.gz", Reply(b"good"))
    digest = hashlib.sha256(b"good").hexdigest()
    path = get(url, cache, heard, sha256=digest)
    path.write_bytes(b"rotten")
    assert get(url, cache, heard, sha256=digest).read_bytes() == b"good"


@pytest.mark.parametrize("ranges", [True, False], ids=["resumable", "not resumable"])
def test_broken_connections_are_taken_up_again(
    cache: Cache, server: Server, heard: Heard, ranges: bool
) -> None:
    data = bytes(range(256)) * 2000
    first = Reply(data, cut=300_000, ranges=ranges)
    second = Reply(data, cut=100_000 if ranges else 400_000, ranges=ranges)
    url = server.add("/f/a.tar.gz", first, second, Reply(status=502), Reply(data, ranges=ranges))
    path = get(url, cache, heard, sha256=hashlib.sha256(data).hexdigest())
    assert path.read_bytes() == data
    resumed = [headers.get("Range") for _, headers in server.seen if headers.get("Range")]
    assert resumed[0] == "bytes=300000-"
    assert "trying again (2 of" in heard.notes


def test_the_next_process_goes_on_where_one_gave_up(cache: Cache, server: Server, heard: Heard) -> None:
    data = bytes(range(256)) * 1000
    digest = hashlib.sha256(data).hexdigest()
    url = server.add("/f/a.tar.gz", Reply(data, cut=100_000), Reply(b"", status=404))
    with pytest.raises(SourceError) as caught:
        get(url, cache, heard, sha256=digest)
    assert "goes on where" in caught.value.next
    server.add("/f/a.tar.gz", Reply(data))
    assert get(url, cache, heard, sha256=digest).read_bytes() == data
    assert server.seen[-1][1]["Range"] == "bytes=100000-"


def test_wrong_beginning_of_an_old_attempt_costs_one_more_download(
    cache: Cache, server: Server, heard: Heard
) -> None:
    data = b"x" * 1000
    digest = hashlib.sha256(data).hexdigest()
    partial = cache.downloads / "partial" / f"{digest}.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"garbage")
    url = server.add("/f/a.tar.gz", Reply(data))
    assert get(url, cache, heard, sha256=digest).read_bytes() == data


def test_server_that_never_gets_it_done(cache: Cache, server: Server, heard: Heard) -> None:
    url = server.add("/f/a.tar.gz", Reply(b"x" * 1000, cut=0))
    with pytest.raises(SourceError, match="could not be downloaded"):
        get(url, cache, heard, sha256="0" * 64)
    assert server.asked("/f/a.tar.gz") == ATTEMPTS


def test_refusals_are_not_repeated(cache: Cache, server: Server, heard: Heard) -> None:
    url = server.add("/f/a.tar.gz", Reply(b"", status=403))
    with pytest.raises(SourceError) as caught:
        get(url, cache, heard, sha256="0" * 64)
    assert "403" in caught.value.why
    assert server.asked("/f/a.tar.gz") == 1


def test_wrong_hash_is_refused_and_not_kept(cache: Cache, server: Server, heard: Heard) -> None:
    url = server.add("/f/a.tar.gz", Reply(b"other"))
    with pytest.raises(HashMismatch) as caught:
        get(url, cache, heard, sha256="0" * 64)
    assert hashlib.sha256(b"other").hexdigest() in caught.value.why
    assert [path for path in cache.downloads.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_local_file_is_copied_and_checked(cache: Cache, tmp_path: Path, heard: Heard) -> None:
    sdist = make_sdist(tmp_path, "0.9.2")
    path = get(sdist.as_uri(), cache, heard, sha256=sha(sdist))
    assert path.read_bytes() == sdist.read_bytes()
    with pytest.raises(HashMismatch):
        get(sdist.as_uri(), cache, heard, sha256="0" * 64)
    with pytest.raises(SourceError):
        get((tmp_path / "gone.tar.gz").as_uri(), cache, heard, sha256=None)
