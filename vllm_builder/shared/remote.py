"""A shared cache as a build uses it: it gives checked content or nothing, in bounded time, and never an exception.

What goes wrong is counted. After some failures, or where too much time was spent waiting, the cache is left out for the
rest of the build, and one warning says so and why.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from vllm_builder.events import Emit, Note, ignore
from vllm_builder.shared import places, sealing
from vllm_builder.shared.address import Address
from vllm_builder.shared.places.base import Place, Refused, Unreachable

T = TypeVar("T")
Way = Literal["read", "write"]

LAYOUT: Final = "v1"
_FAILURES: Final = 3
"""In a row, after which it is left out. One is enough where it never answered."""
_BROKEN: Final = 5
"""Entries that were not what was put in."""
_PATIENCE: Final = 20.0
"""Seconds that a build waits for single small entries beyond :data:`_PROMPT` each, all in all."""
_PROMPT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """``seconds`` for one request; ``size`` in bytes of what is taken."""

    seconds: float
    size: int
    small: bool = False
    """Many such requests are made, so the time for all of them is limited, too."""


LIMITS: Final[Mapping[str, Limits]] = {
    "wheel": Limits(6, 64 << 20),
    "native": Limits(6, 64 << 20),
    "piece": Limits(30, 16 << 20),
    "unit": Limits(4, 256 << 20, small=True),
    "probe": Limits(6, 1 << 10),
}
"""Kind of entry -> limits: what is known of a wheel or a native layer, a piece of one, an entry of ccache's."""
_WRITE_SECONDS: Final = 30.0


class Remote:
    """Several threads use one; its warnings are emitted by :meth:`tell`, which belongs to the thread that made it."""

    def __init__(
        self,
        address: Address,
        *,
        secret: bytes = b"",
        emit: Emit = ignore,
        open_place: Callable[[Address], Place] = places.open_place,
    ) -> None:
        self.shown = address.shown
        self._address = address
        self._secret = secret
        self._emit = emit
        self._open = open_place
        self._place: Place | None = None
        self._opening = threading.Lock()
        self._lock = threading.Lock()
        self._off: dict[Way, str] = {}
        self._failures = 0
        self._failed = 0
        self._last = ""
        self._answered = False
        self._broken = 0
        self._waited = 0.0
        self._warnings: deque[str] = deque()
        self._owner = threading.get_ident()
        self.taken = 0
        """Entries that were taken from it."""
        self.given = 0

    @property
    def off(self) -> str:
        """Why nothing is read from it any more; empty while it is in use."""
        return self._off.get("read", "")

    @property
    def problem(self) -> str:
        """Why it, or writing to it, is left out, or how the last request failed; empty while all is well."""
        return self.off or self.writes_off or self._last

    @property
    def sealed(self) -> bool:
        """Entries are sealed with a secret."""
        return bool(self._secret)

    @property
    def writes_off(self) -> str:
        """Why nothing is written to it any more."""
        return self._off.get("write", "")

    def get(self, kind: str, name: str) -> bytes | None:
        """The content of an entry, or None: there is none, or none that is sound, or it cannot be had now.

        Args:
            kind: one of :data:`LIMITS`.
            name: hexadecimal digits.
        """
        limits = LIMITS[kind]
        key = _key(kind, name)
        started = time.monotonic()
        found = self._attempt(
            "read", limits.seconds, lambda place: place.read(key, limits.size + sealing.OVERHEAD)
        )
        if limits.small:
            self._count_waiting(time.monotonic() - started)
        if found is None:
            return None
        try:
            if len(found) > limits.size + sealing.OVERHEAD:
                raise sealing.Broken("it is too long")
            content = sealing.unseal(key, found, self._secret)
        except sealing.Broken as error:
            self.broken(f"{kind} {name[:12]}", str(error))
            return None
        with self._lock:
            self.taken += 1
        return content

    def put(self, kind: str, name: str, content: bytes) -> bool:
        """Put an entry there, in place of what is there; whether it was done."""
        key = _key(kind, name)
        entry = sealing.seal(key, content, self._secret)

        def write(place: Place) -> bool:
            place.write(key, entry)
            return True

        done = self._attempt("write", _WRITE_SECONDS, write) or False
        with self._lock:
            self.given += done
        return done

    def broken(self, what: str, why: str) -> None:
        """Count an entry that is not what was put in. The first is a warning; after some nothing more is read."""
        with self._lock:
            self._broken += 1
            count = self._broken
        if count == 1:
            self._last = why
            self._warn(f"The shared cache {self.shown} gave an entry that cannot be used ({what}: {why}).")
        if count >= _BROKEN:
            self._leave_out(f"{count} of its entries were not what was put in", ("read",))

    def note(self, message: str) -> None:
        """A warning that does not speak against the cache as a whole."""
        self._warn(message)

    def tell(self) -> None:
        """Emit the warnings of other threads."""
        while self._warnings:
            try:
                message = self._warnings.popleft()
            except IndexError:  # another thread's call of this was quicker
                return
            self._emit(Note(stage="store", message=message, level="warning"))

    def close(self) -> None:
        """Emit what is left to say."""
        if self._failed and not self._off:
            many = "1 request" if self._failed == 1 else f"{self._failed} requests"
            self._warn(f"{many} to the shared cache {self.shown} failed (the last: {self._last}).")
        self.tell()

    def _attempt(self, way: Way, seconds: float, ask: Callable[[Place], T]) -> T | None:
        if way in self._off:
            return None
        try:
            found = within(seconds, lambda: ask(self._opened()))
        except Refused as error:
            self._count_failure()
            self._leave_out(str(error), ("read", "write") if way == "read" else ("write",))
        except Unreachable as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 (a fault in a client of some server must not end a build)
            self._fail(f"{type(error).__name__} in the program that asks it")
        else:
            with self._lock:
                self._answered = True
                self._failures = 0
            return found
        return None

    def _opened(self) -> Place:
        with self._opening:
            if self._place is None:
                self._place = self._open(self._address)
            return self._place

    def _count_failure(self) -> None:
        with self._lock:
            self._failed += 1

    def _fail(self, why: str) -> None:
        with self._lock:
            self._failed += 1
            self._failures += 1
            self._last = why
            enough = self._failures >= (_FAILURES if self._answered else 1)
        if enough:
            self._leave_out(why, ("read", "write"))

    def _count_waiting(self, seconds: float) -> None:
        if seconds <= _PROMPT:
            return
        with self._lock:
            self._waited += seconds - _PROMPT
            enough = self._waited > _PATIENCE
        if enough:
            self._leave_out("it is too slow to be of use", ("read", "write"))

    def _leave_out(self, why: str, ways: tuple[Way, ...]) -> None:
        with self._lock:
            new = [way for way in ways if way not in self._off]
            self._off |= dict.fromkeys(new, why)
        if not new:
            return
        if new == ["write"]:
            self._warn(f"Nothing more is written to the shared cache {self.shown} in this build: {why}.")
        else:
            self._warn(f"The shared cache {self.shown} is left out for the rest of this build: {why}.")

    def _warn(self, message: str) -> None:
        self._warnings.append(message)
        if threading.get_ident() == self._owner:
            self.tell()


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What ``ask`` returns or raises, waited for no longer than that: servers that send a byte a second, and network
    file systems that hang, get past every other limit. Its thread is left to itself then.

    Raises:
        Unreachable: it took longer.
    """
    box: dict[str, Any] = {}
    done = threading.Event()

    def run() -> None:
        try:
            box["found"] = ask()
        except BaseException as error:  # noqa: BLE001 (it is raised where it is waited for)
            box["error"] = error
        finally:
            done.set()

    threading.Thread(target=run, daemon=True, name="shared-cache").start()
    if not done.wait(seconds):
        raise Unreachable(f"no answer within {seconds:g} s")
    if "error" in box:
        raise box["error"]
    found: T = box["found"]
    return found


def _key(kind: str, name: str) -> str:
    return f"{LAYOUT}/{kind}/{name[:2]}/{name[2:]}"
