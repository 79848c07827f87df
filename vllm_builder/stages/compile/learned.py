"""What was measured of translation units: seconds and peak memory, kept for the builds after this one.

One JSON file per toolchain below ``<cache>/units``::

    {"units": {"csrc/a.cu": {"content": "<hash>", "seconds": 60.2, "peak": 2800000000}}}

A damaged file counts as empty, and losing it costs nothing but a good order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from vllm_builder.errors import BuilderError
from vllm_builder.fs import make_dir, write_atomic
from vllm_builder.model import digest
from vllm_builder.stages.compile import buildfile, schedule
from vllm_builder.stages.compile.model import CompileSpec

# A unit that took much less than before came from the compiler cache.
_A_HIT = 0.3
_SHORTEST = 1.0


def learned_file(folder: Path, spec: CompileSpec) -> Path:
    """The file for a toolchain: compilers, architectures, build type and nvcc's threads."""
    toolchain = [
        spec.device,
        [(c.language, c.id, c.version, c.target) for c in spec.compilers],
        spec.archs,
        spec.build_type,
        spec.nvcc_threads,
    ]
    return folder / f"{digest(toolchain)[:16]}.json"


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> ``content``, ``seconds``, ``peak`` (bytes); empty where there is nothing to be read."""
    try:
        units = json.loads(path.read_text())["units"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {k: v for k, v in units.items() if isinstance(v, dict)} if isinstance(units, dict) else {}


def learn(path: Path, tree: Path, peaks: Mapping[str, int], *, cached: bool) -> int:
    """Add what ninja's logs below ``tree`` and ``peaks`` say; returns how many units are new or changed.

    Safe among concurrent builders. Learning nothing is no error.

    Args:
        path: see :func:`learned_file`.
        tree: the tree that was compiled.
        peaks: source file -> bytes, as sampled.
        cached: a compiler cache took part, so a short time may be its answer.
    """
    measured = _measured(tree)
    try:
        make_dir(path.parent)
        with FileLock(f"{path}.lock", timeout=10):
            units = read(path)
            changed = 0
            for source, seconds in measured.items():
                name = schedule.unit_name(source, tree)
                old = units.get(name, {})
                before = float(old.get("seconds") or 0)
                peak = max(int(peaks.get(source, 0)), 0)
                content = schedule.content(Path(source))
                if cached and (seconds < _SHORTEST or seconds < _A_HIT * before) and not peak:
                    continue
                same = old.get("content") == content
                new = {
                    "content": content,
                    "seconds": round(seconds, 2),
                    # A sample can miss the peak, so the same content keeps the largest one seen.
                    "peak": max(peak, int(old.get("peak") or 0)) if same or not peak else peak,
                }
                if new != old:
                    units[name] = new
                    changed += 1
            if changed:
                write_atomic(path, json.dumps({"units": units}, indent=0, sort_keys=True))
    except (BuilderError, OSError, TimeoutError):
        return 0
    return changed


def _measured(tree: Path) -> dict[str, float]:
    """Source file -> seconds, of all units in ninja's logs."""
    found: dict[str, float] = {}
    for log in (tree / "build").glob("temp*/.ninja_log"):
        try:
            sources = buildfile.objects((log.parent / "build.ninja").read_text())
            lines = log.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            fields = line.split("\t")
            if len(fields) == 5 and fields[3] in sources and fields[0].isdigit() and fields[1].isdigit():
                found[sources[fields[3]]] = (int(fields[1]) - int(fields[0])) / 1000
    return found
