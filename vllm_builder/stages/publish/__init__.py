"""Wheels into an index: verified, with their provenance, all of them in one transaction.

request = PublishRequest(wheels=(path,), to="/srv/wheels", channels=("nightly",))
result = publish(request, cache=cache)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.stages.publish.model import PublishedWheel, PublishRequest, PublishResult
    from vllm_builder.stages.publish.publishing import examine, publish

__all__ = ["PublishRequest", "PublishResult", "PublishedWheel", "examine", "publish"]

_HOMES = {
    "PublishRequest": "model",
    "PublishResult": "model",
    "PublishedWheel": "model",
    "examine": "publishing",
    "publish": "publishing",
}


__getattr__ = exports(__name__, _HOMES)
