"""Groups: wheels of several publishers that appear together or not at all, as all variants of one nightly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from vllm_builder.errors import PublishRefused
from vllm_builder.index.candidates import Candidate
from vllm_builder.index.manifest import Draft
from vllm_builder.index.model import File, Group, Staged


def stage(
    draft: Draft, name: str, expects: Sequence[str], new: Iterable[Staged], variants: AbstractSet[str]
) -> tuple[str, ...]:
    """Add files to a group, and enter all of it once it is whole.

    Args:
        new: files that the index does not have.
        variants: those that the publisher brings, also in files that the index has already.

    Returns:
        the variants that are missing; without one, the group has appeared.
    """
    new = tuple(new)
    begun = draft.groups.get(name)
    if begun is None and not new:
        return ()  # published again, after it appeared
    wanted = tuple(dict.fromkeys([*(begun.expects if begun else ()), *expects]))
    staged = {member.file.filename: member for member in (begun.staged if begun else ())}
    for one in new:
        staged.setdefault(
            one.file.filename,
            one.model_copy(update={"file": one.file.model_copy(update={"group": name})}),
        )
    present = {*variants, *(begun.present if begun else ()), *(member.variant for member in staged.values())}
    # Who comes after the group appeared adds to it, and need not wait for the others a second time.
    present |= {
        variant
        for variant, files in draft.everywhere()
        for file in files.values()
        if file.group == name and variant in wanted
    }
    missing = tuple(variant for variant in wanted if variant not in present)
    if missing:
        draft.groups[name] = Group(
            expects=wanted,
            begun=begun.begun if begun else draft.at,
            staged=tuple(staged.values()),
            present=tuple(sorted(present)),
        )
        return missing
    draft.groups.pop(name, None)
    enter(draft, staged.values())
    return ()


def enter(draft: Draft, members: Iterable[Staged]) -> None:
    """Put files into the index, as of this moment. What is there already keeps what was said of it since (a yank)."""
    for member in members:
        files = draft.files(member.file.project, member.variant)
        there = files.get(member.file.filename)
        if there is None:
            # Not when it was staged: an index as of a time in between did not have it.
            files[member.file.filename] = member.file.model_copy(update={"uploaded": draft.at})
        else:
            channels = tuple(sorted({*there.channels, *member.file.channels}))
            files[member.file.filename] = there.model_copy(update={"channels": channels})


def leave(draft: Draft, one: Staged) -> Staged:
    """Take a file that is published by itself out of the groups in which it waits; these count it as there.

    Returns:
        the file, in their channels as well.
    """
    for name, group in list(draft.groups.items()):
        same = [member for member in group.staged if member.file.filename == one.file.filename]
        if not same or same[0].file.project != one.file.project:
            continue
        channels = tuple(sorted({*one.file.channels, *same[0].file.channels}))
        one = one.model_copy(update={"file": one.file.model_copy(update={"channels": channels})})
        draft.groups[name] = group.model_copy(
            update={
                "staged": tuple(member for member in group.staged if member is not same[0]),
                "present": tuple(sorted({*group.present, one.variant})),
            }
        )
    return one


def refuse_other(draft: Draft, one: Candidate) -> None:
    """A name that waits in a group is taken.

    Raises:
        PublishRefused: there it stands for another content or variant.
    """
    for name, group in draft.groups.items():
        for member in group.staged:
            if member.file.filename != one.filename or member.file.project != one.project:
                continue
            if member.file.sha256 != one.sha256:
                raise _other(name, one, member.file)
            if member.variant != one.variant:
                raise PublishRefused(
                    f"{one.filename} waits in the group {name} as variant {member.variant}, not {one.variant}.",
                    why="A wheel belongs to one variant: pip would mix them otherwise.",
                    next=f"Publish it with --variant {member.variant}.",
                )


def _other(name: str, one: Candidate, there: File) -> PublishRefused:
    return PublishRefused(
        f"The group {name} has another file of the name {one.filename}.",
        why=f"There it is sha256 {there.sha256}, here {one.sha256}.",
        next="Use a new version or build tag, or publish the same file.",
    )
