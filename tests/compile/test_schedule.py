"""The order of units and the bound on memory: the arithmetic, the build file, and a real ninja."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from compile_helpers import build
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.events import Event, Output
from vllm_builder.stages.compile import learned, schedule, scheduling
from vllm_builder.stages.compile.buildfile import POOL, objects, rearrange
from vllm_builder.stages.compile.model import Compiler, CompileSpec
from vllm_builder.stages.compile.packing import GIB, Schedule, Unit, choose, classed
from vllm_builder.stages.environment.model import Environment

MakeTree = Callable[..., Path]
Wrapper = Callable[[str], Compiler]

NINJA = """\
include CMakeFiles/rules.ninja

build cmake_object_order_depends_target__C: phony || .

build CMakeFiles/_C.dir/a.cpp.o: CXX_COMPILER___C_unscanned_Release /x/a.cpp || cmake_object_order_depends_target__C
  DEFINES = -D_C
  pool = compile

# a comment
build CMakeFiles/_C.dir/b$ b.cu.o: CUDA_COMPILER___C_unscanned_Release /x/b$ b.cu || cmake_object_order_depends_target__C
  DEFINES = -D_C
  pool = compile

build CMakeFiles/_C.dir/c.cpp.o: CXX_COMPILER___C_unscanned_Release /x/c.cpp
  DEFINES = -D_C

build _C.so: CXX_MODULE_LIBRARY_LINKER___C_Release CMakeFiles/_C.dir/a.cpp.o
  LINK_FLAGS = -shared
"""

units_strategy = st.lists(
    st.builds(Unit, seconds=st.floats(0.1, 500), peak=st.integers(1, 20 * GIB), known=st.booleans()),
    min_size=1,
    max_size=25,
)


def worst(units: list[Unit], chosen: Schedule) -> int:
    """The most memory that can be in use at one moment."""
    heavy = sorted((u.peak for u in units if u.peak > chosen.limit), reverse=True)
    light = sorted((u.peak for u in units if u.peak <= chosen.limit), reverse=True)
    if chosen.depth:
        heavy = heavy[: chosen.depth]
    return sum(sorted(heavy + light, reverse=True)[: chosen.jobs])


@given(units_strategy, st.integers(1, 64), st.integers(1, 256 * GIB))
def test_the_worst_moment_fits_into_memory(units: list[Unit], jobs: int, memory: int) -> None:
    units = [classed(u, jobs, memory, fixed=False) for u in units]
    chosen = choose(units, jobs, memory)
    assert 1 <= chosen.jobs <= jobs
    if max(u.peak for u in units) <= memory:
        assert worst(units, chosen) <= memory
    else:
        assert chosen.jobs == 1


@given(units_strategy, st.integers(1, 64), st.integers(1, 256 * GIB))
def test_jobs_that_were_asked_for_stay(units: list[Unit], jobs: int, memory: int) -> None:
    units = [classed(u, jobs, memory, fixed=True) for u in units]
    assert choose(units, jobs, memory, fixed=True).jobs == jobs
    guessed = [classed(Unit(u.seconds, u.peak), jobs, memory, fixed=True) for u in units]
    assert choose(guessed, jobs, memory, fixed=True) == Schedule(jobs, max(u.peak for u in guessed), 0)


def test_a_few_heavy_units_do_not_slow_the_light_ones() -> None:
    units = [Unit(400, 8 * GIB)] * 3 + [Unit(30, 2 * GIB)] * 200
    assert choose(units, 8, 24 * GIB) == Schedule(8, 2 * GIB, 1)


def test_the_build_file_is_rearranged_and_put_back() -> None:
    table = {
        "CMakeFiles/_C.dir/a.cpp.o": Unit(1, GIB),
        "CMakeFiles/_C.dir/c.cpp.o": Unit(3, 9 * GIB),
    }
    new = rearrange(NINJA, table, Schedule(4, GIB, 1))
    assert list(objects(new)) == [
        "CMakeFiles/_C.dir/c.cpp.o",
        "CMakeFiles/_C.dir/b b.cu.o",
        "CMakeFiles/_C.dir/a.cpp.o",
    ]
    assert objects(new)["CMakeFiles/_C.dir/b b.cu.o"] == "/x/b b.cu"
    assert sorted(objects(new)) == sorted(objects(NINJA))
    assert new.count(f"  pool = {POOL}\n") == 1
    assert f"pool {POOL}\n  depth = 1\n" in new
    again = rearrange(new, table, Schedule(4, GIB, 1))
    assert again == new
    plain = rearrange(new, {k: Unit(0, 0) for k in table}, Schedule(4, 9 * GIB, 0))
    assert POOL not in plain
    assert sorted(plain.splitlines()) == sorted(NINJA.splitlines())


def test_shipped_times_and_kinds() -> None:
    import tomllib

    table = tomllib.loads(schedule.UNITS.read_text())

    def of(name: str, threads: int = 1) -> Unit:
        return schedule.estimate(f"/tree/{name}", {}, table, threads, Path("/tree"))

    slow = of("csrc/quantization/cutlass_w8a8/scaled_mm_c2x.cu")
    assert (
        slow.seconds
        > of("csrc/attention/paged_attention_v1.cu").seconds
        > of("csrc/cache_kernels.cu").seconds
    )
    assert of("csrc/cache_kernels.cu", threads=4).peak == 4 * of("csrc/cache_kernels.cu").peak
    assert of("csrc/torch_bindings.cpp", threads=4).peak == 2 * GIB
    assert of("vllm/third_party/vllm-flash-attn/csrc/flash_attn/src/flash_fwd.cu").peak == 5 * GIB


@pytest.mark.parametrize("text", ["", "{", "[]", '{"units": 3}', '{"units": {"a": 3}}', "\0"])
def test_a_damaged_table_counts_as_empty(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.json"
    file.write_text(text)
    assert learned.read(file) == {}


def fake_log(tree: Path, times: dict[str, float]) -> None:
    build = tree / "build/temp.x"
    build.mkdir(parents=True, exist_ok=True)
    statements, lines = [], ["# ninja log v7"]
    for name, seconds in times.items():
        (tree / name).write_text(f"// {name}\n")
        statements.append(f"build {name}.o: CXX_COMPILER___C {tree / name}\n  pool = compile\n")
        lines.append(f"0\t{int(seconds * 1000)}\t1\t{name}.o\tabc")
    (build / "build.ninja").write_text("\n".join(statements))
    (build / ".ninja_log").write_text("\n".join(lines) + "\n")


def test_hits_of_the_compiler_cache_teach_nothing(tmp_path: Path) -> None:
    file = tmp_path / "units/t.json"
    fake_log(tmp_path, {"a.cpp": 60, "b.cpp": 2.0})
    assert learned.learn(file, tmp_path, {str(tmp_path / "a.cpp"): 3 * GIB}, cached=True) == 2
    fake_log(tmp_path, {"a.cpp": 0.02, "b.cpp": 0.02})
    assert learned.learn(file, tmp_path, {}, cached=True) == 0
    assert {k: (v["seconds"], v["peak"]) for k, v in learned.read(file).items()} == {
        "a.cpp": (60.0, 3 * GIB),
        "b.cpp": (2.0, 0),
    }


def test_concurrent_builders_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "units/t.json"
    trees = [tmp_path / f"tree{n}" for n in range(8)]
    for n, tree in enumerate(trees):
        fake_log(tree, {f"unit_{n}.cpp": 5})
    threads = [
        threading.Thread(target=learned.learn, args=(file, tree, {}), kwargs={"cached": False})
        for tree in trees
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(learned.read(file)) == [f"unit_{n}.cpp" for n in range(8)]


# -- with a real ninja -----------------------------------------------------------------------------


def watched(tmp_path: Path) -> str:
    """Shell lines of a compiler that notes when each unit begins and ends."""
    return (
        f'test -z "$unit" || {{ echo "begin $unit" >> {tmp_path}/trace; sleep 0.5; '
        f'echo "end $unit" >> {tmp_path}/trace; }}'
    )


def teach(spec: CompileSpec, tree: Path, known: dict[int, tuple[float, float]]) -> None:
    """``{number: (seconds, GiB)}`` as measured of the tree's units."""
    file = learned.learned_file(Path(spec.learned_dir), spec)
    file.parent.mkdir(parents=True)
    table = {
        f"csrc/unit_{n}.cpp": {
            "content": schedule.content(tree / f"csrc/unit_{n}.cpp"),
            "seconds": seconds,
            "peak": int(peak * GIB),
        }
        for n, (seconds, peak) in known.items()
    }
    file.write_text(json.dumps({"units": table}))


def most_at_once(trace: Path, units: set[str]) -> int:
    running, most = set(), 0
    for line in trace.read_text().splitlines():
        what, unit = line.split()
        if unit in units:
            running.add(unit) if what == "begin" else running.discard(unit)
        most = max(most, len(running))
    return most


def test_heavy_units_come_first_and_never_together(
    spec: CompileSpec,
    make_tree: MakeTree,
    environment: Environment,
    wrapper: Wrapper,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "memory_for_jobs", lambda root: 23 * GIB // 2)
    tree = make_tree(units=9)
    many = spec.model_copy(
        update={
            "compilers": (wrapper(watched(tmp_path)),),
            "jobs": 4,
            "learned_dir": str(tmp_path / "units"),
        }
    )
    teach(many, tree, {n: (400 + n, 6) if n >= 7 else (10 - n, 1.5) for n in range(9)})
    events: list[Event] = []
    build(many, tree, environment, events)
    begun = [line.split()[1] for line in (tmp_path / "trace").read_text().splitlines() if "begin" in line]
    # Four begin together; in ninja's own order the heavy ones would be the last two.
    assert "unit_8.cpp" in begun[:4]
    assert "unit_7.cpp" in begun[4:8]  # as soon as the one before it has ended
    assert most_at_once(tmp_path / "trace", {"unit_7.cpp", "unit_8.cpp"}) == 1
    assert most_at_once(tmp_path / "trace", set(begun)) == 4
    said = [e.line for e in events if isinstance(e, Output) and "Scheduling" in e.line]
    assert said == ["-- Scheduling: 2 of 9 units need over 1.50 GiB: 1 at once"]

    # Another order or other pools make nothing be compiled again.
    monkeypatch.setattr(scheduling, "memory_for_jobs", lambda root: 64 * GIB)
    again = build(many, tree, environment)
    assert again.units == 0
    assert POOL not in next((tree / "build").glob("temp*/build.ninja")).read_text()


def test_units_wait_until_others_leave_them_memory(
    spec: CompileSpec,
    make_tree: MakeTree,
    environment: Environment,
    wrapper: Wrapper,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "memory_for_jobs", lambda root: 8 * GIB)
    tree = make_tree(units=8)
    many = spec.model_copy(
        update={"compilers": (wrapper(watched(tmp_path)),), "jobs": 4, "learned_dir": str(tmp_path / "units")}
    )
    # A pool would have one heavy unit at a time, or two units at most; beside each of these fit two of the others.
    peaks = {n: 5.5 if n < 2 else 3.5 if n < 4 else 1.0 for n in range(8)}
    teach(many, tree, {n: (60 + n, peak) for n, peak in peaks.items()})
    events: list[Event] = []
    build(many, tree, environment, events)
    said = [e.line for e in events if isinstance(e, Output) and "Scheduling" in e.line]
    assert len(said) == 1
    assert said[0].endswith("of 8 units wait until others leave them enough of 8.0 GiB")
    running: set[int] = set()
    most = 0.0
    for line in (tmp_path / "trace").read_text().splitlines():
        what, unit = line.split()
        number = int(unit.removeprefix("unit_").removesuffix(".cpp"))
        running.add(number) if what == "begin" else running.discard(number)
        most = max(most, sum(peaks[n] for n in running))
    assert 5.5 < most <= 8
    assert not running

    # A unit that is edited is compiled alone: what waits for it is done and stays.
    (tree / "csrc/unit_0.cpp").write_text((tree / "csrc/unit_0.cpp").read_text() + "// edited\n")
    (tmp_path / "trace").unlink()
    build(many, tree, environment)
    assert {line.split()[1] for line in (tmp_path / "trace").read_text().splitlines()} == {"unit_0.cpp"}
    # With memory for all nothing waits, and nothing is compiled for that.
    monkeypatch.setattr(scheduling, "memory_for_jobs", lambda root: 64 * GIB)
    assert build(many, tree, environment).units == 0
    assert "vllm_builder" not in next((tree / "build").glob("temp*/build.ninja")).read_text()


def test_what_leads_in_a_circle_is_left_to_a_pool(
    tmp_path: Path, environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    # b.cpp is made from a.cpp's object: a.cpp must not wait for it.
    sources = {name: tmp_path / f"{name}.cpp" for name in "abcdef"}
    lines = ["rule CXX_COMPILER__x", "  command = true", "rule make", "  command = touch $out"]
    for name, source in sources.items():
        lines.append(f"build {name}.o: CXX_COMPILER__x {source}")
        if name != "b":
            source.touch()
    lines.append(f"build {sources['b']}: make a.o")
    (tmp_path / "build.ninja").write_text("\n".join(lines) + "\n")
    (tmp_path / "CMakeCache.txt").write_text(f"CMAKE_MAKE_PROGRAM:FILEPATH={environment.bin / 'ninja'}\n")
    takes = {
        "a": (10, 3.9),
        "b": (400, 3.9),
        "c": (300, 1.9),
        "d": (300, 1.9),
        "e": (300, 1.9),
        "f": (290, 0.1),
    }
    table = {
        f"{n}.cpp": {"seconds": s, "peak": int(p * GIB), "content": schedule.content(sources[n])}
        for n, (s, p) in takes.items()
    }
    (tmp_path / "learned.json").write_text(json.dumps({"units": table}))
    settings = {
        "tree": str(tmp_path),
        "learned": str(tmp_path / "learned.json"),
        "memory": 6 * GIB,
        "jobs": 4,
        "threads": 1,
        "fixed": False,
    }
    schedule.arranged(["--build", str(tmp_path), "-j=4"], settings)
    text = (tmp_path / "build.ninja").read_text()
    assert "vllm_builder_after" not in text
    assert "wait" not in capsys.readouterr().out


def test_jobs_are_lowered_where_memory_is_short(
    spec: CompileSpec,
    make_tree: MakeTree,
    environment: Environment,
    wrapper: Wrapper,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        scheduling, "memory_for_jobs", lambda root: 5 * GIB
    )  # two at 2 GiB, the guess for C++
    many = spec.model_copy(update={"compilers": (wrapper(watched(tmp_path)),), "jobs": 4})
    events: list[Event] = []
    build(many, make_tree("auto", units=5), environment, events)
    units = {f"unit_{n}.cpp" for n in range(5)}
    assert most_at_once(tmp_path / "trace", units) == 2
    assert any(isinstance(e, Output) and "2 jobs instead of 4" in e.line for e in events)

    # What was asked for is not lowered because of a guess.
    (tmp_path / "trace").unlink()
    build(many.model_copy(update={"jobs_fixed": True}), make_tree("fixed", units=5), environment)
    assert most_at_once(tmp_path / "trace", units) == 4


def test_what_is_built_is_learned(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, tmp_path: Path
) -> None:
    tree = make_tree(units=3)
    taught = spec.model_copy(update={"learned_dir": str(tmp_path / "units")})
    build(taught, tree, environment)
    found = learned.read(learned.learned_file(tmp_path / "units", taught))
    assert sorted(found) == [f"csrc/unit_{n}.cpp" for n in range(3)]
    assert all(unit["seconds"] > 0 for unit in found.values())
    assert found["csrc/unit_0.cpp"]["content"] == schedule.content(tree / "csrc/unit_0.cpp")


def test_a_build_file_that_cannot_be_read_is_left_to_ninja(
    spec: CompileSpec,
    make_tree: MakeTree,
    environment: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "memory_for_jobs", lambda root: "much")
    events: list[Event] = []
    result = build(spec, make_tree(units=2), environment, events)
    assert result.wheel.is_file()
    assert any(isinstance(e, Output) and "in ninja's own order" in e.line for e in events)
