"""git: releases, other refs, versions between releases, and hosts that do not answer."""

from __future__ import annotations

import base64
import functools
import http.server
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from source_helpers import Heard, Repository

from vllm_builder.cache import Cache
from vllm_builder.errors import OfflineMissing, ReleaseNotFound, SourceError
from vllm_builder.stages.source import SourcePin, SourceRequest, fetch, resolve
from vllm_builder.stages.source.gitrun import GitFailed, run_git
from vllm_builder.stages.source.mirror import Mirror, is_local

Ask = Callable[..., SourceRequest]


@pytest.fixture
def git(repository: Repository, cache: Cache, ask: Ask) -> Callable[..., SourcePin]:
    def find(version: str, **further: object) -> SourcePin:
        return resolve(ask(version, "git", **{"git_url": str(repository.path), **further}), cache)

    return find


@pytest.mark.parametrize("wanted", ["v0.9.2", "0.9.2"])
def test_release_is_the_commit_of_its_tag(
    git: Callable[..., SourcePin], repository: Repository, wanted: str
) -> None:
    pin = git(wanted)
    assert (pin.kind, pin.release, pin.name) == ("git", "0.9.2", "v0.9.2")
    assert pin.identity == f"git:{repository('rev-parse', 'v0.9.2')}"
    assert pin.location == str(repository.path)


def test_annotated_tag_is_followed_to_its_commit(
    git: Callable[..., SourcePin], repository: Repository
) -> None:
    assert git("0.9.1").identity == f"git:{repository('rev-parse', 'v0.9.1^{commit}')}"
    assert repository("rev-parse", "v0.9.1") != repository("rev-parse", "v0.9.1^{commit}")


def test_latest_is_the_newest_final_release(git: Callable[..., SourcePin]) -> None:
    assert git("latest").release == "0.9.2"


@pytest.mark.parametrize(
    ("ref", "version"),
    [
        ("feature", "0.9.3.dev3"),
        ("main", "0.10.0rc2.dev2"),
        ("v0.10.0rc1", "0.10.0rc1"),
        ("refs/heads/feature", "0.9.3.dev3"),
    ],
)
def test_versions_between_releases(
    git: Callable[..., SourcePin], repository: Repository, ref: str, version: str
) -> None:
    pin = git(ref)
    assert (pin.release, pin.identity) == (version, f"git:{repository('rev-parse', ref)}")


@pytest.mark.parametrize("length", [40, 9])
def test_commits_full_and_abbreviated(
    git: Callable[..., SourcePin], repository: Repository, length: int
) -> None:
    commit = repository("rev-parse", "feature~1")
    pin = git(commit[:length])
    assert (pin.identity, pin.release) == (f"git:{commit}", "0.9.3.dev2")
    tagged = repository("rev-parse", "v0.9.0")
    assert git(tagged[:length]).release == "0.9.0"


def test_same_commit_is_the_same_source_under_any_name(
    git: Callable[..., SourcePin], repository: Repository
) -> None:
    by_tag = git("v0.9.2")
    by_commit = git(repository("rev-parse", "v0.9.2"))
    assert (by_tag.identity, by_tag.release) == (by_commit.identity, by_commit.release)


@pytest.mark.parametrize("wanted", ["0.9.3", "nope", "deadbeef1", "a..b", "-x", "a b"])
def test_what_does_not_exist(git: Callable[..., SourcePin], wanted: str) -> None:
    with pytest.raises(ReleaseNotFound) as caught:
        git(wanted)
    assert caught.value.next
    if wanted == "0.9.3":
        assert "0.9.2, 0.9.1" in caught.value.next


def test_only_the_wanted_commit_is_fetched(
    git: Callable[..., SourcePin], cache: Cache, repository: Repository
) -> None:
    git("v0.9.2", git_url=repository.path.as_uri())
    (mirror,) = cache.git.glob("*.git")
    commits = run_git(["--git-dir", str(mirror), "rev-list", "--all"]).split()
    assert commits == [repository("rev-parse", "v0.9.2")]


def test_tree_is_exact_and_reproducible(
    git: Callable[..., SourcePin], repository: Repository, cache: Cache, tmp_path: Path
) -> None:
    repository("checkout", "--quiet", "v0.9.2")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.gitconfig").write_text("[core]\n\tautocrlf = true\n")
    pin = git("v0.9.2")
    for name in ("one", "two"):
        fetch(pin, tmp_path / name, cache)
        left = {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in (tmp_path / name).rglob("*")
            if p.is_file()
        }
        right = {
            p.relative_to(repository.path): p.read_bytes()
            for p in repository.path.rglob("*")
            if p.is_file() and ".git" not in p.parts
        }
        assert left == right
        when = int(repository("show", "-s", "--format=%ct", "v0.9.2"))
        assert {path.stat().st_mtime for path in (tmp_path / name).rglob("*") if path.is_file()} == {when}
        assert (tmp_path / name / "tools/run.sh").stat().st_mode & stat.S_IXUSR
        assert not (tmp_path / name / "setup.py").stat().st_mode & stat.S_IXUSR


def test_link_out_of_the_tree_is_refused(
    repository: Repository, git: Callable[..., SourcePin], cache: Cache, tmp_path: Path
) -> None:
    (repository.path / "evil").symlink_to("../../outside")
    repository.commit("evil")
    repository("tag", "v0.9.9")
    with pytest.raises(SourceError, match="leaves the tree"):
        fetch(git("v0.9.9"), tmp_path / "tree", cache)
    assert not (tmp_path / "tree").exists()


def test_exact_release_is_asked_once_and_a_branch_each_time(
    git: Callable[..., SourcePin], repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://git.invalid/vllm.git"
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{repository.path.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", url)
    first, branch = git("v0.9.2", git_url=url), git("feature", git_url=url)
    repository("tag", "--force", "v0.9.2", "main")
    repository("checkout", "--quiet", "feature")
    moved = repository.commit("more")
    assert git("v0.9.2", git_url=url).identity == first.identity
    assert git("feature", git_url=url).identity == f"git:{moved}" != branch.identity
    assert git("v0.9.2", git_url=url, refresh=True).identity == f"git:{repository('rev-parse', 'main')}"


def test_a_repository_on_this_machine_is_asked_each_time(
    git: Callable[..., SourcePin], repository: Repository
) -> None:
    first = git("v0.9.2")
    repository("tag", "--force", "v0.9.2", "main")
    assert git("v0.9.2").identity == f"git:{repository('rev-parse', 'main')}" != first.identity


def test_offline_works_from_the_mirror_alone(
    git: Callable[..., SourcePin], repository: Repository, cache: Cache, tmp_path: Path, ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    url = "https://git.invalid/vllm.git"
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{repository.path.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", url)
    pin = git("v0.9.2", git_url=url)
    assert pin.location == url
    git("feature", git_url=url)
    shutil.rmtree(repository.path)
    assert git("v0.9.2", git_url=url, offline=True).identity == pin.identity
    assert git("feature", git_url=url, offline=True).release == "0.9.3.dev3"
    fetch(pin, tmp_path / "tree", cache, offline=True)
    assert (tmp_path / "tree/setup.py").exists()
    with pytest.raises(OfflineMissing) as caught:
        git("v0.9.1", git_url=url, offline=True)
    assert "0.9.1" in caught.value.details[0]
    for mirror in cache.git.glob("*.git"):
        shutil.rmtree(mirror)
    with pytest.raises(OfflineMissing):
        fetch(pin, tmp_path / "again", cache, offline=True)
    with pytest.raises(OfflineMissing) as caught:
        git("v0.9.2", git_url=url, offline=True)
    assert pin.identity in caught.value.details[0]


def test_local_repository_needs_no_network(git: Callable[..., SourcePin]) -> None:
    assert git("v0.9.2", offline=True).release == "0.9.2"


def test_shallow_repository_cannot_tell_versions(
    repository: Repository, cache: Cache, tmp_path: Path, ask: Ask
) -> None:
    shallow = tmp_path / "shallow"
    subprocess.run(
        ["git", "clone", "--quiet", "--depth=1", "--branch=feature", repository.path.as_uri(), str(shallow)],
        check=True,
    )
    with pytest.raises(SourceError) as caught:
        resolve(ask("feature", "git", git_url=str(shallow)), cache)
    assert "unshallow" in caught.value.next


def test_locks_of_a_killed_process_do_not_stop_the_next(git: Callable[..., SourcePin], cache: Cache) -> None:
    git("v0.9.2")
    (mirror,) = cache.git.glob("*.git")
    (mirror / "shallow.lock").write_text("")
    assert git("v0.9.1").release == "0.9.1"


def test_remote_of_the_folder_one_stands_in_plays_no_part(
    git: Callable[..., SourcePin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Repository(tmp_path / "mine")
    other("remote", "add", "origin", "http://127.0.0.1:1/mine.git")
    monkeypatch.chdir(other.path)
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    assert git("v0.9.2").release == "0.9.2"
    assert git("feature").release == "0.9.3.dev3"


# Hosts that do not answer ------------------------------------------------------------------------
@pytest.fixture
def silent() -> Iterator[str]:
    """A host that accepts connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/vllm.git"
    listener.close()
    for one in held:
        one.close()


def test_silent_host_is_given_up(
    silent: str, cache: Cache, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_builder.stages.source.mirror.LS_REMOTE_TIMEOUT", 0.5)
    with pytest.raises(SourceError) as caught:
        resolve(ask("v0.9.2", "git", git_url=silent), cache)
    assert "no answer within 0.5 seconds" in caught.value.why


def test_unreachable_host_is_one_clear_sentence(cache: Cache, ask: Ask) -> None:
    with pytest.raises(SourceError) as caught:
        resolve(ask("v0.9.2", "git", git_url="http://me:pass@127.0.0.1:1/vllm.git"), cache)
    assert "http://127.0.0.1:1/vllm.git" in caught.value.why
    assert "pass" not in str(caught.value.as_dict())


def test_no_git_at_all(cache: Cache, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SourceError, match="could not be looked for"):
        resolve(ask("v0.9.2", "git"), cache)


def test_failure_of_git_is_told_in_its_words() -> None:
    with pytest.raises(GitFailed, match="not a git command"):
        run_git(["no-such-command"])


@pytest.mark.parametrize("url", ["--upload-pack=touch /tmp/x", "-x"])
def test_url_cannot_be_an_option(url: str, cache: Cache, heard: Heard) -> None:
    with pytest.raises(SourceError):
        Mirror(url, cache, heard)


def test_what_counts_as_local(tmp_path: Path) -> None:
    assert is_local(str(tmp_path))
    assert is_local(tmp_path.as_uri())
    assert not is_local("https://example.org/vllm.git")
    assert not is_local("git@example.org:vllm.git")
    assert not is_local("host:path")


class _Guarded(http.server.SimpleHTTPRequestHandler):
    """Files for who knows the password."""

    heard: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.heard.append(given)
        if given == "Basic " + base64.b64encode(b"some one:sek:rit").decode():
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        del format, arguments


def test_credentials_of_a_url_are_in_no_argument_of_any_program(
    repository: Repository, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "served" / "vllm.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(repository.path), str(bare)], check=True)
    subprocess.run(["git", "-C", str(bare), "update-server-info"], check=True)
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    # A helper of the person's own neither answers for these credentials nor gets to know them.
    (tmp_path / "home").mkdir()
    kept = tmp_path / "kept"
    (tmp_path / "home" / ".gitconfig").write_text(f'[credential]\n\thelper = "!cat >> {kept}; true"\n')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _Guarded.heard.clear()
    handler = functools.partial(_Guarded, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://some%20one:sek%3Arit@127.0.0.1:{server.server_port}/vllm.git"
        tags = Mirror(url, cache, lambda event: None).tags()
        wrong = url.replace("rit@", "ret@")
        with pytest.raises(GitFailed) as caught:
            Mirror(wrong, cache, lambda event: None).tags()
        server.shutdown()
    assert "v0.9.2" in tags
    assert any(_Guarded.heard)
    said = trace.read_text()
    assert "remote-http" in said, "the trace does not show the programs that git runs"
    for secret in ("sek:rit", "sek%3Arit", "sek:ret", "sek%3Aret"):
        assert secret not in said
        assert secret not in str(caught.value)
    assert not kept.exists()
