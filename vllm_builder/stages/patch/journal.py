"""Writing several files so that either all are written or none.

Before the first write, the old contents go into a journal in the tree; it is removed after the last one. A
process that dies in between leaves the journal behind, and whoever patches the tree next puts the old
contents back first.
"""

from __future__ import annotations

import base64
import glob
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vllm_builder.errors import PatchFailed
from vllm_builder.fs import os_errors, write_atomic

JOURNAL = ".vllm-builder-patch-journal.json"
RECORD = ".vllm-builder-patches.json"


def pending(root: Path) -> dict[str, bytes | None] | None:
    """Old contents that an interrupted application left behind; None when there was none.

    Raises:
        PatchFailed: the journal is damaged or names a file outside the tree.
    """
    place = root / JOURNAL
    if not place.is_file() or place.is_symlink():
        return None
    try:
        found = json.loads(place.read_bytes())
        old = {
            str(path): None if data is None else base64.b64decode(data, validate=True)
            for path, data in found["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PatchFailed(
            "The tree was left half-patched and its journal cannot be read.",
            why=f"{place}: {error}",
            next="Take a fresh copy of the source (with --workspace: remove the tree's folder).",
        ) from error
    for path in old:
        _inside(root, path)
    return old


def roll_back(root: Path, old: Mapping[str, bytes | None]) -> None:
    """Put old contents back and remove the journal."""
    for path, data in old.items():
        place = _inside(root, path)
        _remove_temporaries(place)
        if data is None:
            with os_errors(f"removing {path} from the tree"):
                place.unlink(missing_ok=True)
        elif not place.is_file() or place.read_bytes() != data:
            write_atomic(place, data)
    with os_errors("removing the patch journal"):
        (root / JOURNAL).unlink(missing_ok=True)


def clean(root: Path) -> None:
    """Remove a journal that was never finished: its process died before the first write."""
    _remove_temporaries(root / JOURNAL)


def commit(root: Path, files: Mapping[str, tuple[bytes | None, bytes]]) -> None:
    """Write all files (path -> old content or None, new content), or none of them.

    Raises:
        NoSpace, NotWritable, BuilderError: a write failed; the old contents were put back.
    """
    if not files:
        return
    old = {path: before for path, (before, _) in files.items()}
    for path in old:
        _inside(root, path)
    encoded = {path: None if data is None else base64.b64encode(data).decode() for path, data in old.items()}
    write_atomic(root / JOURNAL, json.dumps({"files": encoded}))
    try:
        for path, (_, data) in files.items():
            write_atomic(root / path, data)
        with os_errors("removing the patch journal"):
            (root / JOURNAL).unlink()
            _sync(root)
    except BaseException:
        roll_back(root, old)
        raise


def _inside(root: Path, path: str) -> Path:
    pure = PurePosixPath(path)
    place = root / pure
    if (
        pure.is_absolute()
        or ".." in pure.parts
        or place.parent.resolve() != place.parent
        or place.is_symlink()
    ):
        raise PatchFailed(
            f"{path} leads out of the tree.",
            why="Only plain files inside the tree are written.",
            next="Take a fresh copy of the source.",
        )
    return place


def _remove_temporaries(place: Path) -> None:
    """Remove what an atomic write that was killed left beside its file."""
    half_written = re.compile(re.escape(f".{place.name}.") + r"[a-z0-9_]{8}")
    with os_errors(f"removing temporary files beside {place}"):
        for other in place.parent.glob(f".{glob.escape(place.name)}.*"):
            if half_written.fullmatch(other.name) and other.is_file():
                other.unlink()


def _sync(folder: Path) -> None:
    # The journal must be gone from the disk only after the files are on it; write_atomic synced those.
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
