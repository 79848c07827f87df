"""Runs setup.py with what it asks of torch, and without loading torch, which takes longer than all the rest of packing.

It is run by the build environment's Python as

    python lighttorch.py ANSWERS.json setup.py ARGUMENTS...

From 0.6.0 to 0.33.0 setup.py asks torch for ``torch.version`` and for CUDA_HOME and ROCM_HOME of
``torch.utils.cpp_extension``. The first is read from the real ``torch/version.py``; the others are what the real
torch answered under the same variables (ANSWERS, see :mod:`.torchfacts`). Whatever else is asked of torch, in whatever
way, ends the run at once with BEYOND; then setup.py is run once more, with the real torch. What comes out is held
against the layer either way.

Only the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import NoReturn

BEYOND = 87
"""Exit status where more was asked of torch than is known."""
ANSWERED = "torch.utils.cpp_extension"
_OF_IMPORTS = {"__path__", "__file__", "__cached__"}
"""Python's own machinery looks whether a module has them before it sets them."""


def beyond(what: str) -> NoReturn:
    """End the process; not by an exception, which setup.py could take for a torch that is missing."""
    print(f"setup.py asks for {what}: once more, with torch itself", flush=True)
    sys.stderr.flush()
    os._exit(BEYOND)


class _Light(ModuleType):
    """A module that knows nothing but what was put into it."""

    def __getattr__(self, name: str) -> NoReturn:
        if name in _OF_IMPORTS:
            raise AttributeError(name)
        beyond(f"{self.__name__}.{name}")


class Finder:
    """Finds torch before Python does. As finder and loader in one."""

    def __init__(self, answers: dict[str, str | None]) -> None:
        self._answers = answers

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        del target
        if name.partition(".")[0] != "torch" or name == "torch.version":
            return None
        if name not in {"torch", "torch.utils", ANSWERED}:
            beyond(name)
        real = PathFinder.find_spec(name, path)
        if real is None or real.origin is None:
            return None
        spec = ModuleSpec(name, self, origin=real.origin)  # type: ignore[arg-type]
        spec.submodule_search_locations = real.submodule_search_locations
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Light(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "torch":
            # Imports of a package's modules are attributes of it; the real torch has this one from the start.
            import torch.version  # noqa: F401
        elif module.__name__ == ANSWERED:
            module.__dict__.update(self._answers)


def main(arguments: list[str]) -> None:
    answers, script, *rest = arguments
    with open(answers, encoding="utf-8") as file:  # noqa: PTH123
        sys.meta_path.insert(0, Finder(json.load(file)))
    # As Python itself does it for `python setup.py`: there __file__ is absolute, and argv[0] is not.
    sys.argv = [script, *rest]
    path = os.path.abspath(script)  # noqa: PTH100
    sys.path[0] = os.path.dirname(path)  # noqa: PTH120
    module = ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    with open(path, "rb") as source:  # noqa: PTH123
        code = compile(source.read(), path, "exec")
    exec(code, module.__dict__)


if __name__ == "__main__":
    main(sys.argv[1:])
