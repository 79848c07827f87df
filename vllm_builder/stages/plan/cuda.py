"""The CUDA part of a plan: what could be compiled against and with on this machine, and the choice among it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_builder.cache import Cache
from vllm_builder.errors import CompilerMissing, CompilerTooOld, ContradictionError
from vllm_builder.events import Emit
from vllm_builder.indexes import Indexes
from vllm_builder.memo import Memo
from vllm_builder.settings.model import PYTORCH_INDEX, Settings
from vllm_builder.stages.compile.model import Compiler
from vllm_builder.stages.environment.model import Interpreter, Torch
from vllm_builder.stages.plan.archs import sm
from vllm_builder.stages.plan.compatibility import compatibility, cuda_version, within
from vllm_builder.stages.plan.model import Decision
from vllm_builder.stages.plan.release import Release
from vllm_builder.stages.plan.resolution import (
    Outcome,
    Question,
    ToolkitOption,
    TorchOption,
    in_words,
    resolve,
)
from vllm_builder.stages.plan.supported import Supported, supported_archs
from vllm_builder.stages.plan.torch import Wanted, cuda_of, marker_environment
from vllm_builder.stages.toolkit.finding import examine, find_toolkits
from vllm_builder.stages.toolkit.model import Candidate, Toolkit, ToolkitSpec


@dataclass(slots=True)
class CudaPlanner:
    """Chooses torch and toolkit for one release, in two steps.

    :meth:`choose` says what to ask the package indexes for, :meth:`confirm` looks at what they really gave.
    """

    settings: Settings
    origins: Mapping[str, str]
    release: Release
    version: str
    archs: tuple[str, ...]
    interpreter: Interpreter
    present: Torch | None
    """The torch in the person's own environment, where it counts."""
    environ: Mapping[str, str]
    memo: Memo
    pinned: ToolkitSpec | None = None
    """The packages of the toolkit, where they are known already."""
    decisions: list[Decision] = field(default_factory=list)
    _toolkits: tuple[ToolkitOption, ...] = ()
    _looked: tuple[str, ...] = ()
    _supported: dict[str, Supported | None] = field(default_factory=dict)
    _host: tuple[Compiler, ...] = ()
    _outcome: Outcome | None = None

    def choose(self) -> TorchOption | None:
        """The torch to ask for; None where only the index can tell what there is.

        Raises:
            ArchError, ContradictionError, CompilerMissing, CompilerTooOld
        """
        from vllm_builder.stages.compile.toolchain import probe_compilers

        self._host = probe_compilers("cpu", self.environ, memo=self.memo)
        self._toolkits, self._looked = self._toolkit_options()
        torches = self._torch_options()
        if torches is None:
            return None
        self._outcome = resolve(self._question(torches))
        return self._outcome.torch

    def confirm(self, torch: Torch) -> Outcome:
        """The choice for the torch that the indexes gave. They have the last word on its CUDA version.

        Raises:
            as :meth:`choose`.
        """
        found = self._outcome
        if found is None or found.torch.cuda != torch.cuda:
            found = resolve(self._question([TorchOption(torch.version, torch.cuda, torch.origin)]))
        return found

    def toolkit(self, chosen: ToolkitOption, indexes: Indexes, cache: Cache, emit: Emit) -> Toolkit:
        """The toolkit of the plan; one from packages is locked now and made later.

        Raises:
            ResolutionError, OfflineMissing
        """
        from vllm_builder.stages.toolkit import lock_toolkit, toolkit_home

        if not chosen.packaged:
            self.say("CUDA toolkit", f"{chosen.version} in {chosen.home}", chosen.origin)
            return Toolkit(home=chosen.home, version=chosen.version, origin=chosen.origin)
        spec = self.pinned or lock_toolkit(
            chosen.packaged,
            self.interpreter,
            indexes,
            environ=self.environ,
            memo=self.memo,
            offline=self.settings.offline,
            refresh=self.settings.refresh,
            emit=emit,
        )
        home = str(toolkit_home(spec, cache.toolkits))
        self.say(
            "CUDA toolkit",
            f"{chosen.version} ({spec.nvcc}), {len(spec.lock)} packages put together in {home}",
            chosen.origin,
        )
        return Toolkit(home=home, version=chosen.version, origin=chosen.origin, spec=spec)

    def compilers(self, toolkit: Toolkit) -> tuple[Compiler, ...]:
        """The host's compilers and nvcc, also of a toolkit that has yet to be made."""
        from vllm_builder.stages.compile.toolchain import probe_compilers

        if toolkit.spec is None:
            return probe_compilers("cuda", self.environ, cuda_home=toolkit.home, memo=self.memo)
        nvcc = Compiler(
            language="CUDA",
            id="NVIDIA",
            version=toolkit.spec.nvcc,
            target=f"{platform.machine()}-linux",
            path=str(Path(toolkit.home) / "bin" / "nvcc"),
        )
        return (*self._host, nvcc)

    def say(self, what: str, value: str, origin: str) -> None:
        self.decisions.append(Decision(what=what, value=value, origin=origin))

    # -- toolkits -----------------------------------------------------------------------------
    def _toolkit_options(self) -> tuple[tuple[ToolkitOption, ...], tuple[str, ...]]:
        named = self._named_toolkit()
        if self.pinned is not None:
            version = ".".join(self.pinned.nvcc.split(".")[:2])
            return (ToolkitOption(version, self._packaged_origin(), packaged=self.pinned.release),), ()
        packaged = tuple(
            ToolkitOption(version, self._packaged_origin(), packaged=release)
            for version, release in compatibility().packaged_toolkits.items()
        )
        if named is None and self.settings.cuda == "pypi":
            return packaged, ()
        candidates = [named] if named else list(find_toolkits(self.environ, self.memo))
        if candidates and candidates[0].named:
            first = candidates[0]
            if first.verdict != "whole":
                raise CompilerMissing(
                    f"{first.origin} does not name a whole CUDA toolkit.",
                    why=f"{first.sentence()}. A toolkit that was named is used or refused, never passed over.",
                    next=f"Point {first.origin} at a whole CUDA toolkit, or leave it out.",
                )
            return (_option(first),), ()
        whole = tuple(_option(c) for c in candidates if c.verdict == "whole")
        looked = tuple(c.sentence() for c in candidates if c.verdict != "whole")
        for sentence in looked:
            self.say("toolkit passed over", sentence, "not whole")
        return (*whole, *(packaged if self.settings.cuda == "auto" else ())), looked

    def _named_toolkit(self) -> Candidate | None:
        """The toolkit that an option, a settings file or a recipe names."""
        homes = {}
        if self.settings.cuda_home is not None:
            homes["cuda_home"] = self.settings.cuda_home
        if self.settings.cuda not in ("auto", "pypi", "system"):
            homes["cuda"] = Path(self.settings.cuda)
        absolute = {name: path.expanduser().absolute() for name, path in homes.items()}
        if (self.settings.cuda == "pypi" and absolute) or len(set(absolute.values())) > 1:
            raise ContradictionError(
                "--cuda and --cuda-home name different toolkits.",
                why=f"--cuda {self.settings.cuda} ({self.origins['cuda']}) -> not "
                f"--cuda-home {self.settings.cuda_home} ({self.origins['cuda_home']}).",
                next="Leave out one of the two.",
            )
        for name, path in absolute.items():
            origin = f"--{name.replace('_', '-')} ({self.origins[name]})"
            return examine(path / "bin" / "nvcc", origin, self.memo, environ=self.environ, named=True)
        return None

    def _packaged_origin(self) -> str:
        if self.settings.cuda == "pypi":
            return f"--cuda pypi ({self.origins['cuda']})"
        return "no toolkit of this machine fits, and this one can be had from the package index"

    # -- torch --------------------------------------------------------------------------------
    def _torch_options(self) -> list[TorchOption] | None:
        choice, index = self.settings.torch, self.settings.torch_index
        if self.present is not None and choice in ("auto", "existing"):
            return [TorchOption(self.present.version, self.present.cuda, self.present.origin)]
        if index is not None and (not PYTORCH_INDEX.fullmatch(index) or not index.startswith("cu")):
            return None
        if choice not in ("auto", "existing"):
            found = self._builds(choice, f"--torch {choice} ({self.origins['torch']})")
        else:
            found = self._free()
        if not found:
            return None
        if index is not None:
            at_index = [o for o in found if o.cuda == cuda_version(index)]
            if not at_index:
                raise ContradictionError(
                    f"There is no {found[0].version.split('+')[0]} of torch for {index}.",
                    why=f"{found[0]} is wanted ({found[0].origin}) -> it exists for "
                    f"{', '.join(dict.fromkeys(str(o).partition('+')[2] for o in found))}; --torch-index {index} "
                    f"({self.origins['torch_index']}).",
                    next="Choose another with --torch or --torch-index.",
                )
            found = [
                TorchOption(o.version, o.cuda, f"{o.origin}; --torch-index {index}", index) for o in at_index
            ]
        return found

    def _free(self) -> list[TorchOption]:
        """What comes into question where nothing was asked for: the pin, then what the table knows besides."""
        pin = self.release.torch_pin("cuda", marker_environment(self.interpreter))
        if pin is None:
            return []
        found = self._builds(pin[0], f"the release's own pin in {pin[1]}")
        if not found:
            return []
        for tried in compatibility().also_tried:
            if within(tried.releases, self.version):
                why = f"the pin does not go with {', '.join(sm(a) for a in self.archs)} here; {tried.source}"
                found += [o for o in self._builds(tried.torch, why) if _build(o) in tried.builds]
        return found

    def _builds(self, version: str, origin: str) -> list[TorchOption]:
        """The builds of a torch version, the default index's first; empty where the table knows none."""
        if "+" in version:
            cuda = cuda_of(version, ())
            return [TorchOption(version, cuda, origin)]
        builds = compatibility().torch_builds(version)
        if builds is None:
            return []
        default = TorchOption(version, cuda_version(builds.default), origin)
        others = [
            TorchOption(version, cuda_version(b), f"{origin}; from PyTorch's index {b}", b)
            for b in builds.builds
            if b != builds.default
        ]
        # Of the others the newest CUDA first: it knows the most GPUs.
        return [default, *reversed(others)]

    # -- the question -------------------------------------------------------------------------
    def _question(self, torches: Sequence[TorchOption]) -> Question:
        return Question(
            release=self.version,
            archs=self.archs,
            torches=torches,
            toolkits=self._toolkits,
            supported=self._supported_by,
            host=self._host_problem,
            machine=platform.machine(),
            free=self._free(),
            looked=self._looked,
        )

    def _supported_by(self, nvcc: str) -> Supported | None:
        if nvcc not in self._supported:
            self._supported[nvcc] = supported_archs(self.release.folder, nvcc)
        return self._supported[nvcc]

    def _host_problem(self, nvcc: str) -> str | None:
        from vllm_builder.stages.compile.toolchain import check_compilers

        imagined = Compiler(language="CUDA", id="NVIDIA", version=nvcc, target="", path="nvcc")
        try:
            check_compilers((*self._host, imagined), self.version, "cuda", platform.machine())
        except CompilerTooOld as problem:
            return problem.what.rstrip(".")
        return None

    def explain(self, found: Outcome) -> None:
        """Say what else there was."""
        for arch, kept in found.kept_as.items():
            self.say(
                "architecture", f"{sm(arch)} is served by code for {sm(kept)}", "the release's CMake files"
            )
        for torch, kit in found.runners_up:
            self.say(
                "runner-up",
                f"{torch} with {kit}",
                "would do too, and comes after the choice",
            )
        for what, why in in_words(found.fallen):
            self.say("fell out", what, why)


def _option(found: Candidate) -> ToolkitOption:
    return ToolkitOption(found.version, found.origin, home=found.home, archs=found.archs)


def _build(option: TorchOption) -> str:
    return f"cu{(option.cuda or '').replace('.', '')}"


def torch_to_ask(planner: CudaPlanner, chosen: TorchOption | None) -> tuple[Wanted | None, Settings]:
    """What to ask the package indexes for, and the settings to ask with."""
    if chosen is None or planner.present is not None:
        return None, planner.settings
    requirement = f"torch=={chosen.version}"
    if "+" not in chosen.version and not chosen.backend:
        # Find-links may hold a build without CUDA, and any build tag sorts above none.
        requirement += f",!={chosen.version}+cpu"
    index = chosen.backend or planner.settings.torch_index
    return Wanted(requirement, chosen.origin), planner.settings.model_copy(update={"torch_index": index})
