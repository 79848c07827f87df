"""Building a tree, here or in a process of its own that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vllm_builder.events import Event
from vllm_builder.stages.compile import compile_wheel
from vllm_builder.stages.compile.model import CompileResult, CompileSpec
from vllm_builder.stages.environment.model import Environment

BUILDER = """
import json, os, sys
from pathlib import Path
from vllm_builder.errors import BuilderError
from vllm_builder.events import Note, Progress
from vllm_builder.stages.compile import compile_wheel
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import Environment

spec, environment, tree = json.loads(sys.argv[1])
tree = Path(tree)

def emit(event):
    if isinstance(event, Progress):
        print(int(event.done), flush=True)
    elif isinstance(event, Note):
        print(event.message, flush=True)

try:
    result = compile_wheel(
        CompileSpec.model_validate(spec), tree=tree, environment=Environment.model_validate(environment),
        dist=tree.parent / "dist", log=tree.parent / "log", environ=os.environ, emit=emit,
    )
except BuilderError as error:
    print(json.dumps(error.as_dict()), flush=True)
    sys.exit(error.exit_code)
print(result.model_dump_json(), flush=True)
"""


def builder_command(spec: CompileSpec, environment: Environment, tree: Path) -> list[str]:
    arguments = json.dumps([spec.model_dump(mode="json"), environment.model_dump(mode="json"), str(tree)])
    return [sys.executable, "-c", BUILDER, arguments]


def start_builder(spec: CompileSpec, environment: Environment, tree: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(builder_command(spec, environment, tree), stdout=subprocess.PIPE, text=True)


def until_done(process: subprocess.Popen[str], units: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdigit() and int(line) >= units:
            return
    pytest.fail("the build ended before it could be stopped")


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def build(
    spec: CompileSpec, tree: Path, environment: Environment, events: list[Event] | None = None
) -> CompileResult:
    """Build a tree of its own folder, with the environment as it is."""
    return build_into(tree.parent, spec, tree, environment, events)


def build_into(
    folder: Path, spec: CompileSpec, tree: Path, environment: Environment, events: list[Event] | None = None
) -> CompileResult:
    """The same with wheel and log in a folder, where several trees lie side by side."""
    return compile_wheel(
        spec,
        tree=tree,
        environment=environment,
        dist=folder / "dist",
        log=folder / "log",
        environ=os.environ,
        emit=(lambda e: None) if events is None else events.append,
    )
