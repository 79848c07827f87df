"""Reading a bundle: every file held against its hash on its way into the cache.

The manifest comes first and says what the archive may hold: plain files under plain relative names, each with
size and hash. Whatever else an archive can hold (links, devices, names that leave the folder) is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from filelock import FileLock
from pydantic import ValidationError

from vllm_builder.bundling.collecting import make_repositories, repository_of
from vllm_builder.bundling.model import FORMAT, MANIFEST, BundledFile, Manifest
from vllm_builder.cache import Cache
from vllm_builder.errors import BuilderError, BundleError, HashMismatch, HostileArchive, NoSpace
from vllm_builder.events import Emit, Progress, StageFinished, StageStarted, ignore
from vllm_builder.fs import make_dir, os_errors, remove_tree, walk_files, write_atomic
from vllm_builder.model import canonical_json
from vllm_builder.stages.source.archives import Entry, entries_of
from vllm_builder.stages.source.placing import partial_folder

_MOST_MANIFEST: Final = 32 << 20
_AGAIN: Final = "Copy the bundle again and compare its SHA-256 with what was printed when it was made."
_HEADERS: Final = 4096
"""Bytes of a tar around each file, at most."""
_CHUNK: Final = 1 << 15
_LISTING: Final = "vllm-builder-listing.json"
"""Beside what was unpacked: path -> size and time."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A bundle whose content is in the cache, intact."""

    file: Path
    manifest: Manifest
    folder: Path

    def place(self, path: str) -> Path:
        """Where something of the bundle is: a repository for a pack, else the file."""
        for pack in self.manifest.packs:
            if pack.file == path:
                return repository_of(pack, self.folder)
        return self.folder / path


def read_manifest(file: Path) -> Manifest:
    """The manifest of a bundle; nothing else of it is read.

    Raises:
        BundleError: there is no such file, it is no bundle, or one of a later format.
        HostileArchive
    """
    return _manifest(file)[0]


def open_bundle(file: Path, cache: Cache, emit: Emit = ignore) -> Opened:
    """Bring the content of a bundle into the cache; a bundle that is there already is not read again.

    Raises:
        BundleError, HostileArchive
        HashMismatch: a file of it is not what the manifest names.
        NoSpace, NotWritable
    """
    import time

    started = time.monotonic()
    manifest, identity = _manifest(file)
    folder = cache.bundles / identity[:32]
    opened = Opened(file, manifest, folder)
    make_dir(cache.bundles)
    with os_errors(f"locking {folder}"), FileLock(f"{folder}.lock"):
        if _whole(opened):
            return opened
        emit(StageStarted(stage="bundle", title="Bundle"))
        free = shutil.disk_usage(cache.bundles).free
        if free < manifest.size:
            raise NoSpace(
                f"The bundle takes {manifest.size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {cache.root}.",
                next="Free some space, or point --cache-dir at a larger disk.",
            )
        remove_tree(folder)
        with partial_folder(folder) as partial, os_errors(f"unpacking {file} into {cache.bundles}"):
            _unpack(file, manifest, identity, partial, emit)
            files = {one.path: partial / one.path for one in manifest.files}
            make_repositories(manifest.packs, files, partial)
            if manifest.source.kind == "tree":
                from vllm_builder.stages.source.extraction import extract

                extract(partial / manifest.source_file, partial / "source-tree")
            _write_listing(partial)
            partial.replace(folder)
        summary = f"{len(manifest.files)} files, {manifest.size / 1e9:.2f} GB, all as listed"
        emit(StageFinished(stage="bundle", seconds=time.monotonic() - started, summary=summary))
    return opened


def _whole(opened: Opened) -> bool:
    """Whether everything is there as it was unpacked: what was unpacked was whole, so sizes and times tell.

    What a bundle holds is taken without asking further, so a change in it would go into the wheel.
    """
    try:
        kept = json.loads((opened.folder / _LISTING).read_text("utf-8"))
        return bool(kept == _listing(opened.folder))
    except (OSError, ValueError, BuilderError):
        return False


def _listing(folder: Path) -> dict[str, list[int]]:
    files = walk_files(folder, lambda name, top: top and name == _LISTING)
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in files.items()}


def _write_listing(folder: Path) -> None:
    write_atomic(folder / _LISTING, json.dumps(_listing(folder), separators=(",", ":")))


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """What the readers of archives raise over a file that is damaged, or no archive."""
    try:
        yield
    except BuilderError as error:
        if isinstance(error, BundleError | HostileArchive | HashMismatch):
            raise
        raise BundleError(f"{file} is no bundle.", why=error.what, next="Check the file's name.") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(file, str(error)) from error
    except (EOFError, ValueError, OverflowError, RuntimeError, zlib.error, NotImplementedError) as error:
        raise _damaged(file, str(error)) from error
    except tarfile.TarError as error:
        # From within a member, which is read outside of the reader of members.
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, why: str) -> BundleError:
    return BundleError(
        f"{file} is damaged.",
        why=f"{' '.join(why.split())[:200].rstrip('.') or 'It ends early'}.",
        next=_AGAIN,
    )


def _hostile(file: Path, name: str, why: str) -> HostileArchive:
    shown = name if len(name) <= 120 else f"{name[:117]}..."
    return HostileArchive(
        f"{file.name} was refused: {shown!r} {why}.",
        why="A bundle holds the files of its manifest and nothing else.",
        next="Do not use this file. Have the bundle made again.",
    )


class _Budget:
    """Counts what comes out of the archive, should somebody have compressed it."""

    def __init__(self, file: Path) -> None:
        self.file, self.left = file, _MOST_MANIFEST + _HEADERS

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _hostile(self.file, self.file.name, "holds more than its manifest lists")


def _manifest(file: Path) -> tuple[Manifest, str]:
    if not file.is_file():
        raise BundleError(f"There is no bundle {file}.", next="Check the path that was given to --bundle.")
    with os_errors(f"reading {file}"), _refusing(file):
        for entry in entries_of(file, _Budget(file).take, file.parent):
            raw = _manifest_bytes(file, entry)
            return _parsed(file, raw), hashlib.sha256(raw).hexdigest()
    raise BundleError(f"{file} is no bundle.", why="It is empty.", next=_AGAIN)


def _manifest_bytes(file: Path, entry: Entry) -> bytes:
    if entry.name != MANIFEST or entry.kind != "file":
        raise BundleError(
            f"{file} is no bundle.",
            why=f"The first thing in it is {entry.name[:100]!r}, not {MANIFEST}.",
            next="Give --bundle a file that `vllm-builder bundle` wrote.",
        )
    if entry.size > _MOST_MANIFEST:
        raise _hostile(file, MANIFEST, "is absurdly large")
    with entry.open() as reader:
        raw = b"".join(iter(lambda: reader.read(_CHUNK), b""))
    if len(raw) != entry.size:
        raise EOFError("it ends in its manifest")
    return raw


def _parsed(file: Path, raw: bytes) -> Manifest:
    try:
        value = json.loads(raw)
        number = value["format"] if isinstance(value, dict) else None
    except (ValueError, KeyError, RecursionError):
        raise BundleError(f"{file} is damaged.", why="Its manifest cannot be read.", next=_AGAIN) from None
    if isinstance(number, int) and number > FORMAT:
        raise BundleError(
            f"{file} has the format {number}, and this vllm-builder knows {FORMAT}.",
            why=f"It was written by vllm-builder {str(value.get('builder', '(unknown)'))[:40]}.",
            next="Install that version here, or have the bundle made with this one.",
        )
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BundleError(
            f"The manifest of {file} cannot be used.",
            why=f"{'.'.join(map(str, first['loc']))}: {first['msg']}.",
            next=_AGAIN,
        ) from None
    if hashlib.sha256(canonical_json(manifest.inputs).encode()).hexdigest() != manifest.digest:
        raise BundleError(
            f"The manifest of {file} contradicts itself.",
            why="Its digest is not the one of its inputs.",
            next=_AGAIN,
        )
    return manifest


def _unpack(file: Path, manifest: Manifest, identity: str, folder: Path, emit: Emit) -> None:
    """Write every file of the archive below an empty folder.

    ``identity`` is the manifest's hash: the file may have been changed since its manifest was read.
    """
    expected = {one.path: one for one in manifest.files}
    budget = _Budget(file)
    budget.left += manifest.size + (len(expected) + 4) * _HEADERS
    done = 0
    with _refusing(file):
        for number, entry in enumerate(entries_of(file, budget.take, folder)):
            if number == 0:
                if hashlib.sha256(_manifest_bytes(file, entry)).hexdigest() != identity:
                    raise _damaged(file, "its manifest changed while it was read")
                continue
            if entry.kind != "file":
                raise _hostile(file, entry.name, "is no plain file")
            one = expected.pop(entry.name, None)
            if one is None:
                raise _hostile(file, entry.name, "is not in its manifest, or is there twice")
            target = folder.joinpath(*one.path.split("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            with entry.open() as reader:
                _copy(file, one, entry, reader, target)
            done += one.size
            task = f"Unpacking {file.name}"
            emit(
                Progress(
                    stage="bundle", task=task, done=done, total=manifest.size, unit="B", current=(one.path,)
                )
            )
    if expected:
        raise _damaged(file, f"It lacks {', '.join(sorted(expected)[:5])}")


def _copy(file: Path, one: BundledFile, entry: Entry, reader: IO[bytes], target: Path) -> None:
    digest = hashlib.sha256()
    size = 0
    if entry.size == one.size:
        with target.open("xb") as writer:
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                writer.write(chunk)
        if size < entry.size:
            raise EOFError(f"it ends in {one.path}")
    if size != one.size or digest.hexdigest() != one.sha256:
        raise HashMismatch(
            f"{one.path} in {file} is not what the bundle's manifest names.",
            why=f"Its sha256 should be {one.sha256}, and is {digest.hexdigest()}."
            if size == one.size
            else f"It should have {one.size} bytes, and has {entry.size}.",
            next=_AGAIN,
        )
