"""Finished wheels and native layers in a shared cache: fetched into the store, and written back from it.

Under the digest lies what is known of one (its record, and the hashes of its pieces); under each hash a piece of at most
:data:`PIECE` bytes. So whatever keeps small entries can keep a wheel, and each request is bounded.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import time
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from pydantic import ValidationError

from vllm_builder.errors import BuilderError
from vllm_builder.events import Emit, Note, Progress, ignore
from vllm_builder.model import digest as digest_of
from vllm_builder.shared.remote import Remote
from vllm_builder.stages.store import Entry, Record, Store, now, scratch
from vllm_builder.stages.store.model import SCHEMA

Kind = Literal["wheel", "native"]

PIECE: Final = 8 << 20
_SECONDS: Final = 180.0
"""Fetching or writing back takes at most this, or as long as compiling took where that was longer."""
_LARGEST: Final = 64 << 30
_TITLES: Final[dict[Kind, str]] = {"wheel": "wheel", "native": "native layer"}


class _Unfit(Exception):
    """What was fetched is not what it should be."""


class _Gone(Exception):
    """A piece cannot be had; why was said where it is known."""


def fetch(remote: Remote, kind: Kind, digest: str, store: Store, *, emit: Emit = ignore) -> Entry | None:
    """Look for a wheel or a layer, check it, and add it to the store. Call it while holding the digest's lock.

    Returns:
        None where there is none that can be used; a warning says why, unless there simply is none.
    """
    found = remote.get(kind, digest)
    if found is None:
        return None
    folder: Path | None = None
    try:
        record, pieces = _read(found, kind, digest)
        if record is None:
            said = f"The {_TITLES[kind]} {digest[:12]} in {remote.shown} is of another version of vllm-builder: not taken."
            emit(Note(stage="store", message=said))
            return None
        folder = scratch.new(store.root, digest)
        path = folder / record.wheel.filename
        emit(Note(stage="store", message=f"Fetching the {_TITLES[kind]} {digest[:12]} from {remote.shown}"))
        _collect(remote, record, pieces, path, emit)
        _check_content(kind, path, record)
        taken = record.model_copy(update={"shared": {"from": remote.shown, "taken": now()}})
        return store.add(digest, path, taken, emit=emit)
    except _Unfit as error:
        remote.broken(f"{_TITLES[kind]} {digest[:12]}", str(error))
    except _Gone:
        if not remote.off:
            remote.note(f"The {_TITLES[kind]} {digest[:12]} in the shared cache {remote.shown} lacks a part.")
    except BuilderError as error:
        remote.note(f"The {_TITLES[kind]} {digest[:12]} was not taken from {remote.shown}: {error.what}")
    except OSError as error:
        remote.note(f"The {_TITLES[kind]} {digest[:12]} was not taken from {remote.shown}: {error.strerror}.")
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return None


def write_back(remote: Remote, kind: Kind, entry: Entry, *, emit: Emit = ignore) -> bool:
    """Put a wheel or a layer of the store there; whether all of it is there now. A failure is a warning."""
    record = entry.record.model_copy(update={"shared": {}})
    until = time.monotonic() + max(_SECONDS, record.compile.seconds)
    pieces = []
    done = 0
    try:
        with entry.wheel.open("rb") as file:
            while chunk := file.read(PIECE):
                name = hashlib.sha256(chunk).hexdigest()
                if not remote.put("piece", name, chunk):
                    return False
                if time.monotonic() > until:
                    remote.note(f"The {_TITLES[kind]} was not written to {remote.shown}: it takes too long.")
                    return False
                pieces.append([name, len(chunk)])
                done += len(chunk)
                emit(_progress("write back", done, record.wheel.size, entry.wheel.name))
    except OSError as error:
        remote.note(f"The {_TITLES[kind]} was not written to {remote.shown}: {error.strerror}.")
        return False
    known = {"kind": kind, "record": record.model_dump(mode="json"), "pieces": pieces}
    if not remote.put(kind, entry.digest, json.dumps(known, separators=(",", ":")).encode()):
        return False
    emit(Note(stage="store", message=f"The {_TITLES[kind]} {entry.digest[:12]} is in {remote.shown} now."))
    return True


def _read(found: bytes, kind: Kind, digest: str) -> tuple[Record | None, list[tuple[str, int]]]:
    """The record and the pieces; no record where another version of this program wrote it.

    Raises:
        _Unfit
    """
    try:
        known = json.loads(found)
        raw = known["record"]
        pieces = [(str(name), int(size)) for name, size in known["pieces"]]
        if known["kind"] != kind:
            raise _Unfit(f"it is a {known['kind']}")
        if int(raw["schema_version"]) > SCHEMA or raw.keys() - Record.model_fields.keys():
            return None, []
        record = Record.model_validate(raw)
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise _Unfit("its record cannot be read") from error
    if record.digest != digest:
        raise _Unfit(f"its record belongs to {record.digest[:12]}")
    inputs = (record.plan if kind == "wheel" else record.native).get("inputs")
    if digest_of(inputs) != digest:
        raise _Unfit("its inputs are not those of its digest")
    if not record.wheel.filename.endswith(".whl" if kind == "wheel" else ".zip") or record.extensions:
        raise _Unfit(f"{record.wheel.filename} is no whole {_TITLES[kind]}")
    sizes = [size for _, size in pieces]
    if sum(sizes) != record.wheel.size or not all(0 < size <= PIECE for size in sizes):
        raise _Unfit("its pieces do not make up its size")
    if record.wheel.size > _LARGEST:
        raise _Unfit(f"it is said to have {record.wheel.size} bytes")
    return record, pieces


def _collect(remote: Remote, record: Record, pieces: list[tuple[str, int]], path: Path, emit: Emit) -> None:
    until = time.monotonic() + max(_SECONDS, record.compile.seconds)
    whole = hashlib.sha256()
    done = 0
    with path.open("xb") as file:
        for name, size in pieces:
            if time.monotonic() > until:
                remote.note(f"{record.wheel.filename} is not fetched from {remote.shown}: it takes too long.")
                raise _Gone
            content = remote.get("piece", name)
            if content is None:
                raise _Gone
            if len(content) != size or hashlib.sha256(content).hexdigest() != name:
                raise _Unfit("a piece is not what its hash names")
            whole.update(content)
            file.write(content)
            done += size
            emit(_progress("fetch", done, record.wheel.size, record.wheel.filename))
    if whole.hexdigest() != record.wheel.sha256:
        raise _Unfit(f"{record.wheel.filename} has not the sha256 of its record")


def _check_content(kind: Kind, path: Path, record: Record) -> None:
    """
    Raises:
        _Unfit
    """
    if kind == "native":
        _check_layer(path)
        return
    from vllm_builder.wheelfile import open_wheel

    try:
        with open_wheel(path) as wheel:
            inside = wheel.build_record
    except BuilderError as error:
        raise _Unfit(error.what) from error
    if inside is None or inside.digest != record.digest:
        raise _Unfit("the wheel is of another plan")


def _check_layer(path: Path) -> None:
    from vllm_builder.stages.native.model import FILES, MANIFEST

    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                parts = PurePosixPath(info.filename).parts
                fine = info.filename == MANIFEST or (len(parts) > 1 and parts[0] == FILES)
                link = stat.S_ISLNK(info.external_attr >> 16)
                if (
                    not fine
                    or link
                    or {"..", ""} & set(parts)
                    or "\\" in info.filename
                    or "\0" in info.filename
                ):
                    raise _Unfit(f"it holds {info.filename!r}")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _Unfit(f"it is no archive ({error})") from error


def _progress(task: str, done: int, total: int, name: str) -> Progress:
    return Progress(stage="store", task=task, done=done, total=total, unit="B", current=(name,))


def known_of(remote: Remote, kind: Kind, digest: str) -> dict[str, Any] | None:
    """What the cache says of a digest without fetching it: the record as JSON types; None where it has nothing sound."""
    found = remote.get(kind, digest)
    if found is None:
        return None
    try:
        record, _ = _read(found, kind, digest)
    except _Unfit as error:
        remote.broken(f"{_TITLES[kind]} {digest[:12]}", str(error))
        return None
    return None if record is None else record.model_dump(mode="json")
