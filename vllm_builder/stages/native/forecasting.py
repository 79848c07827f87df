"""Will a plan's native layer be compiled, or is there one? Said before anything is begun."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vllm_builder import treestate
from vllm_builder.cache import Cache
from vllm_builder.errors import BuilderError
from vllm_builder.fs import make_dir
from vllm_builder.memo import Memo
from vllm_builder.model import Model, digest
from vllm_builder.stages.native.inputs import (
    NativeFiles,
    NativeInputs,
    has_native_layer,
    native_files,
    native_inputs,
)
from vllm_builder.stages.native.layers import Layers

if TYPE_CHECKING:
    from vllm_builder.stages.plan.model import Plan

_LAYOUT = 1
"""Of what is remembered of a tree; raised when other files count as native."""
_NAMED = 3


class Forecast(Model):
    """``digest`` is the layer's; empty where it is not known yet. ``reason`` is for a person."""

    outcome: Literal["reuse", "compile", "unknown", "none"]
    digest: str = ""
    reason: str = ""
    layer: dict[str, Any] = {}
    """The layer that serves, or the nearest: ``digest``, ``version``, ``created``."""
    differing: tuple[str, ...] = ()
    """Inputs that differ from the nearest layer's, all of them."""

    def line(self) -> str:
        return f"{self.outcome}{', ' if self.reason else ''}{self.reason}"


def forecast(plan: Plan, cache: Cache, *, reuse: bool = True) -> Forecast:
    """Say what a build of the plan would do about its native layer; nothing is fetched for that.

    The first time for a source and its patches it is unpacked and patched in a temporary folder, if it is in the
    cache; what that shows is remembered.

    Raises:
        BuilderError: the store cannot be read.
    """
    if not has_native_layer(plan):
        why = "only some extensions are compiled" if plan.compile.extensions else "nothing is compiled"
        return Forecast(outcome="none", reason=why)
    found = known_files(plan, cache) or _looked_up(plan, cache)
    if found is None:
        return Forecast(outcome="unknown", reason="decided once the source is here")
    return decide(native_inputs(plan, found), Layers(cache), reuse=reuse)


def decide(inputs: NativeInputs, layers: Layers, *, reuse: bool = True) -> Forecast:
    """Reuse or compile, and why."""
    known = {entry.digest: entry for entry in layers.entries()}
    if not reuse:
        return Forecast(outcome="compile", digest=inputs.digest, reason="because of --no-reuse")
    if (entry := known.get(inputs.digest)) is not None:
        facts = {"digest": entry.digest, "version": entry.record.version, "created": entry.record.created}
        why = f"{entry.digest[:12]}, compiled for {entry.record.version} on {entry.record.created[:10]}"
        return Forecast(outcome="reuse", digest=inputs.digest, reason=why, layer=facts)
    nearest: tuple[tuple[bool, int], Any, tuple[str, ...]] | None = None
    mine = inputs.as_dict()
    for entry in known.values():
        theirs = entry.record.native.get("inputs")
        if not isinstance(theirs, Mapping):
            continue
        differing = differences(mine, theirs)
        rank = (entry.record.device != inputs.device, len(differing))
        if nearest is None or rank < nearest[0]:
            nearest = (rank, entry, differing)
    if nearest is None:
        return Forecast(
            outcome="compile", digest=inputs.digest, reason="because there is no native layer yet"
        )
    _, entry, differing = nearest
    shown = "; ".join(differing[:_NAMED])
    more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    facts = {"digest": entry.digest, "version": entry.record.version, "created": entry.record.created}
    why = f"because {shown}{more} (nearest: {entry.digest[:12]}, {entry.record.version})"
    return Forecast(outcome="compile", digest=inputs.digest, reason=why, layer=facts, differing=differing)


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """Name each input that differs: the toolchain's first, then files."""
    lines = []
    rest = [{k: v for k, v in side.items() if k != "files"} for side in (mine, theirs)]
    here, there = (_leaves(side) for side in rest)
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            if name.startswith("externals."):
                lines.append(f"{name} differs")
            else:
                lines.append(f"{name} is {here.get(name) or 'none'}, not {there.get(name) or 'none'}")
    ours, others = mine["files"], theirs.get("files") or {}
    for path in sorted(ours.keys() | others.keys()):
        if ours.get(path) != others.get(path):
            word = "is new" if path not in others else "is gone" if path not in ours else "differs"
            lines.append(f"{path} {word}")
    return tuple(lines)


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, item in value.items():
            found |= _leaves(item, f"{name}.{key}" if name else str(key))
        return found
    return {name: ", ".join(map(str, value)) if isinstance(value, list | tuple) else value}


def known_files(plan: Plan, cache: Cache) -> NativeFiles | None:
    """What is remembered of the plan's source with its patches."""
    answer = Memo(cache.memo, "native").get(_question(plan))
    try:
        return None if answer is None else NativeFiles.model_validate(answer)
    except ValueError:
        return None


def remember(plan: Plan, cache: Cache, found: NativeFiles) -> None:
    Memo(cache.memo, "native").put(_question(plan), found.model_dump(mode="json"))


def _question(plan: Plan) -> dict[str, Any]:
    return {
        "layout": _LAYOUT,
        "source": plan.source.identity,
        "patches": digest(plan.patches),
        "externals": digest(plan.externals),
    }


def _looked_up(plan: Plan, cache: Cache) -> NativeFiles | None:
    """Made of the source in the cache; None where it is not there, or patches want the external sources too."""
    from vllm_builder.stages.patch import apply
    from vllm_builder.stages.source import fetch

    folder = make_dir(cache.root / "tmp")
    with tempfile.TemporaryDirectory(prefix="native-", dir=folder) as temporary:
        tree = Path(temporary) / "tree"
        try:
            fetch(plan.source, tree, cache, offline=True)
            report = apply(plan.patches, tree)
        except BuilderError:
            return None
        found = native_files(tree, treestate.listing(tree), report.changed)
    remember(plan, cache, found)
    return found
