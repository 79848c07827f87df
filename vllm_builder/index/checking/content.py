"""Wheels, and what lies beside them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from packaging.version import InvalidVersion, Version

from vllm_builder.errors import WheelError
from vllm_builder.fs import os_errors
from vllm_builder.index.checking.walk import Walk
from vllm_builder.index.model import File
from vllm_builder.index.storage.base import Storage
from vllm_builder.index.storage.folder import Folder
from vllm_builder.stages.verify.model import Finding
from vllm_builder.wheelfile import open_wheel


def check_content(walk: Walk) -> Iterator[Finding]:
    """Every file that the manifest names, and those of groups that wait."""
    staged = [
        (member.variant, member.file)
        for group in walk.snapshot.root.groups.values()
        for member in group.staged
    ]
    every = [*walk.files(), *staged]
    walk.expected.update(key for _, file in every for key in file.keys)
    yield from walk.each("files", [file for _, file in every], lambda file: _file(walk, file))


def _file(walk: Walk, file: File) -> Iterator[Finding]:
    again = (
        f"Publish the same file again (`vllm-builder index publish {file.filename} --to {quote(walk.storage.url)}`): "
        "what is missing is put back."
    )
    stat = walk.stats.get(file.key)
    if stat is None:
        yield _error(
            "file-missing", f"{file.filename} is missing.", file.key, "Who installs it fails.", again
        )
    elif stat.size != file.size:
        yield _error(
            "file-size",
            f"{file.filename} has {stat.size} bytes, and was published with {file.size}.",
            file.key,
            "pip and uv refuse it for its hash.",
            _replace(file, walk),
        )
    elif not walk.quick:
        if file.key not in walk.known:
            walk.known[file.key] = tuple(_inside(walk, file))
        yield from walk.known[file.key]
    yield from _beside(walk, file, again)


def _beside(walk: Walk, file: File, again: str) -> Iterator[Finding]:
    sidecar = walk.storage.read(file.metadata_key)
    if sidecar is None:
        yield _error(
            "sidecar-missing",
            f"The metadata of {file.filename} is missing.",
            file.metadata_key,
            "The pages announce it, and pip and uv fail where it is not there.",
            f"`vllm-builder index rebuild --to {quote(walk.storage.url)}` takes it out of the wheel again.",
        )
    elif hashlib.sha256(sidecar.data).hexdigest() != file.metadata_sha256:
        yield _error(
            "sidecar-damaged",
            f"The metadata beside {file.filename} is not what was published.",
            file.metadata_key,
            "Its SHA-256 is another than the pages announce: pip and uv fail.",
            f"Delete it; `vllm-builder index rebuild --to {quote(walk.storage.url)}` takes it out of the wheel again.",
        )
    proof = walk.storage.read(file.provenance_key) if file.provenance_sha256 or walk.provenance else None
    if file.provenance_sha256:
        if proof is None:
            yield _error(
                "provenance-missing",
                f"The provenance of {file.filename} is missing.",
                file.provenance_key,
                "Where the wheel came from can no longer be shown.",
                "Put it back from a backup.",
            )
        elif hashlib.sha256(proof.data).hexdigest() != file.provenance_sha256:
            yield _error(
                "provenance-damaged",
                f"The provenance beside {file.filename} is not what was published.",
                file.provenance_key,
                "Somebody or something changed it.",
                "Put it back from a backup.",
            )
    if walk.provenance:
        yield from _proof(walk, file, proof.data if proof is not None else None)


def _proof(walk: Walk, file: File, data: bytes | None) -> Iterator[Finding]:
    from vllm_builder.index.provenance.checking import check_provenance

    for found in check_provenance(
        data, filename=file.filename, sha256=file.sha256, keys=walk.keys, plan_digest=file.facts.digest
    ):
        yield Finding(
            check="provenance",
            severity=found.severity,
            what=f"{file.filename}: {found.what}",
            where=file.provenance_key,
            cure=found.cure,
        )


def _inside(walk: Walk, file: File) -> Iterator[Finding]:
    try:
        with local_wheel(walk.storage, file) as (path, sha256):
            walk.read.add(file.size)
            if sha256 != file.sha256:
                yield _error(
                    "file-damaged",
                    f"{file.filename} is not what was published: SHA-256 {sha256[:8]}..., not {file.sha256[:8]}...",
                    file.key,
                    "pip and uv refuse it for its hash.",
                    _replace(file, walk),
                )
                return
            with open_wheel(path) as wheel:
                metadata = wheel.read(f"{wheel.dist_info}/METADATA")
                same = wheel.name == file.project and wheel.version == Version(file.version)
                requires = wheel.metadata.requires_python
    except KeyError:
        yield _error("file-missing", f"{file.filename} went away meanwhile.", file.key, "", "Check again.")
        return
    except (WheelError, InvalidVersion) as error:
        what = error.what if isinstance(error, WheelError) else str(error)
        yield _error(
            "no-wheel", f"{file.filename} cannot be read as a wheel: {what}", file.key, "", "Yank it."
        )
        return
    differs = [
        name
        for name, right in (
            ("name or version", same),
            ("METADATA", hashlib.sha256(metadata).hexdigest() == file.metadata_sha256),
            ("Requires-Python", requires == file.requires_python),
        )
        if not right
    ]
    if differs:
        yield _error(
            "metadata-differs",
            f"The manifest has another {' and another '.join(differs)} than {file.filename} itself.",
            file.key,
            "Installers would resolve by one and install the other.",
            "Yank it, and publish it anew under another version or build tag.",
        )


@contextmanager
def local_wheel(storage: Storage, file: File) -> Iterator[tuple[Path, str]]:
    """The wheel as a file, and its SHA-256.

    Raises:
        KeyError: it is not there.
    """
    hashed = hashlib.sha256()
    if isinstance(storage, Folder):
        for chunk in storage.chunks(file.key):
            hashed.update(chunk)
        yield storage.root / file.key, hashed.hexdigest()
        return
    with os_errors("keeping a wheel of the index for a moment"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file.filename
        with path.open("wb") as out:
            for chunk in storage.chunks(file.key):
                hashed.update(chunk)
                out.write(chunk)
        yield path, hashed.hexdigest()


def _replace(file: File, walk: Walk) -> str:
    return (
        f"Delete {file.key} and publish the same file again to {walk.storage.url}; where there is no copy, "
        f"`vllm-builder index yank {file.filename} --to {quote(walk.storage.url)} --reason damaged`."
    )


def _error(check: str, what: str, where: str, why: str, cure: str) -> Finding:
    return Finding(check=check, severity="error", what=what, where=where, why=why, cure=cure)
