"""``vllm-builder source``: the patched tree for building by hand."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from vllm_builder.cli import screen
from vllm_builder.errors import NotWritable
from vllm_builder.events import Emit
from vllm_builder.fs import os_errors
from vllm_builder.settings.layers import Layers


def hand_over(layers: Layers, dest: str, json_: bool, emit: Emit) -> None:
    """Fetch source and externals, patch, and say how to go on: the tree that ``build`` would compile."""
    from vllm_builder.api import decide
    from vllm_builder.stages.patch import apply
    from vllm_builder.stages.plan.steps import default_cache, source_request
    from vllm_builder.stages.source import fetch
    from vllm_builder.stages.source.placing import partial_folder
    from vllm_builder.stages.vendor import fetch_externals

    target = Path(dest).expanduser().absolute()
    if os.path.lexists(target):
        raise NotWritable(
            f"{target} exists already.",
            why="A tree is never laid over another one.",
            next="Give --dest a new folder, or remove that one.",
        )
    plan, settings = decide(layers, emit=emit)
    request = source_request(settings, plan.environment.indexes)
    cache = default_cache(settings)
    with partial_folder(target) as partial, os_errors(f"writing {target}"):
        tree = partial / "source"
        fetch(plan.source, tree, cache, emit, offline=settings.offline, request=request)
        if plan.externals is not None:
            fetch_externals(plan.externals, settings.externals, tree, cache, emit, offline=settings.offline)
        report = apply(plan.patches, tree, emit=emit)
        tree.replace(target)
    screen.finish()
    variables = {
        "VLLM_TARGET_DEVICE": plan.device,
        "SETUPTOOLS_SCM_PRETEND_VERSION": plan.compile.scm_version,
        "CMAKE_BUILD_TYPE": plan.compile.build_type,
        **plan.compile.variables,
    }
    if plan.compile.archs:
        variables["TORCH_CUDA_ARCH_LIST"] = ";".join(plan.compile.archs)
    if plan.toolkit is not None and plan.toolkit.spec is None:
        variables["CUDA_HOME"] = plan.toolkit.home
    if json_:
        screen.print_json(
            {"tree": str(target), "variables": variables, "patch_report": report.model_dump(mode="json")}
        )
        return
    words = " ".join(f"{k}={shlex.quote(v)}" for k, v in variables.items())
    abi = f" --py-limited-api={plan.compile.limited_api}" if plan.compile.limited_api else ""
    click.echo(
        "To build it by hand, in an environment with torch and the tree's build requirements:", err=True
    )
    click.echo(f"  cd {shlex.quote(str(target))} && {words} python setup.py bdist_wheel{abi}", err=True)
    click.echo(str(target))
