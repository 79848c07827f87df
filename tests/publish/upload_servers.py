"""Servers on loopback that wheels are uploaded to: a real devpi, a real pypiserver, and one that behaves badly."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PASSWORD = "hunter2-never-to-be-seen/+%"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def clean_environ(**more: str) -> dict[str, str]:
    """Without a proxy: the servers are here."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | {"NO_PROXY": "127.0.0.1"} | more


@contextmanager
def running(command: list[str], url: str, log: Path) -> Iterator[None]:
    """A server process, from when it answers to when it has ended."""
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=clean_environ())
    try:
        deadline = time.monotonic() + 90
        while True:
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _json(url: str, method: str, body: object, **headers: str) -> dict[str, object]:
    request = urllib.request.Request(
        url,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Accept": "application/json", **headers},
        method=method,
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        found: dict[str, object] = json.load(answer)
        return found


@contextmanager
def devpi(folder: Path) -> Iterator[str]:
    """devpi with the user ``team`` and its indexes ``dev``, ``nightly`` and ``release``; gives the server's address."""
    bin_ = Path(sys.executable).parent
    data = folder / "devpi"
    made = subprocess.run(
        [bin_ / "devpi-init", "--serverdir", data, "--no-root-pypi"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        str(bin_ / "devpi-server"),
        "--serverdir",
        str(data),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with running([*command, "--threads", "4"], f"{url}/+api", folder / "devpi.log"):
        _json(f"{url}/team", "PUT", {"password": PASSWORD})
        token = _json(f"{url}/+login", "POST", {"user": "team", "password": PASSWORD})["result"]
        assert isinstance(token, dict)
        auth = base64.b64encode(f"team:{token['password']}".encode()).decode()
        for index in ("dev", "nightly", "release"):
            _json(
                f"{url}/team/{index}",
                "PUT",
                {"type": "stage", "bases": [], "volatile": False},
                **{"X-Devpi-Auth": auth},
            )
        yield url


@contextmanager
def pypiserver(folder: Path) -> Iterator[str]:
    """pypiserver with its own defaults (md5, redirects to PyPI for what it has not), open to everybody."""
    packages = folder / "packages"
    packages.mkdir()
    port = free_port()
    command = [str(Path(sys.executable).parent / "pypi-server"), "run", "-i", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}/"
    with running([*command, "-P", ".", "-a", ".", str(packages)], url, folder / "pypiserver.log"):
        yield url


def certificate(folder: Path) -> Path:
    """Key and self-signed certificate of 127.0.0.1 in one PEM file."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


# One that behaves badly ----------------------------------------------------------------------------
@dataclass
class Answer:
    """To an upload. ``keep``: the file is there afterwards. ``cut``: hang up in the middle. ``late``: after seconds."""

    status: int = 200
    body: str = ""
    kind: str = "text/plain"
    keep: bool = False
    cut: bool = False
    late: float = 0
    headers: dict[str, str] = field(default_factory=dict)


class BadServer:
    """Answers uploads with what it is told, one after the other; the last one for good."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [Answer(keep=True)]
        self.page: Answer | None = None
        """In place of the real pages."""
        self.files: dict[str, str] = {}
        """Name -> sha256 as the page tells it."""
        self.uploads = 0
        self.asked: list[tuple[str, str | None]] = []
        """Method and path, and the Authorization header."""

    @contextmanager
    def serving(self, certificate: Path | None = None) -> Iterator[str]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/up/"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)

    def _handler(bad: BadServer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                del arguments

            def _say(self, answer: Answer) -> None:
                data = answer.body.encode()
                self.send_response(answer.status)
                headers = {"Content-Type": answer.kind, "Content-Length": str(len(data)), **answer.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                bad.asked.append((f"GET {self.path}", self.headers.get("Authorization")))
                if bad.page is not None:
                    self._say(bad.page)
                    return
                if not self.path.startswith("/up/simple/demo/"):
                    self._say(Answer(404))
                    return
                links = [f'<a href="{name}#sha256={value}">{name}</a>' for name, value in bad.files.items()]
                self._say(
                    Answer(
                        200, "<!DOCTYPE html><html><body>" + "".join(links) + "</body></html>", "text/html"
                    )
                )

            def do_POST(self) -> None:
                bad.asked.append((f"POST {self.path}", self.headers.get("Authorization")))
                answer = bad.answers[min(bad.uploads, len(bad.answers) - 1)]
                bad.uploads += 1
                length = int(self.headers["Content-Length"])
                if answer.cut:
                    self.rfile.read(min(length // 2, 1000))
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    self.close_connection = True
                    self.connection.close()
                    return
                data = self.rfile.read(length)
                if answer.keep:
                    name = re.search(rb'filename="([^"]+)"', data)
                    digest = re.search(rb'name="sha256_digest"\r\n\r\n([0-9a-f]{64})', data)
                    assert name is not None
                    assert digest is not None
                    bad.files[name[1].decode()] = digest[1].decode()
                if answer.late:
                    time.sleep(answer.late)
                self._say(answer)

        return Handler
