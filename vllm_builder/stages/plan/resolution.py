"""Which torch and which toolkit go together for a release and its architectures.

Pure: everything that is known stands in the question, and nothing here looks at the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vllm_builder.errors import ArchError, BuilderError, CompilerMissing, CompilerTooOld, ContradictionError
from vllm_builder.stages.plan.archs import gpu_of, nvcc_needed, sm
from vllm_builder.stages.plan.compatibility import Compatibility, compatibility, within
from vllm_builder.stages.plan.supported import Supported

Kind = Literal["nvcc", "release", "host", "torch-arch", "no-cuda", "major", "conflict"]

_IMAGINED = ("11.8", "12.1", "12.4", "12.6", "12.8", "12.9", "13.0")
"""Toolkits that can be had, for saying what would work."""


@dataclass(frozen=True, slots=True)
class TorchOption:
    """A torch that could be compiled against. ``cuda`` is None for a build without CUDA."""

    version: str
    cuda: str | None
    origin: str
    backend: str = ""
    """The index of PyTorch's that has it, ``cu128``; empty: the configured indexes."""

    def __str__(self) -> str:
        if "+" in self.version or self.cuda is None:
            return f"torch {self.version}"
        return f"torch {self.version}+cu{self.cuda.replace('.', '')}"


@dataclass(frozen=True, slots=True)
class ToolkitOption:
    """A toolkit that could be compiled with. ``packaged`` names the cuda-toolkit that it would be made from."""

    version: str
    origin: str
    home: str = ""
    archs: tuple[str, ...] = ()
    packaged: str = ""

    def __str__(self) -> str:
        return f"nvcc {self.version} ({self.where})"

    @property
    def where(self) -> str:
        return "from the package index" if self.packaged else f"{self.origin}: {self.home}"


@dataclass(frozen=True, slots=True)
class Fallen:
    """Something that was considered and does not do."""

    what: str
    kind: Kind
    why: str
    arch: str = ""
    """The architecture that it fails for."""
    with_what: str = ""
    """The toolkit, where a torch falls out only together with it."""


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that decides.

    ``supported`` tells what the release keeps with an nvcc; ``host`` why the host compiler does not go with
    an nvcc, or None. ``torches`` and ``toolkits`` are in order of preference; ``free`` are the torches that
    would come into question if none had been asked for.
    """

    release: str
    archs: tuple[str, ...]
    torches: Sequence[TorchOption]
    toolkits: Sequence[ToolkitOption]
    supported: Callable[[str], Supported | None]
    host: Callable[[str], str | None]
    machine: str
    free: Sequence[TorchOption] = ()
    looked: Sequence[str] = ()
    """Places without a whole toolkit, in words."""
    table: Compatibility = field(default_factory=compatibility)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The choice, the pairs that would have done too, and what fell out."""

    torch: TorchOption
    toolkit: ToolkitOption
    runners_up: tuple[tuple[TorchOption, ToolkitOption], ...]
    fallen: tuple[Fallen, ...]
    kept_as: dict[str, str]
    """Asked architecture -> the one whose code serves it, where they differ."""


def resolve(question: Question) -> Outcome:
    """Choose the first torch that goes with a toolkit, and for it the nearest toolkit.

    Raises:
        CompilerMissing: there is no toolkit at all.
        ArchError: no toolkit, the release or no torch build knows an architecture; shows the chain.
        CompilerTooOld: only the host compiler is in the way.
        ContradictionError: torch and toolkit do not go together; shows the chain.
    """
    fallen: list[Fallen] = []
    toolkits = [kit for kit in question.toolkits if _keep(_of_toolkit(question, kit), fallen)]
    torches = [torch for torch in question.torches if _keep(_of_torch(question, torch), fallen)]
    pairs = []
    for torch in torches:
        near = sorted(toolkits, key=lambda kit: (bool(kit.packaged), kit.version != torch.cuda))
        pairs += [(torch, kit) for kit in near if _keep(_of_pair(question, torch, kit), fallen)]
    if not pairs:
        raise _refusal(question, fallen, bool(toolkits), bool(torches))
    torch, kit = pairs[0]
    supported = question.supported(kit.version)
    served = {arch: supported.kept_as(arch) or arch for arch in question.archs} if supported else {}
    return Outcome(
        torch=torch,
        toolkit=kit,
        runners_up=tuple(pairs[1:]),
        fallen=tuple(fallen),
        kept_as={arch: kept for arch, kept in served.items() if kept != arch},
    )


def _keep(problem: Fallen | None, fallen: list[Fallen]) -> bool:
    if problem is not None:
        fallen.append(problem)
    return problem is None


def _compiles(kit: ToolkitOption, arch: str) -> bool:
    base = arch.rstrip("af")
    if kit.archs and base not in kit.archs:
        return False
    if (kit.archs and not arch.endswith("f")) or base not in compatibility().architectures:
        # nvcc itself is the authority where it was asked; it lists no families.
        return True
    return within(nvcc_needed(arch), kit.version)


def _of_toolkit(question: Question, kit: ToolkitOption) -> Fallen | None:
    for arch in question.archs:
        if not _compiles(kit, arch):
            needed = nvcc_needed(arch)
            return Fallen(str(kit), "nvcc", f"{sm(arch)} ({gpu_of(arch)}) needs nvcc {needed}", arch)
    supported = question.supported(kit.version)
    for arch in question.archs if supported else ():
        assert supported is not None
        kept = supported.kept_as(arch)
        says = f"vLLM {question.release} with nvcc {kit.version} compiles for {', '.join(supported.archs)}"
        if kept is None:
            return Fallen(
                str(kit), "release", f"{says}, and CMake would drop {sm(arch)} without a word", arch
            )
        if not _compiles(kit, kept):
            return Fallen(
                str(kit),
                "release",
                f"{says}, so {sm(arch)} would be served by {sm(kept)}, which needs nvcc {nvcc_needed(kept)}",
                arch,
            )
    if problem := question.host(kit.version):
        return Fallen(str(kit), "host", problem)
    return None


def _of_torch(question: Question, torch: TorchOption) -> Fallen | None:
    if torch.cuda is None:
        return Fallen(str(torch), "no-cuda", f"is a build without CUDA ({torch.origin})")
    archs = question.table.archs_of_torch(torch.version, torch.cuda, question.machine)
    for arch in question.archs if archs is not None else ():
        if not _runs(arch, archs or ()):
            known = ", ".join(archs or ())
            return Fallen(
                str(torch),
                "torch-arch",
                f"its own kernels are for {known}: it cannot run on {sm(arch)}",
                arch,
            )
    return None


def _runs(arch: str, archs: Sequence[str]) -> bool:
    major, minor = (int(number) for number in arch.rstrip("af").split("."))
    return any(int(a.split(".")[0]) == major and int(a.split(".")[1]) <= minor for a in archs)


def _of_pair(question: Question, torch: TorchOption, kit: ToolkitOption) -> Fallen | None:
    assert torch.cuda is not None
    major = torch.cuda.split(".")[0]
    if kit.version.split(".")[0] != major:
        why = f"built for CUDA {torch.cuda} ({torch.origin}) -> needs nvcc {major}.x"
        return Fallen(str(torch), "major", why, with_what=str(kit))
    if conflict := question.table.conflict(torch.version, kit.version):
        return Fallen(str(torch), "conflict", conflict, with_what=str(kit))
    return None


def _refusal(
    question: Question, fallen: Sequence[Fallen], some_toolkit: bool, some_torch: bool
) -> BuilderError:
    details = [f"{what}: {why}" for what, why in in_words(fallen)]
    details += [f"not usable: {place}" for place in question.looked]
    versions = list(dict.fromkeys(kit.version for kit in question.toolkits))
    places = "; ".join(dict.fromkeys(kit.where for kit in question.toolkits))
    found = f"found {', '.join(versions)} only ({places})"
    cure = _cure(question)
    if not question.toolkits:
        return CompilerMissing(
            "There is no CUDA toolkit that could be used.",
            why=(f"Looked at: {'; '.join(question.looked)}." if question.looked else "None was found."),
            next=cure,
        )
    if not some_toolkit:
        return _no_toolkit(question, fallen, found, cure, details)
    if not some_torch:
        first = next(f for f in fallen if f.kind in ("torch-arch", "no-cuda"))
        error = ArchError if any(f.kind == "torch-arch" for f in fallen) else ContradictionError
        return error(
            f"No torch that comes into question runs on {_gpus(fallen, ('torch-arch',))}."
            if error is ArchError
            else f"{first.what} is a build without CUDA.",
            why=f"{first.what}: {first.why}.",
            next=cure,
            details=details,
        )
    pairs = [f for f in fallen if f.kind in ("major", "conflict")]
    chain = list(dict.fromkeys(f"{f.what}: {f.why}" for f in pairs))
    return ContradictionError(
        "torch and the CUDA toolkit do not go together.",
        why=f"{'; '.join(chain)}; {found}.",
        next=cure,
        details=details,
    )


def _no_toolkit(
    question: Question, fallen: Sequence[Fallen], found: str, cure: str, details: Sequence[str]
) -> BuilderError:
    of: dict[Kind, list[Fallen]] = {}
    for one in fallen:
        of.setdefault(one.kind, []).append(one)
    # The toolkit that got furthest comes first: it is the nearest to what would work.
    reasons = [one.why for kind in ("host", "release", "nvcc") for one in of.get(kind, ())]
    why = f"{'; '.join(dict.fromkeys(reasons))}; {found}."
    if "host" in of:
        return CompilerTooOld(
            "The host compiler does not go together with a CUDA toolkit that would do.",
            why=why,
            next="Choose another compiler with CC and CXX, or another toolkit with --cuda-home.",
            details=details,
        )
    if "release" in of:
        return ArchError(
            f"vLLM {question.release} does not compile for {_gpus(fallen, ('release',))} with this toolkit.",
            why=why,
            next=cure,
            details=details,
        )
    return ArchError(
        f"{_gpus(fallen, ('nvcc',))} cannot be compiled for with this toolkit.",
        why=why,
        next=cure,
        details=details,
    )


def in_words(fallen: Sequence[Fallen]) -> list[tuple[str, str]]:
    """What fell out and why; a torch that falls out with several toolkits is one entry."""
    toolkits: dict[tuple[str, str], list[str]] = {}
    for one in fallen:
        toolkits.setdefault((one.what, one.why), []).append(one.with_what)
    return [
        (what, f"{why}; found {', '.join(found)}" if any(found) else why)
        for (what, why), found in toolkits.items()
    ]


def _gpus(fallen: Sequence[Fallen], kinds: Sequence[Kind]) -> str:
    archs = dict.fromkeys(one.arch for one in fallen if one.kind in kinds)
    return ", ".join(f"{sm(arch)} ({gpu_of(arch)})" for arch in archs)


def _cure(question: Question) -> str:
    """What would work, from the table: with the torch that was asked for, else with another."""
    for torches, advice in ((question.torches, ""), (question.free, " (choose it with --torch)")):
        working: list[str] = []
        for torch in torches:
            if _of_torch(question, torch) is not None:
                continue
            for version in _IMAGINED:
                kit = ToolkitOption(version, "imagined")
                problem = _of_toolkit(question, kit)
                if (problem is None or problem.kind == "host") and _of_pair(question, torch, kit) is None:
                    packaged = ", --cuda pypi" if version in question.table.packaged_toolkits else ""
                    working.append(f"{torch} with nvcc {version}{packaged}")
        if working:
            # The nearest torch first, with its newest toolkits.
            return (
                f"Would work{advice}: {'; '.join(working[:5])}. Install such a toolkit and name it with "
                "--cuda-home."
            )
    return "Nothing that is known would work: choose another --arch or another release."
