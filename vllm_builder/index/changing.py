"""A change of files that are there: made, or only tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vllm_builder.index.manifest import Clock, Draft, load, utc_now
from vllm_builder.index.model import File
from vllm_builder.index.selecting import Chosen
from vllm_builder.index.storage.base import Storage
from vllm_builder.index.transaction import change
from vllm_builder.model import Model


class Touched(Model):
    """What became of one file. ``outcome``: ``yanked``, ``offered again``, ``promoted``, ``unchanged``, ``deleted``..."""

    filename: str
    project: str
    version: str
    variant: str
    channels: tuple[str, ...]
    """As they are now."""
    size: int
    outcome: str
    note: str = ""


def touched(one: Chosen, outcome: str, note: str = "") -> Touched:
    file = one.file
    return Touched(
        filename=file.filename,
        project=file.project,
        version=file.version,
        variant=one.variant,
        channels=file.channels,
        size=file.size,
        outcome=outcome,
        note=note,
    )


def everything(draft: Draft) -> Iterator[tuple[str, File]]:
    """Variant and file, as they are in a draft."""
    for variant, files in draft.everywhere():
        for file in files.values():
            yield variant, file


def put(draft: Draft, one: Chosen) -> None:
    """Put a file in place of the one of its name."""
    draft.files(*one.where)[one.file.filename] = one.file


def make(
    storage: Storage, what: Callable[[Draft], None], *, dry_run: bool = False, clock: Clock = utc_now
) -> None:
    """Make a change, or only run it over what is there.

    Raises:
        see :func:`vllm_builder.index.transaction.change`.
    """
    if not dry_run:
        change(storage, what, clock=clock)
        return
    snapshot = load(storage)
    if snapshot is not None:
        what(Draft(snapshot, max(clock(), snapshot.root.updated)))
