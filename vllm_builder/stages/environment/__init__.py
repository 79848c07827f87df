"""Stage: an isolated build environment, locked by the plan and installed by uv.

``find_interpreter`` and ``resolve_lock`` belong to planning (they read, and fill the cache); ``prepare``
installs what they found.
"""

from vllm_builder.stages.environment.install import prepare
from vllm_builder.stages.environment.interpreter import find_interpreter, probe, torch_in
from vllm_builder.stages.environment.lock import resolve_lock
from vllm_builder.stages.environment.model import Environment, EnvironmentSpec, Interpreter, Torch

__all__ = [
    "Environment",
    "EnvironmentSpec",
    "Interpreter",
    "Torch",
    "find_interpreter",
    "prepare",
    "probe",
    "resolve_lock",
    "torch_in",
]
