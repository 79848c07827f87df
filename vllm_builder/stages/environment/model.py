"""What the environment stage takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vllm_builder.indexes import Indexes
from vllm_builder.model import Free, Model


class Interpreter(Model):
    """A Python as it was found. Nothing in it is part of a digest by itself: the plan takes ``tag``."""

    path: Free[str]
    version: Free[str]
    """``3.11.7``."""
    tag: Free[str]
    """``cp311``."""
    base: Free[str] = ""
    """The real interpreter behind a virtual environment's."""
    prefix: Free[str] = ""
    base_prefix: Free[str] = ""
    site_packages: Free[tuple[str, ...]] = ()


class Torch(Model):
    """The torch to compile against. ``version`` has its build tag: ``2.13.0+cpu``."""

    version: str
    cuda: str | None = None
    """``13.0``; None for a build without CUDA."""
    origin: Free[str] = ""
    """Why this one, in one line."""


class EnvironmentSpec(Model):
    """An isolated environment, fully locked. Free as a whole but for torch, which the plan hashes itself."""

    python: Free[Interpreter]
    lock: Free[tuple[str, ...]]
    """Exact requirements, ``name==version``, one per package, sorted."""
    overlay: Free[tuple[str, ...]] = ()
    """Folders of the person's own environment, put behind the isolated one (``--torch existing``)."""
    indexes: Free[Indexes]
    torch_backend: Free[str] = ""
    """``cu129``, ``cpu``: the PyTorch index that uv is told to use for torch alone."""


class Environment(Model):
    """An installed environment."""

    python: Path
    bin: Path
    packages: Mapping[str, str]
    """Installed distributions: canonical name -> version."""
    site_packages: tuple[Path, ...] = ()
    """Where its packages lie, those of the person's own environment too."""
