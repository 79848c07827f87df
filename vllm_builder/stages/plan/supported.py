"""What a release's own CMake files compile for, read by their grammar."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

_VARIABLE = "CUDA_SUPPORTED_ARCHS"
_TARGETS = ("define_gpu_extension_target", "define_extension_target")
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
    families: bool = True
    """The release's CMake keeps the suffix f; many take only the number and perhaps an a out of nvcc's flags."""

    def kept_as(self, arch: str) -> str | None:
        """What CMake makes of an asked architecture: itself, an earlier one, or None where it is dropped.

        This is what the release's ``cuda_archs_loose_intersection`` does with the whole list: the highest
        supported one that is not above it, with the same major version. Trees from before 0.6.3 keep only
        what stands in the list literally.
        """
        if arch.endswith("f") and not self.families:
            return None
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
            archs = tuple(w for w in words if re.fullmatch(r"\d+\.\d[af]?", w))
            return Supported(archs, loose, _keeps_families(folder))
    return None


def _keeps_families(folder: Path) -> bool:
    """Whether the release's CMake reads ``100f`` out of nvcc's flags (extract_unique_cuda_archs_ascending)."""
    try:
        text = (folder / "cmake" / "utils.cmake").read_text("utf-8", "replace")
    except OSError:
        return True
    return r"compute_\([0-9]+a?\)" not in text


def kernel_lists(folder: Path) -> tuple[str, ...]:
    """The lists of architectures that the release's CMake files intersect with the requested ones for single kernels.

    Returns:
        Each as it is written, ``8.0;8.6;8.9`` or ``8.0+PTX``, once and sorted; whatever condition it stands under.
    """
    from vllm_builder.stages.patch.cmake import CMakeFile

    found = set()
    for path in (folder / "CMakeLists.txt", *sorted((folder / "cmake").glob("**/*.cmake"))):
        if not path.is_file():
            continue
        for command in CMakeFile(path.read_bytes()).commands("cuda_archs_loose_intersection"):
            if len(command.values) > 1:
                codes = [code for code in command.values[1].split(";") if code]
                if codes and all(re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", code) for code in codes):
                    found.add(";".join(codes))
    return tuple(sorted(found))


def guarded_extensions(folder: Path) -> dict[str, tuple[str, ...]]:
    """Extension modules that the release's CMake makes only where one of their architectures was asked for.

    Returns:
        Name -> those architectures. Modules of which they cannot be read for certain are not in it.
    """
    from vllm_builder.stages.patch.cmake import CMakeFile

    found: dict[str, tuple[str, ...]] = {}
    unsure: set[str] = set()
    for path in (folder / "CMakeLists.txt", *sorted((folder / "cmake").glob("**/*.cmake"))):
        if not path.is_file():
            continue
        file = CMakeFile(path.read_bytes())
        # All that a variable is ever set to: more than it holds at one place, so that nothing is called dead too soon.
        lists: dict[str, set[str]] = {}
        for command in file.commands():
            words = (
                command.values[1:]
                if command.name == "list" and command.values[:1] == ("APPEND",)
                else command.values
            )
            if command.name in ("set", "list", "cuda_archs_loose_intersection") and len(words) > 1:
                texts = words[1:2] if command.name == "cuda_archs_loose_intersection" else words[1:]
                lists.setdefault(words[0], set()).update(code for text in texts for code in text.split(";"))
        for command in file.commands():
            if command.name not in _TARGETS or not command.values:
                continue
            terms = {term for text in command.conditions for term in text.split(" AND ")}
            codes = _flat({code for term in terms for code in lists.get(term, ())}, lists)
            if not codes or not all(re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", code) for code in codes):
                unsure.add(command.values[0])
            else:
                found[command.values[0]] = (*found.get(command.values[0], ()), *codes)
    return {name: codes for name, codes in found.items() if name not in unsure}


def _flat(codes: Collection[str], lists: Mapping[str, Collection[str]], depth: int = 4) -> tuple[str, ...]:
    """With ``${NAME}`` replaced by what that variable is set to."""
    found: set[str] = set()
    for code in codes:
        name = re.fullmatch(r"\$\{(\w+)\}", code)
        inside = lists.get(name[1]) if name and depth else None
        found.update(_flat(inside, lists, depth - 1) if inside else (code,))
    return tuple(sorted(found - {""}))


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
