"""What was measured of translation units: seconds and peak memory, kept for the builds after this one.

One JSON file per toolchain below ``<cache>/units``, shared by all plans with it, whatever their release::

    {"units": {"csrc/a.cu": {"content": "<hash>", "seconds": 60.2, "peak": 2800000000}}}

``content`` is what the peak was measured of; the seconds may be of another content of the same file.

A damaged file counts as empty, and losing it costs nothing but a good order.
"""

from __future__ import annotations

import json
import os
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
# Memory is sampled once a second: of a shorter unit that may be anything.
_SAMPLED = 3.0


def learned_file(folder: Path, spec: CompileSpec) -> Path:
    """The file for a toolchain: compilers, architectures, build type, nvcc's threads, and whether headers are lean.

    With lean headers a unit takes half the time and less memory, so neither may count for the other.
    """
    toolchain = [
        spec.device,
        [(c.language, c.id, c.version, c.target) for c in spec.compilers],
        spec.archs,
        spec.build_type,
        spec.nvcc_threads,
        *(["lean headers"] if spec.lean_headers else []),
    ]
    return folder / f"{digest(toolchain)[:16]}.json"


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> ``content``, ``seconds``, ``peak`` (bytes); empty where there is nothing to be read."""
    try:
        units = json.loads(path.read_text())["units"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {k: v for k, v in units.items() if isinstance(v, dict)} if isinstance(units, dict) else {}


def learn(
    path: Path,
    tree: Path,
    peaks: Mapping[str, int],
    *,
    cached: bool,
    answers: Mapping[str, str] | None = None,
) -> int:
    """Add what ninja's logs below ``tree`` and ``peaks`` say; returns how many units are new or changed.

    Safe among concurrent builders. Learning nothing is no error.

    Args:
        path: see :func:`learned_file`.
        tree: the tree that was compiled.
        peaks: source file -> bytes, as sampled.
        cached: a compiler cache took part, so a short time may be its answer.
        answers: what the cache answered for each file, where it says so: ``hit``, ``miss``, ``uncacheable``. Names are
            those of the command lines, absolute or relative to where ninja runs.
    """
    measured = _measured(tree, answers or {})
    try:
        make_dir(path.parent)
        with FileLock(f"{path}.lock", timeout=10):
            units = read(path)
            changed = 0
            for source, (seconds, answer) in measured.items():
                name = schedule.unit_name(source, tree)
                old = units.get(name, {})
                before = float(old.get("seconds") or 0)
                if answer == "hit":
                    continue
                if cached and not answer and (seconds < _SHORTEST or seconds < _A_HIT * before):
                    continue
                content, peak = schedule.content(Path(source)), int(old.get("peak") or 0)
                sampled = int(peaks.get(source, 0)) if seconds >= _SAMPLED else 0
                if old.get("content") == content:
                    # A sample can miss the peak, so the same content keeps the largest one seen.
                    peak = max(peak, sampled)
                elif sampled:
                    peak = sampled
                elif peak:
                    content = old.get("content", "")
                new = {"content": content, "seconds": round(seconds, 2), "peak": peak}
                if new != old:
                    units[name] = new
                    changed += 1
            if changed:
                write_atomic(path, json.dumps({"units": units}, indent=0, sort_keys=True))
    except (BuilderError, OSError, TimeoutError):
        return 0
    return changed


def _measured(tree: Path, answers: Mapping[str, str]) -> dict[str, tuple[float, str]]:
    """Source file -> seconds and what the compiler cache answered, of all units in ninja's logs."""
    found: dict[str, tuple[float, str]] = {}
    for log in (tree / "build").glob("temp*/.ninja_log"):
        try:
            sources = buildfile.objects((log.parent / "build.ninja").read_text())
            lines = log.read_text(errors="replace").splitlines()
        except OSError:
            continue
        said = {os.path.normpath(log.parent / name): answer for name, answer in answers.items()}
        for line in lines:
            fields = line.split("\t")
            if len(fields) == 5 and fields[3] in sources and fields[0].isdigit() and fields[1].isdigit():
                source = sources[fields[3]]
                found[source] = (
                    (int(fields[1]) - int(fields[0])) / 1000,
                    said.get(os.path.normpath(source), ""),
                )
    return found
