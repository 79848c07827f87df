"""What changed in one member, and in one library."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack

from vllm_builder.binary import exports, is_elf
from vllm_builder.binary.buffer import buffered
from vllm_builder.binary.elf import Elf
from vllm_builder.errors import WheelError
from vllm_builder.stages.verify.model import Difference, Module
from vllm_builder.wheelfile.directory import Member
from vllm_builder.wheelfile.wheel import Wheel


def compare_files(one: Wheel, two: Wheel, mine: Member, theirs: Member) -> list[Difference]:
    """How two members differ in content; ``where`` of the differences is relative to the member.

    Equal checksums alone prove nothing of a file that somebody changed on purpose: then the contents are compared.

    Raises:
        WheelError
    """
    if (mine.size, mine.crc) == (theirs.size, theirs.crc) and sha256(one.chunks(mine.name)) == sha256(
        two.chunks(theirs.name)
    ):
        return []
    found = [Difference(kind="member", where="", a=f"{mine.size} bytes", b=f"{theirs.size} bytes")]
    with ExitStack() as stack:
        if min(mine.size, theirs.size) >= 64:  # an ELF header
            first, second = (stack.enter_context(w.mapped(m.name)) for w, m in ((one, mine), (two, theirs)))
            if is_elf(first) and is_elf(second):
                found += _libraries(first, second, mine.name)
    return found


def _libraries(first: memoryview, second: memoryview, name: str) -> list[Difference]:
    """Nothing more than that they differ, of a library that cannot be read: the inspection says why."""
    try:
        found = list(_sections(first, second, name))
        return [*found, *only("export", "", exports(first, name=name), exports(second, name=name))]
    except WheelError:
        return []


def _sections(first: memoryview, second: memoryview, name: str) -> Iterator[Difference]:
    with buffered(first, name) as a, buffered(second, name) as b:
        mine, theirs = _contents(Elf(a), first), _contents(Elf(b), second)
    same = True
    for section in [*mine, *(s for s in theirs if s not in mine)]:
        x, y = mine.get(section), theirs.get(section)
        if x != y:
            same = False
            yield Difference(kind="section", where=f": {section}", a=_told(x), b=_told(y))
    if same:
        yield Difference(kind="section", where=": headers and padding", a="", b="")


def _contents(elf: Elf, data: memoryview) -> dict[str, tuple[int, str]]:
    """Section -> bytes and sha256; of several with one name, all of them in their order."""
    digests: dict[str, tuple[int, str]] = {}
    for section in elf.sections:
        if section.stored:
            size, before = digests.get(section.name, (0, ""))
            part = hashlib.sha256(data[section.offset : section.offset + section.stored])
            part.update(before.encode())
            digests[section.name] = (size + section.stored, part.hexdigest())
    return digests


def _told(content: tuple[int, str] | None) -> str:
    return f"{content[0]} bytes, sha256 {content[1][:12]}" if content else ""


def compare_modules(first: Iterable[Module], second: Iterable[Module]) -> Iterator[Difference]:
    """How libraries of the same name differ in what they hold and need."""
    mine = {module.library.name: module for module in first}
    theirs = {module.library.name: module for module in second}
    for name in sorted(mine.keys() & theirs.keys()):
        a, b = mine[name], theirs[name]
        yield from _archs(name, a, b)
        for kind, x, y in (
            ("cuda", a.cuda_runtime, b.cuda_runtime),
            ("torch", a.stable_torch, b.stable_torch),
            (
                "rpath",
                ":".join(a.library.rpath + a.library.runpath),
                ":".join(b.library.rpath + b.library.runpath),
            ),
        ):
            if x != y:
                yield Difference(kind=kind, where=name, a=x, b=y)
        yield from only("needed", name, a.library.needed, b.library.needed)
        yield from only("import", name, _imports(a), _imports(b))


def _archs(name: str, a: Module, b: Module) -> Iterator[Difference]:
    for kind, mine, theirs in (("SASS", a.sass, b.sass), ("PTX", a.ptx, b.ptx)):
        for arch in sorted(mine.keys() | theirs.keys(), key=lambda arch: (float(arch.rstrip("af")), arch)):
            if mine.get(arch) != theirs.get(arch):
                yield Difference(
                    kind="arch", where=f"{name}: {kind} {arch}", a=_units(mine, arch), b=_units(theirs, arch)
                )


def _units(counts: Mapping[str, int], arch: str) -> str:
    return f"{counts[arch]} unit{'s' if counts[arch] != 1 else ''}" if arch in counts else ""


def _imports(module: Module) -> list[str]:
    return [
        f"{symbol.name}@{symbol.version}" if symbol.version else symbol.name
        for symbol in module.library.imports
    ]


def only(kind: str, where: str, a: Iterable[str], b: Iterable[str]) -> Iterator[Difference]:
    """What one of two collections has more of."""
    mine, theirs = Counter(a), Counter(b)
    for value in sorted((mine - theirs).keys()):
        yield Difference(kind=kind, where=where, a=value)
    for value in sorted((theirs - mine).keys()):
        yield Difference(kind=kind, where=where, b=value)


def sha256(chunks: Iterable[bytes]) -> bytes:
    """Of all the bytes, 32 bytes."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()
