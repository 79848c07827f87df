"""From the wheel that setup.py wrote to the one that is handed on.

It gets its build record and SBOM, the torch that it was compiled against among its requirements, tags that are
true in name and WHEEL alike, and the same bytes each time.
"""

from typing import TYPE_CHECKING

from vllm_builder import lazy
from vllm_builder.stages.finish.model import Finished, FinishSpec

if TYPE_CHECKING:
    from vllm_builder.stages.finish.finishing import finish
    from vllm_builder.stages.finish.sbom import Materials

__all__ = ["FinishSpec", "Finished", "Materials", "finish"]

__getattr__ = lazy.exports(__name__, {"Materials": "sbom", "finish": "finishing"})
