"""What the toolkit stage takes and gives."""

from __future__ import annotations

from typing import Literal

from vllm_builder.model import Free, Model

Verdict = Literal["whole", "half", "broken", "missing"]


class ToolkitSpec(Model):
    """A toolkit to be put together from a package index, fully locked.

    The lock is part of a plan's digest: another cccl or nvvm compiles another wheel.
    """

    release: str
    """The version of the package ``cuda-toolkit``, ``13.0.2``."""
    nvcc: str
    """``13.0.88``: nvcc's own version, and that of all parts that have to be exactly its."""
    lock: tuple[str, ...]
    """Exact requirements, ``name==version``, one per package, sorted."""


class Toolkit(Model):
    """A CUDA toolkit: ``version`` is nvcc's, ``13.0``.

    With ``spec`` it may not exist yet: ``home`` is where :func:`~.assembling.assemble` puts it.
    """

    home: Free[str]
    version: str
    origin: Free[str]
    spec: ToolkitSpec | None = None


class Candidate(Model):
    """A place where a toolkit was looked for, with the verdict on it."""

    origin: str
    """``CUDA_HOME``, ``PATH``, ``usual folder``, ``conda environment``, ..."""
    home: str
    """The toolkit's root, or the folder that was looked at where there is none."""
    verdict: Verdict
    version: str = ""
    """nvcc's, ``13.0``; empty where it did not say."""
    lacking: tuple[str, ...] = ()
    """What a half one lacks, or what a broken nvcc said."""
    archs: tuple[str, ...] = ()
    """What nvcc itself says that it compiles for, ``10.0``; empty where it did not say."""
    named: bool = False
    """A person named it: it is used or refused, never passed over."""

    def sentence(self) -> str:
        """One line for a person."""
        where = f"{self.origin}: {self.home}"
        if self.verdict == "whole":
            return f"{where} is CUDA {self.version}"
        if self.verdict == "missing":
            return f"{where} has no nvcc"
        if self.verdict == "broken":
            return f"{where} has an nvcc that does not run ({'; '.join(self.lacking)})"
        version = f" (CUDA {self.version})" if self.version else ""
        return f"{where}{version} lacks {', '.join(self.lacking)}"
