"""A toy release that several users build, with ccache, each with folders of his own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from native_helpers import NativeToy

from vllm_builder.events import Event, Note
from vllm_builder.pipeline import BuildResult
from vllm_builder.settings.model import Settings
from vllm_builder.shared import opened
from vllm_builder.stages.plan.model import Plan

UNITS = 2


@dataclass
class Built:
    """``wheel`` is what it should be: of a build that had no shared cache."""

    team: Team
    entries: dict[str, bytes]
    wheel: bytes


class Team:
    """``events`` are those of the last build, ``compiled`` the units that compilers were started for in it."""

    def __init__(self, folder: Path, cxx: str) -> None:
        folder.mkdir(parents=True)
        self.toy = NativeToy(folder, cxx)
        self.toy.write("vllm/envs.py", 'FURTHER = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]\nVARIABLES = {}\n')
        # As torch's headers: they lie in the build environment, whose folder the release's Python names.
        self.toy.edit(
            "CMakeLists.txt",
            "add_library",
            'execute_process(COMMAND ${VLLM_PYTHON_EXECUTABLE} -c "import sys; print(sys.prefix)" '
            "OUTPUT_VARIABLE prefix OUTPUT_STRIP_TRAILING_WHITESPACE)\ninclude_directories(SYSTEM ${prefix}/include)\n"
            "add_library",
        )
        self.toy.edit("csrc/both.h", "#define BOTH 1", '#include "installed.h"\n#define BOTH INSTALLED')
        self.events: list[Event] = []
        self.compiled = 0
        self.on_event: Callable[[Event], None] = lambda event: None

    def plan(self, user: str = "", **spec: Any) -> Plan:
        ccache = {
            "compiler_cache": "ccache",
            "compiler_cache_dir": str(self.toy.folder / user / "cache/ccache"),
        }
        return self.toy.plan(**{f"spec_{name}": value for name, value in {**ccache, **spec}.items()})

    def build(
        self, user: str, url: str, *, environ: Mapping[str, str] | None = None, spec: Any = (), **more: Any
    ) -> BuildResult:
        self.events.clear()
        before = self.toy.compiled
        offline = more.pop("offline", False)

        def emit(event: Event) -> None:
            self.events.append(event)
            self.on_event(event)

        self.toy.events = self.events
        try:
            with opened(Settings(shared_cache=url, offline=offline), environ or {}, emit) as shared:
                return self._run(user, shared, emit, spec, more)
        finally:
            self.compiled = self.toy.compiled - before

    def _run(self, user: str, shared: Any, emit: Any, spec: Any, more: dict[str, Any]) -> BuildResult:
        import os

        from vllm_builder.cache import Cache, Workspace
        from vllm_builder.pipeline import run

        return run(
            self.plan(user, **dict(spec)),
            cache=Cache(self.toy.folder / user / "cache"),
            workspace=Workspace(self.toy.folder / user / "build"),
            environ={"PATH": os.environ["PATH"], "HOME": str(self.toy.folder)},
            shared=shared,
            emit=emit,
            **more,
        )

    def forget(self, user: str) -> None:
        """A machine that was set up anew."""
        shutil.rmtree(self.toy.folder / user)

    @property
    def warnings(self) -> list[str]:
        return [e.message for e in self.events if isinstance(e, Note) and e.level == "warning"]
