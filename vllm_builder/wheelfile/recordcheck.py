"""RECORD against the wheel: every member named, with the hash and size that it has."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from installer.records import InvalidRecordEntry, RecordEntry

from vllm_builder.model import Model
from vllm_builder.wheelfile.directory import Member

_STRONG: Final = frozenset({"sha256", "sha384", "sha512"})
"""The wheel specification asks for sha256 or better."""
_UNHASHED: Final = ("RECORD", "RECORD.jws", "RECORD.p7s")
MOST: Final = 1000
"""More problems than this are not told one by one."""


class RecordProblem(Model):
    """What RECORD and the wheel disagree on."""

    member: str
    kind: str
    """``unlisted``, ``absent``, ``hash``, ``size``, ``no-hash``, ``weak-hash``, ``twice``, ``row``, ``damaged``."""
    what: str


def check_record(
    record: bytes,
    members: Mapping[str, Member],
    dist_info: str,
    read: Callable[[Member], Iterable[bytes]],
    *,
    threads: int,
) -> list[RecordProblem]:
    """Hold RECORD against the members.

    Args:
        record: the file RECORD.
        members: all files of the wheel by their names.
        dist_info: name of the folder that RECORD lies in.
        read: gives a member's content in chunks; a WheelError from it becomes a problem of that member.
        threads: how many members are read at once.
    """
    exempt = {f"{dist_info}/{name}" for name in _UNHASHED}
    problems: list[RecordProblem] = []
    entries = dict(_entries(record, problems))
    problems += [
        RecordProblem(member=name, kind="unlisted", what="is in the wheel and not in RECORD")
        for name in members
        if name not in entries and name not in exempt
    ]
    problems += [
        RecordProblem(member=name, kind="absent", what="is in RECORD and not in the wheel")
        for name in entries
        if name not in members and not name.endswith("/")
    ]
    wanted = [(members[name], entry) for name, entry in entries.items() if name in members]
    wanted = [(member, entry) for member, entry in wanted if member.name not in exempt]
    wanted.sort(key=lambda pair: -pair[0].size)
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(lambda pair: _compare(pair[0], pair[1], read), wanted):
            problems += found
    problems.sort(key=lambda p: p.member)
    return problems[:MOST]


def _entries(record: bytes, problems: list[RecordProblem]) -> Iterator[tuple[str, RecordEntry]]:
    try:
        text = record.decode("utf-8")
    except UnicodeDecodeError:
        problems.append(RecordProblem(member="RECORD", kind="row", what="is no UTF-8 text"))
        return
    seen = set()
    reader = csv.reader(text.splitlines())
    number = 0
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.append(RecordProblem(member="RECORD", kind="row", what=f"line {number}: {error}"))
            continue
        if not row:
            continue
        try:
            entry = RecordEntry.from_elements(*_three(row))
        except (InvalidRecordEntry, ValueError) as error:
            why = "; ".join(error.issues) if isinstance(error, InvalidRecordEntry) else str(error)
            problems.append(RecordProblem(member=row[0][:200], kind="row", what=f"line {number}: {why}"))
            continue
        # Some tools of Windows wrote \ here; the files are called with /.
        if row[0] in seen:
            problems.append(RecordProblem(member=row[0], kind="twice", what="is in RECORD more than once"))
        seen.add(row[0])
        yield row[0], entry


def _three(row: list[str]) -> tuple[str, str, str]:
    if len(row) != 3:
        raise ValueError(f"{len(row)} fields instead of 3")
    return row[0], row[1], row[2]


def _compare(
    member: Member, entry: RecordEntry, read: Callable[[Member], Iterable[bytes]]
) -> list[RecordProblem]:
    from vllm_builder.errors import WheelError

    def problem(kind: str, what: str) -> RecordProblem:
        return RecordProblem(member=member.name, kind=kind, what=what)

    found = []
    if entry.size is not None and entry.size != member.size:
        found.append(problem("size", f"has {member.size} bytes, and RECORD says {entry.size}"))
    if entry.hash_ is None:
        return [*found, problem("no-hash", "has no hash in RECORD")]
    name = entry.hash_.name.lower()
    if name not in _STRONG:
        return [
            *found,
            problem("weak-hash", f"has a hash of the kind {name[:40]!r} in RECORD, which the format forbids"),
        ]
    digest = hashlib.new(name)
    try:
        for chunk in read(member):
            digest.update(chunk)
    except WheelError as error:
        return [*found, problem("damaged", f"{error.what} {error.why}".strip())]
    if digest.digest() != _decoded(entry.hash_.value):
        found.append(problem("hash", f"has another content than RECORD says ({name})"))
    return found


def _decoded(value: str) -> bytes | None:
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
