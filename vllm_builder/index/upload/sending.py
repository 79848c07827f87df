"""Hand one wheel to a server, through twine's own client; and what its answers mean."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from twine.exceptions import TwineException
from twine.package import PackageFile
from twine.repository import Repository

from vllm_builder.errors import BuilderError, PublishRefused, StorageFailed
from vllm_builder.events import Emit, Note, Progress
from vllm_builder.index.upload.credentials import PLACES, Credentials

TIMEOUT: Final = (30, 600)
"""Seconds: for connecting, and for each silence of the server (it may look at a large file before it answers)."""
DELAYS: Final = (1, 5, 15)
"""Seconds before each further try."""
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_SAID: Final = 300
_TELL: Final = 0.5
_CURES: Final = {
    401: f"Give credentials that the server knows. They are looked for in {PLACES}.",
    403: f"Use an account that may upload there. Credentials are looked for in {PLACES}.",
    404: "Check the address: it is the one for uploads, e.g. of devpi https://server/USER/INDEX/, of pypiserver its root.",
    405: "Check the address: it is the one for uploads, e.g. of devpi https://server/USER/INDEX/, of pypiserver its root.",
    411: "A proxy before the server cannot take such uploads; use the server's own address.",
    413: "Raise the limit of the server, or of the proxy before it (nginx: client_max_body_size).",
}


class _Adapter(HTTPAdapter):
    """Sends with a time limit, and tells how far an upload is."""

    watch: Callable[[int, int], None] | None = None
    """Is given the bytes that were sent, and all that are to be."""
    authority: str = ""
    """File of the certificates to trust; requests would prefer REQUESTS_CA_BUNDLE to what a session names."""

    def send(self, request: requests.PreparedRequest, *arguments: Any, **more: Any) -> requests.Response:
        more["timeout"] = more.get("timeout") or TIMEOUT
        if self.authority:
            more["verify"] = self.authority
        body: Any = request.body
        watch = self.watch
        if watch is not None and hasattr(
            body, "callback"
        ):  # a MultipartEncoderMonitor, which twine hands over
            body.callback = lambda monitor: watch(monitor.bytes_read, monitor.len)
        return super().send(request, *arguments, **more)


def open_repository(url: str, who: Credentials, simple_url: str = "", *, cert: str = "") -> Repository:
    """twine's client for a server.

    It waits for no answer longer than :data:`TIMEOUT`, and shows the credentials to nobody but the server (and to
    the one whose pages were named): a page may link to files elsewhere.
    """
    trusted = {urlsplit(one)[:2] for one in (url, simple_url) if one}

    def identify(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Also in place of requests' own look into netrc: what is to be found, was found.
        if who.origin and urlsplit(request.url or "")[:2] in trusted:
            HTTPBasicAuth(who.user.encode(), who.password.encode())(request)
        return request

    for name in ("twine", "urllib3"):
        # What they log would otherwise be printed: a logger without any handler writes warnings to standard error.
        logging.getLogger(name).addHandler(logging.NullHandler())
    with quiet():
        found = Repository(url, None, None, disable_progress_bar=True)
    found.session.auth = identify
    retry = urllib3.Retry(
        total=3,
        backoff_factor=0.3,
        allowed_methods=["GET"],
        status_forcelist=[502, 503],
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        adapter = _Adapter(max_retries=retry)
        adapter.authority = cert
        found.session.mount(scheme, adapter)
    return found


@contextlib.contextmanager
def quiet() -> Any:
    """twine prints; standard output is for results."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def send(
    repository: Repository, path: Path, who: Credentials, *, arrived: Callable[[], bool], emit: Emit
) -> None:
    """Upload a file; what can be tried again is tried again.

    Args:
        arrived: whether the server has the file: asked before each further try, and where the server says that it has it.

    Raises:
        StorageFailed: the server refuses, or cannot be reached.
        PublishRefused: the server has another file of that name, or twine cannot read this one.
    """
    try:
        package = PackageFile.from_filename(str(path), None)
    except (TwineException, ValueError) as error:
        raise PublishRefused(
            f"{path.name} cannot be uploaded.",
            why=str(error).splitlines()[0],
            next="Its METADATA has to be what the server can read: `vllm-builder verify` says more.",
        ) from error
    adapter = repository.session.get_adapter(repository.url)
    if isinstance(adapter, _Adapter):
        adapter.watch = _teller(path.name, emit)
    for delay in (*DELAYS, None):
        failed: BuilderError
        try:
            with quiet():
                # One try: twine's own further ones follow at once, whatever the size.
                response = repository.upload(package, max_redirects=1)
        except (requests.RequestException, OSError) as error:
            failed = unreachable(repository.url, error, who)
        else:
            if response.status_code < 300:
                return
            failed = answered(response, who, f"does not take {path.name}")
            if response.status_code not in _AGAIN:
                if response.status_code in {400, 409} and arrived():
                    return
                raise _exists(failed, response, path) from None
        if delay is None:
            raise failed
        emit(
            Note(
                stage="publish", message=f"{failed.what} {failed.why} Once more in {delay} s", level="warning"
            )
        )
        time.sleep(delay)
        if arrived():
            return


def _teller(name: str, emit: Emit) -> Callable[[int, int], None]:
    """Tells of an upload twice a second."""
    started = last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal started, last
        now = time.monotonic()
        if now - last < _TELL and done < total:
            return
        last = now
        rate = done / max(now - started, 0.001)
        left = (total - done) / rate if rate else None
        emit(
            Progress(stage="publish", task=name, done=done, total=total, unit="B", rate=round(rate), eta=left)
        )

    return tell


def _exists(failed: BuilderError, response: requests.Response, path: Path) -> BuilderError:
    if response.status_code != 409 and not re.search(r"already (exists|taken)", response.text[:10_000], re.I):
        return failed
    return PublishRefused(
        f"The server has a file of the name {path.name}, and keeps it.",
        why=failed.why,
        next="Give this one another version, or a build tag (`wheel tags --build 1 WHEEL`).",
    )


def answered(response: requests.Response, who: Credentials, what: str) -> StorageFailed:
    """What a server's refusal means."""
    status = response.status_code
    place = urlsplit(response.url)
    said = who.scrub(_text(response))
    why = (
        f"It says {status} {who.scrub(response.reason or '')}".rstrip() + (f": {said}" if said else "") + "."
    )
    if status in {401, 403}:
        why += (
            f" It was asked as {who.user!r} ({who.origin})." if who.origin else " No credentials were found."
        )
    if response.is_redirect:
        to = urlsplit(response.headers.get("Location", ""))
        why += f" It redirects to {to._replace(netloc=to.netloc.rpartition('@')[2], query='').geturl()}."
        cure = "If that is the right server, give its address; often only a slash at the end is missing."
    else:
        cure = _CURES.get(
            status, "Look into the server's log; what was uploaded stays, and the same command goes on."
        )
    return StorageFailed(f"{place.scheme}://{place.netloc.rpartition('@')[2]} {what}.", why=why, next=cure)


def unreachable(url: str, error: Exception, who: Credentials) -> StorageFailed:
    """What a connection that broke, or never was, means."""
    place = urlsplit(url)
    server = f"{place.scheme}://{place.netloc.rpartition('@')[2]}"
    if isinstance(error, requests.exceptions.SSLError):
        return StorageFailed(
            f"{server} is not trusted.",
            why=who.scrub(_innermost(error)),
            next="Name the certificate of your own authority with TWINE_CERT or REQUESTS_CA_BUNDLE.",
        )
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.ReadTimeout):
        what = f"{server} does not answer."
    elif isinstance(error, requests.exceptions.ConnectionError):
        what = f"The connection to {server} failed."
    else:
        what = f"{server} cannot be used."
    return StorageFailed(
        what,
        why=who.scrub(_innermost(error)),
        next="Look whether the address is right and can be reached; then run the same command again: what has arrived is "
        "not uploaded twice.",
    )


def _innermost(error: BaseException) -> str:
    """The reason below all the wrapping: ``[Errno 111] Connection refused``."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = next((one for one in error.args if isinstance(one, BaseException)), None)
        inner = inner or getattr(error, "reason", None)
        if isinstance(inner, BaseException):
            error = inner
    text = " ".join(str(one) for one in error.args if isinstance(one, str | int)) or type(error).__name__
    return re.sub(r"<[^>]*>[:,]? ?", "", text)[:_SAID] + ("" if text.endswith(".") else ".")


def _text(response: requests.Response) -> str:
    """What a server says for people, in one line."""
    try:
        text = response.text[:20_000]
    except (OSError, ValueError, RuntimeError):
        return ""
    if "html" in response.headers.get("Content-Type", "") or text.lstrip()[:1] == "<":
        text = re.sub(r"(?is)<(script|style|head)\b.*?</\1>|<[^>]*>", " ", text)
    return " ".join(text.split())[:_SAID].rstrip(".")
