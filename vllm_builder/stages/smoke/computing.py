"""The wheel's ops against torch's own results, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_builder.stages.smoke.loading import child_environ, died, program, results
from vllm_builder.stages.smoke.model import Trial
from vllm_builder.stages.smoke.program import Ended, run_program, tail
from vllm_builder.stages.smoke.room import Room

_MOST_NAMES = 60


def try_ops(room: Room, environ: Mapping[str, str], libraries: Sequence[Path], limit: float) -> list[Trial]:
    """Try every op that is known; the others are named as not tried.

    Args:
        libraries: those that can be loaded.
        limit: seconds for all of them together.
    """
    trials: list[Trial] = []
    crashed: dict[str, Trial] = {}
    deadline = time.monotonic() + limit
    while True:
        result = room.work / f"ops-{len(crashed)}.json"
        ended = run_program(
            program(room, "ops", str(result), ",".join(crashed), *map(str, libraries)),
            env=child_environ(environ, room),
            cwd=room.work,
            log=room.logs / f"ops-{len(crashed)}.log",
            limit=max(1.0, deadline - time.monotonic()),
        )
        said = results(result)
        if ended.status == 0 and said and said[-1].get("end"):
            trials = _trials(said, ended)
            break
        unfinished = said[-1] if said and "begin" in said[-1] else None
        name = "ops" if unfinished is None else str(unfinished["begin"])
        dtype = "" if unfinished is None else f" with {unfinished['dtype']}"
        trial = died(Trial(level="ops", name=name, outcome="failed"), ended, limit)
        crashed[name] = trial.model_copy(
            update={"detail": trial.detail + dtype, "seconds": round(ended.seconds, 2)}
        )
        # One that crashes is left out the next time, so that the others are tried as well.
        if unfinished is None or ended.status is None:
            trials = _trials([line for line in said if "op" in line and line["op"] != name], ended)
            trials.append(_not_tried("the other ops", f"{name} did not come to an end", []))
            break
    return [*crashed.values(), *trials]


def _trials(said: list[dict[str, Any]], ended: Ended) -> list[Trial]:
    by_op: dict[str, list[dict[str, Any]]] = {}
    for line in said:
        if "op" in line:
            by_op.setdefault(str(line["op"]), []).append(line)
    found = [_trial(name, lines, ended) for name, lines in by_op.items()]
    end = said[-1] if said and said[-1].get("end") else {}
    unknown, without = end.get("unknown", []), end.get("without_kernel", [])
    if unknown:
        found.append(_not_tried(f"{len(unknown)} other ops", "nothing to compare with is known", unknown))
    if without:
        found.append(_not_tried(f"{len(without)} ops", "no kernel for CPU", without))
    if end and not by_op and not unknown and not without:
        found.append(_not_tried("ops", "the wheel registers none", []))
    return found


def _trial(name: str, lines: list[dict[str, Any]], ended: Ended) -> Trial:
    parts, bad, tried = [], False, False
    for line in lines:
        dtype = line.get("dtype", "")
        if "skipped" in line:
            parts.append(f"{dtype} not tried: {line['skipped']}".strip())
        elif "error" in line:
            parts.append(f"{dtype} {line['error']}")
            bad = tried = True
        else:
            said = f"{dtype} {line['difference']:.1e}"
            parts.append(said if line["within"] else f"{said} WRONG")
            bad, tried = bad or not line["within"], True
    trial = Trial(level="ops", name=name, outcome="passed", detail="largest difference " + ", ".join(parts))
    if not tried:
        return trial.model_copy(update={"outcome": "not tried", "detail": ", ".join(parts)})
    if bad:
        cure = "The kernel computes something else than torch: look at compiler flags, and build it anew."
        return trial.model_copy(update={"outcome": "failed", "next": cure, "lines": tail(ended.log, 8)})
    return trial


def _not_tried(name: str, why: str, names: Sequence[str]) -> Trial:
    shown = ", ".join(names[:_MOST_NAMES]) + (" ..." if len(names) > _MOST_NAMES else "")
    return Trial(level="ops", name=name, outcome="not tried", detail=f"{why}: {shown}" if shown else why)
