"""Which units were compiled with torch's own headers although the patch set ``lean-headers`` took part.

The patch set puts a short ``torch/all.h`` first on the include path and a script in front of the compiler. Where a
unit does not compile so, the script compiles it as upstream does and writes that down beside build.ninja.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = "cmake/lean-headers"
"""Relative to the tree; the headers are in its folder ``include``."""
NOTES = "lean-headers.tsv"


def include_option(tree: Path) -> str:
    """The compilers' option for the folder, as CMake writes it: what it adds is all that differs from upstream."""
    return f"-I{tree}/{FOLDER}/include"


def full_headers(tree: Path) -> dict[str, str]:
    """Source file, relative to the tree -> the first error that the short header led to. Sorted by name."""
    found: dict[str, str] = {}
    for notes in sorted((tree / "build").glob(f"temp*/{NOTES}")):
        try:
            lines = notes.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        for line in lines:
            source, tab, error = line.replace(f"{tree}/", "").partition("\t")
            if tab and source:
                found[source] = error.strip()
    return {source: error for source, error in sorted(found.items()) if error}
