"""What a native layer holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vllm_builder.model import Model

MANIFEST: Final = "layer.json"
FILES: Final = "files"


class Manifest(Model):
    """What goes with the files of a layer: ``layer.json`` in its archive."""

    calls: tuple[Mapping[str, Any], ...]
    """The calls of cmake in their order, as :func:`.standin.call_of` describes them. What the install with
    number 3 wrote lies in ``files/0003``, relative to its prefix."""
    members: tuple[str, ...] = ()
    """What the wheel that was compiled held besides the tree's own files and its ``.dist-info``."""
    left_out: tuple[str, ...] = ()
    """Optional parts that were not compiled, each with its reason."""
    full_headers: Mapping[str, str] = {}
    """Units that needed more than the lean headers, and the first error of each."""
    isolated: bool = False
    """Compiled with no network at all."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer on disk, unpacked: ``folder`` holds ``layer.json`` and ``files``."""

    folder: Path
    manifest: Manifest

    @property
    def files(self) -> Path:
        return self.folder / FILES
