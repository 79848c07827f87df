"""Getting one file into the cache: checked while it streams, resumed, never half there."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests
import urllib3
from filelock import FileLock

from vllm_builder.cache import Cache
from vllm_builder.errors import HashMismatch, SourceError
from vllm_builder.events import Emit, Note, Progress
from vllm_builder.fs import make_dir, os_errors, sha256_file
from vllm_builder.indexes import redact
from vllm_builder.stages.source import http as http_module
from vllm_builder.stages.source.http import Http, reason_of
from vllm_builder.stages.source.listing import local_path

ATTEMPTS: Final = 5
MAX_BYTES: Final = 4 << 30
"""No source archive is this large: beyond it the server is broken or hostile."""
_CHUNK: Final = 1 << 16
_BROKEN: Final = (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)


def cached_file(cache: Cache, sha256: str, name: str) -> Path:
    """Where a file of that content and name is kept."""
    return cache.downloads / "sha256" / sha256 / name


def download(
    url: str, name: str, cache: Cache, emit: Emit, http: Http, *, sha256: str | None
) -> tuple[Path, str]:
    """Fetch ``url`` (``http(s)://`` or ``file://``) into the cache.

    A connection that breaks off is taken up again where it broke, also by the next process as long as the
    hash is known beforehand.

    Args:
        sha256: what the file must be; None: whatever comes, its hash is computed.

    Returns:
        The path in the cache and the file's SHA-256.

    Raises:
        HashMismatch, SourceError, NoSpace, NotWritable
    """
    key = sha256 or hashlib.sha256(redact(url).encode()).hexdigest()
    partial = make_dir(cache.downloads / "partial") / f"{key}.part"
    with os_errors(f"downloading {name} into {cache.downloads}"), FileLock(f"{partial}.lock"):
        if sha256:
            known = cached_file(cache, sha256, name)
            if known.is_file() and sha256_file(known) == sha256:
                return known, sha256
        else:
            partial.unlink(missing_ok=True)
        found = _obtain(url, name, partial, emit, http, sha256)
        final = cached_file(cache, found, name)
        make_dir(final.parent)
        partial.replace(final)
    return final, found


def _obtain(url: str, name: str, partial: Path, emit: Emit, http: Http, sha256: str | None) -> str:
    local = local_path(url)
    resumed = partial.exists()
    found = _copy(local, partial) if local else _stream(url, name, partial, emit, http)
    if sha256 and found != sha256 and resumed and not local:
        # The old beginning may be the culprit: once more, whole.
        partial.unlink()
        found = _stream(url, name, partial, emit, http)
    if sha256 and found != sha256:
        partial.unlink()
        raise HashMismatch(
            f"{name} is not the file that the index names.",
            why=f"{redact(url)} gave sha256 {found}, the index says {sha256}.",
            next="Something between here and the index altered the file, or the index is inconsistent: "
            "try again later, or configure another index.",
        )
    return found


def _copy(source: Path, partial: Path) -> str:
    digest = hashlib.sha256()
    try:
        reader = source.open("rb")
    except OSError as error:
        raise SourceError(
            f"{source} cannot be read.", why=error.strerror or str(error), next="Check the local index."
        ) from error
    with reader, partial.open("wb") as writer:
        while chunk := reader.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _stream(url: str, name: str, partial: Path, emit: Emit, http: Http) -> str:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _once(url, name, partial, emit, http)
        except _BROKEN as error:
            reason = reason_of(error)
            if attempt == ATTEMPTS or isinstance(error, _Refused):
                raise SourceError(
                    f"{name} could not be downloaded.",
                    why=f"{urlsplit(url).hostname}: {reason} ({attempt} "
                    f"{'attempt' if attempt == 1 else 'attempts'}).",
                    next="Run the same command again: it goes on where this one stopped.",
                ) from error
            wait = http_module.BACKOFF * 2 ** (attempt - 1)
            emit(
                Note(
                    stage="source",
                    message=f"{name}: {reason}; trying again ({attempt + 1} of {ATTEMPTS}).",
                    level="warning",
                )
            )
            time.sleep(wait)
    raise AssertionError("unreachable")


class _Refused(requests.RequestException):
    """The server said no: trying again would change nothing."""


def _once(url: str, name: str, partial: Path, emit: Emit, http: Http) -> str:
    have = partial.stat().st_size if partial.exists() else 0
    # Identity: an archive must arrive byte for byte, not unpacked on the way.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with http.get(url, headers=headers, stream=True) as response:
        if response.status_code == 416:
            partial.unlink()
            raise requests.ConnectionError("the server cannot resume; starting over")
        if not response.ok:
            kind = _Refused if response.status_code < 500 else requests.ConnectionError
            raise kind(f"it answered {response.status_code} {response.reason}")
        digest = hashlib.sha256()
        if response.status_code == 206 and have:
            with partial.open("rb") as begun:
                while chunk := begun.read(1 << 20):
                    digest.update(chunk)
        else:
            have = 0
        total = _length(response, have)
        if total is not None and total > MAX_BYTES:
            raise _Refused(f"it announces {total} bytes, which no source archive has")
        report = _Report(emit, f"Downloading {name}", total)
        with partial.open("ab" if have else "wb") as writer:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                writer.write(chunk)
                digest.update(chunk)
                have += len(chunk)
                if have > MAX_BYTES:
                    raise _Refused("it sends without end")
                report(have)
            writer.flush()
            os.fsync(writer.fileno())
        if total is not None and have != total:
            raise requests.ConnectionError(f"the connection ended after {have} of {total} bytes")
        report(have, last=True)
    return digest.hexdigest()


def _length(response: requests.Response, have: int) -> int | None:
    try:
        return int(response.headers["Content-Length"]) + have
    except (KeyError, ValueError):
        return None


class _Report:
    """Progress at most ten times a second."""

    def __init__(self, emit: Emit, task: str, total: int | None) -> None:
        self._emit, self._task, self._total = emit, task, total
        self._start = time.monotonic()
        self._first: int | None = None
        self._next = 0.0

    def __call__(self, done: int, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if now < self._next and not last:
            return
        self._next = now + 0.1
        elapsed = now - self._start
        rate = (done - self._first) / elapsed if elapsed > 0.2 else None
        left = (self._total - done) / rate if rate and self._total is not None else None
        self._emit(
            Progress(
                stage="source", task=self._task, done=done, total=self._total, unit="B", rate=rate, eta=left
            )
        )
