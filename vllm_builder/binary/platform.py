"""The oldest system that shared libraries can run on: the platform of a wheel's tags (PEP 600).

What each manylinux policy holds is auditwheel's data. A library that no policy, no other library of the wheel and
nothing that the wheel requires brings along has to be on the machine already; no manylinux tag promises that, so
only ``linux_x86_64`` is true then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from vllm_builder.binary.model import Library, Symbol
from vllm_builder.model import Model

_BROUGHT: Final = re.compile(
    # torch's wheel (torch/lib) and the driver.
    r"lib(torch\w*|c10\w*|aoti_\w+|shm|caffe2\w*)\.so|libcuda\.so\.1|libnvidia-ml\.so\.1"
    # The CUDA packages that torch's wheel requires: nvidia-cuda-runtime, nvidia-cublas, nvidia-cudnn and so on.
    r"|lib(cudart|nvrtc|cupti|nvJitLink|nvToolsExt|cublas|cublasLt|cufft\w*|cufile\w*|curand|cusolver\w*|cusparse\w*"
    r"|cudnn\w*|nccl|nvshmem_\w+)\.so(\.\d+)*"
)
"""libgomp.so.1 is not among them: torch's wheel has it under that name in some releases only."""
_LOADER: Final = re.compile(r"ld-linux[\w-]*\.so\.\d+|ld64\.so\.\d+")
_VERSION: Final = re.compile(r"([A-Z]+)_(\w[\w.]*)")


class Floor(Model):
    """What the libraries of a wheel need."""

    platform: str
    """``manylinux_2_34_x86_64``, ``linux_x86_64`` where no policy holds, ``any`` without libraries."""
    reason: str = ""
    """What decided it: ``vllm/_C.abi3.so wants GLIBC_2.34 (pthread_create)``."""
    outside: tuple[str, ...] = ()
    """Libraries that have to be on the machine: ``libnuma.so.1``."""


def platform_floor(libraries: Iterable[Library]) -> Floor:
    """Find the oldest policy that all libraries keep to.

    The policies are for glibc; a library that was linked against another libc has it among ``outside``.
    """
    libraries = sorted(libraries, key=lambda one: one.name)
    if not libraries:
        return Floor(platform="any")
    machines = sorted({one.machine for one in libraries})
    if len(machines) > 1:
        return Floor(
            platform=f"linux_{machines[0]}", reason=f"it holds code for {' and '.join(machines)} alike"
        )
    machine = machines[0]
    within = {name for one in libraries for name in (one.soname, one.name.rpartition("/")[2])}
    policies = [p for p in _policies() if machine in p["symbol_versions"]]
    worst, reason = -1, "nothing newer is wanted"
    outside: dict[str, str] = {}
    for library in libraries:
        for name in library.needed:
            if name in within or _BROUGHT.fullmatch(name) or _LOADER.fullmatch(name):
                continue
            first = next((i for i, p in enumerate(policies) if name in p["lib_whitelist"]), None)
            if first is None:
                outside.setdefault(name, library.name)
            elif first > worst:
                worst, reason = first, f"{library.name} needs {name}"
        for symbol in library.imports:
            number = _oldest(symbol, policies, machine)
            if number is not None and number > worst:
                wanted = f"{symbol.version or symbol.library} ({symbol.name})"
                worst, reason = number, f"{library.name} wants {wanted}"
    if outside:
        name, by = next(iter(outside.items()))
        reason = f"{by} needs {name}, which has to be on the machine"
    elif worst < len(policies) and policies:
        return Floor(platform=f"{policies[max(worst, 0)]['name']}_{machine}", reason=reason)
    return Floor(platform=f"linux_{machine}", reason=reason, outside=tuple(outside))


def _oldest(symbol: Symbol, policies: Sequence[Mapping[str, Any]], machine: str) -> int | None:
    """Number of the first policy with a symbol; their count where none has it, None where they say nothing of it."""
    found = _VERSION.fullmatch(symbol.version)
    if not found:
        return None
    kind, version = found[1], found[2]
    known = False
    for number, policy in enumerate(policies):
        versions = policy["symbol_versions"][machine]
        if kind not in versions:
            continue
        known = True
        if version in versions[kind] and symbol.name not in policy["blacklist"].get(symbol.library, ()):
            return number
    return len(policies) if known else None


@cache
def _policies() -> tuple[Mapping[str, Any], ...]:
    """Oldest first; the policy ``linux``, which allows everything, left out."""
    raw = json.loads((files("auditwheel") / "policy" / "manylinux-policy.json").read_text("utf-8"))
    chosen = [policy for policy in raw if policy["symbol_versions"]]
    return tuple(sorted(chosen, key=lambda policy: -policy["priority"]))
