"""Whether a shared cache answers: an entry written and read back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

from vllm_builder.events import Emit, ignore
from vllm_builder.model import Model
from vllm_builder.shared import remote_of
from vllm_builder.shared.address import Address


class Probe(Model):
    """What was found. ``seconds`` is wall time of one entry there and back."""

    address: str
    reads: bool
    writes: bool
    seconds: float
    problem: str = ""
    """Why it cannot be used, or only be read; empty where all is well."""
    sealed: bool = False
    """Entries are sealed with a secret."""


def probe(address: Address, environ: Mapping[str, str], *, emit: Emit = ignore) -> Probe:
    """Write an entry of a few bytes and read it back; it stays there, and the next probe of anybody replaces it.

    Raises:
        SettingsError: what speaks to such a place is not installed.
    """
    remote = remote_of(address, environ, emit)
    name = "00" * 8
    content = secrets.token_bytes(16)
    started = time.monotonic()
    writes = remote.put("probe", name, content)
    problem = remote.problem
    found = remote.get("probe", name)
    seconds = round(time.monotonic() - started, 3)
    reads = not remote.off and (found is not None or not writes)
    if writes and found is None:
        reads = False
    # Another machine's probe may have come in between: that is an answer as well.
    return Probe(
        address=address.shown,
        reads=reads,
        writes=writes,
        seconds=seconds,
        problem=problem or remote.problem or ("" if reads else "what was written does not come back"),
        sealed=remote.sealed,
    )
