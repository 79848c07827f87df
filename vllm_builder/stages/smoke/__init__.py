"""Stage: a wheel is installed in an environment of its own and used: imported, computed with, served.

    report = smoke(SmokeOptions(wheel=Path("vllm-0.14.1+cpu-cp38-abi3-linux_x86_64.whl"), serve=True), cache)
    require(report)       # raises SmokeFailed

By default the environment holds the wheel and torch alone, which is what loading its extensions takes; ``full`` and
``serve`` install all requirements. Every trial says what came of it, or why it was not made.
"""

from vllm_builder.stages.smoke.model import SmokeOptions, SmokeReport, Trial
from vllm_builder.stages.smoke.testing import require, smoke, summary

__all__ = ["SmokeOptions", "SmokeReport", "Trial", "require", "smoke", "summary"]
