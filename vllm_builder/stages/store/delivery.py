"""Handing a stored wheel over to the person."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from vllm_builder.errors import BuilderError, StoreError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.fs import copy_atomic, make_dir, os_errors, sha256_file
from vllm_builder.stages.store.model import Entry
from vllm_builder.stages.store.store import Store


def deliver(entry: Entry, out: Path, *, emit: Emit = ignore) -> Path:
    """Copy a stored wheel to the folder ``out`` and return where it lies.

    The copy is whole or absent, and it is a copy: an edit of it cannot harm the store. The same bytes
    already there are left alone. Another wheel of that name is replaced when the store still has its
    bytes (an earlier delivery); anything else is first put by as ``<name>.previous``, and a Note says so.

    Raises:
        StoreError: the entry was removed meanwhile, or what was copied is not what the record says.
        NoSpace, NotWritable, BuilderError: ``out`` cannot be written; what was there is there still.
    """
    target = make_dir(out) / entry.record.wheel.filename
    with os_errors(f"reading {target}"):
        if target.is_dir():
            raise BuilderError(
                f"{target} is a folder, so the wheel cannot be put there.",
                next="Move it away, or choose another folder with --out.",
            )
        if os.path.lexists(target):
            if _same(target, entry):
                return target
            _put_by(target, entry, emit)
    try:
        copy_atomic(entry.wheel, target)
    except BuilderError as error:
        if not entry.wheel.exists():
            raise StoreError(
                f"The stored wheel {entry.digest[:12]} was removed before it could be copied.",
                why="Another process pruned the store meanwhile.",
                next="Run the same command again.",
            ) from error
        raise
    return target


def _same(path: Path, entry: Entry) -> bool:
    if not path.exists():
        return False  # a link that leads nowhere
    wheel = entry.record.wheel
    return path.stat().st_size == wheel.size and sha256_file(path) == wheel.sha256


def _put_by(target: Path, entry: Entry, emit: Emit) -> None:
    if not target.is_symlink() and _is_ours(target, entry):
        return
    for number in count(1):
        aside = target.with_name(f"{target.name}.previous" + (f"-{number}" if number > 1 else ""))
        try:
            # A second name first: then there is no moment without a file under the old name.
            os.link(target, aside, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError:
            # A file system without hard links.
            if os.path.lexists(aside):
                continue
            target.rename(aside)
        emit(
            Note(
                stage="store",
                level="warning",
                message=f"{target} was another file, which this store did not make; it is now {aside.name}.",
            )
        )
        return


def _is_ours(target: Path, entry: Entry) -> bool:
    """Whether an intact generation of the store still holds these very bytes."""
    store = Store(entry.folder.parents[1])
    size, sha256 = target.stat().st_size, None
    for other in store.entries():
        wheel = other.record.wheel
        if wheel.filename != target.name or wheel.size != size:
            continue
        sha256 = sha256 or sha256_file(target)
        if wheel.sha256 == sha256 and not store.intact(other):
            return True
    return False
