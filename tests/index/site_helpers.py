"""One index, served in each of the ways that clients have to install from."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from index_helpers import READ_BY_ALL, make_wheel, s3_client, s3_server, use_server
from web_helpers import Site, lines_of, nginx

from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.manifest import Draft
from vllm_builder.index.model import Yanked
from vllm_builder.index.publishing import publish
from vllm_builder.index.serving import Server, nginx_config
from vllm_builder.index.storage import open_storage
from vllm_builder.index.storage.base import Storage
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change

SITES = ["serve", "nginx", "nginx-static", "s3", "s3-json"]
REASON = """wrong torch: <b>"2.7"</b> & 'cu9'"""
UPLOADED = {"1.0": datetime(2026, 1, 10, tzinfo=UTC), "1.1": datetime(2026, 3, 10, tzinfo=UTC)}
LATER = datetime(2026, 5, 10, tzinfo=UTC)


def fill(storage: Storage, wheels: Path) -> None:
    """Two variants of demo-vllm: 1.0, 1.1, 1.2 (yanked), 1.3 (for no Python that there is), and what it requires."""
    for public in ("1.0", "1.1", "1.2", "1.3"):
        candidates = []
        for variant in ("cu130", "cpu"):
            folder, version = wheels / variant, f"{public}+{variant}"
            wheel = make_wheel(
                folder,
                "demo-vllm",
                version,
                requires=[f"demo-dep=={public}.*"] if public in UPLOADED else [],
                requires_python=">=4.0" if public == "1.3" else ">=3.9",
                body=f"variant = {variant!r}\n",
            )
            candidates.append(read_candidate(wheel))
            if public in UPLOADED:
                candidates.append(read_candidate(make_wheel(folder, "demo-dep", version)))
        publish(storage, candidates, clock=partial(UPLOADED.get, public, LATER))

    def yank(draft: Draft) -> None:
        for variant in ("cu130", "cpu"):
            files = draft.files("demo-vllm", variant)
            name = f"demo_vllm-1.2+{variant}-py3-none-any.whl"
            files[name] = files[name].model_copy(update={"yanked": Yanked(reason=REASON, at=draft.at)})

    change(storage, yank, clock=lambda: LATER)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[dict[str, Site]]:
    # For one module: the object store of another test is emptied with all others of this process.
    base = tmp_path_factory.mktemp("sites")
    folder = base / "index"
    fill(Folder(folder), wheels)
    with ExitStack() as stack:
        lines: list[str] = []
        server = Server(folder, log=lines.append)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        stack.callback(thread.join, 10)
        stack.callback(server.stop)
        found = {"serve": Site("serve", server.url, lambda: list(lines), json=True)}

        def ours(port: int) -> str:
            return nginx_config(folder, listen=f"127.0.0.1:{port}")

        def static(port: int) -> str:
            # What a person writes who knows nothing of such pages.
            return f"server {{ listen 127.0.0.1:{port}; root {folder}; types {{ text/html html; }} }}"

        for name, config in (("nginx", ours), ("nginx-static", static)):
            port, log = stack.enter_context(nginx(folder, base / name, config))
            found[name] = Site(name, f"http://127.0.0.1:{port}/", lines_of(log), json=name == "nginx")

        s3 = stack.enter_context(s3_server())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        fill(open_storage(use_server(s3, patch)), wheels)
        patch.undo()
        s3_client(s3).put_bucket_policy(Bucket=s3.bucket, Policy=json.dumps(READ_BY_ALL))

        def log_of_s3() -> list[str]:
            return [f"{one.method} {one.path} ?" for one in s3.seen]

        found["s3"] = Site("s3", f"{s3.url}/{s3.bucket}/team/", log_of_s3, json=False)
        found["s3-json"] = Site("s3-json", f"{s3.url}/{s3.bucket}/team/json/", log_of_s3, json=True)
        yield found
