"""Real servers that a shared cache lies on, each on loopback and with nothing of the machine's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from index_helpers import s3_client, s3_server
from web_helpers import nginx

WITHOUT_REDIS = "VLLM_BUILDER_TEST_WITHOUT_REDIS"
KINDS = ("folder", "nginx", "redis", "s3")


@dataclass
class CacheServer:
    """``url`` is what a person writes; ``listed`` and ``remove`` go around it."""

    url: str
    listed: Callable[[], list[str]]
    remove: Callable[[str], None]
    environ: dict[str, str] = field(default_factory=dict)
    stop: Callable[[], None] = lambda: None

    def forget(self, kind: str) -> int:
        """Remove all entries of a kind; returns how many there were."""
        found = [key for key in self.listed() if f"v1/{kind}/" in key]
        for key in found:
            self.remove(key)
        return len(found)


def of_folder(root: Path, url: str = "", **more: object) -> CacheServer:
    def keys() -> list[str]:
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())

    return CacheServer(url or str(root), keys, lambda key: (root / key).unlink(), **more)  # type: ignore[arg-type]


@contextmanager
def web_server(base: Path) -> Iterator[CacheServer]:
    """nginx with its WebDAV module."""
    root = base / "dav"
    root.mkdir()

    def config(port: int) -> str:
        return (
            f"server {{ listen 127.0.0.1:{port}; root {root}; client_max_body_size 64m; location / {{ "
            "dav_methods PUT DELETE MKCOL; create_full_put_path on; dav_access user:rw group:rw all:r; } }"
        )

    with nginx(root, base / "nginx", config) as (port, _):
        yield of_folder(root, f"http://127.0.0.1:{port}")


@contextmanager
def redis_server(base: Path, *options: str, password: str = "") -> Iterator[CacheServer]:
    """A Redis server of Debian's, in memory alone."""
    program = shutil.which("redis-server")
    if program is None:
        text = (
            f"redis-server is not installed (Debian: redis-server). {WITHOUT_REDIS}=1 leaves these tests out."
        )
        (pytest.skip if os.environ.get(WITHOUT_REDIS) == "1" else pytest.fail)(text)
    base.mkdir(parents=True, exist_ok=True)
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        command += ["--dir", str(base), *(["--requirepass", password] if password else []), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = redis.Redis(host="127.0.0.1", port=port, password=password or None)
        if _answers(client, process):
            break
        process.kill()
        process.wait()
    else:
        pytest.fail("redis-server does not start")

    def stop() -> None:
        process.kill()
        process.wait(20)

    try:
        yield CacheServer(
            f"redis://:{password}@127.0.0.1:{port}/0" if password else f"redis://127.0.0.1:{port}/0",
            lambda: sorted(key.decode() for key in client.keys("*")),
            lambda key: client.delete(key),
            stop=stop,
        )
    finally:
        client.close()
        stop()


def _answers(client: redis.Redis, process: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        try:
            return bool(client.ping())
        except redis.RedisError:
            time.sleep(0.02)
    return False


@contextmanager
def bucket_server() -> Iterator[CacheServer]:
    """An S3-speaking server."""
    with s3_server() as server:
        client = s3_client(server)

        def keys() -> list[str]:
            found = client.list_objects_v2(Bucket=server.bucket).get("Contents", ())
            return sorted(one["Key"] for one in found)

        yield CacheServer(
            f"s3://{server.bucket}/team/cache",
            keys,
            lambda key: client.delete_object(Bucket=server.bucket, Key=key),
            environ=server.env,
        )


@contextmanager
def any_server(kind: str, base: Path) -> Iterator[CacheServer]:
    if kind == "folder":
        yield of_folder(base / "shared")
    elif kind == "nginx":
        with web_server(base) as server:
            yield server
    elif kind == "redis":
        with redis_server(base / "redis") as server:
            yield server
    else:
        with bucket_server() as server:
            yield server
