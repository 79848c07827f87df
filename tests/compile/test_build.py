"""compile_wheel on a small tree, with the real compiler, cmake and ninja."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from compile_helpers import gone, start_builder, until_done

from vllm_builder.errors import (
    CompileFailed,
    CompilerKilled,
    ConfigureFailed,
    InstallError,
    NoSpace,
    SourceError,
    WheelMismatch,
)
from vllm_builder.events import Event, Note, Output, Progress
from vllm_builder.stages.compile import compile_wheel, isolation
from vllm_builder.stages.compile.model import Compiler, CompileResult, CompileSpec
from vllm_builder.stages.environment.model import Environment

allowed = pytest.mark.skipif(isolation.refusal() is not None, reason="this kernel allows no namespaces")

MakeTree = Callable[..., Path]
Wrapper = Callable[[str], Compiler]


def build(
    spec: CompileSpec,
    tree: Path,
    environment: Environment,
    events: list[Event] | None = None,
    environ: dict[str, str] | None = None,
) -> CompileResult:
    return compile_wheel(
        spec,
        tree=tree,
        environment=environment,
        dist=tree.parent / "dist",
        log=tree.parent / f"{tree.name}.log",
        environ={**os.environ, **(environ or {})},
        emit=(lambda e: None) if events is None else events.append,
    )


def test_a_wheel_comes_out_and_everything_is_told(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    events: list[Event] = []
    result = build(spec, make_tree(units=3), environment, events)
    assert result.wheel.name.startswith("vllm-1.2.3+cpu-cp38-abi3-linux_")
    assert list(result.wheel.parent.iterdir()) == [result.wheel]
    assert (result.units, result.resumed_from) == (4, 0)
    progress = [e for e in events if isinstance(e, Progress)]
    assert (progress[-1].done, progress[-1].total, progress[-1].unit) == (4, 4, "units")
    log = result.log.read_text()
    for event in events:
        if isinstance(event, Output):
            assert event.line in log
    assert "setup.py --no-user-cfg bdist_wheel" in log.splitlines()[0]


def test_the_same_again_compiles_nothing(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree(units=3)
    build(spec, tree, environment)
    again = build(spec, tree, environment)
    assert (again.units, again.resumed_from) == (0, 4)


def test_another_folder_hits_the_compiler_cache_every_time(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, tmp_path: Path
) -> None:
    cached = spec.model_copy(
        update={"compiler_cache": "ccache", "compiler_cache_dir": str(tmp_path / "ccache")}
    )
    first = build(cached, make_tree("one/tree", units=4), environment)
    assert first.cache == {"hits": 0, "misses": 4, "uncacheable": 0}
    second = build(cached, make_tree("two/deeper/tree", units=4), environment)
    assert second.cache == {"hits": 4, "misses": 0, "uncacheable": 0}


def test_off_means_off_whatever_is_on_path(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sccache", "ccache"):
        (tools / name).write_text(f'#!/bin/sh\ntouch {tmp_path}/{name}-was-used\nexec "$@"\n')
        (tools / name).chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    result = build(spec, make_tree(units=1), environment, environ={"PATH": path})
    assert result.cache == {}
    assert not list(tmp_path.glob("*-was-used"))


def test_a_wanted_ccache_wins_over_sccache_on_path(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sccache").write_text("#!/bin/sh\nexit 1\n")
    (tools / "sccache").chmod(0o755)
    cached = spec.model_copy(
        update={"compiler_cache": "ccache", "compiler_cache_dir": str(tmp_path / "ccache")}
    )
    result = build(
        cached,
        make_tree(units=2),
        environment,
        environ={"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
    )
    assert result.cache["misses"] == 2


def test_a_cache_that_is_not_there_is_named(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    wanted = spec.model_copy(update={"compiler_cache": "sccache"})
    with pytest.raises(InstallError, match="sccache"):
        build(wanted, make_tree(), environment, environ={"PATH": "/usr/bin:/bin"})


def test_a_broken_source_is_named(spec: CompileSpec, make_tree: MakeTree, environment: Environment) -> None:
    tree = make_tree()
    (tree / "csrc/unit_2.cpp").write_text("int unit_2() { return no_such_thing; }\n")
    with pytest.raises(CompileFailed, match="no_such_thing") as caught:
        build(spec, tree, environment)
    assert "unit_2.cpp" in caught.value.why
    assert str(tree.parent / "tree.log") in caught.value.next
    assert any("no_such_thing" in line for line in caught.value.details)
    # Mended, the rest is not compiled again.
    (tree / "csrc/unit_2.cpp").write_text("int unit_2() { return 2; }\n")
    result = build(spec, tree, environment)
    assert result.resumed_from >= 1
    assert result.units + result.resumed_from == 5


def test_an_error_in_a_header_names_both_files(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree(units=1)
    (tree / "csrc/common.h").write_text("inline int common() { return 1 }\n")
    with pytest.raises(CompileFailed, match=r"common\.h") as caught:
        build(spec, tree, environment)
    assert "unit_0.cpp" in caught.value.why


def test_a_missing_library_is_a_link_error(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree(units=1)
    with (tree / "CMakeLists.txt").open("a") as file:
        file.write("target_link_libraries(_C PRIVATE nowhere_to_be_found)\n")
    with pytest.raises(CompileFailed, match="cannot find -lnowhere_to_be_found") as caught:
        build(spec, tree, environment)
    assert "libnowhere_to_be_found" in caught.value.why


def test_a_cmake_error_is_a_configure_error(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree()
    with (tree / "CMakeLists.txt").open("a") as file:
        file.write('message(FATAL_ERROR "X86 backend requires gcc/g++ >= 12.3")\n')
    with pytest.raises(ConfigureFailed, match="requires gcc") as caught:
        build(spec, tree, environment)
    assert "12.3" in caught.value.why
    assert not list((tree / "build").glob("temp*/CMakeCache.txt"))


def test_a_missing_module_of_setup_py(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree()
    (tree / "setup.py").write_text("import surely_not_installed\n")
    with pytest.raises(ConfigureFailed, match="surely_not_installed") as caught:
        build(spec, tree, environment)
    assert "surely_not_installed" in caught.value.next


def test_a_compiler_without_memory_is_said_to_be_so(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper
) -> None:
    tree = make_tree(units=1)
    big = "#include <map>\n#include <regex>\n#include <iostream>\n#include <functional>\n"
    (tree / "csrc/unit_0.cpp").write_text(big)
    starved = spec.model_copy(update={"compilers": (wrapper('test -z "$unit" || ulimit -v 60000'),)})
    with pytest.raises(CompilerKilled) as caught:
        build(starved, tree, environment)
    assert "more memory" in caught.value.next
    assert "no cure" in caught.value.why


def test_a_killed_compiler_is_said_to_be_killed(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    tree = make_tree(units=2)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "cc1plus").write_text("#!/bin/sh\nkill -9 $$\n")
    (inner / "cc1plus").chmod(0o755)
    # -B makes the real driver use this cc1plus: its own message about the killed program is what we read.
    shot = wrapper(f'test -z "$unit" || set -- -B{inner}/ "$@"')
    with pytest.raises(CompilerKilled, match="cc1plus"):
        build(spec.model_copy(update={"compilers": (shot,)}), tree, environment)


def test_no_space_for_the_log(spec: CompileSpec, make_tree: MakeTree, environment: Environment) -> None:
    tree = make_tree()
    with pytest.raises(NoSpace):
        compile_wheel(
            spec,
            tree=tree,
            environment=environment,
            dist=tree.parent / "dist",
            log=Path("/dev/full"),
            environ=os.environ,
        )


def test_no_space_for_an_object(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper
) -> None:
    full = wrapper(
        'test -z "$unit" || for a; do shift; test "${a%.o}" = "$a" || a=/dev/full; set -- "$@" "$a"; done'
    )
    with pytest.raises(NoSpace) as caught:
        build(spec.model_copy(update={"compilers": (full,)}), make_tree(units=1), environment)
    assert "--workspace" in caught.value.next


def test_a_wrong_version_is_refused(spec: CompileSpec, make_tree: MakeTree, environment: Environment) -> None:
    tree = make_tree(units=1)
    with pytest.raises(WheelMismatch, match=r"1\.2\.3\+cpu.*9\.9") as caught:
        build(spec.model_copy(update={"version": "9.9+cpu"}), tree, environment)
    assert not (tree.parent / "dist").exists()
    assert caught.value.next


def test_an_abi3_tag_over_a_module_of_one_python_is_refused(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree(units=1)
    text = (tree / "CMakeLists.txt").read_text().replace(".abi3.so", ".cpython-311-x86_64-linux-gnu.so")
    (tree / "CMakeLists.txt").write_text(text)
    with pytest.raises(WheelMismatch, match="every Python"):
        build(spec, tree, environment)


def test_an_abi3_wheel_with_the_tag_of_one_python_is_remarked(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    events: list[Event] = []
    build(spec.model_copy(update={"limited_api": None}), make_tree(units=1), environment, events)
    assert any(isinstance(e, Note) and "one Python only" in e.message for e in events)


def test_a_tree_that_takes_no_local_version_gets_it_from_setuptools(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree(units=1)
    text = (
        (tree / "setup.py")
        .read_text()
        .replace("def get_vllm_version():\n", 'def get_vllm_version():\n    return "v1.2.3"\n')
    )
    (tree / "setup.py").write_text(text)
    result = build(spec, tree, environment)
    assert result.wheel.name.startswith("vllm-1.2.3+cpu-cp38-abi3")


def test_a_folder_without_setup_py(spec: CompileSpec, tmp_path: Path, environment: Environment) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(SourceError, match=r"setup\.py"):
        build(spec, tmp_path / "tree", environment)


@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=allowed)])
def test_after_sigkill_nothing_is_left_running_and_the_next_build_goes_on(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper, isolate: bool
) -> None:
    tree = make_tree(units=6)
    slow = spec.model_copy(
        update={"compilers": (wrapper('test -z "$unit" || sleep 0.7'),), "isolate": isolate}
    )
    builder = start_builder(slow, environment, tree)
    until_done(builder, 2)
    below = psutil.Process(builder.pid).children(recursive=True)
    assert any("sleep" in p.name() or "ninja" in p.name() for p in below)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    deadline = time.monotonic() + 20
    while not all(gone(p) for p in below):
        assert time.monotonic() < deadline, [p for p in below if not gone(p)]
        time.sleep(0.05)

    # At once, without waiting for anything: the lock makes it wait for the last compiler.
    result = build(slow, tree, environment)
    assert result.resumed_from >= 2
    assert result.units + result.resumed_from == 7
    assert result.wheel.is_file()


def test_a_build_started_right_after_sigkill_waits_for_the_old_compilers(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    tree = make_tree(units=3)
    running = tmp_path / "running"
    running.mkdir()
    # A compiler that ignores TERM lives until the supervisor's patience ends.
    stubborn = wrapper(
        f'test -z "$unit" || test -e {tmp_path}/second || '
        f'{{ trap "" TERM INT; touch {running}/$$; sleep 60; }}'
    )
    builder = start_builder(spec.model_copy(update={"compilers": (stubborn,)}), environment, tree)
    deadline = time.monotonic() + 30
    while not list(running.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    builder.kill()
    builder.wait()
    (tmp_path / "second").touch()
    result = build(spec.model_copy(update={"compilers": (stubborn,)}), tree, environment)
    assert result.wheel.is_file()
    assert not [p for p in running.iterdir() if psutil.pid_exists(int(p.name))]


@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=allowed)])
def test_ctrl_c_stops_everything_and_says_how_to_go_on(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper, isolate: bool
) -> None:
    tree = make_tree(units=6)
    slow = spec.model_copy(
        update={"compilers": (wrapper('test -z "$unit" || sleep 0.7'),), "isolate": isolate}
    )
    builder = start_builder(slow, environment, tree)
    until_done(builder, 1)
    below = psutil.Process(builder.pid).children(recursive=True)
    builder.send_signal(signal.SIGINT)
    out, _ = builder.communicate(timeout=30)
    error = json.loads(out.splitlines()[-1])
    assert (builder.returncode, error["error"]) == (130, "Interrupted")
    assert "goes on" in error["next"]
    assert all(gone(p) for p in below)
    assert not (tree.parent / "dist").exists()
    assert build(slow, tree, environment).resumed_from >= 1


def test_other_tools_make_cmake_ask_again(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper
) -> None:
    tree = make_tree(units=2)
    build(spec, tree, environment)
    events: list[Event] = []
    compiler = wrapper(":")
    build(spec.model_copy(update={"compilers": (compiler,)}), tree, environment, events)
    assert any(isinstance(e, Note) and "configuring anew" in e.message for e in events)
    (cache,) = (tree / "build").glob("temp*/CMakeCache.txt")
    assert compiler.path in cache.read_text()


def test_what_is_not_in_the_plan_is_not_passed_on_and_said(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    events: list[Event] = []
    build(spec, make_tree(units=1), environment, events, environ={"CXXFLAGS": "-DSURPRISE"})
    assert any(isinstance(e, Note) and "CXXFLAGS" in e.message for e in events)
    assert not any(isinstance(e, Output) and "SURPRISE" in e.line for e in events)
