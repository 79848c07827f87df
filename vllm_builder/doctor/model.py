"""The doctor's report."""

from __future__ import annotations

from typing import Literal

from vllm_builder.model import Model

Verdict = Literal["good", "note", "warning", "problem"]
"""``note``: a fact that hinders nothing; ``warning``: it may hinder; ``problem``: a build cannot succeed."""


class Check(Model):
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    """One line: what is there."""
    cure: str = ""
    """What to do or type; empty where nothing has to be done."""


class Report(Model):
    """All checks, in the order in which a build needs them."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """No check found a problem."""
        return all(check.verdict != "problem" for check in self.checks)
