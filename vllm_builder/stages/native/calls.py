"""The builder's side of the cmake that records and replays: see :mod:`.standin` for the other."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_builder.fs import make_dir, os_errors, remove_tree, write_atomic
from vllm_builder.stages.native import standin


class Calls:
    """The calls of cmake of one run of setup.py, recorded or answered.

    Args:
        state: a folder of this build's own; what is below its ``native`` is made anew.
        places: folders that mean the same elsewhere, and what they are called: ``{"/x/tree": "<tree>"}``.
        expected: the calls of a layer; None records.
        files: where the files of installs lie, or are put.
    """

    def __init__(
        self,
        state: Path,
        places: Mapping[Path, str],
        *,
        expected: Sequence[Mapping[str, Any]] | None = None,
        files: Path | None = None,
    ) -> None:
        self._state = state / "native"
        self._places = places
        self._expected = expected
        self.files = files or self._state / "files"
        self._log = self._state / "calls.jsonl"
        self._misfit = self._state / "misfit.txt"
        self._real: str | None = None

    def arrange(self, env: dict[str, str]) -> None:
        """Put the stand-in first on PATH, once; without a cmake there is none to stand in for.

        Raises:
            NoSpace, NotWritable
        """
        remove_tree(self._state / "bin")
        self._real = shutil.which("cmake", path=env["PATH"])
        if self._real is None:
            return
        folder = make_dir(self._state / "bin")
        script = folder / "cmake"
        ours = [sys.executable, "-I", "-S", "-B", standin.__file__, str(self._state / "settings.json")]
        with os_errors(f"writing {script}"):
            script.write_text(f'#!/bin/sh\nexec {shlex.join(ours)} "$@"\n')
            script.chmod(0o755)
        env["PATH"] = f"{folder}{os.pathsep}{env['PATH']}"

    def begin(self, env: Mapping[str, str]) -> None:
        """Before each run of setup.py, with the variables that it is given: forget what an earlier run left.

        Raises:
            NoSpace, NotWritable
        """
        if self._real is None:
            return
        for path in (self._log, self._misfit):
            path.unlink(missing_ok=True)
        if self._expected is None:
            remove_tree(self.files)
        settings = {
            "mode": "record" if self._expected is None else "replay",
            "real": self._real,
            "calls": str(self._log),
            "misfit": str(self._misfit),
            "files": str(self.files),
            "places": {str(place): name for place, name in self._spellings()},
            "environment": {name: standin.fingerprint(value) for name, value in env.items()},
            "expected": [dict(call) for call in self._expected or ()],
        }
        write_atomic(self._state / "settings.json", json.dumps(settings))

    def _spellings(self) -> list[tuple[Path, str]]:
        return [(p, name) for place, name in self._places.items() for p in {place, place.resolve()}]

    @property
    def misfit(self) -> str:
        """Which call was not the layer's; empty where all were, and none was missing."""
        try:
            return self._misfit.read_text(encoding="utf-8")
        except FileNotFoundError:
            missing = len(self._expected or ()) - len(self.made())
            return f"setup.py called cmake {missing} times less" if missing > 0 else ""

    def made(self) -> tuple[dict[str, Any], ...]:
        """The calls that were made in the last run."""
        try:
            lines = self._log.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return ()
        return tuple(json.loads(line) for line in lines)
