"""How a generation comes into the store, and how a damaged one leaves it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from vllm_builder.errors import BuilderError, StoreError, from_os_error
from vllm_builder.fs import make_dir, os_errors
from vllm_builder.stages.store import scratch
from vllm_builder.stages.store.model import RECORD, USED, Record

_CHUNK = 1 << 20


def generations(root: Path, digest: str) -> list[tuple[int, Path]]:
    """Numbers and folders of the generations of one digest, newest first."""
    folder = root / digest
    try:
        found = [(int(p.name), p) for p in folder.iterdir() if re.fullmatch("[0-9]{4,}", p.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise from_os_error(error, f"reading the store {folder}") from error
    return sorted(found, reverse=True)


def write(root: Path, wheel: Path, record: Record) -> tuple[int, Path]:
    """Copy a wheel into a new generation of its digest: written elsewhere, then renamed into place.

    Raises:
        StoreError: the wheel is not the one that the record describes.
        NoSpace, NotWritable: nothing was added.
    """
    with os_errors(f"adding {wheel.name} to the store {root}"):
        temporary = scratch.new(root, record.digest)
        try:
            _fill(temporary, wheel, record)
            return _place(root, temporary, record.digest)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def set_aside(root: Path, digest: str, folder: Path, problems: list[str]) -> str:
    """Move a damaged generation to ``damaged/`` and leave the reason with it.

    Returns:
        A sentence that says where it is now.
    """
    name = f"{digest}-{folder.name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-"
    try:
        aside = Path(tempfile.mkdtemp(prefix=name, dir=make_dir(root / "damaged")))
        folder.rename(aside)
    except (OSError, BuilderError) as error:
        return f"It could not be moved aside ({error})."
    with suppress(OSError):
        (aside / "problems.txt").write_text("\n".join(problems) + "\n", encoding="utf-8")
    with suppress(OSError):
        folder.parent.rmdir()
    return f"It was moved to {aside}."


def _fill(temporary: Path, wheel: Path, record: Record) -> None:
    hasher = hashlib.sha256()
    size = 0
    with wheel.open("rb") as reader, (temporary / record.wheel.filename).open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            hasher.update(chunk)
            size += writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
        # Nobody should edit a file that a digest vouches for.
        os.fchmod(writer.fileno(), 0o444)
    if (size, hasher.hexdigest()) != (record.wheel.size, record.wheel.sha256):
        raise StoreError(
            f"{wheel} is not the wheel that its record describes.",
            why=f"It has {size} bytes and the sha256 {hasher.hexdigest()}; the record says "
            f"{record.wheel.size} and {record.wheel.sha256}.",
            next="Something changed the file after it was built: run the same build again.",
        )
    with (temporary / RECORD).open("x", encoding="utf-8") as file:
        file.write(record.to_json())
        file.flush()
        os.fsync(file.fileno())
    (temporary / USED).touch()
    temporary.chmod(0o777 & ~scratch.umask())
    scratch.sync_folder(temporary)


def _place(root: Path, temporary: Path, digest: str) -> tuple[int, Path]:
    parent = root / digest
    while True:
        number = max([0, *(n for n, _ in generations(root, digest))]) + 1
        folder = parent / f"{number:04d}"
        make_dir(parent)
        try:
            # A rename onto a folder that has something in it fails, so no generation is ever replaced.
            temporary.rename(folder)
        except OSError:
            # Another process was there first, or pruned the empty folder away: look again.
            if temporary.exists() and (folder.exists() or not parent.exists()):
                continue
            raise
        scratch.sync_folder(parent)
        return number, folder
