"""Journals of builds that never were, line by line as a build writes them."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from vllm_builder.cache import Workspace

BEGAN = 1_760_000_000.0
DIGEST = "c0ffee" + "0" * 58
MEBIBYTE = 1 << 20


def edge_line(
    start: float, end: float, zero: float, output: str, *, command: str = "", stamped: str = "start"
) -> str:
    """A line of .ninja_log, version 7."""
    stamp = {"start": zero + start, "end": zero + end, "never": 0}[stamped]
    command = command or f"{zlib.crc32(output.encode()):x}"
    return f"{start * 1000:.0f}\t{end * 1000:.0f}\t{int(stamp * 1e9)}\t{output}\t{command}\n"


def plan(**changes: Any) -> dict[str, Any]:
    facts = {
        "digest": DIGEST,
        "release": "0.9.2",
        "version": "0.9.2+cpu",
        "device": "cpu",
        "torch": "2.13.0+cpu",
        "build_type": "Release",
        "compilers": ["CXX GNU 12.2.0"],
        "compiler_cache": "ccache",
    }
    return facts | changes


@dataclass
class Build:
    """One build of a journal; moments are seconds since it began."""

    began: float = BEGAN
    plan: dict[str, Any] = field(default_factory=plan)
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        machine = {"cores": 4, "memory": 32 << 30, "system": "Linux x86_64"}
        self.line(0, "build", pid=0, plan=self.plan, machine=machine, builder="0.1.0", tree="/tree")

    def line(self, at: float, kind: str, **values: Any) -> Self:
        self.lines.append({"kind": kind, "at": self.began + at, **values})
        return self

    def stage(self, at: float, name: str, seconds: float | None = None, summary: str = "") -> Self:
        self.line(at, "stage", stage=name, title=name)
        if seconds is not None:
            self.line(at + seconds, "stage-end", stage=name, seconds=seconds, summary=summary)
        return self

    def edges(self, at: float, *edges: tuple[float, float, str], zero: float) -> Self:
        """What ninja's log holds at a moment: (start, end, output) of a ninja that began at ``zero``."""
        log = "".join(edge_line(start, end, self.began + zero, output) for start, end, output in edges)
        names = [output for _, _, output in edges if output.endswith(".o")]
        sources = {name: "/tree/" + name.partition(".dir/")[2].removesuffix(".o") for name in names}
        return self.line(at, "edges", log="# ninja log v7\n" + log, sources=sources)

    def end(self, at: float, outcome: str = "built", **values: Any) -> Self:
        return self.line(at, "end", outcome=outcome, **values)


def text(*builds: Build) -> str:
    """A journal."""
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for build in builds for line in build.lines)


def put(workspace: Workspace, *builds: Build) -> Path:
    """A journal where builds put it; all of them are of one plan."""
    path = workspace.journal(builds[0].plan["digest"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(*builds))
    return path


def small(began: float = BEGAN, *, slower: float = 1.0, **changes: Any) -> Build:
    """A build of three units on two slots, a link, memory, a cache; as it goes when all is well."""
    build = Build(began, plan(**changes))
    build.stage(0, "source", 1.5, "sdist").stage(2, "environment", 0.5)
    build.stage(3, "compile")
    build.line(3, "run", jobs=2)
    build.line(13, "ninja")
    for second in range(4, 40):
        build.line(second, "m", m=(200 + 40 * (second % 7)) * MEBIBYTE, n=2 if second > 13 else 0)
    build.line(
        25,
        "peak",
        source="/tree/csrc/cpu/attention.cpp",
        m=900 * MEBIBYTE,
        steps={"as": 0.5, "cc1plus": 10.5},
    )
    build.line(25, "peak", source="/tree/csrc/cpu/cache.cpp", m=500 * MEBIBYTE)
    build.edges(
        40,
        (0.1, 12.0 * slower, "CMakeFiles/_C.dir/csrc/cpu/attention.cpp.o"),
        (0.1, 8.0, "CMakeFiles/_C.dir/csrc/cpu/cache.cpp.o"),
        (8.1, 8.6, "CMakeFiles/_C.dir/csrc/cpu/utils.cpp.o"),
        (12.0 * slower, 12.0 * slower + 0.4, "_C.abi3.so"),
        zero=13,
    )
    answers = {
        "../../csrc/cpu/attention.cpp": "miss",
        "../../csrc/cpu/cache.cpp": "miss",
        "../../csrc/cpu/utils.cpp": "hit",
    }
    build.line(40, "cache", files=answers)
    build.line(40, "run-end")
    build.line(40, "stage-end", stage="compile", seconds=37, summary="4 units")
    build.stage(40, "finish", 1, "x.whl").stage(41, "verify", 2, "12 checks")
    return build.end(
        44, cache={"hits": 1, "misses": 2, "uncacheable": 0}, left_out=["vllm._moe_C: <not> for CPU"]
    )


def large(
    units: int, jobs: int, *, began: float = BEGAN, extensions: int = 9, seed: int = 1, **changes: Any
) -> Build:
    """A build for CUDA with many units on many slots, in two runs of setup.py."""
    random_ = random.Random(seed)
    build = Build(
        began,
        plan(device="cuda", version="0.9.2+cu130", archs=["10.0", "12.0"], torch="2.11.0+cu130", **changes),
    )
    names = [
        "_C",
        "_moe_C",
        "_vllm_fa2_C",
        "_flashmla_C",
        "_vllm_fa3_C",
        *(f"_part_{n}_C" for n in range(extensions)),
    ]
    build.stage(0, "source", 4, "sdist").stage(4, "vendor", 11).stage(16, "environment", 20).stage(
        36, "compile"
    )
    at, number = 36.0, 0
    folders = ["attention", "quantization/cutlass_w8a8/c3x", "moe/marlin_moe_wna16", "flash_attn/src"]
    for share in (0.4, 0.6):
        build.line(at, "run", jobs=jobs)
        zero, free, edges = at + 25.0, [0.0] * jobs, []
        for _ in range(int(units * share)):
            slot = free.index(min(free))
            seconds = random_.lognormvariate(3.2, 0.9)
            extension = names[min(extensions, int(random_.expovariate(0.7)))]
            name = f"CMakeFiles/{extension}.dir/csrc/{random_.choice(folders)}/kernel_sm{80 + number % 7}_{number}.cu.o"
            edges.append((free[slot], free[slot] + seconds, name))
            build.line(
                zero + free[slot],
                "peak",
                source=f"/tree/{name.partition('.dir/')[2][:-2]}",
                m=int(2e9 + 4e7 * seconds),
            )
            free[slot] += seconds + 0.01
            number += 1
        end = zero + max(free)
        second = at
        while second < end:
            build.line(
                second,
                "m",
                m=int(jobs * (1.6e9 + 6e8 * random_.random())) if second > zero else 3 << 26,
                n=jobs,
            )
            second += max(1.0, (end - at) / 3000)
        build.edges(end, *edges, zero=zero)
        build.line(end, "attempt", reason="a compiler was killed for memory", unit="csrc/attention/kernel.cu")
        build.line(end + 6, "run-end")
        at = end + 30
    build.line(at, "stage-end", stage="compile", seconds=at - 36, summary=f"{number} units")
    return build.end(at + 60, cache={"hits": 0, "misses": number, "uncacheable": 3})
