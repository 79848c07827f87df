"""The libraries that a wheel's own ones find when they are loaded: torch's, CUDA's, the driver's and the system's."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

from vllm_builder.binary.model import Library
from vllm_builder.stages.verify.exports import Provider, Rule, TorchBuild, provider_of, rule_for

_LINE: Final = re.compile(r"\s*(\S+) \(([^)]*)\) => (\S+)")
_LOADER_WORDS: Final = {"x86_64": "x86-64", "aarch64": "AArch64"}
TORCHS_OWN: Final = re.compile(r"lib(torch|c10|caffe2|shm)[\w.+-]*")


@dataclass(frozen=True, slots=True)
class Closure:
    """Everything that is loaded with a library, by its NEEDED entries and theirs."""

    providers: tuple[Provider, ...]
    by_name: Mapping[str, Rule]
    """Libraries that are not at hand, of which it is known what they may define."""
    missing: tuple[str, ...]
    """Libraries of which nothing is known."""

    def defines(self, symbol: str) -> bool:
        return any(symbol in provider.names for provider in self.providers)

    def may_define(self, symbol: str) -> str:
        """The library that is not at hand and defines such names; empty where there is none."""
        return next((name for name, rule in self.by_name.items() if rule.names.fullmatch(symbol)), "")


@dataclass
class Surroundings:
    """Where libraries are looked for, in the loader's order as far as a wheel can know it."""

    machine: str
    torch: TorchBuild | None
    own: Mapping[str, Provider] = field(default_factory=dict)
    """Libraries of the wheel itself by file name and soname."""
    _known: dict[str, Provider | None] = field(default_factory=dict)

    def find(self, soname: str) -> Provider | None:
        if soname not in self._known:
            self._known[soname] = self._find(soname)
        return self._known[soname]

    def _find(self, soname: str) -> Provider | None:
        if soname in self.own:
            return self.own[soname]
        if self.torch is not None:
            if soname in self.torch.libraries:
                return self.torch.libraries[soname]
            for folder in self.torch.folders:
                if (folder / soname).is_file() and (found := provider_of(folder / soname)):
                    return found
        rule = rule_for(soname)
        # What the driver and CUDA bring is the target's, not this machine's (which may have a stub of it).
        if (rule is not None and rule.origin != "system") or TORCHS_OWN.fullmatch(soname):
            return None
        path = loader_paths(self.machine).get(soname)
        return provider_of(Path(path)) if path else None

    def closure(self, needed: Iterable[str]) -> Closure:
        """Breadth-first over NEEDED, as the loader does it."""
        queue = list(dict.fromkeys(needed))
        providers: list[Provider] = []
        by_name: dict[str, Rule] = {}
        missing: list[str] = []
        for soname in queue:  # grows while it is walked
            found = self.find(soname)
            if found is not None:
                providers.append(found)
                queue.extend(name for name in found.needed if name not in queue)
            elif rule := rule_for(soname):
                by_name[soname] = rule
            else:
                missing.append(soname)
        return Closure(tuple(providers), by_name, tuple(missing))


def providers_of(parts: Iterable[tuple[Library, frozenset[str]]]) -> dict[str, Provider]:
    """The wheel's own libraries as providers, by file name and by soname."""
    found = {}
    for library, names in parts:
        file = PurePosixPath(library.name).name
        provider = Provider(library.soname or file, names, library.needed, library.name)
        found[file] = provider
        if library.soname:
            found.setdefault(library.soname, provider)
    return found


@cache
def loader_paths(machine: str) -> Mapping[str, str]:
    """What this machine's loader finds by soname; nothing where the machine is of another kind."""
    if platform.machine() != machine:
        return {}
    for command in ("ldconfig", "/sbin/ldconfig"):
        try:
            run = subprocess.run([command, "-p"], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        found: dict[str, str] = {}
        for line in run.stdout.splitlines():
            match = _LINE.match(line)
            if match and _LOADER_WORDS.get(machine, "") in match[2]:
                found.setdefault(match[1], match[3])
        if found:
            return found
    return {}
