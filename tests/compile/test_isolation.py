"""Compiling with no network: in real namespaces, and where a kernel refuses them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from compile_helpers import build

from vllm_builder.errors import (
    BuilderError,
    CompileFailed,
    ConfigureFailed,
    ContradictionError,
    IsolationRefused,
)
from vllm_builder.events import Event, Note
from vllm_builder.stages.compile import cutoff, diagnose, isolation
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.compile.runner import run_supervised
from vllm_builder.stages.environment.model import Environment

MakeTree = Callable[..., Path]

allowed = pytest.mark.skipif(isolation.refusal() is not None, reason="this kernel allows no namespaces")


def run(script: str, tmp_path: Path, **more: object) -> tuple[int, str]:
    out: list[bytes] = []
    code = run_supervised(
        isolation.isolated(["/bin/sh", "-c", script]),
        cwd=tmp_path,
        env=dict(os.environ),
        on_output=out.append,
        **({"on_tick": lambda pid: None} | more),  # type: ignore[arg-type]
    )
    return code, b"".join(out).decode()


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server on this machine's loopback device that takes every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    listening.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        over.set()
        thread.join()


def connect(port: int) -> str:
    return f"{sys.executable} -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 5)'"


@allowed
def test_the_network_is_gone_and_status_and_output_are_the_commands_own(tmp_path: Path, server: int) -> None:
    code, out = run(f"{connect(server)} 2>/dev/null && echo reached; echo a; echo b >&2; exit 3", tmp_path)
    assert (code, out) == (3, "a\nb\n")
    assert subprocess.run(["/bin/sh", "-c", connect(server)], check=False).returncode == 0


@allowed
def test_only_loopback_is_there_and_it_works(tmp_path: Path) -> None:
    script = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname(), 5).sendall(b'x'); print(s.accept()[0].recv(1))"
    )
    assert run(f'{sys.executable} -c "{script}"', tmp_path) == (0, "b'x'\n")
    code, out = run("cat /proc/net/route", tmp_path)
    assert (code, len(out.splitlines())) == (0, 1), "no route to anywhere"


@allowed
def test_files_and_ids_are_the_persons_own(tmp_path: Path) -> None:
    code, out = run("id -u; id -g; touch made", tmp_path)
    assert (code, out) == (0, f"{os.geteuid()}\n{os.getegid()}\n")
    assert (tmp_path / "made").stat().st_uid == os.geteuid()


@allowed
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become someone else")
def test_someone_without_privileges_is_cut_off_too(tmp_path: Path, server: int) -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("needs a Python that everyone may run")
    script = tmp_path / "cutoff.py"
    shutil.copyfile(cutoff.__file__, script)
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    for path in (*tmp_path.parents[:-2], tmp_path):
        path.chmod(path.stat().st_mode | 0o055)
    probe = f"import socket; socket.create_connection(('127.0.0.1', {server}), 5)"
    command = f'id -u; touch made; {python} -c "{probe}" 2>/dev/null && echo reached'
    done = subprocess.run(
        [python, "-I", "-S", "-B", str(script), "/bin/sh", "-c", f"{command}; kill -9 $$"],
        cwd=folder,
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-9, "65534\n"), done.stderr
    assert (folder / "made").stat().st_uid == 65534


@allowed
def test_signals_and_what_stays_behind(tmp_path: Path) -> None:
    assert run("kill -9 $$", tmp_path)[0] == 137
    code, out = run("setsid -f true; sleep 60 & echo $!", tmp_path, grace=0.5)
    assert code == 0
    assert not psutil.pid_exists(int(out))


@allowed
def test_an_error_outside_ends_everything_inside(tmp_path: Path) -> None:
    inside: list[int] = []

    def refuse(data: bytes) -> None:
        inside.append(int(data))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_supervised(
            isolation.isolated(["/bin/sh", "-c", 'trap "" TERM; echo $$; sleep 60']),
            cwd=tmp_path,
            env=dict(os.environ),
            on_output=refuse,
            on_tick=lambda pid: None,
            grace=0.3,
        )
    assert not psutil.pid_exists(inside[0])


@allowed
def test_memory_can_be_measured_from_outside(tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def look(pid: int) -> None:
        for process in psutil.Process(pid).children(recursive=True):
            seen[process.name()] = process.memory_info().rss

    assert run("sleep 1; true", tmp_path, on_tick=look, tick=0.1)[0] == 0
    assert seen.get("sleep", 0) > 0


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    done = subprocess.run(
        isolation.isolated(["/no/such/program"]), capture_output=True, text=True, check=False
    )
    assert done.returncode in {127, cutoff.REFUSED}
    assert done.stderr.count("\n") == 1


# In a namespace where no further ones are allowed, the kernel refuses for real. ------------------

REFUSING = (
    'echo 0 > /proc/sys/user/max_user_namespaces && echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
)


def in_a_refusing_kernel(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    outer = ["unshare", "-Ur", "sh", "-c", REFUSING, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*outer, "true"], check=False).returncode:
        pytest.skip("needs util-linux's unshare and a kernel that allows namespaces")
    return subprocess.run(
        [*outer, *command], env=os.environ | environ, capture_output=True, text=True, check=False
    )


def test_a_refusal_is_told_before_anything_is_done(tmp_path: Path) -> None:
    done = in_a_refusing_kernel(
        *(sys.executable, "-m", "vllm_builder", "plan", "v0.9.2", "--device", "cpu", "--isolate", "--json"),
        *("--source", str(_release(tmp_path)), "--cache-dir", str(tmp_path / "cache")),
        PIP_NO_INDEX="1",
    )
    assert done.returncode == IsolationRefused.exit_code, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["error"] == "IsolationRefused"
    assert "max_user_namespaces" in said["why"]
    assert "command line" in said["why"]
    assert "sysctl" in said["next"]
    assert "leave out --isolate" in said["next"]


def _release(folder: Path) -> Path:
    tree = folder / "vllm-0.9.2"
    tree.mkdir()
    (tree / "setup.py").write_text("from setuptools import setup\nsetup(name='vllm')\n")
    (tree / "PKG-INFO").write_text("Name: vllm\nVersion: 0.9.2\n")
    (tree / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools", "torch == 2.7.0"]\n')
    return tree


def test_a_build_is_refused_too_and_never_done_with_a_network(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("open('ran', 'w')\n")
    script = f"""
import json, os
from pathlib import Path
from vllm_builder.errors import BuilderError
from vllm_builder.stages.compile import compile_wheel
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import Environment
here = Path({str(tmp_path)!r})
try:
    compile_wheel(CompileSpec(device="cpu", version="1", scm_version="1", isolate=True), tree=here, dist=here,
                  environment=Environment(python=here, bin=here, packages={{}}), log=here / "log", environ=os.environ)
except BuilderError as error:
    print(json.dumps(error.as_dict()))
"""
    done = in_a_refusing_kernel(sys.executable, "-c", script)
    assert json.loads(done.stdout)["error"] == "IsolationRefused", done.stderr
    assert not (tmp_path / "ran").exists()


def test_the_command_is_not_started_where_the_kernel_refuses() -> None:
    done = in_a_refusing_kernel(*isolation.isolated(["/bin/echo", "ran"]))
    assert (done.returncode, done.stdout) == (cutoff.REFUSED, "")
    assert "unshare" in done.stderr


@pytest.mark.parametrize(
    ("switch", "value", "word"),
    [
        ("kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict_unprivileged_userns=0"),
        ("user/max_user_namespaces", "0", "max_user_namespaces="),
        ("kernel/other", "0", "seccomp"),
    ],
)
def test_the_reason_and_the_cure_are_the_machines(tmp_path: Path, switch: str, value: str, word: str) -> None:
    path = tmp_path / "proc/sys" / switch
    path.parent.mkdir(parents=True)
    path.write_text(f"{value}\n")
    why, cure = isolation.reason(1, "unshare", tmp_path)
    assert why
    assert word in cure


def test_sccache_is_a_contradiction() -> None:
    with pytest.raises(ContradictionError, match="sccache") as caught:
        isolation.require("sccache", "VLLM_BUILDER_ISOLATE")
    assert "VLLM_BUILDER_ISOLATE" in caught.value.why


# Whole builds ------------------------------------------------------------------------------------


@allowed
def test_a_setup_py_that_fetches_fails_in_isolation_alone(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, server: int
) -> None:
    fetching, plain = make_tree("fetching", units=1), make_tree("plain", units=1)
    setup = (fetching / "setup.py").read_text()
    wish = f"import urllib.request, socket\nsocket.create_connection(('127.0.0.1', {server}), 5).close()\n"
    (fetching / "setup.py").write_text(wish + setup)
    alone = spec.model_copy(update={"isolate": True})
    with pytest.raises(ConfigureFailed) as caught:
        build(alone, fetching, environment)
    assert "--isolate" in caught.value.why
    assert "leave out --isolate" in caught.value.next
    assert not build(spec, fetching, environment).isolated
    # What fetches nothing is built, and it is told how.
    events: list[Event] = []
    result = build(alone, plain, environment, events)
    assert result.isolated
    assert result.units == 2
    assert result.peak_memory >= 0
    assert any(isinstance(e, Note) and "no network" in e.message for e in events)


@allowed
def test_an_external_source_that_cmake_clones_is_named_with_the_cure(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment, server: int
) -> None:
    tree = make_tree(units=1)
    repository = f"http://127.0.0.1:{server}/cutlass.git"
    with (tree / "CMakeLists.txt").open("a") as file:
        file.write(
            f"include(FetchContent)\nFetchContent_Declare(cutlass GIT_REPOSITORY {repository} GIT_TAG v1)\n"
            "FetchContent_MakeAvailable(cutlass)\n"
        )
    with pytest.raises(ConfigureFailed) as caught:
        build(spec.model_copy(update={"isolate": True}), tree, environment)
    assert "--isolate" in caught.value.why
    assert repository in caught.value.why
    assert "vllm-builder vendor" in caught.value.next


@allowed
def test_isolation_does_not_compile_anything_again(
    spec: CompileSpec, make_tree: MakeTree, environment: Environment
) -> None:
    tree = make_tree(units=2)
    build(spec, tree, environment)
    again = build(spec.model_copy(update={"isolate": True}), tree, environment)
    assert (again.units, again.resumed_from) == (0, 3)


# What the log of a build without a network says --------------------------------------------------

GIT = """\
-- Enabling C extension.
Cloning into 'cutlass-src'...
fatal: unable to access 'https://github.com/nvidia/cutlass.git/': Could not resolve host: github.com
CMake Error at cutlass-subbuild/cutlass-populate-prefix/tmp/cutlass-populate-gitclone.cmake:50 (message):
  Failed to clone repository: 'https://github.com/nvidia/cutlass.git'
"""
URLLIB = """\
Traceback (most recent call last):
  File "setup.py", line 3, in <module>
    urllib.request.urlopen(url)
urllib.error.URLError: <urlopen error [Errno -3] Temporary failure in name resolution>
"""
CARGO = """\
    Updating crates.io index
warning: spurious network error (3 tries remaining): [6] (Could not resolve host: index.crates.io)
error: failed to get `serde` as a dependency of package `vllm-rs v0.1.0`
"""
PIP = """\
WARNING: Retrying after connection broken by 'NewConnectionError(': Failed to establish a new connection
ERROR: Could not find a version that satisfies the requirement numpy (from versions: none)
ERROR: No matching distribution found for numpy
"""


@pytest.mark.parametrize(
    ("text", "who", "cure"),
    [
        (GIT, "nvidia/cutlass.git", "vllm-builder vendor"),
        (URLLIB, "network", "vllm-builder vendor"),
        (CARGO, "cargo", "cargo fetch"),
        (PIP, "pip wanted to install numpy", "--python"),
    ],
)
def test_the_diagnosis_names_the_isolation_and_what_to_have_before(
    tmp_path: Path, text: str, who: str, cure: str
) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    found = isolation.explained(diagnose.diagnose_log(log, 0, 1), log, 0)
    assert "--isolate" in found.cause
    assert who in found.cause
    assert cure in found.next
    error: BuilderError = diagnose.to_error(found, log)
    assert "leave out --isolate" in error.next


def test_another_failure_is_not_blamed_on_the_isolation(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "[1/2, 1 running, 0.1s] Building x.o\nFAILED: x.o\nc++ -c x.cpp\nx.cpp:1:1: error: no such thing\n"
    )
    before = diagnose.diagnose_log(log, 0, 1)
    assert isolation.explained(before, log, 0) == before


def test_a_wheel_that_lacks_what_could_not_be_fetched_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(CARGO)
    with pytest.raises(CompileFailed, match=r"vllm\._rs") as caught:
        isolation.refuse_losses([("vllm._rs", "its Rust build failed", "warning")], log, 0)
    assert "cargo" in caught.value.why
    # What this device does not have, and what was lost for another reason, is as it always was.
    isolation.refuse_losses([("x", "not for this architecture", "info")], log, 0)
    log.write_text("")
    isolation.refuse_losses([("vllm._rs", "there is no Rust compiler", "warning")], log, 0)
