"""The variables that setup.py sees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.stages.compile.buildenv import child_environment, ignored_variables, output_variables
from vllm_builder.stages.compile.model import Compiler, CompileSpec
from vllm_builder.stages.environment.model import Environment

ENVIRONMENT = Environment(python=Path("/env/bin/python"), bin=Path("/env/bin"), packages={})


def spec(**changes: object) -> CompileSpec:
    return CompileSpec.model_validate(
        {"device": "cpu", "version": "1.0+cpu", "scm_version": "1.0", "jobs": 4, **changes}
    )


def test_the_persons_variables_go_through() -> None:
    passed = {
        "HTTPS_PROXY": "http://proxy",
        "CCACHE_MAXSIZE": "1G",
        "PIP_INDEX_URL": "file:///x",
        "UV_INDEX_URL": "file:///y",
        "TMPDIR": "/t",
        "VERBOSE": "1",
        "HOME": "/h",
    }
    env = child_environment(spec(), ENVIRONMENT, passed)
    assert passed.items() <= env.items()


@pytest.mark.parametrize(
    "name",
    [
        *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "DESTDIR", "LC_MESSAGES", "LANGUAGE"),
        *("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VLLM", "VLLM_VERSION_OVERRIDE", "VLLM_USE_PRECOMPILED"),
    ],
)
def test_what_would_spoil_the_build_does_not(name: str) -> None:
    assert name not in child_environment(spec(), ENVIRONMENT, {name: "x"})


@pytest.mark.parametrize(
    "name",
    [
        *("LD_RUN_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "CCC_OVERRIDE_OPTIONS", "CMAKE_PROGRAM_PATH"),
        *("CMAKE_CXX_IMPLICIT_LINK_LIBRARIES_EXCLUDE", "OBJC_INCLUDE_PATH", "GNUTARGET", "LDEMULATION"),
    ],
)
def test_what_changes_the_output_is_passed_on_only_from_the_plan(name: str) -> None:
    mine = {name: "/mine"}
    assert output_variables(mine) == mine
    assert name not in child_environment(spec(), ENVIRONMENT, mine)
    assert child_environment(spec(variables=mine), ENVIRONMENT, {})[name] == "/mine"
    assert ignored_variables(spec(), mine) == (name,)


@pytest.mark.parametrize(
    "name",
    [
        *("CUDAToolkit_ROOT", "CUDATOOLKIT_ROOT", "Torch_ROOT", "TORCH_ROOT", "Caffe2_ROOT", "Python_ROOT"),
        *("Python3_ROOT_DIR", "CUDNN_ROOT", "Torch_DIR", "CUDAToolkit_DIR", "CUDA_TOOLKIT_ROOT_DIR"),
        *("oneDNN_ROOT", "NVCC_CCBIN", "CUDAARCHS", "CMAKE_INSTALL_MODE", "CMAKE_INSTALL_PREFIX"),
        *("PYTHONOPTIMIZE", "_PYTHON_HOST_PLATFORM", "SETUPTOOLS_USE_DISTUTILS", "ARCHFLAGS"),
        *("_PYTHON_SYSCONFIGDATA_NAME", "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES"),
    ],
)
def test_what_leads_away_from_the_plans_tools_is_dropped(name: str) -> None:
    env = child_environment(spec(device="cuda", cuda_home="/cuda"), ENVIRONMENT, {name: "/mine"})
    assert env.get(name) != "/mine"


def test_folders_of_other_tools_go_through() -> None:
    mine = {"PYENV_ROOT": "/p", "CONDA_ROOT": "/c", "SPACK_ROOT": "/s"}
    assert mine.items() <= child_environment(spec(), ENVIRONMENT, mine).items()


def test_the_plans_variables_win() -> None:
    env = child_environment(
        spec(variables={"CXXFLAGS": "-DPLAN", "VLLM_USE_PRECOMPILED": ""}),
        ENVIRONMENT,
        {"CXXFLAGS": "-DMINE", "CFLAGS": "-DMINE", "VLLM_TARGET_DEVICE": "cuda", "CMAKE_BUILD_TYPE": "Debug"},
    )
    assert env["CXXFLAGS"] == "-DPLAN"
    assert "CFLAGS" not in env
    assert (env["VLLM_TARGET_DEVICE"], env["CMAKE_BUILD_TYPE"]) == ("cpu", "Release")
    assert env["SETUPTOOLS_SCM_PRETEND_VERSION"] == "1.0"


def test_what_is_not_passed_on_can_be_named() -> None:
    mine = {"CFLAGS": "-O1", "CXXFLAGS": "-O1", "HOME": "/h", "LDFLAGS": ""}
    assert output_variables(mine) == {"CFLAGS": "-O1", "CXXFLAGS": "-O1"}
    assert ignored_variables(spec(variables={"CXXFLAGS": "-O1"}), mine) == ("CFLAGS",)
    assert ignored_variables(spec(device="empty"), mine) == ()


def test_path_begins_with_the_environment_and_has_no_current_folder() -> None:
    env = child_environment(spec(cuda_home="/cuda"), ENVIRONMENT, {"PATH": ":/usr/bin::/env/bin:/bin:"})
    assert env["PATH"].split(os.pathsep) == ["/env/bin", "/cuda/bin", "/usr/bin", "/bin"]


@given(jobs=st.integers(1, 500), threads=st.integers(1, 32))
def test_upstreams_arithmetic_gives_the_wanted_jobs(jobs: int, threads: int) -> None:
    cuda = child_environment(
        spec(device="cuda", jobs=jobs, nvcc_threads=threads), ENVIRONMENT, {"MAX_JOBS": "7"}
    )
    assert max(1, int(cuda["MAX_JOBS"]) // int(cuda["NVCC_THREADS"])) == jobs
    cpu = child_environment(spec(jobs=jobs, nvcc_threads=threads), ENVIRONMENT, {"NVCC_THREADS": "7"})
    assert int(cpu["MAX_JOBS"]) == jobs
    assert "NVCC_THREADS" not in cpu


def test_cuda() -> None:
    compilers = (
        Compiler(language="C", id="GNU", version="12", target="t", path="/c/gcc"),
        Compiler(language="CXX", id="GNU", version="12", target="t", path="/c/g++"),
        Compiler(language="CUDA", id="NVIDIA", version="13.0.88", target="t", path="/cuda/bin/nvcc"),
    )
    env = child_environment(
        spec(device="cuda", archs=("10.0", "12.0a"), cuda_home="/cuda", compilers=compilers),
        ENVIRONMENT,
        {"TORCH_CUDA_ARCH_LIST": "7.0", "CUDA_HOME": "/other", "CUDACXX": "/other/nvcc", "CC": "icc"},
    )
    assert env["TORCH_CUDA_ARCH_LIST"] == "10.0;12.0a"
    assert (env["CUDA_HOME"], env["CUDACXX"]) == ("/cuda", "/cuda/bin/nvcc")
    assert (env["CC"], env["CXX"], env["CUDAHOSTCXX"]) == ("/c/gcc", "/c/g++", "/c/g++")


def test_numactl_dir_is_put_on_the_compilers_paths() -> None:
    env = child_environment(
        spec(variables={"NUMACTL_DIR": "/numa", "CPATH": "/mine"}), ENVIRONMENT, {"LIBRARY_PATH": "/lost"}
    )
    assert env["CPATH"] == "/numa/include:/mine"
    assert env["LIBRARY_PATH"] == "/numa/lib"


def test_it_is_pure() -> None:
    mine = {"PATH": "/bin", "X": "1"}
    before = dict(mine)
    assert child_environment(spec(), ENVIRONMENT, mine) == child_environment(spec(), ENVIRONMENT, mine)
    assert mine == before
