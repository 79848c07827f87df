"""A build that was broken off goes on, and says with true numbers where it is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from compile_helpers import build, builder_command, start_builder, until_done

from vllm_builder.errors import NoSpace
from vllm_builder.events import Event, Note, Output, Progress
from vllm_builder.stages.compile import schedule, supervisor
from vllm_builder.stages.compile.model import Compiler, CompileSpec
from vllm_builder.stages.compile.watch import Watch
from vllm_builder.stages.environment.model import Environment

MakeTree = Callable[..., Path]
Wrapper = Callable[[str], Compiler]


def resumed(events: list[Event]) -> list[str]:
    return [e.message for e in events if isinstance(e, Note) and "resuming" in e.message]


def test_after_a_kill_of_everything_it_says_how_much_is_done_and_does_the_rest(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    tree = make_tree(units=6)
    trace = tmp_path / "trace"
    # The first four units compile; the others wait, so that the kill comes in the middle on any machine.
    lines = (
        f'test -z "$unit" || {{ echo "$unit" >> {trace}; '
        f"test -e {tmp_path}/second || test $(wc -l < {trace}) -le 4 || sleep 600; }}"
    )
    slow = spec.model_copy(update={"compilers": (wrapper(lines),)})
    builder = start_builder(slow, environment, tree)
    until_done(builder, 3)
    # As at a power failure: all at once, and nobody winds anything up.
    below = psutil.Process(builder.pid).children()
    session = next(os.getsid(p.pid) for p in below if os.getsid(p.pid) == p.pid)
    for pid in (builder.pid, session, *supervisor.session_members(session)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    builder.wait()
    while late := supervisor.session_members(session):
        for pid in late:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    trace.unlink()
    (tmp_path / "second").touch()

    events: list[Event] = []
    result = build(slow, tree, environment, events)
    again = trace.read_text().split()
    done = 6 - len(again)
    # ninja tells of a unit just before it writes it into its log, so the third may be lost.
    assert 2 <= done <= 4
    assert resumed(events) == [f"resuming, {done} of 7 done"]
    progress = [e for e in events if isinstance(e, Progress)]
    assert (progress[0].done, progress[0].total) == (done, 7)
    assert (progress[-1].done, progress[-1].total) == (7, 7)
    assert all(e.total == 7 for e in progress)
    # Said before the first unit is compiled.
    said = next(i for i, e in enumerate(events) if isinstance(e, Note) and "resuming" in e.message)
    first = next(i for i, e in enumerate(events) if isinstance(e, Output) and "Building CXX" in e.line)
    assert said < first
    assert (result.units, result.resumed_from) == (7 - done, done)
    assert result.wheel.is_file()


def test_what_has_to_be_compiled_again_is_not_called_done(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree(units=5)
    first: list[Event] = []
    build(spec, tree, environment, first)
    assert resumed(first) == []
    (tree / "csrc/unit_3.cpp").write_text("int unit_3() { return 33; }\n")
    events: list[Event] = []
    result = build(spec, tree, environment, events)
    assert resumed(events) == ["resuming, 4 of 6 done"]
    assert (result.units, result.resumed_from) == (2, 4)
    (tree / "csrc/common.h").write_text("inline int common() { return 2; }\n")
    events.clear()
    result = build(spec, tree, environment, events)
    # unit_3 no longer includes the header.
    assert resumed(events) == ["resuming, 1 of 6 done"]
    assert (result.units, result.resumed_from) == (5, 1)


def test_objects_that_a_power_failure_left_empty_are_compiled_again(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree(units=4)
    build(spec, tree, environment)
    empty, zeros = sorted((tree / "build").glob("temp*/**/unit_*.o"))[:2]
    for path, content in ((empty, b""), (zeros, bytes(4096))):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(content)
        os.utime(path, ns=times)
    events: list[Event] = []
    result = build(spec, tree, environment, events)
    assert resumed(events) == ["resuming, 2 of 5 done"]
    assert result.units == 3
    assert any(isinstance(e, Note) and e.level == "warning" and "2 empty" in e.message for e in events)
    assert zeros.read_bytes()[:4] == b"\x7fELF"


def test_builds_that_cmake_makes_while_configuring_are_not_counted(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "external").mkdir()
    (tmp_path / "external/header.h").write_text("")
    archive = tmp_path / "external.tar"
    with tarfile.open(archive, "w") as out:
        out.add(tmp_path / "external", "external")
    tree = make_tree(units=3)
    text = (tree / "CMakeLists.txt").read_text()
    fetch = (
        "include(FetchContent)\nset(FETCHCONTENT_QUIET OFF)\ncmake_policy(SET CMP0168 OLD)\n"
        f"FetchContent_Declare(external URL file://{archive})\nFetchContent_MakeAvailable(external)\n"
    )
    policy = "if(POLICY CMP0168)\n  cmake_policy(SET CMP0168 OLD)\nendif()\n"
    fetch = fetch.replace("cmake_policy(SET CMP0168 OLD)\n", policy)
    (tree / "CMakeLists.txt").write_text(text + fetch)
    events: list[Event] = []
    result = build(spec, tree, environment, events)
    assert any(isinstance(e, Output) and "populate" in e.line and "running" in e.line for e in events)
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert (last.done, last.total, result.units) == (4, 4, 4)
    (tree / "csrc/unit_1.cpp").write_text("int unit_1() { return 11; }\n")
    events.clear()
    result = build(spec, tree, environment, events)
    assert resumed(events) == ["resuming, 2 of 4 done"]
    assert (result.units, result.resumed_from) == (2, 2)


IN_A_SMALL_DISK = """\
set -e
mount -t tmpfs -o size=9m none "$1"
cp -r "$2" "$1/tree"
shift 2
if "$@"; then echo "the disk was too large"; exit 1; else test $? = 70; fi
df -k . > /dev/null
echo ENLARGED
mount -o remount,size=400m "$DISK"
exec "$@"
"""


def test_after_a_full_disk_it_goes_on(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, tmp_path: Path
) -> None:
    command = ["unshare", "-Urm", "sh", "-c"]
    probe = f"mount -t tmpfs none {tmp_path} && true"
    if shutil.which("unshare") is None or subprocess.run([*command, probe], check=False).returncode:
        pytest.skip("needs util-linux's unshare and a kernel that allows namespaces")
    plain = make_tree("plain", units=6)
    for number in range(6):
        # Two megabytes each: some fit, all do not.
        (plain / f"csrc/unit_{number}.cpp").write_text(f"char unit_{number}[2 << 20] = {{1}};\n")
    disk = tmp_path / "disk"
    disk.mkdir()
    one = spec.model_copy(update={"jobs": 1, "jobs_fixed": True})
    run = subprocess.run(
        [
            *command,
            IN_A_SMALL_DISK,
            "sh",
            str(disk),
            str(plain),
            *builder_command(one, environment, disk / "tree"),
        ],
        env={**os.environ, "DISK": str(disk), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    before, _, after = run.stdout.partition("ENLARGED\n")
    error = json.loads(before.splitlines()[-1])
    assert (error["error"], error["exit_code"]) == ("NoSpace", NoSpace.exit_code)
    result = json.loads(after.splitlines()[-1])
    assert result["resumed_from"] >= 2
    assert result["units"] + result["resumed_from"] == 7
    assert f"resuming, {result['resumed_from']} of 7 done" in after.splitlines()


def test_progress_begins_where_the_earlier_build_ended() -> None:
    events: list[Event] = []
    watch = Watch(Path("/tree"), events.append, 140)
    # CMake's own builds come before; the log of the earlier build had counted 140.
    watch.output(b"[1/9, 1 running, 0.1s] Creating directories for 'x-populate'\n")
    watch.output(b"-- Compiling: 131 of 164 units are done\n")
    watch.output(b"[1/33, 2 running, 60.0s] Building CUDA object a.o\n")
    watch.output(b"[2/33, 2 running, 120.0s] Building CUDA object b.o\n")
    assert resumed(events) == ["resuming, 131 of 164 done"]
    progress = [e for e in events if isinstance(e, Progress)][1:]
    assert [(e.done, e.total) for e in progress] == [(131, 164), (132, 164), (133, 164)]
    assert progress[-1].eta is not None
    assert 1700 < progress[-1].eta <= 31 * 60
    assert watch.counted() == "133 of 164"


def test_a_build_folder_that_ninja_cannot_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "CMakeCache.txt").write_text("CMAKE_GENERATOR:INTERNAL=Ninja\n")
    assert schedule.finished(["--build", str(tmp_path), "--target=_C"]) is None
