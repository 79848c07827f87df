"""Stage: the CUDA toolkit. Find those of the machine, or put one together from a package index without root.

It stands between plan and environment: the plan names the toolkit, this stage makes it be there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.stages.toolkit.assembling import assemble, toolkit_home
    from vllm_builder.stages.toolkit.finding import examine, find_toolkits
    from vllm_builder.stages.toolkit.lock import lock_toolkit
    from vllm_builder.stages.toolkit.model import Candidate, Toolkit, ToolkitSpec

__all__ = [
    "Candidate",
    "Toolkit",
    "ToolkitSpec",
    "assemble",
    "examine",
    "find_toolkits",
    "lock_toolkit",
    "toolkit_home",
]

_HOMES = {
    "Candidate": "model",
    "Toolkit": "model",
    "ToolkitSpec": "model",
    "assemble": "assembling",
    "toolkit_home": "assembling",
    "examine": "finding",
    "find_toolkits": "finding",
    "lock_toolkit": "lock",
}


__getattr__ = exports(__name__, _HOMES)
