"""A wheel: its name, its members, its ``.dist-info``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag
from packaging.utils import (
    InvalidWheelFilename,
    NormalizedName,
    canonicalize_name,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from vllm_builder.errors import WheelError
from vllm_builder.events import Emit, ignore
from vllm_builder.wheelfile import inflating
from vllm_builder.wheelfile.directory import Directory, Member, read_directory
from vllm_builder.wheelfile.layout import check_layout, check_names, check_order, check_sizes, data_offset
from vllm_builder.wheelfile.metadata import Metadata, WheelFields, parse_metadata, parse_wheel_fields
from vllm_builder.wheelfile.record import BUILD_RECORD, SBOM, BuildRecord, parse_build_record
from vllm_builder.wheelfile.recordcheck import RecordProblem, check_record
from vllm_builder.wheelfile.sources import Source, open_local

if TYPE_CHECKING:
    from vllm_builder.stages.source.http import Http

READ_LIMIT: Final = 16 << 20
"""Bytes that :meth:`Wheel.read` gives at most unless told otherwise."""
RECORD_LIMIT: Final = 64 << 20
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


class Wheel:
    """An open wheel; see :func:`open_wheel`. Reading members may be done by several threads at once."""

    def __init__(self, source: Source, location: str, filename: str) -> None:
        """Reads the directory and refuses what no wheel has.

        Raises:
            WheelError
        """
        self._source = source
        self.location = location
        """Path or address, without credentials."""
        self.filename = filename
        self.size = source.size
        """Of the file, in bytes."""
        self.name: NormalizedName
        self.version: Version
        self.tags: frozenset[Tag]
        """Of the file name."""
        self.name, self.version, self.build, self.tags = _parsed(filename)
        self.directory: Directory = read_directory(source, filename)
        check_names(self.directory.members, filename)
        check_sizes(self.directory.members, filename)
        check_order(self.directory, filename)
        if source.cheap:  # elsewhere each member's header is checked when it is read
            check_layout(source, self.directory, filename)
        self.members = {member.name: member for member in self.directory.members if not member.is_dir}
        """Files by name, in the order of the directory."""
        self.dist_info = _dist_info(self.members, self.name, self.version, filename)
        """Name of the ``.dist-info`` folder."""

    def __enter__(self) -> Wheel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._source.close()

    @property
    def remote(self) -> bool:
        """Reading members may fetch them."""
        return not self._source.cheap

    @cached_property
    def metadata(self) -> Metadata:
        """METADATA. Its name and version are the file name's.

        Raises:
            WheelError
        """
        where = f"{self.filename}: METADATA"
        found = parse_metadata(self.read(f"{self.dist_info}/METADATA"), where)
        try:
            same = Version(found.version) == self.version
        except InvalidVersion:
            same = False
        if not same or canonicalize_name(found.name) != self.name:
            raise WheelError(
                f"{where} is of {found.name} {found.version}, and the file is called {self.filename}.",
                why="Installers refuse such a wheel.",
                next="Give the file its own name back, or build it again.",
            )
        return found

    @cached_property
    def wheel_fields(self) -> WheelFields:
        """The file WHEEL.

        Raises:
            WheelError
        """
        return parse_wheel_fields(
            self.read(f"{self.dist_info}/WHEEL", limit=1 << 20), f"{self.filename}: WHEEL"
        )

    @property
    def wheel_tags(self) -> tuple[str, ...]:
        """Tags of the file WHEEL, as written there; see :attr:`tags` for those of the file name."""
        return self.wheel_fields.tags

    @cached_property
    def build_record(self) -> BuildRecord | None:
        """The record of vllm-builder; None in a wheel of another maker.

        Raises:
            WheelError: there is one that cannot be read.
        """
        name = f"{self.dist_info}/{BUILD_RECORD}"
        return parse_build_record(self.read(name)) if name in self.members else None

    @property
    def has_sbom(self) -> bool:
        """Whether there is anything in the folder that PEP 770 gives to lists of components."""
        folder = f"{self.dist_info}/{SBOM.partition('/')[0]}/"
        return any(name.startswith(folder) for name in self.members)

    def member(self, name: str) -> Member:
        """One member.

        Raises:
            WheelError: there is none of that name.
        """
        try:
            return self.members[name]
        except KeyError:
            raise WheelError(f"{self.filename} has no member {name}.") from None

    def read(self, name: str, *, limit: int = READ_LIMIT) -> bytes:
        """The whole content of a member of at most ``limit`` bytes.

        Raises:
            WheelError: there is none, it is larger, or damaged.
        """
        member = self.member(name)
        if member.size > limit:
            raise WheelError(
                f"{self.filename}: {name} has {member.size} bytes.", why=f"It is read up to {limit} bytes."
            )
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a member, at most 1 MiB at a time; size and checksum are judged at the end.

        Raises:
            WheelError
        """
        return inflating.chunks(self._source, self.member(name), self.filename)

    def packed(self, name: str) -> Iterator[bytes]:
        """The bytes of a member as they lie in the file, compressed or not; nothing is checked.

        Raises:
            WheelError: there is no such member.
        """
        member = self.member(name)
        return self._source.stream(data_offset(self._source, member, self.filename), member.compressed)

    def raw(self) -> Iterator[bytes]:
        """The bytes of the wheel itself, in chunks.

        Raises:
            WheelError
        """
        return self._source.stream(0, self.size)

    def mapped(self, name: str) -> AbstractContextManager[memoryview]:
        """The whole content of a member as a read-only buffer, valid inside the ``with``, checksum checked.

        Raises:
            WheelError
            NoSpace: there is no room for it in the folder for temporary files.
        """
        return inflating.mapped(self._source, self.member(name), self.filename)

    def verify_record(self) -> list[RecordProblem]:
        """Hold RECORD against every member, in one pass over all content; an empty list is good.

        Raises:
            WheelError: RECORD itself cannot be read.
        """
        record = self.read(f"{self.dist_info}/RECORD", limit=RECORD_LIMIT)
        threads = min(4, os.cpu_count() or 1) if self._source.cheap else 1
        return check_record(
            record, self.members, self.dist_info, lambda member: self.chunks(member.name), threads=threads
        )


def open_wheel(location: str | Path, *, http: Http | None = None, emit: Emit = ignore) -> Wheel:
    """Open a wheel on disk or behind a URL (``http``, ``https``, ``file``), and check its container.

    Of a remote wheel only what is asked for is fetched, where its server allows that.

    Args:
        http: a session for remote wheels; without one it is made from the index configuration.
        emit: told when a remote wheel has to be downloaded whole.

    Raises:
        WheelError: there is none, it cannot be read, or it has something that no wheel has.
    """
    url = _URL.match(location) if isinstance(location, str) else None
    if url is None:
        path = Path(location)
        return _opened(open_local(path), str(path), path.name)
    text = str(location)
    scheme = url[1].lower()
    try:
        parts = urlsplit(text)
        name = unquote(parts.path).rpartition("/")[2]
        host = parts.hostname
    except ValueError as error:
        raise WheelError("The address is none.", why=str(error), next="Check how it is written.") from error
    if scheme == "file":
        if host not in {None, "localhost"}:
            raise WheelError(f"The address names a file of another machine ({host}).", next="Copy it here.")
        path = Path(unquote(parts.path))
        return _opened(open_local(path), str(path), path.name)
    if scheme not in {"http", "https"} or not host:
        raise WheelError(
            f"A wheel is read from a path or an http(s) address, not over {scheme}://."
            if scheme not in {"http", "https"}
            else f"The address {text[:100]} names no server.",
            next="Download the wheel and name the file."
            if scheme not in {"http", "https"}
            else "Write for example https://example.org/NAME-VERSION-PYTHON-ABI-PLATFORM.whl.",
        )
    _parsed(name)  # what is no wheel by its name is not asked for
    from vllm_builder.wheelfile.remote import Changed, RemoteFile

    remote = RemoteFile(text, name, http=http, emit=emit)
    try:
        return Wheel(remote, remote.location, name)
    except Changed:  # it is here whole now: once more, of one piece
        return _opened(remote, remote.location, name)
    except BaseException:
        remote.close()
        raise


def _opened(source: Source, location: str, filename: str) -> Wheel:
    try:
        return Wheel(source, location, filename)
    except BaseException:
        source.close()
        raise


def _parsed(filename: str) -> tuple[NormalizedName, Version, tuple[object, ...], frozenset[Tag]]:
    try:
        if filename.count(".") > 200:
            raise InvalidWheelFilename("it has more tags than any wheel")
        return parse_wheel_filename(filename)
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise WheelError(
            f"{filename[:200] or 'The address'} is not named as a wheel is.",
            why=str(error)[:400] + ("" if str(error).endswith(".") else "."),
            next="A wheel is called NAME-VERSION-PYTHON-ABI-PLATFORM.whl: name such a file, or give it its name back.",
        ) from error


def _dist_info(members: dict[str, Member], name: NormalizedName, version: Version, file: str) -> str:
    folders = sorted(
        {top for top, slash, _ in (m.partition("/") for m in members) if slash and top.endswith(".dist-info")}
    )
    if len(folders) != 1:
        raise WheelError(
            f"{file} has {'no' if not folders else len(folders)} .dist-info folder{'s' if folders else ''}"
            + (f": {', '.join(folders[:4])}." if folders else "."),
            why="A wheel has exactly one; which of several counts would depend on the installer." if folders
            else "It is a zip file and no wheel.",
            next="Name another file, or ask its maker for a wheel.",
        )  # fmt: skip
    (folder,) = folders
    stem, _, written = folder.removesuffix(".dist-info").rpartition("-")
    try:
        same = canonicalize_name(stem) == name and Version(written.replace("_", "-")) == version
    except InvalidVersion:
        same = False
    if not same:
        raise WheelError(
            f"{file} holds {folder}: the file's name and its content are of two wheels.",
            why="Installers refuse it, or install another version than the name says.",
            next="Give the file its own name back, or build it again.",
        )
    for wanted in ("METADATA", "WHEEL", "RECORD"):
        if f"{folder}/{wanted}" not in members:
            raise WheelError(
                f"{file} has no {wanted} in {folder}.",
                why="Without it no installer takes the wheel.",
                next="Copy or download it again; if it is your own, build it again.",
            )
    return folder
