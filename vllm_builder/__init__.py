"""vllm-builder: from a vLLM release to an installable, cached wheel.

``plan`` and ``build`` are the whole API for most callers::

    import vllm_builder

    result = vllm_builder.build("v0.9.2", device="cpu")
    print(result.wheel)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_builder.api import build, plan
    from vllm_builder.pipeline import BuildResult
    from vllm_builder.stages.plan.model import Plan

__version__ = "0.1.0"
__all__ = ["BuildResult", "Plan", "__version__", "build", "plan"]

_HOMES = {
    "build": "vllm_builder.api",
    "plan": "vllm_builder.api",
    "BuildResult": "vllm_builder.pipeline",
    "Plan": "vllm_builder.stages.plan.model",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: a command that needs little should not load everything.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
