"""Builds in which compilers are killed for memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from compile_helpers import build

from vllm_builder.errors import CompileFailed, CompilerKilled
from vllm_builder.events import Event, Note
from vllm_builder.stages.compile.model import Compiler, CompileSpec
from vllm_builder.stages.environment.model import Environment

MakeTree = Callable[..., Path]
Wrapper = Callable[[str], Compiler]


def crowded(folder: Path, most: int, only: str = "*") -> str:
    """Shell lines of a compiler that the kernel kills where more than ``most`` run at once."""
    folder.mkdir()
    return f"""
case "$unit" in {only}.cpp)
    echo "$unit" >> {folder}.tried
    mkdir {folder}/$$
    sleep 0.4
    if test $(ls {folder} | wc -l) -gt {most}; then sleep 0.2; rmdir {folder}/$$; kill -9 $$; fi
    rmdir {folder}/$$;;
esac"""


def test_where_the_bare_build_is_killed_ours_finishes(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    compiler = wrapper(crowded(tmp_path / "running", 2))
    bare = make_tree("bare", units=6)
    env = {
        **os.environ,
        "PATH": f"{environment.bin}{os.pathsep}{os.environ['PATH']}",
        "CXX": compiler.path,
        "MAX_JOBS": "4",
        "VLLM_TARGET_DEVICE": "cpu",
        "CMAKE_BUILD_TYPE": "Release",
        "SETUPTOOLS_SCM_PRETEND_VERSION": "1.2.3",
    }
    run = subprocess.run(
        [str(environment.python), "setup.py", "bdist_wheel"],
        cwd=bare,
        env=env,
        capture_output=True,
        check=False,
    )
    assert run.returncode != 0
    for left in (tmp_path / "running").iterdir():
        left.rmdir()

    events: list[Event] = []
    many = spec.model_copy(update={"compilers": (compiler,), "jobs": 4, "jobs_fixed": True})
    result = build(many, make_tree("ours", units=6), environment, events)
    assert result.wheel.is_file()
    assert [a.jobs for a in result.attempts] == [4, 2]
    assert result.attempts[0].reason
    assert not result.attempts[1].reason
    assert any(isinstance(e, Note) and "going on in the same tree with 2" in e.message for e in events)


def test_what_was_compiled_before_the_kill_is_not_compiled_again(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    tree = make_tree(units=5)
    lines = (
        f'test -z "$unit" || echo "$unit" >> {tmp_path}/compiled\n'
        'case "$unit" in unit_3.cpp) test -e FLAG || { touch FLAG; sleep 1; kill -9 $$; };; esac'
    ).replace("FLAG", str(tmp_path / "shot"))
    few = spec.model_copy(update={"compilers": (wrapper(lines),), "jobs": 2, "jobs_fixed": True})
    result = build(few, tree, environment)
    compiled = (tmp_path / "compiled").read_text().split()
    assert sorted(set(compiled)) == [f"unit_{n}.cpp" for n in range(5)]
    assert len(compiled) == 6  # only the one that was shot, twice
    assert result.units == 6  # five objects and the link, over both attempts
    assert result.resumed_from == 0


def test_with_one_job_left_the_cure_is_memory(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    events: list[Event] = []
    shot = spec.model_copy(
        update={"compilers": (wrapper('test -z "$unit" || kill -9 $$'),), "jobs": 5, "jobs_fixed": True}
    )
    with pytest.raises(CompilerKilled) as caught:
        build(shot, make_tree(units=2), environment, events)
    assert "more memory" in caught.value.next
    assert "--jobs" not in caught.value.next
    notes = [e.message for e in events if isinstance(e, Note) and "killed" in e.message]
    assert [n.rpartition("with ")[2].split(".")[0] for n in notes] == ["2", "1"]


def test_a_real_error_stops_at_once(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    tree = make_tree(units=2)
    (tree / "csrc/unit_0.cpp").write_text("int unit_0() { return no_such_thing; }\n")
    counted = wrapper(f'test -z "$unit" || echo "$unit" >> {tmp_path}/compiled')
    with pytest.raises(CompileFailed, match="no_such_thing"):
        build(
            spec.model_copy(update={"compilers": (counted,), "jobs": 4, "jobs_fixed": True}),
            tree,
            environment,
        )
    assert (tmp_path / "compiled").read_text().split().count("unit_0.cpp") == 1
