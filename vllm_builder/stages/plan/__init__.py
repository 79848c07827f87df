"""Stage: decide everything, change nothing.

``make_plan`` gives one value, :class:`~vllm_builder.stages.plan.model.Plan`, whose digest is the cache key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.stages.plan.explain import Difference, differences
    from vllm_builder.stages.plan.make import make_plan
    from vllm_builder.stages.plan.model import Decision, Plan
    from vllm_builder.stages.plan.steps import default_cache

__all__ = ["Decision", "Difference", "Plan", "default_cache", "differences", "make_plan"]

_HOMES = {
    "Decision": "model",
    "Plan": "model",
    "Difference": "explain",
    "differences": "explain",
    "default_cache": "steps",
    "make_plan": "make",
}


__getattr__ = exports(__name__, _HOMES)
