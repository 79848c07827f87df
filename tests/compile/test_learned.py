"""What is kept of times and peaks, for whom, and what must never be believed."""

from __future__ import annotations

import tomllib
from pathlib import Path

from vllm_builder.stages.compile import learned, schedule
from vllm_builder.stages.compile.model import Compiler, CompileSpec
from vllm_builder.stages.compile.packing import GIB

NVCC = Compiler(language="CUDA", id="NVIDIA", version="13.0.88", target="x86_64-linux-gnu", path="/a/nvcc")


def spec(version: str = "0.9.2+cu130", *, lean: bool = False) -> CompileSpec:
    return CompileSpec(
        device="cuda",
        archs=("10.0",),
        version=version,
        scm_version=version,
        compilers=(NVCC,),
        lean_headers=lean,
    )


def built(tree: Path, times: dict[str, float], words: str = "") -> dict[str, str]:
    """A tree as a build leaves it, and its source files by name."""
    build = tree / "build/temp.x"
    build.mkdir(parents=True, exist_ok=True)
    statements, lines, sources = [], ["# ninja log v7"], {}
    for name, seconds in times.items():
        (tree / name).write_text(f"// {name} {words}\n")
        statements.append(f"build {name}.o: CUDA_COMPILER__C {tree / name}\n")
        lines.append(f"0\t{int(seconds * 1000)}\t1\t{name}.o\tabc")
        sources[name] = str(tree / name)
    (build / "build.ninja").write_text("\n".join(statements))
    (build / ".ninja_log").write_text("\n".join(lines) + "\n")
    return sources


def test_plans_of_other_releases_share_what_was_learned(tmp_path: Path) -> None:
    first, second = (
        learned.learned_file(tmp_path, spec(version)) for version in ("0.9.2+cu130", "0.10.0+cu130")
    )
    assert first == second
    here = built(tmp_path / "a", {"a.cu": 60})
    learned.learn(first, tmp_path / "a", {here["a.cu"]: 3 * GIB}, cached=False)
    # The same unit in the tree of the other release; then with another content.
    there = built(tmp_path / "b", {"a.cu": 1})
    table = tomllib.loads(schedule.UNITS.read_text())

    def expected() -> schedule.Unit:
        return schedule.estimate(there["a.cu"], learned.read(second), table, 1, tmp_path / "b")

    assert expected() == schedule.Unit(60, 3 * GIB, known=True, timed=True)
    Path(there["a.cu"]).write_text("// changed\n")
    # What it took before is a guess now, and not trusted to be enough.
    assert expected() == schedule.Unit(60, int(3.75 * GIB), known=False, timed=True)


def test_a_changed_unit_is_never_guessed_over_its_kind_nor_under_what_it_took(tmp_path: Path) -> None:
    tree = tmp_path / "a"
    here = built(tree, {"a.cu": 60, "b.cu": 60})
    file = tmp_path / "u.json"
    learned.learn(file, tree, {here["a.cu"]: int(4.9 * GIB), here["b.cu"]: 9 * GIB}, cached=False)
    built(tree, {"a.cu": 60, "b.cu": 60}, "changed")
    table = tomllib.loads(schedule.UNITS.read_text())
    peaks = {n: schedule.estimate(s, learned.read(file), table, 1, tree).peak / GIB for n, s in here.items()}
    kind = next(kind["peak"] for kind in table["kind"] if kind["match"] == "*.cu")
    assert peaks == {"a.cu": kind, "b.cu": 9}


def test_lean_headers_are_learned_apart(tmp_path: Path) -> None:
    full, lean = (learned.learned_file(tmp_path, spec(lean=lean)) for lean in (False, True))
    assert full != lean
    tree = tmp_path / "a"
    built(tree, {"a.cu": 43})
    learned.learn(full, tree, {}, cached=False)
    built(tree, {"a.cu": 17})
    learned.learn(lean, tree, {}, cached=False)
    assert [learned.read(file)["a.cu"]["seconds"] for file in (full, lean)] == [43, 17]


def test_a_plan_says_whether_headers_are_lean_outside_its_digest() -> None:
    from vllm_builder.model import digest

    assert digest(spec()) == digest(spec(lean=True))


def test_a_hit_teaches_nothing_even_where_the_cache_itself_was_sampled(tmp_path: Path) -> None:
    """ccache was seen with 70 MB while it answered in 0.2 s, and a unit of 190 s counted as one of 0.2 s since."""
    file, tree = tmp_path / "u.json", tmp_path / "a"
    here = built(tree, {"a.cu": 190})
    learned.learn(file, tree, {here["a.cu"]: 4 * GIB}, cached=True)
    built(tree, {"a.cu": 0.2}, "changed")
    assert learned.learn(file, tree, {here["a.cu"]: 70 << 20}, cached=True) == 0
    assert learned.read(file)["a.cu"]["seconds"] == 190


def test_what_the_cache_says_counts_before_guesses(tmp_path: Path) -> None:
    file, tree = tmp_path / "u.json", tmp_path / "a"
    built(tree, {"slow_hit.cu": 30, "quick_miss.cu": 0.5, "old.cu": 0.02})
    # As ccache names them: relative to where ninja runs.
    said = {"../../slow_hit.cu": "hit", "../../quick_miss.cu": "miss"}
    learned.learn(file, tree, {}, cached=True, answers=said)
    assert {name: unit["seconds"] for name, unit in learned.read(file).items()} == {"quick_miss.cu": 0.5}


def test_a_peak_belongs_to_the_content_it_was_measured_of(tmp_path: Path) -> None:
    file, tree = tmp_path / "u.json", tmp_path / "a"
    here = built(tree, {"a.cu": 60})
    learned.learn(file, tree, {here["a.cu"]: 4 * GIB}, cached=False)
    before = learned.read(file)["a.cu"]["content"]
    # Compiled anew with another content, but no sample was taken (the builder was killed, say).
    built(tree, {"a.cu": 70}, "changed")
    learned.learn(file, tree, {}, cached=False)
    assert learned.read(file)["a.cu"] == {"content": before, "seconds": 70.0, "peak": 4 * GIB}
    table = tomllib.loads(schedule.UNITS.read_text())
    assert not schedule.estimate(here["a.cu"], learned.read(file), table, 1, tree).known


def test_a_unit_too_short_to_be_sampled_has_no_peak(tmp_path: Path) -> None:
    file, tree = tmp_path / "u.json", tmp_path / "a"
    here = built(tree, {"a.cu": 1.5})
    learned.learn(file, tree, {here["a.cu"]: 30 << 20}, cached=False)
    assert learned.read(file)["a.cu"]["peak"] == 0
