"""What the finish stage takes and gives."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from vllm_builder.model import Model

EPOCH: Final = 315532800
"""1980-01-01, the earliest time that a zip archive can hold, as seconds since 1970."""


class FinishSpec(Model):
    """What becomes of the wheel that setup.py made. All of it changes the wheel, and is in the plan's digest."""

    layout: Literal[1] = 1
    """Raised when the same wheel and record give other bytes than before."""
    torch: str = ""
    """The requirement that replaces any other of torch, ``torch~=2.9.1``; empty: METADATA stays as it is."""
    epoch: int = EPOCH
    """Time of all members, in seconds since 1970."""


class Finished(Model):
    """The wheel that is handed on."""

    wheel: Path
    platform: str
    """Of its tags: ``any``, ``manylinux_2_34_x86_64``, ``linux_x86_64``."""
    reason: str = ""
    """What decided the platform: ``vllm/_C.abi3.so wants GLIBC_2.34``."""
    torch: str = ""
    """The requirement that was written."""
    removed: tuple[str, ...] = ()
    """Requirements of torch that it replaced."""
    compressor: str = ""
    """``zlib 1.2.13, level 6``: another build of zlib may compress the same members to other bytes."""
