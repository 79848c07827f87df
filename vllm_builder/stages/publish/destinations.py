"""Where wheels go: an index that is kept here (a folder, an object store), or a server that takes uploads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from vllm_builder.events import Emit
from vllm_builder.index.candidates import Candidate
from vllm_builder.index.model import Published
from vllm_builder.stages.publish.model import PublishRequest

if TYPE_CHECKING:
    from vllm_builder.index.storage.base import Storage


class Destination(Protocol):
    shown: str
    """As a person may see it: without credentials."""
    takes_provenance: bool
    only_variant: str
    """What stands for the variant of wheels where variants are not told apart; empty: each wheel says it."""

    def present(self, candidates: Sequence[Candidate]) -> frozenset[str]:
        """File names of those that are there, byte for byte.

        Raises:
            PublishRefused: other bytes are there under the name of one.
        """

    def put(self, candidates: Sequence[Candidate], *, emit: Emit) -> tuple[Published, ...]: ...

    def provenance(self, done: Sequence[Published]) -> dict[str, bytes]:
        """What lies beside wheels now, by file name; those without have no entry."""


class Kept:
    """An index in a :class:`~vllm_builder.index.storage.base.Storage`."""

    takes_provenance = True
    only_variant = ""

    def __init__(self, storage: Storage, request: PublishRequest) -> None:
        self.shown = storage.url
        self._storage = storage
        self._request = request

    def present(self, candidates: Sequence[Candidate]) -> frozenset[str]:
        from vllm_builder.index.publishing import present

        return present(self._storage, candidates)

    def put(self, candidates: Sequence[Candidate], *, emit: Emit) -> tuple[Published, ...]:
        from vllm_builder.index.publishing import publish

        return publish(
            self._storage,
            candidates,
            group=self._request.group,
            expects=self._request.expects,
            emit=emit,
        )

    def provenance(self, done: Sequence[Published]) -> dict[str, bytes]:
        from vllm_builder.index.manifest import Draft, load

        snapshot = load(self._storage)
        if snapshot is None:
            return {}
        draft = Draft(snapshot, snapshot.root.updated)
        held_back = [one.file for group in draft.groups.values() for one in group.staged]
        files = {file.filename: file for file in held_back}
        files |= {one.filename: found[1] for one in done if (found := draft.find(one.project, one.filename))}
        proven = [file for one in done if (file := files.get(one.filename)) and file.provenance_sha256]
        blobs = {file.filename: self._storage.read(file.provenance_key) for file in proven}
        return {name: blob.data for name, blob in blobs.items() if blob is not None}


def destination_of(request: PublishRequest, environ: Mapping[str, str]) -> Destination:
    """What ``to`` names.

    Raises:
        SettingsError: it names nothing that wheels can be put into, or something that was asked for is not to be had there.
    """
    if request.to.lower().startswith(("http://", "https://")):
        from vllm_builder.index.upload.server import Server

        return Server(request, environ)
    from vllm_builder.index.opening import open_index

    return Kept(open_index(request.to, create=True), request)
