"""What was published or yanked a moment ago is seen at once, and what a page names is there at any moment."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests
from index_helpers import BUCKET, READ_BY_ALL, make_wheel, s3_client, s3_server, use_server
from web_helpers import Clients, nginx

from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.manifest import Draft
from vllm_builder.index.model import Yanked
from vllm_builder.index.pages import JSON_TYPE
from vllm_builder.index.publishing import publish
from vllm_builder.index.serving import Server, nginx_config
from vllm_builder.index.storage import open_storage
from vllm_builder.index.storage.base import Storage
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    lines: list[str] = []
    server = Server(folder, log=lines.append)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server.url, lines
    finally:
        server.stop()
        thread.join(10)


@contextmanager
def place(kind: str, base: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[Storage, str]]:
    """An empty index, and where clients find it."""
    folder = base / "index"
    folder.mkdir()
    if kind == "serve":
        with served(folder) as (url, _):
            yield Folder(folder), url
    elif kind == "nginx":
        with nginx(folder, base / "nginx", lambda port: nginx_config(folder, listen=f"127.0.0.1:{port}")) as (
            port,
            _,
        ):
            yield Folder(folder), f"http://127.0.0.1:{port}/"
    else:
        with s3_server() as s3:
            storage = open_storage(use_server(s3, patch))
            s3_client(s3).put_bucket_policy(Bucket=s3.bucket, Policy=json.dumps(READ_BY_ALL))
            yield storage, f"{s3.url}/{BUCKET}/team/"


@pytest.mark.parametrize("kind", ["serve", "nginx", "s3"])
def test_caches_of_clients_hold_nothing_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = Clients.at(tmp_path / "home")

    def add(version: str) -> None:
        publish(storage, [read_candidate(make_wheel(tmp_path / "wheels", version=f"{version}+cpu"))])

    def seen() -> set[str]:
        options = ("--index-url", url + "release/cpu/")
        compiled = clients.uv("pip", "compile", "--no-header", "--no-annotate", "-", *options, given="demo\n")
        # With its cache, unlike in other tests.
        listed = clients.pip("index", "versions", "demo", *options, cache=True)
        return {compiled.stdout.strip().removeprefix("demo=="), listed.stdout.split("(")[1].split(")")[0]}

    with place(kind, tmp_path, monkeypatch) as (storage, url):
        add("1.0")
        assert seen() == {"1.0+cpu"}
        add("1.1")
        assert seen() == {"1.1+cpu"}

        def yank(draft: Draft) -> None:
            files = draft.files("demo", "cpu")
            name = "demo-1.1+cpu-py3-none-any.whl"
            files[name] = files[name].model_copy(update={"yanked": Yanked(reason="no", at=draft.at)})

        change(storage, yank)
        assert seen() == {"1.0+cpu"}


def test_what_a_page_names_is_there_while_others_publish(tmp_path: Path) -> None:
    wheels = [make_wheel(tmp_path / "wheels", version=f"1.{n}+cpu") for n in range(24)]
    publish(Folder(tmp_path / "index"), [read_candidate(wheels[0])])
    failed: list[BaseException] = []

    def work(mine: list[Path]) -> None:
        try:
            for wheel in mine:
                publish(Folder(tmp_path / "index"), [read_candidate(wheel)])
        except BaseException as error:  # noqa: BLE001  # looked at below
            failed.append(error)

    workers = [threading.Thread(target=work, args=(wheels[1 + k :: 3],)) for k in range(3)]
    with served(tmp_path / "index") as (url, _), requests.Session() as session:
        session.trust_env = False
        for worker in workers:
            worker.start()
        known: set[str] = set()
        last = 0
        while True:
            ended = not any(worker.is_alive() for worker in workers)
            page = session.get(url + "release/cpu/demo/", headers={"Accept": JSON_TYPE})
            assert page.status_code == 200
            found = page.json()
            assert found["meta"]["_revision"] >= last
            last = found["meta"]["_revision"]
            assert known <= {one["filename"] for one in found["files"]}
            for one in found["files"]:
                if one["filename"] in known:
                    continue
                known.add(one["filename"])
                wheel = urljoin(page.url, one["url"])
                assert hashlib.sha256(session.get(wheel).content).hexdigest() == one["hashes"]["sha256"]
                sidecar = session.get(wheel + ".metadata").content
                assert hashlib.sha256(sidecar).hexdigest() == one["core-metadata"]["sha256"]
            if ended:
                break
    assert not failed
    assert known == {wheel.name for wheel in wheels}
