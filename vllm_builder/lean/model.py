"""What proving lean headers finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vllm_builder.model import Model

Verdict = Literal["same", "untouched", "falls back", "different", "failed"]
"""``untouched``: the unit does not include the header. ``falls back``: it needs torch's own, and gets it.
``failed``: it does not compile as upstream compiles it either, so nothing was compared."""


class Way(Model):
    """One compilation: ``seconds`` of wall time, ``cpu`` seconds of all its processes."""

    seconds: float
    cpu: float


class UnitProof(Model):
    """One unit, compiled both ways."""

    unit: str
    """Source file, relative to the tree."""
    verdict: Verdict
    differences: tuple[str, ...] = ()
    """What speaks against ``same``."""
    error: str = ""
    """The first error of the lean way (``falls back``) or of upstream's (``failed``)."""
    device_code: Mapping[str, str] = {}
    """PTX file -> SHA-256, the same both ways."""
    functions: int = 0
    """Host functions and variables that the lean object holds."""
    inlined_otherwise: tuple[str, ...] = ()
    """Those whose optimised code differs though they are the same without optimisation: the compiler weighs what to
    inline by all that a unit holds."""
    left_out: int = 0
    """Functions and variables of headers that only the full object holds."""
    full: Way | None = None
    lean: Way | None = None

    @property
    def ratio(self) -> float | None:
        """CPU seconds of upstream's way over those of the lean way."""
        return self.full.cpu / self.lean.cpu if self.full and self.lean and self.lean.cpu else None


class LeanProof(Model):
    """``units`` that were looked at, of ``total`` that the build compiles."""

    version: str
    device: str
    archs: tuple[str, ...] = ()
    torch: str = ""
    compilers: tuple[str, ...] = ()
    total: int
    units: tuple[UnitProof, ...]

    @property
    def good(self) -> bool:
        """No unit differs, none failed, and at least one was compared."""
        verdicts = {unit.verdict for unit in self.units}
        return "same" in verdicts and not verdicts & {"different", "failed"}
