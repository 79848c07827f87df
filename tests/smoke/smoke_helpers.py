"""Tiny wheels with really compiled extension modules, and a stand-in for vLLM's server."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sysconfig
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_builder.cache import Cache
from vllm_builder.events import Event
from vllm_builder.indexes import Indexes
from vllm_builder.stages.smoke import SmokeOptions, SmokeReport, Trial, smoke


class Place:
    """``run(wheel, ...)``: the report; whatever was made for it is gone then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = Cache(folder / "cache")
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.events: list[Event] = []

    def run(
        self,
        wheel: Path,
        environ: dict[str, str] | None = None,
        indexes: Indexes | None = None,
        **options: Any,
    ) -> SmokeReport:
        limits = {"import_limit": 60, "start_limit": 60, "answer_limit": 30}
        return smoke(
            SmokeOptions(wheel=wheel, **{**limits, **options}),
            self.cache,
            environ={**os.environ, **(environ or {})},
            indexes=indexes or Indexes(no_index=True),
            emit=self.events.append,
        )

    def left(self) -> list[str]:
        """What a smoke test should have removed."""
        rooms = [path.name for path in (self.cache.root / "smoke").glob("room-*")]
        return rooms + [path.name for path in self.temporary.iterdir()]


def trial(report: SmokeReport, name: str) -> Trial:
    (found,) = [one for one in report.trials if one.name == name]
    return found


_MODULE = """
#define Py_LIMITED_API 0x03080000
#include <Python.h>
%(before)s
static struct PyModuleDef def = {PyModuleDef_HEAD_INIT, "%(name)s", 0, -1, 0};
PyMODINIT_FUNC PyInit_%(name)s(void) { %(inside)s return PyModule_Create(&def); }
"""


def compiled(
    folder: Path, name: str, *, before: str = "", inside: str = "", flags: tuple[str, ...] = ()
) -> bytes:
    """An extension module: ``before`` stands before its init function, ``inside`` is what that does first."""
    folder.mkdir(parents=True, exist_ok=True)
    source, library = folder / f"{name}.c", folder / f"{name}.abi3.so"
    source.write_text(_MODULE % {"name": name, "before": before, "inside": inside})
    include = sysconfig.get_path("include")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(library), *flags], check=True
    )
    return library.read_bytes()


def library(folder: Path, soname: str, text: str = "int of_a_library(void) { return 1; }") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source, made = folder / "library.c", folder / soname
    source.write_text(text)
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", str(source), "-o", str(made)]
    subprocess.run(command, check=True)
    return made


def wheel(
    folder: Path,
    files: Mapping[str, str | bytes],
    *,
    name: str = "vllm",
    version: str = "1.0",
    tag: str = "cp38-abi3-linux_x86_64",
    metadata: str = "",
) -> Path:
    """A wheel that can be installed."""
    info = f"{name}-{version}.dist-info"
    everything: dict[str, str | bytes] = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    lines = []
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in everything.items():
            data = content.encode() if isinstance(content, str) else content
            archive.writestr(member, data)
            hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{member},sha256={hashed},{len(data)}\n")
        archive.writestr(f"{info}/RECORD", "".join(lines) + f"{info}/RECORD,,\n")
    return path


SERVER = '''
"""Answers as vLLM's server does, or fails as FAKE_SERVER says."""
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
arguments = {k: sys.argv[i + 1] for i, k in enumerate(sys.argv) if k.startswith("--") and i + 1 < len(sys.argv)}
MODE = os.environ.get("FAKE_SERVER", "good")
MODEL = arguments["--served-model-name"]
PIDS = os.environ.get("FAKE_PIDS")
if PIDS:
    # One that leaves the session and does not listen to TERM.
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
    with open(PIDS + ".part", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(PIDS + ".part", PIDS)
if MODE == "dies":
    print("Loading weights")
    raise RuntimeError("the engine has no kernels")
if MODE == "taken":
    raise OSError(98, "Address already in use")
if MODE == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if MODE == "sleeps":
    print("still loading", flush=True)
    time.sleep(600)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *a):
        pass

    def answer(self, value, status=200):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/health":
            return self.answer(b"", 503 if MODE == "ill" else 200)
        served = "another" if MODE == "another" else MODEL
        return self.answer({"object": "list", "data": [{"id": served}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if MODE == "garbage":
            return self.answer(b"<html>sorry</html>")
        if MODE == "leaves":
            os._exit(7)
        if MODE == "silent":
            time.sleep(600)
        if MODE == "error":
            return self.answer({"error": "no"}, 500)
        chat = "messages" in asked
        choice = {"message": {"role": "assistant", "content": "x"}} if chat else {"text": "x"}
        choice["finish_reason"] = "length"
        if MODE == "shapeless":
            choice = {}
        tokens = 3 if MODE == "short" else asked["max_tokens"]
        self.answer({
            "object": "chat.completion" if chat else "text_completion", "model": asked["model"],
            "choices": [choice], "usage": {"completion_tokens": tokens, "prompt_tokens": 5},
        })


ThreadingHTTPServer(("127.0.0.1", int(arguments["--port"])), Handler).serve_forever()
'''


def serving_wheel(folder: Path) -> Path:
    packages = ("vllm", "vllm/entrypoints", "vllm/entrypoints/openai")
    files = {f"{package}/__init__.py": "" for package in packages}
    return wheel(
        folder,
        {**files, "vllm/entrypoints/openai/api_server.py": SERVER},
        version="1.0+cpu",
        tag="py3-none-any",
    )
