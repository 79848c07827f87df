"""What a wheel lost, or gained in size, relative to another one (``--against``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vllm_builder.stages.verify.model import Finding
from vllm_builder.stages.verify.requirements import TORCH_FAMILY, name_of, without_extras
from vllm_builder.stages.verify.subject import Subject

_GROWTH: Final = 1.1


def losses(subject: Subject) -> Iterator[Finding]:
    base = subject.against
    if base is None:
        return
    named = base.wheel.filename
    here = {part.name.partition(".")[0]: part for part in subject.parts}
    for old in base.parts:
        new = here.get(old.name.partition(".")[0])
        if new is None:
            yield Finding(
                check="against",
                severity="error",
                what=f"{old.short} is in {named} and not in this wheel.",
                where=old.name,
                why="What needs it falls back to something slower, or fails.",
            )
            continue
        gone = [arch for arch in (*old.module.sass,) if arch not in new.module.sass]
        gone += [f"PTX {arch}" for arch in old.module.ptx if arch not in new.module.ptx]
        if gone:
            yield Finding(
                check="against",
                severity="error",
                what=f"{new.short} lost code for {', '.join(gone)} that {named} has.",
                where=new.name,
                why="GPUs that the other wheel serves are served by PTX or not at all.",
                cure="Build with --arch that names them, if they are wanted.",
            )
        lost = sorted(set(old.library.init) - set(new.library.init))
        if lost:
            yield Finding(
                check="against",
                severity="error",
                what=f"{new.short} no longer defines {', '.join(lost)}: Python cannot import it under that name.",
                where=new.name,
            )
        fewer = len(old.exports - new.exports)
        if fewer:
            yield Finding(
                check="against",
                severity="info",
                what=f"{new.short} no longer exports {fewer} of {len(old.exports)} symbols that it has in {named}.",
                where=new.name,
            )
    before = {name_of(text) for text in without_extras(base.wheel.metadata.requires_dist)}
    after = {name_of(text) for text in without_extras(subject.wheel.metadata.requires_dist)}
    for name in sorted(before - after - TORCH_FAMILY):
        yield Finding(
            check="against",
            severity="error",
            what=f"{named} requires {name}, and this wheel does not.",
            where=f"{subject.wheel.dist_info}/METADATA",
            why="What needs it fails with ImportError.",
        )
    if subject.wheel.size > _GROWTH * base.wheel.size:
        yield Finding(
            check="against",
            severity="warning",
            what=f"The wheel has {subject.wheel.size / 1e6:.1f} MB, and {named} {base.wheel.size / 1e6:.1f} MB.",
            why="More than a tenth larger: debug info, further architectures, files that do not belong there?",
        )
