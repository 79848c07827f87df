"""Plans of a toy release: pure Python, compiled by its own setup.py in a second, with nothing fetched."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_builder.cache import Cache, Workspace
from vllm_builder.events import Event
from vllm_builder.indexes import Indexes
from vllm_builder.pipeline import BuildResult, run
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import EnvironmentSpec, Interpreter, Torch
from vllm_builder.stages.patch.operations import CreateFile, PatchSelection, Step
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.source.model import SourcePin
from vllm_builder.stages.source.paths import tree_identity

# As upstream's: it writes into its own tree, and it fails, waits or lets itself be looked at when told to.
SETUP = """
import os, sys, time
from pathlib import Path
from setuptools import setup

Path("vllm/_version.py").write_text("version = " + repr(os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"]))
generated = Path("csrc/generated")
generated.mkdir(exist_ok=True)
(generated / "kernel.cu").write_text("// made by setup.py\\n")
print("generated", flush=True)
told = Path(os.environ["TOY_TOLD"])
if (told / "fail").exists():
    sys.exit("error: told to fail")
(told / "compiled").open("a").write("once\\n")
while (told / "wait").exists():
    time.sleep(0.02)
setup(name="vllm", version=os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"], packages=["vllm"])
"""


@dataclass
class Toy:
    """A folder with a toy source, a workspace and what setup.py is told."""

    folder: Path
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        source = self.source
        (source / "vllm").mkdir(parents=True)
        (source / "csrc").mkdir()
        (source / "setup.py").write_text(SETUP)
        (source / "vllm/__init__.py").write_text("answer = 42\n")
        (source / "csrc/kernel.h").write_text("int answer();\n")
        self.told.mkdir()
        self.workspace = Workspace(self.folder / "build")

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def told(self) -> Path:
        return self.folder / "told"

    @property
    def compiled(self) -> int:
        """How often setup.py came as far as compiling."""
        file = self.told / "compiled"
        return file.read_text().count("once") if file.exists() else 0

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "TOY_TOLD": str(self.told)}

    def plan(self, source: Path | None = None, **spec: Any) -> Plan:
        source = source or self.source
        python = Interpreter(path=sys.executable, version=platform.python_version(), tag="cp311")
        given = {"device": "empty", "version": "1.2.3+empty", "scm_version": "1.2.3+empty"}
        patch = CreateFile(action="create_file", file="vllm/patched.py", content="patched = True\n")
        return Plan(
            source=SourcePin(
                kind="tree",
                release="1.2.3",
                identity=tree_identity(source),
                name=source.name,
                location=str(source),
                reason="the test says so",
            ),
            device="empty",
            patches=PatchSelection(steps=(Step(set="toy", number=1, operation=patch),)),
            platform="linux-x86_64",
            compile=CompileSpec.model_validate(given | spec),
            environment=EnvironmentSpec(python=python, lock=(), indexes=Indexes()),
            build_torch=Torch(version="2.13.0"),
        )

    def tree(self, plan: Plan) -> Path:
        return self.workspace.tree(plan.digest)

    def build(self, plan: Plan | None = None, *, cache: str = "cache", **more: Any) -> BuildResult:
        return run(
            plan or self.plan(),
            cache=Cache(self.folder / cache),
            workspace=self.workspace,
            environ=self.environ,
            emit=self.events.append,
            **more,
        )
