"""Whether an index is what its manifest says: everything is walked, and what is wrong is said.

``walk`` holds what all checks share, ``content`` looks at wheels and what lies beside them, ``pages`` at what clients read,
``rest`` at what nothing names and what waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.index.checking.checking import check, judge
    from vllm_builder.index.checking.walk import CheckReport

__all__ = ["CheckReport", "check", "judge"]

__getattr__ = exports(__name__, {"CheckReport": "walk", "check": "checking", "judge": "checking"})
