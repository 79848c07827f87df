"""What a release's own CMake files compile for, read by their grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

_VARIABLE = "CUDA_SUPPORTED_ARCHS"
_NVCC = "CMAKE_CUDA_COMPILER_VERSION"
_COMPARISONS = {
    "VERSION_GREATER_EQUAL": lambda a, b: a >= b,
    "VERSION_GREATER": lambda a, b: a > b,
    "VERSION_LESS": lambda a, b: a < b,
    "VERSION_LESS_EQUAL": lambda a, b: a <= b,
    "VERSION_EQUAL": lambda a, b: a == b,
}


@dataclass(frozen=True, slots=True)
class Supported:
    """The architectures that a release keeps with one nvcc."""

    archs: tuple[str, ...]
    loose: bool
    """A later architecture is served by the code of an earlier one with the same major version."""

    def kept_as(self, arch: str) -> str | None:
        """What CMake makes of an asked architecture: itself, an earlier one, or None where it is dropped.

        This is what the release's ``cuda_archs_loose_intersection`` does with the whole list: the highest
        supported one that is not above it, with the same major version. Trees from before 0.6.3 keep only
        what stands in the list literally.
        """
        if not self.loose:
            return arch if arch in self.archs else None
        base = arch.rstrip("af")
        major = base.split(".")[0]
        lower = [
            known
            for known in self.archs
            if known.split(".")[0] == major and Version(known.rstrip("af")) <= Version(base)
        ]
        if not lower:
            return None
        best = max(lower, key=lambda known: Version(known.rstrip("af")))
        return arch if best.rstrip("af") == base else best


def supported_archs(folder: Path, nvcc: str) -> Supported | None:
    """The architectures that the release at ``folder`` keeps when it is compiled with this nvcc.

    Args:
        folder: a tree, or the small files of one.
        nvcc: ``13.0``.

    Returns:
        None where the release says nothing that can be read: no list, or under a condition that is not
        about nvcc's version.
    """
    from vllm_builder.stages.patch.cmake import CMakeFile

    path = folder / "CMakeLists.txt"
    if not path.is_file():
        return None
    file = CMakeFile(path.read_bytes())
    loose = bool(file.commands("cuda_archs_loose_intersection", ("CUDA_ARCHS",)))
    for command in file.commands("set", (_VARIABLE,)):
        holds = [_holds(condition, nvcc) for condition in command.conditions]
        if None in holds:
            return None
        # The branches of one `if` stand in order, so the first one that holds is the one that is taken.
        if all(holds):
            words = [word for value in command.values[1:] for word in value.split(";")]
            return Supported(tuple(w for w in words if re.fullmatch(r"\d+\.\d[af]?", w)), loose)
    return None


def _holds(condition: str, nvcc: str) -> bool | None:
    """Whether a condition over nvcc's version holds; None where it is about something else."""
    if condition.startswith("NOT "):
        found = _holds(condition[4:], nvcc)
        return None if found is None else not found
    result = True
    for term in condition.split(" AND "):
        words = term.strip("() ").split()
        if words == ["DEFINED", _NVCC]:
            continue
        if len(words) == 3 and words[0].strip('"${}') == _NVCC and words[1] in _COMPARISONS:
            result = result and _COMPARISONS[words[1]](Version(nvcc), Version(words[2]))
        else:
            return None
    return result
