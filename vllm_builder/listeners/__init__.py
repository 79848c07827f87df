"""What listens to the stages: the screen, the JSON stream, the log file.

A listener is a callable that takes an event; :func:`fan_out` makes several into the one ``emit`` that a
stage is handed, and keeps their troubles away from the build.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports
from vllm_builder.listeners.fan import fan_out

if TYPE_CHECKING:
    from vllm_builder.listeners.choice import screen
    from vllm_builder.listeners.errors import format_error, render_error
    from vllm_builder.listeners.jsonlines import JsonLines
    from vllm_builder.listeners.logfile import LogFile
    from vllm_builder.listeners.plain import Plain
    from vllm_builder.listeners.terminal import Terminal

__all__ = [
    "JsonLines",
    "LogFile",
    "Plain",
    "Terminal",
    "fan_out",
    "format_error",
    "render_error",
    "screen",
]

# Only the terminal needs rich, whose import costs more than everything else on a hit.
_HOMES = {
    "JsonLines": "jsonlines",
    "LogFile": "logfile",
    "Plain": "plain",
    "Terminal": "terminal",
    "format_error": "errors",
    "render_error": "errors",
    "screen": "choice",
}


__getattr__ = exports(__name__, _HOMES)
