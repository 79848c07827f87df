"""The environment variables of setup.py and all below it. Pure: nothing here looks at the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from vllm_builder.stages.compile import ninja
from vllm_builder.stages.compile.headers import numa_variables
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import Environment
from vllm_builder.stages.finish.model import EPOCH

# Another Python's settings: they would let it, or its packages, into the build, or change what setup.py makes
# of itself (PYTHONOPTIMIZE, _PYTHON_HOST_PLATFORM). The environment is ours, so its bytecode may be kept too:
# importing torch without costs seconds at every build.
_FOREIGN_PYTHON = ("PYTHON*", "_PYTHON_*", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "__PYVENV_LAUNCHER__")

# They move or change what `cmake --install` and setuptools write, make compilers write further files, or localise
# the messages that are searched for errors.
_HARMFUL = (
    *("DIST_EXTRA_CONFIG", "SETUPTOOLS_USE_DISTUTILS", "ARCHFLAGS", "DESTDIR"),
    *("CMAKE_INSTALL_MODE", "CMAKE_INSTALL_PREFIX", "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES"),
    *("LANGUAGE", "LANG", "LC_*"),
)

# CMake looks for a package first where these say. Which torch, Python and toolkit there are is the plan's to decide,
# and of anything else the path alone would say nothing of what lies there.
_LEAD_AWAY = (
    *("*_ROOT", "*_ROOT_DIR", "Torch_DIR", "Caffe2_DIR", "CUDAToolkit_DIR", "Python_DIR", "Python3_DIR"),
    *("NVCC_CCBIN", "CUDAARCHS"),
)

# Folders of other tools, which no find_package asks for, and which wrappers of compilers may need.
_NO_PACKAGE = ("PYENV_ROOT", "CONDA_ROOT", "MAMBA_ROOT", "SPACK_ROOT", "RBENV_ROOT", "ASDF_ROOT", "NIX_*")

# Variables that decide the version or the contents, which are the plan's to decide.
_THE_PLANS = (
    "SETUPTOOLS_SCM_*",
    "VLLM_VERSION_OVERRIDE",
    "VLLM_MAIN_CUDA_VERSION",
    "VLLM_SKIP_VERSION_SUFFIX",
    "VLLM_SKIP_PRECOMPILED_VERSION_SUFFIX",
    "VLLM_USE_PRECOMPILED",
    "VLLM_USE_PRECOMPILED_RUST",
    "VLLM_PRECOMPILED_*",
    "VLLM_RS_BUILD_VERSION",
    "VLLM_TARGET_DEVICE",
    "VLLM_DISABLE_SCCACHE",
    "CMAKE_BUILD_TYPE",
    "MAX_JOBS",
    "NVCC_THREADS",
    "NINJA_STATUS",
)

# They may hold a password, which no compiler needs.
_SECRET = ("VLLM_BUILDER_SHARED_CACHE*",)

# Variables of the person's that are honoured and that change what comes out.
_OUTPUT = (
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "CUDAFLAGS",
    "LDFLAGS",
    "CMAKE_ARGS",
    "CMAKE_TOOLCHAIN_FILE",
    "CMAKE_PREFIX_PATH",
    "CMAKE_INCLUDE_PATH",
    "CMAKE_LIBRARY_PATH",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
    "CMAKE_PROGRAM_PATH",
    "CMAKE_*_IMPLICIT_LINK_*_EXCLUDE",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "OBJC_INCLUDE_PATH",
    "LIBRARY_PATH",
    "LD_RUN_PATH",
    "LDEMULATION",
    "GNUTARGET",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "CCC_OVERRIDE_OPTIONS",
    "NUMACTL_DIR",
    "RUSTFLAGS",
    "ACL_ROOT_DIR",
    "*_SRC_DIR",
    "VLLM_CPU_*",
    "VLLM_REQUIRE_RUST_FRONTEND",
    "SOURCE_DATE_EPOCH",
)


_COMPILERS = ("CC", "CXX", "CUDACXX", "CUDAHOSTCXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "PATH")


def decided_by_plan(name: str) -> bool:
    """Whether a variable is the plan's to set, so that no value of the person's may get past it."""
    return _matches(name, (*_THE_PLANS, *_COMPILERS))


def output_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``environ`` that are honoured and change what is built, for a plan to record.

    A plan puts them into :attr:`CompileSpec.variables`. :func:`child_environment` passes a variable of this
    kind on only from there: what is in no digest must not change a wheel.
    """
    return {k: v for k, v in sorted(environ.items()) if v and _matches(k, _OUTPUT)}


def ignored_variables(spec: CompileSpec, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Output-changing variables of ``environ`` that ``spec`` does not hold, and that are not passed on."""
    # For `empty` nothing is compiled, so what speaks to compilers changes nothing.
    found = sorted({*output_variables(environ), *(k for k, v in environ.items() if v and _leads_away(k))})
    return tuple(
        k for k in found if k not in spec.variables and (spec.device != "empty" or k.startswith("VLLM_"))
    )


def child_environment(
    spec: CompileSpec, environment: Environment, environ: Mapping[str, str]
) -> dict[str, str]:
    """All variables for setup.py.

    The person's environment goes through (proxies, CCACHE_*, index settings, TMPDIR); what would let another
    Python in, what the plan decides, and what changes the output without being part of the plan does not.

    Args:
        spec: what to build.
        environment: where its Python and tools are.
        environ: the person's environment.
    """
    dropped = (*_SECRET, *_FOREIGN_PYTHON, *_HARMFUL, *_THE_PLANS, *_OUTPUT)
    env = {k: v for k, v in environ.items() if not (_matches(k, dropped) or _leads_away(k))}
    env.update(spec.variables)
    # Compilers (__DATE__), setuptools and whatever else has heard of it take this for the present moment.
    env.setdefault("SOURCE_DATE_EPOCH", str(EPOCH))
    env["PYTHONHASHSEED"] = "0"

    path = [str(environment.bin)]
    if spec.cuda_home:
        path.append(str(Path(spec.cuda_home) / "bin"))
    # An empty entry would mean the current folder, which is the release's tree.
    path += [entry for entry in environ.get("PATH", os.defpath).split(os.pathsep) if entry]
    env["PATH"] = os.pathsep.join(dict.fromkeys(path))

    env["LC_ALL"] = "C.UTF-8"
    env["PYTHONUNBUFFERED"] = "1"
    env["NINJA_STATUS"] = ninja.STATUS
    env["VLLM_TARGET_DEVICE"] = spec.device
    env["CMAKE_BUILD_TYPE"] = spec.build_type
    env["SETUPTOOLS_SCM_PRETEND_VERSION"] = spec.scm_version

    env.update(job_variables(spec, spec.jobs))
    if spec.device == "cuda" and spec.archs:
        env["TORCH_CUDA_ARCH_LIST"] = ";".join(spec.archs)

    for compiler in spec.compilers:
        if compiler.language == "C":
            env["CC"] = compiler.path
        elif compiler.language == "CXX":
            env["CXX"] = compiler.path
            if spec.device == "cuda":
                env["CUDAHOSTCXX"] = compiler.path
        else:
            env["CUDACXX"] = compiler.path
    if spec.cuda_home:
        # The last one is CMake's own; torch's CMake files guess from PATH where none of them is set.
        env["CUDA_HOME"] = env["CUDA_PATH"] = env["CUDAToolkit_ROOT"] = spec.cuda_home
        if not any(c.language == "CUDA" for c in spec.compilers):
            env["CUDACXX"] = str(Path(spec.cuda_home) / "bin" / "nvcc")

    if spec.device == "cpu":
        env.update(numa_variables(env))
    return env


def job_variables(spec: CompileSpec, jobs: int) -> dict[str, str]:
    """The variables that make setup.py run ``jobs`` compilers at once."""
    jobs = max(1, jobs)
    if spec.device != "cuda":
        return {"MAX_JOBS": str(jobs)}
    # Upstream starts max(1, MAX_JOBS // NVCC_THREADS) compilers.
    threads = max(1, spec.nvcc_threads)
    return {"MAX_JOBS": str(jobs * threads), "NVCC_THREADS": str(threads)}


def _leads_away(name: str) -> bool:
    return _matches(name, _LEAD_AWAY) and not _matches(name, _NO_PACKAGE)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
