"""One source for what was asked: order, fallbacks, memory, and what is said when there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version
from source_helpers import Heard, Reply, Repository, Server, make_sdist

from vllm_builder.cache import Cache
from vllm_builder.errors import BuilderError, HashMismatch, OfflineMissing, ReleaseNotFound, SourceError
from vllm_builder.indexes import Indexes
from vllm_builder.stages.source import SourceRequest, fetch, resolve, survey
from vllm_builder.stages.source.surveying import matcher
from vllm_builder.stages.source.versions import near_releases, version_after

Ask = Callable[..., SourceRequest]


@pytest.fixture
def index(server: Server, tmp_path: Path) -> Indexes:
    """An index with sdists of 0.9.0 to 0.10.0 and one release of wheels alone."""
    sdists = [make_sdist(tmp_path / "sdists", version) for version in ("0.9.0", "0.9.1", "0.9.2", "0.10.0")]
    wheel = tmp_path / "sdists/vllm-0.11.0-cp38-abi3-manylinux1_x86_64.whl"
    wheel.write_bytes(b"x")
    return Indexes(index_url=server.html_index(*sdists, wheel))


# Order ------------------------------------------------------------------------------------------
def test_auto_takes_git_where_it_answers(
    repository: Repository, index: Indexes, ask: Ask, cache: Cache, server: Server
) -> None:
    pin = resolve(ask("0.9.2", git_url=str(repository.path), indexes=index), cache)
    assert pin.kind == "git"
    assert "git comes first" in pin.reason
    assert server.seen == []


def test_auto_takes_the_sdist_where_git_is_out_of_reach(
    index: Indexes, ask: Ask, cache: Cache, heard: Heard
) -> None:
    pin = resolve(ask("v0.9.2", indexes=index), cache, heard)
    assert (pin.kind, pin.release, pin.name) == ("sdist", "0.9.2", "vllm-0.9.2.tar.gz")
    assert "git cannot reach http://127.0.0.1:1/none.git" in pin.reason
    assert heard.notes.startswith("Taking the sdist vllm-0.9.2.tar.gz: git cannot reach")


def test_auto_takes_the_sdist_where_the_tag_is_missing(
    repository: Repository, index: Indexes, ask: Ask, cache: Cache
) -> None:
    pin = resolve(ask("0.10.0", git_url=str(repository.path), indexes=index), cache)
    assert pin.kind == "sdist"
    assert "has no such tag" in pin.reason


def test_a_silent_git_host_is_not_asked_again_at_once(
    index: Indexes, ask: Ask, cache: Cache, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(ask("0.9.2", indexes=index), cache)

    def never(*arguments: object, **further: object) -> str:
        raise AssertionError("git was asked again")

    with monkeypatch.context() as patch:
        patch.setattr("vllm_builder.stages.source.mirror.run_git", never)
        assert resolve(ask("0.9.1", indexes=index), cache, heard).release == "0.9.1"
    assert "minutes ago" in heard.notes


def test_pypi_never_asks_git(index: Indexes, ask: Ask, cache: Cache, heard: Heard) -> None:
    assert resolve(ask("0.9.2", "pypi", indexes=index), cache, heard).kind == "sdist"
    assert heard.notes == ""


def test_latest_is_the_newest_final_sdist(
    server: Server, ask: Ask, cache: Cache, tmp_path: Path, index: Indexes
) -> None:
    assert resolve(ask("latest", "pypi", indexes=index), cache).release == "0.10.0"
    newer = make_sdist(tmp_path / "sdists", "0.12.0")
    files = sorted((tmp_path / "sdists").glob("*.tar.gz"))
    server.html_index(*files, make_sdist(tmp_path / "sdists", "0.13.0rc1"))
    assert resolve(ask("latest", "pypi", indexes=index), cache).name == newer.name


def test_yanked_release_only_when_named(
    server: Server, ask: Ask, cache: Cache, tmp_path: Path, heard: Heard
) -> None:
    for version in ("0.9.1", "0.9.2"):
        path = make_sdist(tmp_path, version)
        server.add(f"/json/vllm/{path.name}", Reply(path.read_bytes()))
    entry = {
        "url": "vllm-0.9.2.tar.gz",
        "filename": "vllm-0.9.2.tar.gz",
        "hashes": {},
        "yanked": "bad kernels",
    }
    other = {"url": "vllm-0.9.1.tar.gz", "filename": "vllm-0.9.1.tar.gz", "hashes": {}}
    indexes = Indexes(index_url=server.json_index([entry, other]))
    assert resolve(ask("latest", "pypi", indexes=indexes), cache).release == "0.9.1"
    assert resolve(ask("0.9.2", "pypi", indexes=indexes), cache, heard).release == "0.9.2"
    assert "bad kernels" in heard.notes
    assert "no sha256" in heard.notes


# What there is not ------------------------------------------------------------------------------
def test_near_releases_are_named(index: Indexes, ask: Ask, cache: Cache, repository: Repository) -> None:
    with pytest.raises(ReleaseNotFound) as caught:
        resolve(ask("0.9.3", indexes=index), cache)
    assert caught.value.exit_code == 12
    assert caught.value.next == "Near releases: 0.9.2, 0.9.1, 0.10.0."
    with pytest.raises(ReleaseNotFound) as caught:
        resolve(ask("0.9.3", indexes=index, git_url=str(repository.path)), cache)
    assert caught.value.next == "Near releases: 0.9.2, 0.9.1, 0.10.0."
    assert str(repository.path) in caught.value.why


def test_release_of_wheels_alone(index: Indexes, ask: Ask, cache: Cache) -> None:
    with pytest.raises(ReleaseNotFound, match=r"0\.11\.0 has no sdist") as caught:
        resolve(ask("0.11.0", indexes=index), cache)
    assert "--source git" in caught.value.next
    assert "git cannot reach" in caught.value.why


def test_branches_need_git(index: Indexes, ask: Ask, cache: Cache) -> None:
    with pytest.raises(SourceError, match="only git has branches"):
        resolve(ask("main", indexes=index), cache)
    with pytest.raises(ReleaseNotFound, match="no tag, branch or commit"):
        resolve(ask("main", "pypi", indexes=index), cache)


def test_nothing_answers(ask: Ask, cache: Cache) -> None:
    with pytest.raises(SourceError, match="neither git nor") as caught:
        resolve(ask("0.9.2"), cache)
    assert "git cannot reach" in caught.value.why
    assert "--source PATH" in caught.value.next


def test_index_out_of_reach_is_not_called_a_missing_release(index: Indexes, ask: Ask, cache: Cache) -> None:
    both = Indexes(index_url=index.index_url, extra_index_urls=("http://127.0.0.1:1/simple",))
    with pytest.raises(SourceError) as caught:
        resolve(ask("0.9.3", "pypi", indexes=both), cache)
    assert "127.0.0.1:1" in caught.value.why


def test_sdist_with_the_wrong_hash(server: Server, ask: Ask, cache: Cache, tmp_path: Path) -> None:
    sdist = make_sdist(tmp_path, "0.9.2")
    indexes = Indexes(index_url=server.html_index(sdist, digests={sdist.name: "0" * 64}))
    with pytest.raises(HashMismatch):
        resolve(ask("0.9.2", indexes=indexes), cache)


# Memory and offline -----------------------------------------------------------------------------
def test_exact_release_is_remembered_and_latest_is_not(
    index: Indexes, ask: Ask, cache: Cache, server: Server
) -> None:
    first = resolve(ask("0.9.2", "pypi", indexes=index), cache)
    asked = len(server.seen)
    again = resolve(ask("v0.9.2", "pypi", indexes=index), cache)
    assert (again.identity, len(server.seen)) == (first.identity, asked)
    assert "remembered" in again.reason
    resolve(ask("latest", "pypi", indexes=index), cache)
    resolve(ask("latest", "pypi", indexes=index), cache)
    assert server.asked("/simple/vllm/") == 3
    resolve(ask("0.9.2", "pypi", indexes=index, refresh=True), cache)
    assert server.asked("/simple/vllm/") == 4


def test_offline(index: Indexes, ask: Ask, cache: Cache, server: Server, tmp_path: Path) -> None:
    pin = resolve(ask("0.9.2", indexes=index), cache)
    latest = resolve(ask("latest", "pypi", indexes=index), cache)
    asked = len(server.seen)
    assert resolve(ask("0.9.2", indexes=index, offline=True), cache).identity == pin.identity
    assert resolve(ask("latest", "pypi", indexes=index, offline=True), cache).identity == latest.identity
    fetch(pin, tmp_path / "tree", cache, offline=True)
    with pytest.raises(OfflineMissing) as caught:
        resolve(ask("0.9.1", indexes=index, offline=True), cache)
    assert "vllm-0.9.1.tar.gz" in caught.value.details[0]
    assert len(server.seen) == asked
    shutil.rmtree(cache.downloads)
    with pytest.raises(OfflineMissing) as caught:
        fetch(pin, tmp_path / "again", cache, offline=True)
    assert pin.identity.removeprefix("sha256:") in caught.value.details[0]
    with pytest.raises(OfflineMissing) as caught:
        resolve(ask("0.9.2", indexes=index, offline=True), cache)
    assert pin.identity in caught.value.details[0]


def test_offline_folder_of_sdists_is_enough(ask: Ask, cache: Cache, tmp_path: Path) -> None:
    make_sdist(tmp_path / "sdists", "0.9.2")
    indexes = Indexes(no_index=True, find_links=(str(tmp_path / "sdists"),))
    assert resolve(ask("0.9.2", indexes=indexes, offline=True), cache).release == "0.9.2"


def test_offline_after_a_survey_needs_no_archive(index: Indexes, ask: Ask, cache: Cache) -> None:
    pin = resolve(ask("0.9.2", indexes=index), cache)
    folder = survey(pin, cache)
    shutil.rmtree(cache.downloads)
    assert survey(resolve(ask("0.9.2", indexes=index, offline=True), cache), cache) == folder


def test_pruned_download_is_fetched_again(
    index: Indexes, ask: Ask, cache: Cache, tmp_path: Path, heard: Heard
) -> None:
    pin = resolve(ask("0.9.2", indexes=index), cache)
    shutil.rmtree(cache.downloads)
    fetch(pin, tmp_path / "one", cache)
    (archive,) = cache.downloads.rglob("*.tar.gz")
    archive.write_bytes(b"rotten")
    fetch(pin, tmp_path / "two", cache, heard)
    assert "is damaged" in heard.notes
    assert (tmp_path / "two/setup.py").exists()


def test_remembered_answer_loads_no_heavy_library(index: Indexes, ask: Ask, cache: Cache) -> None:
    request = ask("0.9.2", indexes=index)
    survey(resolve(request, cache), cache)
    program = (
        "import sys\nfrom pathlib import Path\nfrom vllm_builder.cache import Cache\n"
        "from vllm_builder.stages.source import SourceRequest, resolve, survey\n"
        "request = SourceRequest.model_validate_json(sys.argv[1])\ncache = Cache(Path(sys.argv[2]))\n"
        "print(survey(resolve(request, cache), cache))\n"
        "print(sorted({'git', 'requests', 'pypi_simple', 'urllib3', 'filelock', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, request.model_dump_json(), str(cache.root)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    folder, loaded = done.stdout.splitlines()
    assert (Path(folder) / "setup.py").is_file()
    assert loaded == "[]"


# Survey -----------------------------------------------------------------------------------------
def test_survey_has_what_patches_read_and_no_more(
    repository: Repository, index: Indexes, ask: Ask, cache: Cache
) -> None:
    from_git = resolve(ask("0.9.2", "git", git_url=str(repository.path)), cache)
    from_index = resolve(ask("0.9.2", "pypi", indexes=index), cache)
    expected = {
        "setup.py", "pyproject.toml", "requirements/build.txt", "requirements/deep/more.txt", "cmake/utils.cmake",
        "vllm/envs.py",
    }  # fmt: skip
    for pin, further in ((from_git, set()), (from_index, {"PKG-INFO"})):
        folder = survey(pin, cache)
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == expected | further
        before = folder.stat().st_mtime_ns
        assert survey(pin, cache) == folder
        assert folder.stat().st_mtime_ns == before
    wider = survey(from_git, cache, patterns=["csrc/**"])
    assert [path.name for path in wider.rglob("*.*")] == ["kernel.cu"]
    assert [path.name for path in cache.surveys.iterdir() if path.name.startswith(".")] == []


def test_patterns() -> None:
    matches = matcher(["setup.py", "requirements*.txt", "requirements/**", "a/**/b.?"])
    yes = ["setup.py", "requirements-cuda.txt", "requirements/x/y.txt", "a/b.c", "a/x/y/b.c"]
    no = [
        "x/setup.py",
        "setup_py",
        "requirements",
        "requirements/../x"[:12],
        "requirements-a/b.txt",
        "a/xb.c",
        "a/b.cc",
    ]
    assert all(map(matches, yes))
    assert not any(map(matches, no))


# Versions ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tag", "distance", "version"),
    [
        ("v0.9.2", 0, "0.9.2"),
        ("v0.9.2", 17, "0.9.3.dev17"),
        ("v0.9.0.1", 2, "0.9.0.2.dev2"),
        ("v0.9.2rc1", 3, "0.9.2rc2.dev3"),
        ("v0.6.4.post1", 1, "0.6.4.post2.dev1"),
        ("v0.9", 1, "0.10.dev1"),
        ("v1.0.dev0", 4, "1.0.dev4"),
    ],
)
def test_version_between_tags(tag: str, distance: int, version: str) -> None:
    assert version_after(tag, distance) == version


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(1, 10_000))
def test_a_commit_after_a_release_is_newer_than_it(numbers: list[int], distance: int) -> None:
    tag = "v" + ".".join(map(str, numbers))
    assert Version(version_after(tag, distance)) > Version(tag)
    assert Version(version_after(tag, distance)).is_devrelease


def test_near_releases() -> None:
    known = ["v0.9.0", "0.9.0.1", "0.9.1", "0.9.2", "0.9.2rc1", "0.10.0", "0.10.1", "nightly"]
    assert near_releases("0.9.3", known) == ["0.9.2", "0.9.1", "0.10.0"]
    assert near_releases("0.9.0.2", known) == ["0.9.0.1", "0.9.0", "0.9.1"]
    assert near_releases("99", known) == ["0.10.1", "0.10.0"]
    assert near_releases("0.1", known) == ["0.9.0"]
    assert near_releases("0.9.2rc2", known) == ["0.9.2rc1", "0.9.1", "0.9.2"]
    assert near_releases("maim", known) == []


# What is left behind -----------------------------------------------------------------------------
def test_remains_of_a_killed_process_are_cleared(
    index: Indexes, ask: Ask, cache: Cache, tmp_path: Path
) -> None:
    pin = resolve(ask("0.9.2", indexes=index), cache)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = tmp_path / f".tree.partial-{ended.pid}-x", tmp_path / f".tree.partial-{os.getpid()}-y"
    for folder in (dead, alive):
        (folder / "tree").mkdir(parents=True)
        os.utime(folder, (0, 0))
    fetch(pin, tmp_path / "tree", cache)
    assert not dead.exists()
    assert alive.exists()
    assert (tmp_path / "tree/setup.py").exists()


def test_cache_that_cannot_be_written(index: Indexes, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuilderError):
        resolve(ask("0.9.2", indexes=index), Cache(tmp_path / "file"))
