"""Fixtures of the source stage's tests: a repository, a server, an isolated machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from source_helpers import Heard, Reply, Repository, Server, write_tree

from vllm_builder.cache import Cache
from vllm_builder.indexes import Indexes
from vllm_builder.stages.source import SourceRequest


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, credential or git setting of the machine takes part; no test waits between tries."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("GIT_", "REQUESTS_", "CURL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setattr("vllm_builder.stages.source.http.BACKOFF", 0.0)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """v0.9.0, v0.9.1 (annotated), v0.9.2, v0.10.0rc1, two commits more; branch ``feature`` off v0.9.2."""
    repo = Repository(tmp_path / "upstream")
    for version, annotated in (("0.9.0", False), ("0.9.1", True), ("0.9.2", False)):
        write_tree(repo.path, version, pkg_info=False)
        repo.commit(version)
        repo("tag", *(["-a", "-m", version] if annotated else []), f"v{version}")
    repo("checkout", "--quiet", "-b", "feature")
    for _ in range(3):
        repo.commit("feature")
    repo("checkout", "--quiet", "main")
    repo.commit("rc")
    repo("tag", "v0.10.0rc1")
    repo.commit("one")
    repo.commit("two")
    return repo


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.seen.append((self.path, dict(self.headers)))
            queue = state.replies.get(self.path)
            reply = Reply(status=404) if not queue else queue.pop(0) if len(queue) > 1 else queue[0]
            body, status = reply.body, reply.status
            wanted = self.headers.get("Range", "")
            if wanted and reply.ranges and status == 200:
                body, status = body[int(wanted.removeprefix("bytes=").rstrip("-")) :], 206
            self.send_response(status)
            self.send_header("Content-Type", reply.type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if reply.cut is None else body[: reply.cut])
            if reply.cut is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def ask() -> Callable[..., SourceRequest]:
    """A request with nothing configured but what the test names."""

    def make(version: str, kind: str = "auto", **further: object) -> SourceRequest:
        values: dict[str, object] = {
            "version": version,
            "kind": kind,
            "git_url": "http://127.0.0.1:1/none.git",
            "indexes": Indexes(index_url="http://127.0.0.1:1/simple"),
        }
        return SourceRequest.model_validate(values | further)

    return make
