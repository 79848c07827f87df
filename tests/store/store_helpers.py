"""Wheels and records for the tests of the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vllm_builder.stages.store import Record, WheelFile, now

NAME = "vllm-0.9.2+cpu-cp38-abi3-linux_x86_64.whl"


def digest_of(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()


def make_wheel(folder: Path, content: bytes, name: str = NAME) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / name
    wheel.write_bytes(content)
    return wheel


def make_record(digest: str, wheel: Path, **more: object) -> Record:
    facts: dict[str, object] = {
        "digest": digest,
        "release": "0.9.2",
        "version": "0.9.2+cpu",
        "device": "cpu",
        "plan": {"torch": "2.13.0+cpu"},
        "wheel": WheelFile.of(wheel),
        "created": now(),
    }
    return Record.model_validate(facts | more)
