"""What a smoke test takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from vllm_builder.model import Model

Outcome = Literal["passed", "failed", "not tried"]
Level = Literal["install", "import", "ops", "serve"]


class Trial(Model):
    """One thing that was tried with an installed wheel, or was not, and why."""

    level: Level
    name: str
    """``vllm._C``, ``import vllm``, ``silu_and_mul``, ``completion``."""
    outcome: Outcome
    seconds: float = 0
    detail: str = ""
    """What came out; of a failure what and why; of what was not tried the reason."""
    next: str = ""
    """What to do about a failure."""
    lines: tuple[str, ...] = ()
    """The end of what the program printed."""


class SmokeReport(Model):
    """``trials`` in the order in which they were made."""

    wheel: str
    sha256: str
    version: str
    """The wheel's, as its file name has it."""
    python: str
    """``3.11.7``."""
    torch: str = ""
    """The installed one, with its build tag; empty where none was needed."""
    torch_reason: str = ""
    """Why that one."""
    full: bool = False
    """With all requirements; else the wheel and torch alone."""
    packages: Mapping[str, str] = {}
    """What was installed: canonical name -> version."""
    trials: tuple[Trial, ...] = ()
    seconds: float = 0
    log: str = ""
    """The log that was kept, of a failure."""
    kept: str = ""
    """The environment, where it was to be kept."""

    @property
    def failed(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.outcome == "failed")

    @property
    def good(self) -> bool:
        """Nothing failed. What was not tried is not known to be good: see the trials."""
        return not self.failed

    def count(self, outcome: Outcome) -> int:
        return sum(trial.outcome == outcome for trial in self.trials)


class SmokeOptions(Model):
    """What is wanted of a smoke test. Times in seconds."""

    wheel: Path
    serve: bool = False
    full: bool = False
    """Install all requirements; ``serve`` implies it."""
    python: str | None = None
    """A path, or a version such as ``3.11``."""
    torch: str | None = None
    """A version, perhaps with its build tag; None: the one that the wheel was compiled against or requires."""
    further: tuple[str, ...] = ()
    """Requirements to install besides: ``transformers<4.54`` for a release that a newer one breaks."""
    keep: Path | None = None
    """A folder for the environment, the model and the logs, that is not removed; must not exist or be empty."""
    port: int | None = None
    """Of the server; None: any that is free."""
    import_limit: float = 180
    start_limit: float = 900
    """For the server to be healthy."""
    answer_limit: float = 300
    """For one answer of the server, and for the comparison of the ops."""
    offline: bool = False
