"""vllm-builder: from a vLLM release to an installable, cached wheel.

``plan``, ``build``, ``bundle`` and ``publish`` are the whole API for most callers::

    import vllm_builder

    result = vllm_builder.build("v0.9.2", device="cpu")
    print(result.wheel)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.api import build, bundle, plan, publish
    from vllm_builder.bundling.making import Bundle
    from vllm_builder.pipeline import BuildResult
    from vllm_builder.stages.plan.model import Plan
    from vllm_builder.stages.publish.model import PublishResult

__version__ = "0.1.0"
__all__ = [
    "BuildResult",
    "Bundle",
    "Plan",
    "PublishResult",
    "__version__",
    "build",
    "bundle",
    "plan",
    "publish",
]

_HOMES = {
    "build": "api",
    "bundle": "api",
    "plan": "api",
    "publish": "api",
    "BuildResult": "pipeline",
    "Bundle": "bundling.making",
    "Plan": "stages.plan.model",
    "PublishResult": "stages.publish.model",
}


__getattr__ = exports(__name__, _HOMES)
