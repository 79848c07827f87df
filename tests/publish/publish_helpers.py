"""A publisher, build records and keys for tests of publishing and of provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from vllm_builder.cache import Cache
from vllm_builder.errors import BuilderError
from vllm_builder.events import Event
from vllm_builder.stages.publish import PublishRequest, PublishResult, publish
from vllm_builder.wheelfile.record import BuildRecord

CUTLASS = "f" * 40
DIGEST = "d" * 64


class Publisher:
    """Publishes into ``folder``, and keeps what was told."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "index"
        self.cache = Cache(tmp_path / "cache")
        self.events: list[Event] = []
        self.environ: dict[str, str] = {"HOME": str(tmp_path)}

    def __call__(self, *wheels: Path, **more: Any) -> PublishResult:
        self.events.clear()
        request = PublishRequest(wheels=wheels, **{"to": str(self.folder), **more})
        return publish(request, cache=self.cache, environ=self.environ, emit=self.events.append)

    @property
    def told(self) -> str:
        return "\n".join(str(event) for event in self.events)


def record(**more: Any) -> BuildRecord:
    """What a build for CUDA says, with something of everything."""
    inputs = {
        "source": {"identity": "git:" + "a" * 40, "release": "1.0"},
        "device": "cuda",
        "externals": {
            "format": 2,
            "release": "1.0",
            "externals": [
                {
                    "name": "cutlass",
                    "revision": "v4",
                    "written": "v4",
                    "folder": "vllm/third_party/cutlass.src",
                    "commit": CUTLASS,
                    "tree": "b" * 40,
                    "without": ["docs"],
                    "submodules": [
                        {
                            "path": "csrc/inner",
                            "commit": "c" * 40,
                            "tree": "e" * 40,
                            "without": [],
                            "submodules": [],
                        }
                    ],
                }
            ],
        },
        "folders": {"VLLM_FLASH_ATTN_SRC_DIR": "9" * 64},
        "patches": {"steps": [{"operation": {"action": "replace_text", "text": "/home/someone/secret"}}]},
        "recipe": {"values": {"arch": ["10.0"], "git_url": "https://user:hunter2@git.example/vllm"}},
        "compile": {
            "build_type": "Release",
            "limited_api": "cp38",
            "variables": {
                "FLAG": "1",
                "CFLAGS": "-O2 -I/home/someone/include",
                "SOME_TOKEN": "hunter2",
                "MIRROR": "https://user:hunter2@host/x",
            },
            "compilers": [
                {"language": "CXX", "id": "GNU", "version": "12.2.0", "target": "x86_64-linux-gnu"},
                {
                    "language": "CUDA",
                    "id": "NVIDIA",
                    "version": "13.0.48",
                    "arguments": ["-ccbin", "/usr/bin/g++"],
                },
            ],
        },
        "platform": "linux-x86_64",
        "python_abi": None,
        "finish": {"layout": 1, "torch": "torch~=2.11.0", "epoch": 315532800},
        "rust": "cargo 1.95.0 (abc 2026-01-01)",
    }
    given: dict[str, Any] = {
        "builder": "vllm-builder 0.1.0",
        "digest": DIGEST,
        "release": "1.0",
        "version": "1.0+cu130",
        "device": "cuda",
        "archs": ("10.0",),
        "torch": "2.11.0+cu130",
        "toolkit": "13.0",
        "left_out": {"_flashmla_C": "no architecture for it"},
        "inputs": inputs,
        "tools": {"cmake": "4.4.4"},
    }
    return BuildRecord(**(given | more))


def key_pair(
    folder: Path, kind: str = "ed25519", *, name: str = "", passphrase: str = ""
) -> tuple[Path, Path]:
    """A private and a public key as PEM files."""
    made: Any = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
        "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    }[kind]()
    closed: Any = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    private, public = folder / f"{name or kind}.pem", folder / f"{name or kind}.pub"
    private.write_bytes(
        made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, closed)
    )
    public.write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def refused(publisher: Publisher, wheel: Path, url: str, **more: Any) -> BuilderError:
    with pytest.raises(BuilderError) as caught:
        publisher(wheel, to=url, **more)
    return caught.value
