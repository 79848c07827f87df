"""How many compilers at once fit this machine, or the part of it that we were given."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from vllm_builder.stages.compile.model import Device
from vllm_builder.stages.compile.schedule import UNITS

GIB = 1 << 30
_RESERVE = GIB
_RESERVED_SHARE = 0.25
_FEW = 8


def auto_jobs(
    device: Device,
    *,
    root: Path = Path("/"),
    nvcc_threads: int = 1,
    peaks: Collection[int] = (),
) -> tuple[int, str]:
    """The number of compilers to run at once, and why.

    The least of: the cores that this process may use, the CPU quota of its cgroup, and the memory that is
    free (of the machine and of the cgroup) less 1 GiB, divided by what a light compiler needs: nine in ten of the
    units that were measured before need more; or else by the default of the kind (units.toml). That is how many may run
    at most: heavier ones are then kept from running all together (see :mod:`.schedule`).

    Args:
        device: what is compiled.
        root: where /proc and /sys are looked for.
        nvcc_threads: of each nvcc.
        peaks: measured peaks of the units of this toolchain, in bytes.
    """
    cores = len(os.sched_getaffinity(0))
    limits: list[tuple[int, str]] = [(cores, _count(cores, "core"))]
    quota = _cpu_quota(root)
    if quota is not None:
        limits.append((max(1, int(quota)), f"a CPU quota of {quota:g}"))
    per_job, how = memory_per_job(device, nvcc_threads, peaks)
    for free, whose in _free_memory(root):
        fitting = max(1, _less_reserve(free) // per_job)
        limits.append(
            (fitting, f"{free / GIB:.1f} GiB of memory free {whose} at {per_job / GIB:.3g} GiB a job{how}")
        )
    jobs, reason = min(limits, key=lambda limit: limit[0])
    return jobs, reason


def memory_for_jobs(root: Path) -> int | None:
    """Bytes that all compilers together may use now: what is free, less 1 GiB (a quarter at most).

    None where nothing says how much is free.
    """
    free = [amount for amount, _ in _free_memory(root)]
    return _less_reserve(min(free)) if free else None


def _less_reserve(free: int) -> int:
    # A small container must not be left with nothing.
    return free - min(_RESERVE, int(free * _RESERVED_SHARE))


def memory_per_job(device: Device, threads: int, peaks: Collection[int]) -> tuple[int, str]:
    """Bytes to count for a compiler, and where they are from, empty for the default."""
    measured = sorted(peak for peak in peaks if peak > 0)
    if len(measured) >= _FEW:
        return max(GIB // 4, measured[len(measured) // 10]), f", as {len(measured)} units were measured"
    if device == "empty":
        return GIB, ""
    table = tomllib.loads(UNITS.read_text())
    name = "/unit.cu" if device == "cuda" else "/unit.cpp"
    kind = next(kind for kind in table["kind"] if fnmatchcase(name, kind["match"]))
    return int(kind["peak"] * GIB) * (max(1, threads) if device == "cuda" else 1), ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _free_memory(root: Path) -> list[tuple[int, str]]:
    found = []
    if match := re.search(r"^MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE):
        found.append((int(match[1]) * 1024, "on this machine"))
    for limit_file, usage_file, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _cgroups(root, "memory"):
            limit = _number(folder / limit_file)
            # Version 1 says "no limit" with a number near 2**63.
            if limit is None or limit >= 1 << 60:
                continue
            used = _number(folder / usage_file) or 0
            stat = re.search(rf"^{cache_key} (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
            # Page cache counts as used but is given back under pressure.
            used = max(0, used - (int(stat[1]) if stat else 0))
            found.append((max(0, limit - used), "in this container"))
    return found


def _cpu_quota(root: Path) -> float | None:
    quotas = []
    for folder in _cgroups(root, "cpu"):
        fields = _read(folder / "cpu.max").split()
        if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]):
            quotas.append(int(fields[0]) / int(fields[1]))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _cgroups(root: Path, controller: str) -> list[Path]:
    """Our cgroup's folder and its ancestors': a limit on any of them holds."""
    found: dict[Path, None] = {}
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top = base
        elif controller in controllers.split(","):
            top = base / controllers if (base / controllers).is_dir() else base / controller
        else:
            continue
        here = top / path.strip("/")
        # Inside a container the path is the host's and does not exist here: the mount itself is ours.
        while here != top and top in here.parents:
            found[here] = None
            here = here.parent
        found[top] = None
    return [folder for folder in found if folder.is_dir()]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if re.fullmatch(r"-?\d{1,20}", text) else None
