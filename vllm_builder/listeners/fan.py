"""One ``emit`` out of many listeners."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vllm_builder.events import Emit, Event, Note

Listener = Callable[[Event], None]


def fan_out(*listeners: Listener) -> Emit:
    """Return one ``emit`` that hands every event to every listener, one event at a time.

    It may be called from any thread. A listener that raises is heard no more, and the others are told with
    a Note: a full disk under the log or a closed pipe must not end a build.
    """
    lock = threading.RLock()
    alive = list(listeners)

    def emit(event: Event) -> None:
        with lock:
            for listener in list(alive):
                if listener not in alive:
                    continue
                try:
                    listener(event)
                except Exception as error:  # noqa: BLE001 (whatever it is, the build goes on)
                    alive.remove(listener)
                    name = type(listener).__name__
                    reason = str(error) or type(error).__name__
                    emit(
                        Note(
                            stage=event.stage,
                            level="warning",
                            message=f"The listener {name} failed and is switched off: {reason}",
                        )
                    )

    return emit
