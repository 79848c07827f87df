"""What changed between two wheels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from vllm_builder.events import Emit, ignore
from vllm_builder.stages.plan.explain import differences as explained
from vllm_builder.stages.verify.differing import compare_files, compare_modules, only, sha256
from vllm_builder.stages.verify.inspecting import inspect_wheel
from vllm_builder.stages.verify.model import Comparison, Difference, Inspection
from vllm_builder.wheelfile import open_wheel
from vllm_builder.wheelfile.directory import Member
from vllm_builder.wheelfile.wheel import Wheel

_ORDER: Final = (
    "name", "version", "tag", "requirement", "metadata", "record", "floor", "readable", "member", "mode", "arch",
    "cuda", "torch", "needed", "rpath", "import", "export", "section", "size", "method", "timestamp", "order", "container",
)  # fmt: skip
"""Most important first."""
_CONTAINER: Final = frozenset({"method", "timestamp", "order", "container"})
"""Kinds that are gone once a wheel is unpacked."""
_SHOWN_APART: Final = frozenset({"name", "version", "requires_dist", "metadata_version"})
_METHODS: Final = {0: "stored", 8: "deflated"}


def compare(a: str | Path, b: str | Path, *, emit: Emit = ignore) -> Comparison:
    """Hold two wheels against each other: what they are, what they need, and every member.

    Raises:
        WheelError: one of them cannot be read.
        NoSpace: there is no room to unpack libraries in the folder for temporary files.
    """
    with open_wheel(a, emit=emit) as one, open_wheel(b, emit=emit) as two:
        if _same_bytes(one, two):
            return Comparison(a=one.location, b=two.location, identical=True, same_content=True)
        first, second = inspect_wheel(one, emit=emit), inspect_wheel(two, emit=emit)
        found = [*_described(one, two, first, second), *_members(one, two)]
        found += compare_modules(first.modules, second.modules)
    found.sort(key=lambda difference: (_ORDER.index(difference.kind), difference.where))
    return Comparison(
        a=first.location,
        b=second.location,
        identical=False,
        same_content=all(difference.kind in _CONTAINER for difference in found),
        differences=tuple(found),
    )


def _same_bytes(one: Wheel, two: Wheel) -> bool:
    if one.size != two.size or one.directory != two.directory:
        return False
    return sha256(one.raw()) == sha256(two.raw())


def _described(one: Wheel, two: Wheel, first: Inspection, second: Inspection) -> Iterator[Difference]:
    """What the wheels say of themselves."""
    for kind, a, b in (("name", first.name, second.name), ("version", first.version, second.version)):
        if a != b:
            yield Difference(kind=kind, where="METADATA", a=a, b=b)
    yield from only("tag", "WHEEL", first.tags, second.tags)
    yield from only("tag", "file name", first.filename_tags, second.filename_tags)
    yield from only("requirement", "Requires-Dist", first.requires_dist, second.requires_dist)
    mine, theirs = one.metadata.fields, two.metadata.fields
    for field in sorted((mine.keys() | theirs.keys()) - _SHOWN_APART):
        yield from only("metadata", field, mine.get(field, ()), theirs.get(field, ()))
    if first.platform_floor != second.platform_floor:
        yield Difference(kind="floor", where="libraries", a=first.platform_floor, b=second.platform_floor)
    yield from only("needed", "from the system", first.outside, second.outside)
    places = (
        {_place(wheel, name): why for name, why in found.unreadable.items()}
        for wheel, found in ((one, first), (two, second))
    )
    mine_bad, their_bad = places
    for place in sorted(mine_bad.keys() | their_bad.keys()):
        if mine_bad.get(place) != their_bad.get(place):
            yield Difference(
                kind="readable", where=place, a=mine_bad.get(place, ""), b=their_bad.get(place, "")
            )
    records = [found.record.model_dump(mode="json") if found.record else {} for found in (first, second)]
    for leaf in explained(*records):
        yield Difference(kind="record", where=leaf.path, a=leaf.this or "", b=leaf.other or "")
    kinds = first.size_by_kind.keys() | second.size_by_kind.keys()
    for kind in sorted(kinds):
        sizes = [found.size_by_kind.get(kind, 0) for found in (first, second)]
        if sizes[0] != sizes[1]:
            yield Difference(kind="size", where=kind, a=str(sizes[0]), b=str(sizes[1]))


def _members(one: Wheel, two: Wheel) -> list[Difference]:
    mine, theirs = _by_place(one), _by_place(two)
    common = [place for place in mine if place in theirs]
    found = [
        Difference(kind="member", where=p, a=f"{m.size} bytes") for p, m in mine.items() if p not in theirs
    ]
    found += [
        Difference(kind="member", where=p, b=f"{m.size} bytes") for p, m in theirs.items() if p not in mine
    ]
    pairs = sorted(((mine[p], theirs[p]) for p in common), key=lambda pair: -pair[0].size)
    with ThreadPoolExecutor(max(1, min(2, os.cpu_count() or 1))) as pool:
        for place, part in zip(
            (_place(one, m.name) for m, _ in pairs),
            pool.map(lambda pair: compare_files(one, two, *pair), pairs),
            strict=True,
        ):
            found += [
                difference.model_copy(update={"where": place + difference.where}) for difference in part
            ]
    if any(difference.kind == "member" for difference in found if difference.where != ".dist-info/RECORD"):
        # It follows from the others.
        found = [difference for difference in found if difference.where != ".dist-info/RECORD"]
    found += _packed([(place, mine[place], theirs[place]) for place in common])
    moved = [place for place in mine if place in theirs] != [place for place in theirs if place in mine]
    if moved:
        ours, others = ([p for p in side if p in mine and p in theirs] for side in (mine, theirs))
        at = next(number for number, (x, y) in enumerate(zip(ours, others, strict=True)) if x != y)
        found.append(Difference(kind="order", where=f"from member {at + 1} on", a=ours[at], b=others[at]))
    rest = (one.directory.comment, two.directory.comment)
    if rest[0] != rest[1]:
        found.append(
            Difference(kind="container", where="comment", a=repr(rest[0][:80]), b=repr(rest[1][:80]))
        )
    folders = [tuple(m.name for m in wheel.directory.members if m.is_dir) for wheel in (one, two)]
    if folders[0] != folders[1]:
        found.append(
            Difference(kind="container", where="folders", a=str(len(folders[0])), b=str(len(folders[1])))
        )
    return found


def _packed(common: list[tuple[str, Member, Member]]) -> Iterator[Difference]:
    """How members lie in the zip file; what all of them share is said once."""
    for place, m, n in common:
        if m.mode != n.mode:
            yield Difference(kind="mode", where=place, a=f"{m.mode:o}", b=f"{n.mode:o}")
    for kind, of in (("method", _method), ("timestamp", _stamp)):
        groups: dict[tuple[str, str], list[str]] = {}
        for place, m, n in common:
            if of(m) != of(n):
                groups.setdefault((of(m), of(n)), []).append(place)
        for (x, y), places in groups.items():
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            yield Difference(kind=kind, where=f"{places[0]}{more}", a=x, b=y)
    for place, m, n in common:
        same = (m.size, m.crc, m.method) == (n.size, n.crc, n.method)
        if same and m.compressed != n.compressed:
            yield Difference(
                kind="container", where=f"{place}, compressed", a=str(m.compressed), b=str(n.compressed)
            )


def _method(member: Member) -> str:
    return _METHODS[member.method]


def _stamp(member: Member) -> str:
    year, month, day, hour, minute, second = member.timestamp
    return f"{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"


def _by_place(wheel: Wheel) -> Mapping[str, Member]:
    return {_place(wheel, name): member for name, member in wheel.members.items()}


def _place(wheel: Wheel, name: str) -> str:
    """A member's name in which the wheel's version does not occur: so two versions have their files in common."""
    top, slash, rest = name.partition("/")
    stem = wheel.dist_info.removesuffix(".dist-info")
    if slash and top in {f"{stem}.dist-info", f"{stem}.data"}:
        return f"{top.removeprefix(stem)}/{rest}"
    return name
