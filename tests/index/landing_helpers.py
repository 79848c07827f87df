"""An index such as a team has, of tiny wheels: releases, nightlies, variants, machines, a withdrawn one, a signed one."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from index_helpers import make_wheel

from vllm_builder.index.candidates import Candidate, read_candidate
from vllm_builder.index.manifest import Draft
from vllm_builder.index.model import Checked, Yanked
from vllm_builder.index.publishing import publish
from vllm_builder.index.storage.base import Storage
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change
from vllm_builder.wheelfile.record import BuildRecord

ARCHS = {
    "cu126": ("7.0", "7.5", "8.0", "8.6", "8.9", "9.0a"),
    "cu129": ("8.0", "8.6", "8.9", "9.0a", "10.0a"),
    "cu130": ("8.0", "8.6", "8.9", "9.0a", "10.0f", "12.0f"),
    "cpu": (),
}
COMMIT = "4f8d3c0a9b1e27d56c0f3a4b8e92d1c7a6b5e4f3"
SUMMARY = "A high-throughput and memory-efficient inference and serving engine for LLMs"


def record(variant: str, release: str = "v0.9.2", commit: str = "", torch: str = "2.11.0") -> BuildRecord:
    cuda = variant.startswith("cu")
    return BuildRecord(
        builder="vllm-builder 0.1.0",
        digest="d" * 64,
        release=release,
        version=release.removeprefix("v"),
        device="cuda" if cuda else variant,
        archs=ARCHS[variant],
        torch=f"{torch}+{variant}",
        toolkit=f"{variant[2:4]}.{variant[4:]}" if cuda else "",
        inputs={"source": {"identity": f"git:{commit}"}} if commit else {},
    )


def candidate(
    folder: Path,
    version: str,
    variant: str,
    *,
    channel: str,
    tag: str = "cp38-abi3-manylinux_2_28_x86_64",
    name: str = "vllm",
    commit: str = "",
    checked: Checked | None = None,
    provenance: bytes = b"",
    **more: Any,
) -> Candidate:
    wheel = make_wheel(
        folder / variant,
        name,
        version,
        tag=tag,
        record=record(variant, commit=commit) if variant in ARCHS else None,
        **{"summary": SUMMARY, "requires_python": ">=3.10,<3.14", **more},
    )
    found = read_candidate(wheel, channels=[channel], variant=variant)
    return replace(found, checked=checked or Checked(), provenance=provenance)


def put(storage: Storage, candidates: list[Candidate], age: timedelta = timedelta(0)) -> None:
    publish(storage, candidates, clock=lambda: datetime.now(UTC) - age)


def yank(storage: Storage, project: str, version: str, reason: str) -> None:
    def change_it(draft: Draft) -> None:
        for _, files in draft.everywhere():
            for name, file in list(files.items()):
                if (file.project, file.version) == (project, version):
                    files[name] = file.model_copy(update={"yanked": Yanked(reason=reason, at=draft.at)})

    change(storage, change_it)


ENVELOPE = json.dumps(
    {"payloadType": "application/vnd.in-toto+json", "payload": "e30=", "signatures": [{"sig": "AA=="}]}
)
STATEMENT = json.dumps({"_type": "https://in-toto.io/Statement/v1", "subject": []})


def make_index(folder: Path) -> Path:
    """The folder of the index."""
    storage = Folder(folder / "index")
    made = functools.partial(candidate, folder / "wheels")
    days = functools.partial(timedelta, 1)
    both = ("cp38-abi3-manylinux_2_28_x86_64", "cp38-abi3-manylinux_2_28_aarch64")
    put(
        storage,
        [made("0.8.5+cu126", "cu126", channel="release", checked=Checked(result="warnings", warnings=2))],
        days() * 120,
    )
    put(storage, [made("0.9.0+cu129", "cu129", channel="release")], days() * 75)
    put(
        storage,
        [
            *(
                made("0.9.2+cu130", "cu130", channel="release", tag=tag, provenance=ENVELOPE.encode())
                for tag in both
            ),
            made("0.9.2+cu129", "cu129", channel="release", provenance=STATEMENT.encode()),
            made("0.9.2+cpu", "cpu", channel="release", tag="cp312-cp312-manylinux_2_28_x86_64"),
        ],
        days() * 33,
    )
    put(storage, [made("0.9.3.dev7+g1a2b3c4.cu129", "cu129", channel="nightly")], days() * 5)
    reason = "no time: the runner's disk was full"
    put(
        storage,
        [made("0.9.3.dev9+g4f8d3c0.cu130", "cu130", channel="nightly", commit=COMMIT,
              checked=Checked(result="not verified", reason=reason))],
        timedelta(hours=7),
    )  # fmt: skip
    put(storage, [made("0.9.1+cu129", "cu129", channel="release")], timedelta(hours=6))
    yank(storage, "vllm", "0.9.1+cu129", "Wrong results with FP8 on H100")
    return folder / "index"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Any web server: files, and nothing known of indexes. The address of the folder, with a slash at its end."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
