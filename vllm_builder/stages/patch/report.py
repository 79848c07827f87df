"""What applying patches did."""

from __future__ import annotations

from typing import Literal

from pydantic import PrivateAttr

from vllm_builder.model import Model

Status = Literal["changed", "already", "skipped-optional"]


class Entry(Model):
    """What one operation did to one file."""

    set: str
    number: int
    """The operation's place in the set's file, from 1."""
    action: str
    file: str
    """Empty when the operation touched none."""
    status: Status
    line: int = 0
    """First line that changed, from 1; 0 when none did."""
    before: tuple[str, ...] = ()
    """Lines that went, without their ends."""
    after: tuple[str, ...] = ()
    """Lines that came."""
    put_back: tuple[str, ...] = ()
    """Lines that a script deleted and that were kept."""
    note: str = ""


class PatchReport(Model):
    """All entries, in the order of the operations."""

    entries: tuple[Entry, ...] = ()
    rolled_back: bool = False
    """An earlier application had been broken off in the middle of writing, and was undone first."""

    _files: dict[str, tuple[bytes | None, bytes]] = PrivateAttr(default_factory=dict)

    @property
    def changed(self) -> tuple[str, ...]:
        """Files that were (or with ``check`` would be) written, sorted."""
        return tuple(sorted(self._files))

    def diff(self) -> str:
        """All changes as one unified diff that ``git apply`` reads. Empty when nothing changed.

        It is made from the files' contents, which a report read back from JSON does not have.
        """
        from vllm_builder.stages.patch.lines import unified_diff

        return "".join(unified_diff(name, *self._files[name]) for name in self.changed)
