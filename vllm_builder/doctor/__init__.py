"""What of this machine a build needs, at a glance: each check with its verdict and its cure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.doctor.examination import examine_machine
    from vllm_builder.doctor.model import Check, Report

__all__ = ["Check", "Report", "examine_machine"]

_HOMES = {"Check": "model", "Report": "model", "examine_machine": "examination"}


__getattr__ = exports(__name__, _HOMES)
