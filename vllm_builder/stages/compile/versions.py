"""How the release's own version logic is brought to the version that the plan names."""

from __future__ import annotations

from pathlib import Path

from packaging.version import InvalidVersion, Version

from vllm_builder.errors import SourceError
from vllm_builder.stages.compile.limitedapi import limited_api_for
from vllm_builder.stages.compile.model import CompileSpec, Device
from vllm_builder.stages.compile.setuppy import Unknown, computed_version

__all__ = ["limited_api_for", "missing_local", "scm_version_for"]


def scm_version_for(survey: Path, release: str, device: Device, local: str, cuda: str | None) -> str:
    """What SETUPTOOLS_SCM_PRETEND_VERSION must be so that the wheel becomes ``<release>+<local>``.

    Some trees append the local part on their own (``+cpu``, ``+empty``, ``+cu130`` where nvcc is not the
    release's main CUDA), some must be handed it; which is read from the tree's setup.py. A few take no local
    part whatever they are told (0.6.2's setup.py returns a constant): there :func:`missing_local` says what
    compile has to add.

    Args:
        survey: the release's small files (setup.py, vllm/envs.py).
        release: ``0.9.2``.
        device: VLLM_TARGET_DEVICE.
        local: ``cpu``, ``cu130``, ``empty``.
        cuda: nvcc's version, for cuda.

    Raises:
        SourceError: the wanted version cannot be reached, or the version logic is not understood.
    """
    wanted = f"{release}+{local}"
    arrived = ""
    for candidate in (release, wanted):
        try:
            arrived = computed_version(
                survey, device=device, cuda=cuda, scm_version=candidate, declared=release
            )
        except (Unknown, OSError, SyntaxError, ValueError) as error:
            raise SourceError(
                "The version logic in this tree's setup.py is not understood.",
                why=str(error),
                next="Choose a released version, or report the revision.",
            ) from error
        if _same(arrived, wanted):
            return candidate
    if _same(arrived, release):
        return release
    raise SourceError(
        f"This tree's setup.py cannot be brought to the version {wanted}.",
        why=f"Told {wanted!r} by setuptools-scm, it calls its wheel {arrived!r}.",
        next="Choose the version that fits the tree, or report the revision.",
    )


def missing_local(spec: CompileSpec, tree: Path) -> str:
    """The local part (``+cpu``) that setuptools has to add behind setup.py's back, or an empty string."""
    nvcc = next((c.version for c in spec.compilers if c.language == "CUDA"), None)
    try:
        arrived = computed_version(tree, device=spec.device, cuda=nvcc, scm_version=spec.scm_version)
    except (Unknown, OSError, SyntaxError, ValueError):
        # The check of the finished wheel decides.
        return ""
    base, plus, local = spec.version.partition("+")
    return f"+{local}" if plus and "+" not in arrived and _same(arrived, base) else ""


def _same(left: str, right: str) -> bool:
    try:
        return Version(left) == Version(right)
    except InvalidVersion:
        return left == right
