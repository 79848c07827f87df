"""Web servers for an index, and the clients that install from it, each cut off from this machine's own configuration."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

WITHOUT_NGINX = "VLLM_BUILDER_TEST_WITHOUT_NGINX"


@dataclass(frozen=True)
class Site:
    """An index on loopback. ``log()``: ``METHOD PATH STATUS`` of each request so far."""

    name: str
    url: str
    log: Callable[[], list[str]]
    json: bool
    """Whether clients get JSON, and with it the times of upload."""

    def index(self, variant: str, channel: str = "release") -> str:
        return f"{self.url}{channel}/{variant}/"


@contextmanager
def nginx(folder: Path, prefix: Path, servers: Callable[[int], str]) -> Iterator[tuple[int, Path]]:
    """A running nginx of the system's, with files of its own alone.

    Args:
        servers: makes what stands within ``http { }``, for a port.

    Yields:
        the port, and the log of requests.
    """
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        text = f"nginx is not installed (Debian: nginx-light). {WITHOUT_NGINX}=1 leaves these tests out."
        (pytest.skip if os.environ.get(WITHOUT_NGINX) == "1" else pytest.fail)(text)
    prefix.mkdir(parents=True)
    log, config = prefix / "requests.log", prefix / "nginx.conf"
    places = "".join(
        f"    {kind}_temp_path {prefix}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # The folders of tests are open to their owner alone.
    user = "user root root;\n" if os.geteuid() == 0 else ""
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config.write_text(
            f"{user}daemon off;\nworker_processes 1;\npid {prefix}/pid;\nerror_log {prefix}/error.log;\n"
            f"events {{ }}\nhttp {{\n    log_format short '$request_method $request_uri $status';\n"
            f"    access_log {log} short;\n{places}{servers(port)}\n}}\n"
        )
        command = [program, "-p", str(prefix), "-c", str(config), "-e", str(prefix / "error.log")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if _answers(port, process):
            break
        process.kill()
        process.wait()
    else:
        pytest.fail(f"nginx does not start: {(prefix / 'error.log').read_text()}")
    try:
        yield port, log
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int, process: subprocess.Popen[str]) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process.poll() is None
    return False


def lines_of(path: Path) -> Callable[[], list[str]]:
    return lambda: path.read_text().splitlines() if path.exists() else []


@dataclass(frozen=True)
class Clients:
    """pip and uv with nothing configured, in a home of their own."""

    home: Path
    environ: Mapping[str, str]

    @classmethod
    def at(cls, home: Path) -> Clients:
        home.mkdir(parents=True)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not re.match(r"(?i)(pip|uv|pypi|virtual_env|conda|python|.*_proxy$)", name)
        }
        return cls(
            home,
            kept
            | {
                "HOME": str(home),
                "XDG_CONFIG_HOME": str(home / "config"),
                "XDG_CONFIG_DIRS": str(home / "config"),
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_NO_INPUT": "1",
                "UV_CACHE_DIR": str(home / "uv"),
                "UV_PYTHON": sys.executable,
                "UV_PYTHON_DOWNLOADS": "never",
                "UV_HTTP_TIMEOUT": "20",
                "NO_COLOR": "1",
                "COLUMNS": "300",
            },
        )

    def pip(
        self, *arguments: str | Path, cwd: Path | None = None, cache: bool = False
    ) -> subprocess.CompletedProcess[str]:
        kept = [] if cache else ["--no-cache-dir"]
        return self._run([sys.executable, "-m", "pip", *kept, *map(str, arguments)], cwd)

    def uv(
        self, *arguments: str | Path, cwd: Path | None = None, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """``given`` is on its standard input."""
        from uv import find_uv_bin

        return self._run([find_uv_bin(), *map(str, arguments)], cwd, given)

    def run(self, program: Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Something that lies in an environment of its own."""
        mine = replace(self, environ={**self.environ, "PATH": f"{program.parent}:{self.environ['PATH']}"})
        return mine._run([str(program), *map(str, arguments)], cwd)

    def _run(self, command: list[str], cwd: Path | None, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=dict(self.environ),
            cwd=cwd or self.home,
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def installed(folder: Path) -> dict[str, str]:
    """Name and version of what was installed into a folder (``--target``, or an environment's site-packages)."""
    from importlib.metadata import distributions

    return {found.name: found.version for found in distributions(path=[str(folder)])}


def site_packages(environment: Path) -> Path:
    (found,) = environment.glob("lib/python*/site-packages")
    return found
