"""What a person can choose, where each choice came from, and recipes.

One model (:class:`~vllm_builder.settings.model.Settings`) yields the command line's options, the keys of
``vllm-builder.toml`` and of recipes, the ``VLLM_BUILDER_*`` variables and their documentation.
"""

from vllm_builder.settings.layers import Layers, Resolved, gather
from vllm_builder.settings.model import Settings

__all__ = ["Layers", "Resolved", "Settings", "gather"]
