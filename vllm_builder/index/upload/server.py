"""An upload server as a destination: asked first, uploaded to, and asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from vllm_builder.errors import BuilderError, PublishRefused, SettingsError, StorageFailed
from vllm_builder.events import Emit, Note
from vllm_builder.index.candidates import Candidate
from vllm_builder.index.model import Published
from vllm_builder.index.upload.address import CHANNEL, VARIANT, check_address, filled, is_open
from vllm_builder.index.upload.credentials import Credentials, find_credentials
from vllm_builder.index.upload.sending import open_repository, send
from vllm_builder.index.upload.simple import find, is_same, roots

if TYPE_CHECKING:
    from twine.repository import Repository

    from vllm_builder.stages.publish.model import PublishRequest

SETTLING: Final = (0, 0.5, 2, 5, 10)
"""Seconds before each look for a file that was taken: servers write their pages in their own time."""
_DEFAULT: Final = frozenset({"release", "nightly"})


class Server:
    """See :class:`vllm_builder.stages.publish.destinations.Destination`.

    A server takes one file at a time, so several wheels do not appear in one moment; all are looked for before the first
    is uploaded, and the same command goes on where an earlier one stopped.
    """

    takes_provenance = False

    def __init__(self, request: PublishRequest, environ: Mapping[str, str]) -> None:
        self._url = check_address(request.to)
        self._simple = check_address(request.simple_url) if request.simple_url else ""
        self.shown = self._url
        self.only_variant = "" if VARIANT in self._url else "any"
        self._channels = request.channels
        self._environ = environ
        self._open: dict[str, tuple[Repository, Credentials]] = {}
        _check(request, self._url)

    def present(self, candidates: Sequence[Candidate]) -> frozenset[str]:
        """File names of those that are on the server, on each page that they should be on.

        Raises:
            PublishRefused: other bytes are there under the name of one.
            StorageFailed: the server does not show what it has.
        """
        return frozenset(
            one.filename for one in candidates if all(self._has(one, url) for url in self._places(one))
        )

    def put(self, candidates: Sequence[Candidate], *, emit: Emit) -> tuple[Published, ...]:
        """Upload what is not there.

        Raises:
            PublishRefused, StorageFailed: ``details`` names what was uploaded before.
        """
        done: list[str] = []
        made = []
        for one in candidates:
            uploaded = False
            for url in self._places(one):
                try:
                    uploaded |= self._put(one, url, emit)
                except BuilderError as error:
                    arrived = [f"uploaded before: {name}" for name in done]
                    raise type(error)(
                        error.what, why=error.why, next=error.next, details=[*error.details, *arrived]
                    ) from error
            if uploaded:
                done.append(one.filename)
            made.append(self._outcome(one, uploaded))
        return tuple(made)

    def provenance(self, done: Sequence[Published]) -> dict[str, bytes]:
        del done
        return {}

    def _put(self, one: Candidate, url: str, emit: Emit) -> bool:
        if self._has(one, url):
            return False
        repository, who = self._repository(url)
        if who.password and is_open(url):
            said = f"The password for {url} travels unencrypted (http)"
            emit(Note(stage="publish", message=said, level="warning"))
        emit(Note(stage="publish", message=f"Uploading {one.filename} ({one.size / 1e6:.1f} MB) to {url}"))
        send(repository, one.path, who, arrived=lambda: self._has(one, url), emit=emit)
        if not _settled(lambda: self._has(one, url)):
            pages = " or ".join(f"{place}{one.project}/" for place in self._roots(one, url))
            raise StorageFailed(
                f"{url} took {one.filename}, and does not show it.",
                why=f"It is not on {pages}, so it may not be there.",
                next="If the server's pages are elsewhere, say where: --simple-url URL; else see whether the address is "
                "the one for uploads.",
            )
        return True

    def _has(self, one: Candidate, url: str) -> bool:
        repository, who = self._repository(url)
        found = find(repository.session, self._roots(one, url), one.project, one.filename, who)
        if found is None:
            return False
        if not is_same(repository.session, found, one.path, one.sha256, who):
            theirs = ", ".join(f"{name} {value}" for name, value in found.digests.items()) or "different"
            raise PublishRefused(
                f"{url} has another file of the name {one.filename}.",
                why=f"There it is {theirs}; here it is sha256 {one.sha256}. A published file never changes: locks of "
                "those who use it would break.",
                next="Give the new one another version, or a build tag (`wheel tags --build 1 WHEEL`).",
            )
        return True

    def _roots(self, one: Candidate, url: str) -> tuple[str, ...]:
        channel = self._channel_at(one, url)
        return roots(url, filled(self._simple, channel, one.variant))

    def _channel_at(self, one: Candidate, url: str) -> str:
        return next(name for name in self._wanted(one) if filled(self._url, name, one.variant) == url)

    def _places(self, one: Candidate) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filled(self._url, name, one.variant) for name in self._wanted(one)))

    def _wanted(self, one: Candidate) -> tuple[str, ...]:
        """Channels that were asked for, not those of its version and commit: each is an index of its own there."""
        return self._channels or tuple(name for name in one.channels if name in _DEFAULT)

    def _outcome(self, one: Candidate, uploaded: bool) -> Published:
        return Published(
            filename=one.filename,
            project=one.project,
            version=one.version,
            variant=one.variant if VARIANT in self._url else "",
            channels=self._wanted(one) if CHANNEL in self._url else (),
            sha256=one.sha256,
            size=one.size,
            outcome="published" if uploaded else "unchanged",
        )

    def _repository(self, url: str) -> tuple[Repository, Credentials]:
        if url not in self._open:
            who = find_credentials(url, self._environ)
            cert = self._environ.get("TWINE_CERT", "")
            self._open[url] = (open_repository(url, who, self._simple, cert=cert), who)
        return self._open[url]


def _settled(look: Callable[[], bool]) -> bool:
    for delay in SETTLING:
        time.sleep(delay)
        if look():
            return True
    return False


def _check(request: PublishRequest, url: str) -> None:
    """
    Raises:
        SettingsError: something was asked for that such a server, or this address, cannot give.
    """
    for given, name, placeholder in (
        (request.channels, "channel", CHANNEL),
        (request.variant, "variant", VARIANT),
    ):
        if given and placeholder not in url:
            raise SettingsError(
                f"A {name} was given, and the address {url} has no place for it.",
                why=f"A server has no {name}s of its own: each is an index there, with its own address.",
                next=f"Write {placeholder} where it belongs (https://server/team/{placeholder}/), or leave --{name} out.",
            )
    if request.group:
        raise SettingsError(
            "A group cannot be published to an upload server.",
            why="It shows each file as soon as it has it, so nothing can be held back.",
            next="Publish to a folder or an object store, or leave --group out.",
        )
