"""Stage 5: the release's own setup.py, run so that it can be watched, stopped, gone on with and explained.

Everything is loaded when it is first used: a cache hit never comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.stages.compile.build import compile_wheel as compile_wheel
    from vllm_builder.stages.compile.buildenv import child_environment as child_environment
    from vllm_builder.stages.compile.buildenv import output_variables as output_variables
    from vllm_builder.stages.compile.headers import has_header as has_header
    from vllm_builder.stages.compile.headers import numa_variables as numa_variables
    from vllm_builder.stages.compile.jobs import auto_jobs as auto_jobs
    from vllm_builder.stages.compile.limitedapi import limited_api_for as limited_api_for
    from vllm_builder.stages.compile.model import Compiler as Compiler
    from vllm_builder.stages.compile.model import CompileResult as CompileResult
    from vllm_builder.stages.compile.model import CompileSpec as CompileSpec
    from vllm_builder.stages.compile.toolchain import check_compilers as check_compilers
    from vllm_builder.stages.compile.toolchain import probe_compilers as probe_compilers
    from vllm_builder.stages.compile.versions import scm_version_for as scm_version_for

_HOMES = {
    "CompileResult": "model",
    "CompileSpec": "model",
    "Compiler": "model",
    "auto_jobs": "jobs",
    "check_compilers": "toolchain",
    "child_environment": "buildenv",
    "compile_wheel": "build",
    "has_header": "headers",
    "limited_api_for": "limitedapi",
    "numa_variables": "headers",
    "output_variables": "buildenv",
    "probe_compilers": "toolchain",
    "scm_version_for": "versions",
}

__all__ = list(_HOMES)


__getattr__ = exports(__name__, _HOMES)
