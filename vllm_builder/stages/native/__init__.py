"""What was compiled, as an artifact of its own: it serves every plan whose native inputs are the same.

A release's setup.py is Python through and through but for its calls of cmake: it configures, builds, and lets cmake
install each component. So a *native layer* is what those installs wrote, under a digest over all that goes into
them, with the calls that led there. To make a wheel of it setup.py runs as ever, with a cmake in front of it
that answers from the layer: the Python part comes out as setup.py makes it, and no compiler starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.stages.native.forecasting import Forecast as Forecast
    from vllm_builder.stages.native.forecasting import forecast as forecast
    from vllm_builder.stages.native.inputs import NativeInputs as NativeInputs
    from vllm_builder.stages.native.inputs import native_inputs as native_inputs
    from vllm_builder.stages.native.layers import Layers as Layers
    from vllm_builder.stages.native.model import Layer as Layer
    from vllm_builder.stages.native.model import Manifest as Manifest

_HOMES = {
    "Forecast": "forecasting",
    "Layer": "model",
    "Layers": "layers",
    "Manifest": "model",
    "NativeInputs": "inputs",
    "forecast": "forecasting",
    "native_inputs": "inputs",
}

__all__ = list(_HOMES)


__getattr__ = exports(__name__, _HOMES)
