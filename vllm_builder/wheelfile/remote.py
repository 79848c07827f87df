"""A file behind a URL, of which only the wanted bytes are fetched.

Ranges are an offer that servers may decline (RFC 9110, section 14.2) and that some get wrong. Whatever they answer
instead of the very bytes that were asked for, the file is then downloaded whole, and read from there.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO, Final
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3

from vllm_builder.errors import WheelError
from vllm_builder.events import Emit, Note
from vllm_builder.fs import os_errors
from vllm_builder.indexes import read_indexes, redact
from vllm_builder.stages.source import http as http_module
from vllm_builder.stages.source.http import Http, reason_of
from vllm_builder.wheelfile.sources import CHUNK, LocalFile, Unreachable

BLOCK: Final = 1 << 16
"""Small reads fetch and keep blocks of this many bytes."""
_KEPT: Final = 128
ATTEMPTS: Final = 4
MAX_BYTES: Final = 16 << 30
_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class Changed(Unreachable):
    """The file became another one while it was read. It has been downloaded whole by then."""


class _NoRanges(Exception):
    """The server does not do ranges, or not rightly."""


class RemoteFile:
    """A :class:`~vllm_builder.wheelfile.sources.Source` behind a URL."""

    def __init__(self, url: str, name: str, *, http: Http | None, emit: Emit) -> None:
        """Asks for the first bytes, and so learns the size and whether ranges work.

        Raises:
            WheelError: the server does not answer or does not have the file.
        """
        self._url = url
        self._name = name
        self._emit = emit
        self._own = None if http else Http(read_indexes())
        self._http = http or self._own
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._whole: LocalFile | None = None
        self._validator = ""
        self.size = -1
        self.location = _without_query(url)
        """The address without credentials and query, which may hold a signature."""
        self.fetched = 0
        """Bytes of the file that came over the network."""
        try:
            self._keep(0, self._fetch(0, BLOCK))
        except _NoRanges as reason:
            self._download(str(reason))

    @property
    def cheap(self) -> bool:
        return self._whole is not None

    def read_at(self, offset: int, length: int) -> bytes:
        self._within(offset, length)
        while self._whole is None:
            try:
                return (
                    self._fetch(offset, length) if length > 2 * BLOCK else self._from_blocks(offset, length)
                )
            except _NoRanges as reason:
                self._download(str(reason))
        return self._whole.read_at(offset, length)

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        self._within(offset, length)
        end = offset + length
        if self._whole is None and length <= 2 * BLOCK:
            yield self.read_at(offset, length)
            return
        head, tail = self._kept(offset, end)
        for chunk in head:
            offset += len(chunk)
            yield chunk
        stop = end - sum(map(len, tail))
        try:
            while self._whole is None and offset < stop:
                for chunk in self._answer(offset, stop - offset):
                    offset += len(chunk)
                    yield chunk
        except _NoRanges as reason:
            self._download(str(reason))
        if self._whole is not None:
            yield from self._whole.stream(offset, end - offset)
        else:
            yield from tail

    def _kept(self, offset: int, end: int) -> tuple[list[bytes], list[bytes]]:
        """What is here already of the beginning and of the end of a range."""
        head: list[bytes] = []
        tail: list[bytes] = []
        with self._lock:
            while offset < end and (block := self._blocks.get(offset // BLOCK)):
                head.append(block[offset % BLOCK :][: end - offset])
                offset += len(head[-1])
            while offset < end and (block := self._blocks.get((end - 1) // BLOCK)):
                start = max(offset, (end - 1) // BLOCK * BLOCK)
                tail.insert(0, block[start % BLOCK :][: end - start])
                end = start
        return head, tail

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()
        if self._own is not None:
            self._own.__exit__(None, None, None)
            self._own = None

    def _within(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise WheelError(f"{self._name} is truncated.", next="Ask the maker of the wheel.")

    def _from_blocks(self, offset: int, length: int) -> bytes:
        first, last = offset // BLOCK, (offset + max(length, 1) - 1) // BLOCK
        with self._lock:
            missing = [number for number in range(first, last + 1) if number not in self._blocks]
        if missing:
            start = missing[0] * BLOCK
            self._keep(start, self._fetch(start, min((missing[-1] + 1) * BLOCK, self.size) - start))
        with self._lock:
            parts = [self._blocks.get(number) for number in range(first, last + 1)]
        if any(part is None for part in parts):  # put out by another thread's blocks meanwhile
            return self._fetch(offset, length)
        data = b"".join(part for part in parts if part is not None)
        return data[offset - first * BLOCK :][:length]

    def _keep(self, start: int, data: bytes) -> None:
        with self._lock:
            for at in range(0, len(data), BLOCK):
                number = (start + at) // BLOCK
                self._blocks[number] = data[at : at + BLOCK]
                self._blocks.move_to_end(number)
            while len(self._blocks) > _KEPT:
                self._blocks.popitem(last=False)

    def _fetch(self, offset: int, length: int) -> bytes:
        return b"".join(self._answer(offset, length)) if length else b""

    def _answer(self, offset: int, length: int) -> Iterator[bytes]:
        """The bytes of one range, in chunks; asked for again from where a connection broke."""
        attempt = broken = 0
        while length > 0:
            attempt += 1
            try:
                for chunk in self._once(offset, length):
                    offset += len(chunk)
                    length -= len(chunk)
                    attempt = 0
                    yield chunk
                if length and self.size <= offset:  # only the very first range may ask for more than there is
                    return
            except _BROKEN as error:
                broken += 1
                if attempt >= ATTEMPTS or broken >= 8 * ATTEMPTS:
                    raise self._unreachable(error) from error
                time.sleep(http_module.BACKOFF * 2**attempt)

    def _once(self, offset: int, length: int) -> Iterator[bytes]:
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={offset}-{offset + length - 1}"}
        if self._validator:
            headers["If-Range"] = self._validator
        assert self._http is not None
        with self._http.get(self._url, headers=headers, stream=True) as response:
            length = self._judge(response, offset, length)
            got = 0
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                got += len(chunk)
                if got > length:
                    raise _NoRanges("its server sends more than was asked for")
                with self._lock:
                    self.fetched += len(chunk)
                yield chunk
            if got < length:
                raise requests.ConnectionError(f"the connection ended after {got} of {length} bytes")

    def _judge(self, response: requests.Response, offset: int, length: int) -> int:
        """How many bytes will come; raises unless they are what was asked for."""
        status = response.status_code
        if status == 206:
            told = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if told is None or response.headers.get("Content-Encoding", "identity") != "identity":
                raise _NoRanges("its server does not say which bytes it sends")
            first, last, total = (int(number) for number in told.groups())
            if self.size < 0:
                length = min(length, total)
            if first != offset or last - first + 1 != length or self.size not in {-1, total}:
                raise _NoRanges("its server sends other bytes than were asked for")
            now = _validator(response)
            if self.size >= 0 and now != self._validator:
                raise _NoRanges("it changed while it was read")
            self.size, self._validator = total, now
            return length
        if status in {200, 416, 400, 405, 501}:
            changed = status == 200 and self.size >= 0 and _validator(response) != self._validator
            raise _NoRanges("it changed while it was read" if changed else "its server gives it only whole")
        raise self._refused(response)

    def _download(self, reason: str) -> None:
        """Fetch the file whole into an unlinked temporary file, once."""
        with self._lock:
            if self._whole is not None:
                return
            self._emit(
                Note(stage="verify", message=f"{self._name} is downloaded whole: {reason}.", level="warning")
            )
            with os_errors(f"downloading {self._name}"):
                file = tempfile.TemporaryFile(prefix="vllm-builder-")  # noqa: SIM115
            with file:
                validator = self._download_into(file)
                with os_errors(f"downloading {self._name}"):
                    file.flush()
                    whole = LocalFile(os.dup(file.fileno()), self._name)
            before = (self.size, self._validator)
            self.size, self._validator, self._whole = whole.size, validator, whole
            self._blocks.clear()
        if before[0] >= 0 and before != (whole.size, validator):
            raise Changed(
                f"{self._name} was replaced by another file while it was read.",
                why=f"It had {before[0]} bytes, and has {whole.size} now."
                if before[0] != whole.size
                else "Its server gave it another ETag or date.",
                next="Run the same command again.",
            )

    def _download_into(self, file: IO[bytes]) -> str:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                file.seek(0)
                file.truncate()
                return self._download_once(file)
            except _BROKEN as error:
                if attempt == ATTEMPTS:
                    raise self._unreachable(error) from error
                time.sleep(http_module.BACKOFF * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _download_once(self, file: IO[bytes]) -> str:
        assert self._http is not None
        with self._http.get(self._url, headers={"Accept-Encoding": "identity"}, stream=True) as response:
            if response.status_code != 200:
                raise self._refused(response)
            told = response.headers.get("Content-Length", "")
            got = 0
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                got += len(chunk)
                self.fetched += len(chunk)
                if got > MAX_BYTES:
                    raise WheelError(f"{self._name} is larger than {MAX_BYTES >> 30} GiB, which no wheel is.")
                with os_errors(f"downloading {self._name}"):
                    file.write(chunk)
            if told.isdecimal() and int(told) != got:
                raise requests.ConnectionError(f"the connection ended after {got} of {told} bytes")
            return _validator(response)

    def _refused(self, response: requests.Response) -> Unreachable:
        status = response.status_code
        hint = {
            401: "Its server wants credentials: put them into .netrc, or into the address (they are not shown).",
            403: "Its server does not allow it with these credentials, if any: check them, or the address's age.",
            404: "Check the address.",
            410: "Check the address.",
        }.get(status, "Try again later, or download the wheel by other means and name the file.")
        return Unreachable(
            f"{self._name} cannot be read from {urlsplit(redact(self._url)).hostname}.",
            why=f"It answered {status} {response.reason or ''}".rstrip() + ".",
            next=hint,
        )

    def _unreachable(self, error: BaseException) -> Unreachable:
        return Unreachable(
            f"{self._name} cannot be read from {urlsplit(redact(self._url)).hostname}.",
            why=f"{_without_secrets(reason_of(error), self._url)}.",
            next="Check the address, the network and the proxy; then run the same command again.",
        )


def _validator(response: requests.Response) -> str:
    """What If-Range takes: a strong ETag, else the date of the last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _without_query(url: str) -> str:
    try:
        return urlunsplit(urlsplit(redact(url))._replace(query="", fragment=""))
    except ValueError:
        return "the address"


def _without_secrets(text: str, url: str) -> str:
    parts = urlsplit(url)
    for secret in (url, redact(url), parts.query):
        if secret:
            text = text.replace(secret, "...")
    return text.rstrip(".")
