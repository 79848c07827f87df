"""Import one thing and say what came of it.

    python -I imports.py RESULT module NAME PATH     an extension module by its path, without its package's __init__
    python -I imports.py RESULT package NAME

``RESULT`` is the file to append to. With ``TORCH_FIRST`` in the environment torch is imported before: it loads the
libraries that extensions are linked to, which is what vLLM's own Python code does first.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.machinery
import importlib.util
import json
import os
import sys
from typing import Any


def _module(name: str, path: str) -> dict[str, Any]:
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        if "does not define module export function" not in str(error):
            raise
        # It registers its ops when it is loaded, and is no module of Python's.
        if "torch" in sys.modules:
            importlib.import_module("torch").ops.load_library(path)
        else:
            ctypes.CDLL(path)
        return {"how": "library", "file": path}
    return {"how": "module", "file": str(module.__file__)}


def _package(name: str) -> dict[str, Any]:
    import importlib.metadata

    module = importlib.import_module(name)
    version = str(getattr(module, "__version__", ""))
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(name)
    return {"how": "package", "file": str(module.__file__), "version": version}


def main(result: str, kind: str, *arguments: str) -> int:
    found: dict[str, Any] = {}
    try:
        if os.environ.get("TORCH_FIRST"):
            importlib.import_module("torch")
        found = _module(*arguments) if kind == "module" else _package(*arguments)
    except BaseException as error:  # noqa: BLE001  # whatever an import does, it is the result
        found = {"error": f"{type(error).__name__}: {error}", "missing": ""}
        if isinstance(error, ModuleNotFoundError):
            found["missing"] = error.name or ""
    with open(result, "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(json.dumps(found) + "\n")
    return 1 if "error" in found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
