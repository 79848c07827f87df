"""Tiny wheels for an index, and an S3-speaking server on loopback whose conditional puts are atomic."""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from wheel_helpers import write_wheel

from vllm_builder.index import pages
from vllm_builder.index.manifest import Snapshot, load
from vllm_builder.index.model import Page
from vllm_builder.index.storage.base import Storage
from vllm_builder.wheelfile.record import BUILD_RECORD, BuildRecord

BUCKET = "wheels"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-never-shown",
    "AWS_DEFAULT_REGION": "us-east-1",
}

READ_BY_ALL = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{BUCKET}/*",
        }
    ],
}
"""A policy of the bucket: clients that install have no key."""


def in_threads(what: Callable[[], None], number: int = 4) -> None:
    """Do the same several times at once, and wait for all."""
    threads = [threading.Thread(target=what) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def make_wheel(
    folder: Path,
    name: str = "demo",
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    build: str = "",
    requires_python: str = ">=3.9",
    requires: Iterable[str] = (),
    summary: str = "",
    body: str = "x = 1\n",
    record: BuildRecord | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """A tiny installable wheel, the same bytes for the same arguments.

    Args:
        version: with a local part as in ``1.0+cu130`` for a variant.
        body: the text of its one module, ``NAME/__init__.py``: another one gives other bytes under the same name.
        record: travels in its dist-info, as in wheels of our own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    escaped = name.replace("-", "_")
    info = f"{escaped}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Summary: {summary}\n" if summary else ""
    metadata += f"Requires-Python: {requires_python}\n" if requires_python else ""
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    pure = "true" if tag.endswith("-none-any") else "false"
    wheel = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    wheel += f"Build: {build}\n" if build else ""
    inside = {f"{escaped}/__init__.py": body.encode(), **(files or {})}
    if record is not None:
        inside[f"{info}/{BUILD_RECORD}"] = record.to_json().encode()
    filename = "-".join(filter(None, (escaped, version, build, tag))) + ".whl"
    return write_wheel(folder, filename, files=inside, info=info, metadata=metadata + "\n", wheel=wheel)


def assert_sound(storage: Storage, *, settled: bool = True) -> Snapshot | None:
    """The manifest can be read, and what it and the pages name is there with the right hash.

    Args:
        settled: each page is also what the manifest says.
    """
    snapshot = load(storage)
    files = [file for _, file in snapshot.files()] if snapshot is not None else []
    for file in files:
        wheel, sidecar = storage.read(file.key), storage.read(file.metadata_key)
        assert wheel is not None, file.key
        assert sidecar is not None, file.metadata_key
        assert hashlib.sha256(wheel.data).hexdigest() == file.sha256
        assert hashlib.sha256(sidecar.data).hexdigest() == file.metadata_sha256
    keys = {found.key for found in storage.list("")}
    for key in keys:
        page = key.removesuffix("index.json")
        if page == key or page.startswith(("manifest/", "files/", "landing/", "journal/")):
            continue
        blob = storage.read(key)
        assert blob is not None
        for one in json.loads(blob.data).get("files", ()):
            target = posixpath.normpath(page + unquote(one["url"]))
            assert {target, target + ".metadata"} <= keys, (key, target)
    if settled and snapshot is not None:
        wanted = {
            (channel, variant, project)
            for variant, file in snapshot.files()
            for channel in file.channels
            for project in (file.project, "")
        }
        for channel, variant, project in wanted:
            page = Page(channel=channel, variant=variant, project=project)
            for key, data, _ in pages.objects(storage, snapshot, page):
                blob = storage.read(key)
                assert blob is not None, key
                assert _without_revision(blob.data) == _without_revision(data), key
    return snapshot


def _without_revision(data: bytes) -> bytes:
    return re.sub(rb'_revision": ?\d+|revision" content="\d+"', b"", data)


@dataclass
class Request:
    """One that came in, as a fault sees it. ``path`` with the bucket, without the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: str


Fault = Callable[[Request], int | str | None]
"""A status to answer with (nothing is stored), ``"cut"`` to hang up before anything is stored, ``"stop"`` to hang up in the
middle of an upload, ``"lost"`` to do what was asked and hang up in place of an answer, or None to serve as usual."""


@dataclass
class S3Server:
    """``url`` is the endpoint; ``bucket`` is there. ``env`` is what a client needs in its environment."""

    url: str
    bucket: str
    env: dict[str, str]
    faults: list[Fault] = field(default_factory=list)
    """Asked in their order; the first that answers decides."""
    seen: list[Request] = field(default_factory=list)

    def fail(self, status: int | str, *, method: str = "", path: str = "", times: int = 1 << 30) -> None:
        """Answer requests of a method whose path contains a text with a status (or ``cut``, ``lost``), so many times."""
        left = [times]

        def fault(request: Request) -> int | str | None:
            if left[0] > 0 and method in {"", request.method} and path in request.path:
                left[0] -= 1
                return status
            return None

        self.faults.append(fault)


class _Hangup(Exception):
    pass


def _guarded(application: Any, server: S3Server) -> Any:
    """The application, one request at a time.

    moto looks whether there is an object, and puts it, in two steps: under threads two creates may both succeed. It also
    stores what came of an upload that was cut off; a real store refuses that.
    """
    lock = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        headers = {k[5:].replace("_", "-").lower(): v for k, v in environ.items() if k.startswith("HTTP_")}
        request = Request(
            environ["REQUEST_METHOD"], environ["PATH_INFO"], headers, environ.get("QUERY_STRING", "")
        )
        server.seen.append(request)
        decided = next((found for fault in server.faults if (found := fault(request)) is not None), None)
        length = environ.get("CONTENT_LENGTH")
        if decided == "stop":
            environ["wsgi.input"].read(int(length or 0) // 2)
            raise _Hangup
        body = environ["wsgi.input"].read(int(length)) if length else b""
        if environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read()
        if length and len(body) < int(length):
            raise _Hangup
        environ["wsgi.input"] = io.BytesIO(body)
        if decided == "cut":
            raise _Hangup
        if isinstance(decided, int):
            return _refusal(decided, start_response)
        with lock:
            answer = list(application(environ, start_response))
        if decided == "lost":
            raise _Hangup
        return answer

    return serve


_CODES = {
    403: "AccessDenied",
    404: "NoSuchBucket",
    412: "PreconditionFailed",
    500: "InternalError",
    503: "SlowDown",
}


def _refusal(status: int, start_response: Any) -> list[bytes]:
    code = _CODES.get(status, "Error")
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>told to fail</Message></Error>'.encode()
    start_response(
        f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
    )
    return [text]


@contextmanager
def s3_server(bucket: str = BUCKET) -> Iterator[S3Server]:
    """An S3-speaking server on loopback, with an empty bucket."""
    from moto.backends import get_backend
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):  # type: ignore[misc]
        def log(self, *arguments: object) -> None:
            del arguments

        def run_wsgi(self) -> None:
            try:
                super().run_wsgi()
            except _Hangup:
                self.close_connection = True

    server = S3Server("", bucket, {})
    application = _guarded(DomainDispatcherApplication(create_backend_app), server)
    web = make_server(
        "127.0.0.1", 0, application, threaded=True, request_handler=Quiet, passthrough_errors=True
    )
    web.daemon_threads = True  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{web.server_port}"
    server.env = {**CREDENTIALS, "AWS_ENDPOINT_URL": server.url}
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        _create_bucket(server)
        server.seen.clear()
        yield server
    finally:
        web.shutdown()
        web.server_close()
        thread.join(10)
        get_backend("s3").reset()


def _create_bucket(server: S3Server) -> None:
    s3_client(server).create_bucket(Bucket=server.bucket)


def s3_client(server: S3Server) -> Any:
    """boto3's client of the server, to look at what lies there."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


def use_server(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the environment of this process to the server, and to no other account.

    Returns:
        what ``--to`` is.
    """
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return f"s3://{server.bucket}/team"
