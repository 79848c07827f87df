"""A web server for an index in a folder, for trying out: HTML or JSON as the client asks.

A team's index is better served by a web server that they run anyway; :func:`nginx_config` has what nginx needs.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
from collections.abc import Callable, Iterable
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from packaging.utils import canonicalize_name
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotAcceptable, NotFound
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response
from werkzeug.wsgi import wrap_file

from vllm_builder.errors import NotInIndex, SettingsError, from_os_error
from vllm_builder.index import layout
from vllm_builder.index.pages import HTML_TYPE, JSON_TYPE
from vllm_builder.index.storage.base import FRESH, IMMUTABLE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Log = Callable[[str], None]
_CHUNK: Final = 1 << 18

_HTML_V1: Final = "application/vnd.pypi.simple.v1+html"
_OFFERS: Final = {
    # What stands first wins where a client likes all the same: curl, an old browser.
    "text/html": (layout.HTML, HTML_TYPE),
    _HTML_V1: (layout.HTML, f"{_HTML_V1}; charset=utf-8"),
    JSON_TYPE: (layout.JSON, JSON_TYPE),
    "application/vnd.pypi.simple.latest+html": (layout.HTML, f"{_HTML_V1}; charset=utf-8"),
    "application/vnd.pypi.simple.latest+json": (layout.JSON, JSON_TYPE),
}
"""PEP 691: the types that a client may ask for, the file that is the answer, and what that is called."""

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": HTML_TYPE,
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".metadata": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Not the system's table: what it says differs from machine to machine."""


class Application:
    """The index in a folder, as a WSGI application. It only reads, nothing outside the folder, and nothing hidden."""

    def __init__(self, folder: Path) -> None:
        self.root = folder.resolve()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        try:
            response: Any = self._answer(request)
        except NotFound:
            response = _not_found(request)
        except HTTPException as error:
            response = error.get_response(environ)
            if isinstance(error, NotAcceptable):
                response.vary.add("Accept")
        except PermissionError:
            response = Response("The server may not read this.\n", 403)
        response.headers["X-Content-Type-Options"] = "nosniff"
        answer: Iterable[bytes] = response(environ, start_response)
        return answer

    def _answer(self, request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed(["GET", "HEAD"])
        path = self._inside(request)
        parts = request.path[1:].split("/")
        if request.path.endswith("/"):
            if (path / layout.JSON).is_file() and _is_page(parts):
                return self._negotiated(request, path)
            if (path / layout.HTML).is_file():
                return _send(request, path / layout.HTML, HTML_TYPE, FRESH)
            return self._normalised(parts[:-1], "../")
        if path.is_dir():
            return _redirect("./", parts[-1])
        if not path.is_file():
            return self._normalised(parts, "./")
        kind = _TYPES.get(path.suffix, "application/octet-stream")
        if path.name == layout.JSON and _is_page(parts):
            kind = JSON_TYPE
        return _send(request, path, kind, IMMUTABLE if parts[0] + "/" == layout.FILES else FRESH)

    def _inside(self, request: Request) -> Path:
        """The path that is asked for.

        Raises:
            NotFound: it is outside, in a hidden folder, or cannot be a path.
        """
        asked = request.environ.get("REQUEST_URI", "").partition("?")[0].lower()
        if any(hidden in asked for hidden in ("%2f", "%5c", "%00")):
            raise NotFound
        parts = request.path.removeprefix("/").removesuffix("/").split("/")
        if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            raise NotFound
        if "" in parts and parts != [""]:
            raise NotFound
        try:
            path = self.root.joinpath(*parts).resolve()
            path.stat()
        except PermissionError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            pass  # a name that only has to be normalised, perhaps
        except (OSError, ValueError, RuntimeError):
            raise NotFound from None
        if path != self.root:
            if not path.is_relative_to(self.root):
                raise NotFound
            if any(part.startswith(".") for part in path.relative_to(self.root).parts):
                raise NotFound
        return path

    def _negotiated(self, request: Request, folder: Path) -> Response:
        accept = request.accept_mimetypes
        chosen = accept.best_match(_OFFERS) if accept else "text/html"
        if chosen is None:
            raise NotAcceptable(f"This page can be had as {', '.join(_OFFERS)}.")
        name, kind = _OFFERS[chosen]
        response = _send(request, folder / name, kind, FRESH)
        response.vary.add("Accept")
        return response

    def _normalised(self, parts: list[str], up: str) -> Response:
        """To CHANNEL/VARIANT/PROJECT/ where the project's name was written in another way (PEP 503)."""
        if len(parts) == 3 and (name := canonicalize_name(parts[2])) != parts[2]:
            folder = self.root / parts[0] / parts[1] / name
            if (folder / layout.HTML).is_file():
                return _redirect(up, name)
        raise NotFound


def _is_page(parts: list[str]) -> bool:
    """Of the split path of a folder or file: is it in CHANNEL/VARIANT/ or CHANNEL/VARIANT/PROJECT/?"""
    return len(parts) in {3, 4} and parts[0] not in layout.RESERVED


def _send(request: Request, path: Path, kind: str, cache: str) -> Response:
    # What is open stays what it was: a page may be replaced at any moment.
    file = path.open("rb")
    found = os.fstat(file.fileno())
    parts = wrap_file(request.environ, file, _CHUNK)
    response = Response(parts, content_type=kind, direct_passthrough=True)
    response.call_on_close(file.close)
    response.content_length = found.st_size
    response.headers["Cache-Control"] = cache
    # Without Last-Modified: it cannot tell two pages of one second apart.
    response.set_etag(f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}")
    environ = request.environ
    if "," in environ.get("HTTP_RANGE", ""):
        # Several ranges at once: whoever asks so has to take the whole as well.
        environ = {name: value for name, value in environ.items() if name != "HTTP_RANGE"}
    try:
        response.make_conditional(environ, accept_ranges=True, complete_length=found.st_size)
    except HTTPException:
        response.close()
        raise
    # The handler adds its own.
    response.headers.pop("Date", None)
    return response


def _redirect(to: str, name: str) -> Response:
    """Relative, so that it is right behind a proxy as well; ``to`` is before it: no name is taken for a host or scheme."""
    return Response(status=301, headers={"Location": f"{to}{quote(name)}/"})


def _not_found(request: Request) -> Response:
    up = "../" * (request.path.count("/") - 1) or "./"
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Not found</title></head>
<body><h1>Not found</h1><p>The addresses for pip and uv are CHANNEL/VARIANT/, as in nightly/cu130/.
<a href="{up}">The page of the index</a> has those that there are.</p></body></html>
"""
    return Response(text, 404, content_type=HTML_TYPE)


class _Handler(WSGIRequestHandler):
    timeout = 60  # seconds that a client may be silent
    server_version = "vllm-builder"
    sys_version = ""
    log_line: Log

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        del size
        path = getattr(self, "path", "?").encode("unicode_escape").decode()
        kind = getattr(self, "command", None) or "?"
        headers = getattr(self, "headers", None) or {}  # none where the request was cut off
        part = f" {found}" if (found := headers.get("Range")) and int(code) == 206 else ""
        self.log_line(f"{kind} {path} {int(code)}{part}")

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 (its name there)
        self.log_line((message % args if args else message).rstrip())


class Server:
    """A server that is bound and not running yet. ``url`` has the port that was had."""

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", port: int = 0, log: Log = lambda line: None
    ) -> None:
        """Bind.

        Raises:
            NotInIndex: there is no index in the folder.
            SettingsError: the address cannot be had.
        """
        _look_at(folder)
        handler = type("Handler", (_Handler,), {"log_line": staticmethod(log)})
        with _listening(host, port) as listening:
            self._server = make_server(
                host, port, Application(folder), threaded=True, request_handler=handler, fd=listening.fileno()
            )
        self.port: int = self._server.port
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/"

    def run(self) -> None:
        """Until :meth:`stop` is called, or KeyboardInterrupt, which is a good end."""
        self._server.serve_forever(poll_interval=0.1)

    def stop(self) -> None:
        """From another thread."""
        self._server.shutdown()


def addresses(folder: Path, *, most: int = 4) -> list[str]:
    """``release/cu130/``: what there is to be put behind the server's address, to begin with."""
    found = sorted(
        path.parent.relative_to(folder) for path in folder.glob(f"*/*/{layout.JSON}") if not _is_empty(path)
    )
    rank = {"release": 0, "nightly": 1}
    found.sort(key=lambda path: rank.get(path.parts[0], 2))
    return [f"{path.as_posix()}/" for path in found[:most]]


def _is_empty(page: Path) -> bool:
    """Whether nothing is left in a channel: its pages stay for a while."""
    try:
        found = json.loads(page.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("projects") == []


def nginx_config(folder: Path, *, listen: str = "80") -> str:
    """What nginx needs to serve the index in a folder, to be put into /etc/nginx/conf.d.

    Raises:
        SettingsError: the path cannot be said in such a file.
    """
    root = str(folder.absolute())
    if any(c in '"\\$\n\r' for c in root):
        raise SettingsError(
            f"nginx cannot be told the path {root!r}.", next="Choose a path without such characters."
        )
    text = (package_files("vllm_builder.index") / "nginx.conf").read_text(encoding="utf-8")
    return text.replace("@FOLDER@", root).replace("@LISTEN@", listen)


def _look_at(folder: Path) -> None:
    try:
        if (folder / layout.ROOT).is_file():
            return
        empty = all(path.name.startswith(".") for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise NotInIndex(
            f"There is no folder {folder}.",
            next=f"Make an index there: vllm-builder index publish WHEEL --to {shlex.quote(str(folder))}",
        ) from None
    except OSError as error:
        raise from_os_error(error, f"reading {folder}") from error
    if not empty:
        raise NotInIndex(
            f"{folder} is no index.",
            why=f"It has no {layout.ROOT}, and serving any folder would show what is in it.",
            next="Make one: vllm-builder index publish WHEEL --to FOLDER (an empty or a new one), then serve that.",
        )


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        hint = "Choose another --host: 127.0.0.1 for this machine alone, 0.0.0.0 for all who reach it."
        if error.errno == errno.EADDRINUSE:
            hint = "Choose another --port, or 0 for any that is free."
        elif error.errno in {errno.EACCES, errno.EPERM}:
            hint = "Choose a --port from 1024 on, or 0 for any that is free."
        # A number below 0 is a name that could not be looked up.
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise SettingsError(f"The address {host}:{port} cannot be had.", why=f"{why}.", next=hint) from error
