"""Finding, identifying and judging compilers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vllm_builder.errors import BuilderError, CompilerMissing, CompilerTooOld
from vllm_builder.memo import Memo
from vllm_builder.model import digest
from vllm_builder.stages.compile import toolchain
from vllm_builder.stages.compile.headers import has_header, numa_variables
from vllm_builder.stages.compile.model import Compiler
from vllm_builder.stages.compile.toolchain import check_compilers, install_hint, probe_compilers


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def gcc(version: str, language: str = "CXX", identity: str = "GNU") -> Compiler:
    return Compiler.model_validate(
        {"language": language, "id": identity, "version": version, "target": "t", "path": "/usr/bin/c++"}
    )


def nvcc(version: str) -> Compiler:
    return Compiler(language="CUDA", id="NVIDIA", version=version, target="t", path="/cuda/bin/nvcc")


def test_the_machines_compilers() -> None:
    found = probe_compilers("cpu", os.environ)
    assert [c.language for c in found] == ["C", "CXX"]
    for compiler in found:
        assert compiler.id in {"GNU", "Clang"}
        assert int(compiler.version.split(".")[0]) > 3
        assert "-" in compiler.target
        assert Path(compiler.path).is_absolute()


def test_empty_needs_none() -> None:
    assert probe_compilers("empty", {"PATH": ""}) == ()


def test_cc_and_cxx_may_have_arguments(cxx: str) -> None:
    _, found = probe_compilers("cpu", {**os.environ, "CXX": f"{cxx} -O1"})
    assert found.path == f"{cxx} -O1"


def test_none_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(CompilerMissing) as caught:
        probe_compilers("cpu", {"PATH": str(tmp_path)})
    assert "Install" in caught.value.next


def test_a_variable_that_names_nothing() -> None:
    with pytest.raises(CompilerMissing, match="no-such-compiler"):
        probe_compilers("cpu", {**os.environ, "CXX": "no-such-compiler"})


@pytest.mark.parametrize("text", ["exit 1", "echo hello", "echo '#define __GNUC__ x'", "kill -9 $$"])
def test_a_broken_compiler_is_its_own_error(tmp_path: Path, text: str) -> None:
    broken = program(tmp_path / "c++", text)
    with pytest.raises(CompilerMissing, match="does not answer like a compiler"):
        probe_compilers("cpu", {**os.environ, "CXX": str(broken)})


def test_clang_is_not_taken_for_gnu(tmp_path: Path) -> None:
    macros = "\n".join(
        f"echo '#define {name} {value}'"
        for name, value in {
            "__GNUC__": 4,
            "__GNUC_MINOR__": 2,
            "__GNUC_PATCHLEVEL__": 1,
            "__clang_major__": 17,
            "__clang_minor__": 0,
            "__clang_patchlevel__": 6,
        }.items()
    )
    clang = program(tmp_path / "clang++", f"{macros}\necho 'Target: x86_64-pc-linux-gnu' >&2")
    _, found = probe_compilers("cpu", {**os.environ, "CXX": str(clang)})
    assert (found.id, found.version, found.target) == ("Clang", "17.0.6", "x86_64-pc-linux-gnu")


def test_nvcc_is_the_toolkits(tmp_path: Path) -> None:
    program(tmp_path / "bin/nvcc", 'echo "Cuda compilation tools, release 13.0, V13.0.88"')
    *_, found = probe_compilers("cuda", os.environ, cuda_home=str(tmp_path))
    assert (found.id, found.version, found.path) == ("NVIDIA", "13.0.88", str(tmp_path / "bin/nvcc"))


def test_a_toolkit_without_nvcc(tmp_path: Path) -> None:
    with pytest.raises(CompilerMissing, match="nvcc"):
        probe_compilers("cuda", os.environ, cuda_home=str(tmp_path))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that were run."""
    programs: list[str] = []
    run = subprocess.run

    def spy(command: list[str], *more: Any, **options: Any) -> Any:
        programs.append(command[0])
        return run(command, *more, **options)

    monkeypatch.setattr(subprocess, "run", spy)
    return programs


def test_what_a_compiler_said_is_remembered(tmp_path: Path, asked: list[str]) -> None:
    memo, environ = Memo(tmp_path / "memo", "t"), dict(os.environ)
    first = probe_compilers("cpu", environ, memo=memo)
    assert asked
    asked.clear()
    assert probe_compilers("cpu", environ, memo=memo) == first
    assert asked == []
    # They decide which compiler proper the driver takes.
    probe_compilers("cpu", {**environ, "COMPILER_PATH": str(tmp_path)}, memo=memo)
    assert asked


@pytest.mark.parametrize("how", ["script", "argument", "ccache"])
def test_a_compiler_behind_something_else_is_asked_each_time(tmp_path: Path, cxx: str, how: str) -> None:
    real = program(tmp_path / "real", f'exec {cxx} "$@"')
    chosen = program(tmp_path / "bin/g++", f'exec {real} "$@"')
    if how == "argument":
        chosen = program(tmp_path / "launch", 'exec "$@"')
    elif how == "ccache":
        # A link with the compiler's name to a program that looks for the compiler itself.
        chosen.unlink()
        chosen.symlink_to(shutil.copy("/usr/bin/env", tmp_path / "ccache"))
    words = {"argument": f"{chosen} {real}", "ccache": f"{chosen} {real}"}.get(how, str(chosen))
    memo, environ = Memo(tmp_path / "memo", "t"), {**os.environ, "CXX": words}
    before = probe_compilers("cpu", environ, memo=memo)[1]
    program(real, f'exec {cxx} -U__GNUC_PATCHLEVEL__ -D__GNUC_PATCHLEVEL__=77 "$@"')
    after = probe_compilers("cpu", environ, memo=memo)[1]
    assert (after.version == before.version, after.version.split(".")[-1]) == (False, "77")


def test_what_a_script_does_is_part_of_a_compiler(tmp_path: Path, cxx: str) -> None:
    script = program(tmp_path / "g++", f'exec {cxx} "$@"')
    environ = {**os.environ, "CXX": str(script)}
    plain, first = (probe_compilers("cpu", e)[1] for e in ({**os.environ, "CXX": cxx}, environ))
    assert plain.script == ""
    program(script, f'exec {cxx} -DNDEBUG "$@"')
    second = probe_compilers("cpu", environ)[1]
    assert first.version == second.version == plain.version
    assert len({digest(plain), digest(first), digest(second)}) == 3
    # Elsewhere it is the same one.
    there = program(tmp_path / "there" / "g++", f'exec {cxx} -DNDEBUG "$@"')
    assert digest(probe_compilers("cpu", {**environ, "CXX": str(there)})[1]) == digest(second)


def test_another_compiler_by_update_alternatives_is_seen(tmp_path: Path, cxx: str) -> None:
    link = tmp_path / "c++"
    link.symlink_to(cxx)
    memo, environ = Memo(tmp_path / "memo", "t"), {**os.environ, "CXX": str(link)}
    probe_compilers("cpu", environ, memo=memo)
    link.unlink()
    link.symlink_to(program(tmp_path / "g++-99", f'exec {cxx} -U__GNUC__ -D__GNUC__=99 "$@"'))
    assert probe_compilers("cpu", environ, memo=memo)[1].version.startswith("99.")


def test_without_a_place_to_remember_compilers_are_found_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memo = Memo(tmp_path / "file" / "memo", "t")
    assert probe_compilers("cpu", dict(os.environ), memo=memo) == probe_compilers("cpu", dict(os.environ))


@pytest.mark.parametrize(
    ("release", "device", "machine", "version", "fits"),
    [
        ("0.9.2", "cpu", "x86_64", "12.2.0", True),
        ("0.17.0", "cpu", "x86_64", "12.2.0", False),
        ("0.17.0", "cpu", "x86_64", "12.3.0", True),
        ("0.17.0", "cpu", "aarch64", "12.2.0", True),
        ("0.33.0", "cpu", "aarch64", "11.2.0", False),
        ("0.9.2", "cpu", "x86_64", "8.5.0", False),
        ("0.16.0", "cuda", "x86_64", "11.2.0", True),
        ("v0.21.0", "cuda", "x86_64", "11.2.0", False),
        ("0.31.0", "cuda", "x86_64", "12.2.0", True),
        ("0.32.0", "cuda", "x86_64", "12.2.0", False),
        ("0.32.0", "cuda", "x86_64", "13.1.0", True),
        ("0.33.0", "cpu", "x86_64", "12.3.0", True),
        ("main", "cpu", "x86_64", "4.8.0", True),
    ],
)
def test_what_a_release_needs(release: str, device: str, machine: str, version: str, fits: bool) -> None:
    if fits:
        check_compilers((gcc(version),), release, device, machine)  # type: ignore[arg-type]
        return
    with pytest.raises(CompilerTooOld) as caught:
        check_compilers((gcc(version),), release, device, machine)  # type: ignore[arg-type]
    assert version in caught.value.what
    assert caught.value.why
    assert caught.value.next


@pytest.mark.parametrize(
    ("cuda", "newest"),
    [("11.8.89", 11), ("12.1.105", 12), ("12.4.131", 13), ("12.9.86", 14), ("13.0.88", 15)],
)
def test_what_a_toolkit_bears(cuda: str, newest: int) -> None:
    check_compilers((gcc(f"{newest}.4.0"), nvcc(cuda)), "0.9.2", "cuda", "x86_64")
    with pytest.raises(CompilerTooOld, match="older than"):
        check_compilers((gcc(f"{newest + 1}.1.0"), nvcc(cuda)), "0.9.2", "cuda", "x86_64")


def test_clang_where_only_gcc_is_accepted() -> None:
    with pytest.raises(CompilerTooOld, match="needs GNU"):
        check_compilers((gcc("17.0.0", identity="Clang"),), "0.20.0", "cpu", "x86_64")
    check_compilers((gcc("17.0.0", identity="Clang"),), "0.9.2", "cpu", "x86_64")


@pytest.mark.parametrize(
    "text",
    [
        'releases = ">=1"\ndevices = ["cpu"]\nsource = "x"\nminimun = "1"',
        'devices = ["cpu"]\nsource = "x"',
        'releases = "new"\ndevices = ["cpu"]\nsource = "x"',
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, text: str) -> None:
    table = tmp_path / "t.toml"
    table.write_text(f"[[host-compiler]]\n{text}\n")
    with pytest.raises(BuilderError, match=r"t\.toml"):
        check_compilers((gcc("12.0.0"),), "0.9.2", "cpu", "x86_64", table=table)


@pytest.mark.parametrize(
    ("distribution", "command"),
    [
        ({"ID": "debian"}, "apt-get"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "apt-get"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "dnf"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "zypper"),
        ({"ID": "arch"}, "pacman"),
        ({"ID": "plan9"}, "most distributions"),
    ],
)
def test_the_hint_fits_the_distribution(distribution: dict[str, str], command: str) -> None:
    assert command in install_hint(distribution)


@pytest.fixture
def compilers() -> tuple[Compiler, ...]:
    return probe_compilers("cpu", os.environ)


def test_a_usual_header_is_found(compilers: tuple[Compiler, ...]) -> None:
    found = has_header("stdio.h", compilers, os.environ)
    assert found is not None
    assert found.is_file()
    assert has_header("surely/not/there.h", compilers, os.environ) is None
    assert has_header("stdio.h", (), os.environ) is None


@pytest.mark.parametrize("variable", ["CPATH", "CPLUS_INCLUDE_PATH"])
def test_the_compilers_variables_count(
    compilers: tuple[Compiler, ...], tmp_path: Path, variable: str
) -> None:
    memo = Memo(tmp_path / "memo", "t")
    include, lib = tmp_path / "i n", tmp_path / "lib"
    environ = {**os.environ, variable: str(include), "LIBRARY_PATH": str(lib)}
    assert has_header("faraway.h", compilers, environ, library="faraway", memo=memo) is None
    include.mkdir()
    (include / "faraway.h").touch()
    # What is remembered is where to look, not what was there: installing the header is seen at once.
    assert has_header("faraway.h", compilers, environ, memo=memo) == include / "faraway.h"
    assert has_header("faraway.h", compilers, environ, library="faraway", memo=memo) is None
    lib.mkdir()
    (lib / "libfaraway.so").touch()
    assert has_header("faraway.h", compilers, environ, library="faraway", memo=memo) == include / "faraway.h"


def test_c_include_path_is_not_for_cxx(compilers: tuple[Compiler, ...], tmp_path: Path) -> None:
    (tmp_path / "faraway.h").touch()
    assert has_header("faraway.h", compilers, {**os.environ, "C_INCLUDE_PATH": str(tmp_path)}) is None


def test_numactl_dir(compilers: tuple[Compiler, ...], tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include/numa.h").touch()
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64/libnuma.so").touch()
    environ = {**os.environ, "NUMACTL_DIR": str(tmp_path), "CPATH": "/a"}
    found = has_header("numa.h", compilers, environ, library="numa")
    assert found == tmp_path / "include/numa.h"
    assert numa_variables(environ)["CPATH"] == f"{tmp_path}/include:/a"
    assert numa_variables(environ)["LIBRARY_PATH"].startswith(f"{tmp_path}/lib64")
    assert numa_variables({}) == {}


def test_the_shipped_table_is_whole() -> None:
    assert len(toolchain._requirements(toolchain.COMPATIBILITY)) >= 8
