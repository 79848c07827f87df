"""Reading the log of a failed build. The samples are what gcc 12, nvcc 13.0, cmake and ninja really print."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.errors import CompileFailed, CompilerKilled, ConfigureFailed, NoSpace
from vllm_builder.stages.compile.diagnose import Diagnosis, diagnose, diagnose_log, left_out, to_error

STATUS = "[3/9, 2 running, 12.345s] Building CXX object CMakeFiles/_C.dir/csrc/cpu/cache.cpp.o"


def failing(output: str, source: str = "/t/csrc/cpu/attention.cpp") -> list[str]:
    """What setup.py prints around the output of a failing unit."""
    return f"""\
-- Configuring done (1.2s)
-- Build files have been written to: /t/build/temp
{STATUS}
{STATUS}
FAILED: CMakeFiles/_C.dir/csrc/cpu/attention.cpp.o
ccache /usr/bin/c++ -DX -I/t/csrc -O3 -o CMakeFiles/_C.dir/x.o -c {source}
{output}
ninja: build stopped: subcommand failed.
Traceback (most recent call last):
  File "/t/setup.py", line 686, in <module>
    setup(
  File "/usr/lib/python3.11/subprocess.py", line 413, in check_call
    raise CalledProcessError(retcode, cmd)
subprocess.CalledProcessError: Command '['cmake', '--build', '.']' returned non-zero exit status 1.
""".splitlines()


SAMPLES = [
    (
        "/t/csrc/cpu/attention.cpp:1:10: fatal error: missing.h: No such file or directory\n"
        '    1 | #include "missing.h"\n      |          ^~~~~~~~~~~\ncompilation terminated.',
        "compile",
        "missing.h: No such file",
        "",
    ),
    (
        "In file included from /t/csrc/cpu/attention.cpp:3:\n"
        "/v/torch/include/c10/util/X.h:20:5: error: 'at::cpu::L2_cache_size' has not been declared",
        "compile",
        "L2_cache_size",
        "torch",
    ),
    (
        "/t/csrc/cpu/x.cpp:1:10: fatal error: numa.h: No such file or directory",
        "compile",
        "numa.h",
        "libnuma",
    ),
    (
        'k.cu(2): error: identifier "undefined_thing" is undefined\n'
        "  __attribute__((global)) void k(int*x){ *x = undefined_thing; }\n\n"
        '1 error detected in the compilation of "k.cu".',
        "compile",
        "undefined_thing",
        "",
    ),
    (
        '/t/csrc/layernorm_kernels.cu(43): error: namespace "cub" has no member "Sum"',
        "compile",
        'has no member "Sum"',
        "CUDA 13",
    ),
    ("nvcc fatal   : Unsupported gpu architecture 'sm_70'", "compile", "sm_70", "sm_70"),
    (
        "/usr/bin/ld: /tmp/ccdlahNN.o: in function `main':\nm.cpp:(.text+0x5): undefined reference to `f()'\n"
        "collect2: error: ld returned 1 exit status",
        "compile",
        "undefined reference to `f()'",
        "linker",
    ),
    (
        "/tmp/ccFCiifG.o:m.cpp:function main: error: undefined reference to 'f()'\n"
        "collect2: error: ld returned 1 exit status",
        "compile",
        "undefined reference to 'f()'",
        "linker",
    ),
    (
        "/usr/bin/ld: cannot find -lnuma: No such file or directory\n"
        "collect2: error: ld returned 1 exit status",
        "compile",
        "cannot find -lnuma",
        "libnuma",
    ),
    (
        "n.cpp: Assembler messages:\nn.cpp:1: Error: no such instruction: `bogus_insn %eax'",
        "compile",
        "bogus_insn",
        "",
    ),
    ("c++: error: unrecognized command-line option '-mamx-fp8'", "compile", "-mamx-fp8", "too old"),
    (
        "c++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.",
        "killed",
        "cc1plus",
        "memory",
    ),
    (
        "cc1plus: out of memory allocating 1073741824 bytes after a total of 90112 bytes",
        "killed",
        "out of memory",
        "memory",
    ),
    (
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus: error while loading shared libraries: libgmp.so.10: "
        "failed to map segment from shared object",
        "killed",
        "failed to map",
        "memory",
    ),
    ("Killed", "killed", "", "memory"),
    (
        "/tmp/ccWMRfrF.s: Assembler messages:\n"
        "/tmp/ccWMRfrF.s: Fatal error: can't write 11 bytes to section .text of /dev/full: "
        "'No space left on device'",
        "no-space",
        "No space left",
        "disk",
    ),
]


@pytest.mark.parametrize(("output", "kind", "error", "cause"), SAMPLES)
def test_a_failing_unit(output: str, kind: str, error: str, cause: str) -> None:
    found = diagnose(failing(output))
    assert found.kind == kind
    assert error in found.error
    assert found.unit == "/t/csrc/cpu/attention.cpp"
    assert cause in found.cause
    assert any(line in found.excerpt for line in output.splitlines())


def test_the_first_real_error_is_taken_not_the_last() -> None:
    log = failing("/t/a.cpp:1:1: error: first") + failing("/t/b.cpp:1:1: error: second", "/t/b.cpp")
    assert "first" in diagnose(log).error


def test_a_warning_is_no_error() -> None:
    found = diagnose(failing("/t/a.cpp:1:1: warning: error: is only a word\n/t/a.cpp:2:1: error: real"))
    assert found.error.endswith("error: real")


def test_colours_are_taken_off() -> None:
    found = diagnose(
        failing("\x1b[01m\x1b[K/t/a.cpp:2:1:\x1b[m\x1b[K \x1b[01;31m\x1b[Kerror: \x1b[m\x1b[Kred")
    )
    assert found.error == "/t/a.cpp:2:1: error: red"


CMAKE = """\
-- The CXX compiler identification is GNU 12.2.0
CMake Error at cmake/cpu_extension.cmake:95 (message):
  X86 backend requires gcc/g++ >= 12.3
Call Stack (most recent call first):
  CMakeLists.txt:120 (include)


-- Configuring incomplete, errors occurred!
Traceback (most recent call last):
  File "setup.py", line 1
subprocess.CalledProcessError: Command '['cmake', '/t']' returned non-zero exit status 1.
"""


def test_a_cmake_error() -> None:
    found = diagnose(CMAKE.splitlines())
    assert (found.kind, found.error) == ("configure", "X86 backend requires gcc/g++ >= 12.3")
    assert found.place == "cmake/cpu_extension.cmake:95"
    assert "12.3" in found.cause
    assert "cmake/cpu_extension.cmake:95" in to_error(found, Path("x.log")).why


def test_a_missing_package() -> None:
    log = """\
CMake Error at CMakeLists.txt:67 (find_package):
  By not providing "FindTorch.cmake" in CMAKE_MODULE_PATH this project has
  asked CMake to find a package configuration file provided by "Torch", but
  CMake did not find one.
"""
    found = diagnose(log.splitlines())
    assert found.kind == "configure"
    assert "Torch" in found.cause
    assert "$" not in found.cause


def test_a_traceback_of_setup_py() -> None:
    log = """\
Traceback (most recent call last):
  File "/t/setup.py", line 17, in <module>
    from setuptools_rust.build import build_rust
ModuleNotFoundError: No module named 'setuptools_rust'
"""
    found = diagnose(log.splitlines())
    assert (found.kind, found.error) == (
        "configure",
        "ModuleNotFoundError: No module named 'setuptools_rust'",
    )
    assert "setuptools_rust" in found.next


@pytest.mark.parametrize("code", ["137", "9"])
def test_a_silent_kill_is_known_by_its_code(code: str) -> None:
    failed = [STATUS, f"FAILED: [code={code}] a.o", "c++ -c a.cpp -o a.o", "ninja: build stopped."]
    assert diagnose(failed, 1).kind == "killed"
    # A compiler that says why it failed was not killed, whatever its exit status.
    failed.insert(3, "a.cpp:1:2: error: expected ';'")
    assert diagnose(failed, 1).kind == "compile"


@pytest.mark.parametrize("tool", ["cicc", "ptxas", "cudafe++"])
def test_a_part_of_nvcc_that_was_killed(tool: str) -> None:
    said = [
        STATUS,
        "FAILED: a.o",
        "nvcc -c a.cu",
        f"nvcc error   : '{tool}' died due to signal 9 (Kill signal)",
    ]
    assert diagnose(said, 1).kind == "killed"


def test_setup_py_itself_killed() -> None:
    assert diagnose(["running bdist_wheel", STATUS], 137).kind == "killed"


def test_silence() -> None:
    assert diagnose([], 1) == Diagnosis(kind="configure")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("configure", ConfigureFailed),
        ("compile", CompileFailed),
        ("killed", CompilerKilled),
        ("no-space", NoSpace),
    ],
)
def test_every_kind_has_its_class_and_names_the_log(kind: str, expected: type[Exception]) -> None:
    error = to_error(Diagnosis(kind=kind, error="e"), Path("/logs/x.log"))  # type: ignore[arg-type]
    assert type(error) is expected
    assert "/logs/x.log" in error.next


words = st.sampled_from(
    [
        *(STATUS, "FAILED: a.o", "CMake Error at a:1 (b):", "CMake Error: x", "  indented", "", "Killed"),
        *("Traceback (most recent call last):", "ValueError: x", "a.cpp:1:2: error: x", "error: x", "-- x"),
        *("collect2: error: ld returned 1 exit status", "ninja: build stopped", "No space left on device"),
    ]
)


@given(st.lists(st.one_of(words, st.text())), st.integers(0, 255))
def test_any_log_is_borne(lines: list[str], code: int) -> None:
    found = diagnose(lines, code)
    error = to_error(found, Path("log"))
    assert error.what
    assert error.next
    assert len(error.details) <= 20
    left_out(lines)


def test_a_huge_log_takes_little_memory() -> None:
    import tracemalloc

    def endless() -> object:
        for number in range(40_000):
            yield f"a{number}.cpp:1:1: error: {'x' * 200}"

    tracemalloc.start()
    diagnose(endless())  # type: ignore[arg-type]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


def test_a_long_line_does_not_stall(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"FAILED: a.o\n" + b"a:(, " * 300_000 + b"\n" + b"x" * 3_000_000)
    assert diagnose_log(log, 0, 1).kind == "compile"


def test_only_the_last_attempt_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = "\n".join(failing("/t/a.cpp:1:1: error: old")) + "\n"
    log.write_text(first + "\n".join(failing("/t/a.cpp:1:1: error: new")))
    assert "new" in diagnose_log(log, len(first), 1).error


def test_what_was_left_out() -> None:
    log = """\
-- Not building Marlin kernels as no compatible archs found in CUDA target architectures
-- FlashMLA will not compile: unsupported CUDA architecture 7.0
build_rust: optional Rust extension vllm.vllm-rs failed
warning: building extension "vllm._x" failed: command failed
Failed to locate tcmalloc. For best performance, please install tcmalloc
"""
    found = left_out(log.splitlines())
    assert [part for part, _, _ in found] == [
        "Marlin kernels",
        "FlashMLA",
        "vllm.vllm-rs",
        "vllm._x",
        "tcmalloc",
    ]
    assert all(reason for _, reason, _ in found)
    assert [level for _, _, level in found] == ["info", "info", "warning", "warning", "info"]


def test_the_reason_of_a_missing_rust_part() -> None:
    log = ["error: toolchain '1.95-x86_64-unknown-linux-gnu' is not installed", "can't find Rust compiler"]
    assert left_out(log) == (
        ("Rust extensions", "the Rust toolchain 1.95-x86_64-unknown-linux-gnu is not installed", "warning"),
    )


FETCHING = """\
-- FetchContent base directory: /t/.deps
[1/9, 1 running, 0.018s] Creating directories for 'cutlass-populate'
[1/9, 1 running, 0.018s] Performing download step (git clone) for 'cutlass-populate'
Cloning into 'cutlass-src'...
fatal: unable to access 'https://example.invalid/nvidia/cutlass.git/': Could not resolve host: example.invalid
Had to git clone more than once: 3 times.
CMake Error at cutlass-subbuild/cutlass-populate-prefix/tmp/cutlass-populate-gitclone.cmake:55 (message):
  Failed to clone repository:

    'https://example.invalid/nvidia/cutlass.git'


FAILED: [code=1] cutlass-populate-prefix/src/cutlass-populate-stamp/cutlass-populate-download /t/.deps/x
cd /t/.deps && cmake -P /t/.deps/cutlass-subbuild/cutlass-populate-prefix/tmp/cutlass-populate-gitclone.cmake
ninja: build stopped: subcommand failed.

CMake Error at /e/share/cmake/Modules/FetchContent.cmake:1933 (message):
  Build step for cutlass failed: 1
Call Stack (most recent call first):
  CMakeLists.txt:289 (FetchContent_MakeAvailable)


-- Configuring incomplete, errors occurred!
Traceback (most recent call last):
  File "/t/setup.py", line 685, in <module>
    setup(
subprocess.CalledProcessError: Command '['cmake', '/t']' returned non-zero exit status 1.
"""


def test_an_external_source_that_cannot_be_fetched_is_a_failed_configure_that_names_it() -> None:
    found = diagnose(FETCHING.splitlines())
    assert found.kind == "configure"
    assert "https://example.invalid/nvidia/cutlass.git" in found.cause
    assert "VLLM_CUTLASS_SRC_DIR" in found.next
    assert isinstance(to_error(found, Path("log")), ConfigureFailed)
