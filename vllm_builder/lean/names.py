"""Names that differ from run to run, made the same.

The front end of nvcc puts a module id into the names of internal things: of the first external function or variable
that a unit defines, or, where it defines none (only instantiations of templates, say), of the process that compiled.
Then two runs of one and the same command differ in these names: in PTX, in symbols, in strings.
"""

from __future__ import annotations

import re
from pathlib import Path

_STUB = re.compile(r"Z\d+(?=__device_stub_)")
_FOLLOWS = ("_INTERNAL", "_GLOBAL__N_")


def module_id(folder: Path) -> str:
    """The id that nvcc left in a folder with ``--keep``; empty where there is none."""
    for path in sorted(folder.glob("*.module_id")):
        return path.read_text("utf-8", "replace").strip("\0\n ")
    return ""


def settled(text: str, module: str) -> str:
    """A text with ``module`` replaced by a word that is always the same, lengths of mangled names included."""
    if not module:
        return text
    for prefix in _FOLLOWS:
        whole = prefix + module
        # How long a process's number is, is in the length before the name.
        text = text.replace(f"{len(whole)}{whole}", f"{prefix}_MODULE")
    if module in text or "_MODULE" in text:
        text = _STUB.sub("Z", text.replace(module, "_MODULE"))
    return text
