"""Take files out of what is offered, without deleting them (PEP 592), and offer them again."""

from __future__ import annotations

from typing import Final

from vllm_builder.errors import SettingsError
from vllm_builder.index.changing import Touched, everything, make, put, touched
from vllm_builder.index.manifest import Clock, Draft, utc_now
from vllm_builder.index.model import Yanked
from vllm_builder.index.selecting import Chosen, select
from vllm_builder.index.storage.base import Storage

_LONGEST: Final = 500


def yank(
    storage: Storage, spec: str, reason: str, *, dry_run: bool = False, clock: Clock = utc_now
) -> tuple[Touched, ...]:
    """Yank files: installers skip them, except where one is pinned exactly.

    Args:
        spec: see :func:`vllm_builder.index.selecting.select`.
        reason: what installers print; one line of text.

    Raises:
        NotInIndex: no file is the one that was named.
        SettingsError: there is no reason, or it cannot be printed.
    """
    text = _line(reason)
    done: list[Touched] = []

    def mark(draft: Draft) -> None:
        done.clear()
        for one in select(everything(draft), spec):
            there = one.file.yanked
            if there is not None and there.reason == text:
                done.append(touched(one, "unchanged", "is yanked for that reason already"))
                continue
            # When prune may delete it stays as it was.
            yanked = Yanked(
                reason=text,
                at=there.at if there else draft.at,
                delete_after=there.delete_after if there else None,
            )
            now = Chosen(one.variant, one.file.model_copy(update={"yanked": yanked}))
            put(draft, now)
            note = f"was yanked before: {there.reason}" if there else ""
            done.append(touched(now, "yanked", note))

    make(storage, mark, dry_run=dry_run, clock=clock)
    return tuple(done)


def unyank(
    storage: Storage, spec: str, *, dry_run: bool = False, clock: Clock = utc_now
) -> tuple[Touched, ...]:
    """Offer yanked files again.

    Raises:
        NotInIndex: no file is the one that was named.
    """
    done: list[Touched] = []

    def mark(draft: Draft) -> None:
        done.clear()
        for one in select(everything(draft), spec):
            if one.file.yanked is None:
                done.append(touched(one, "unchanged", "was not yanked"))
                continue
            now = Chosen(one.variant, one.file.model_copy(update={"yanked": None}))
            put(draft, now)
            pruned = one.file.yanked.delete_after is not None
            note = "prune yanks it again, unless it is promoted or --keep is larger" if pruned else ""
            done.append(touched(now, "offered again", note))

    make(storage, mark, dry_run=dry_run, clock=clock)
    return tuple(done)


def _line(reason: str) -> str:
    text = " ".join(reason.split())
    if not text or not text.isprintable() or len(text) > _LONGEST:
        raise SettingsError(
            "The reason for yanking is empty."
            if not text
            else f"The reason for yanking has {len(text)} characters."
            if len(text) > _LONGEST
            else f"The reason for yanking holds characters that cannot be printed: {text!r}.",
            why=f"pip and uv print it to those who pinned the file: one line of at most {_LONGEST} characters.",
            next='Write for example --reason "wrong results with FP8 on sm_100".',
        )
    return text
