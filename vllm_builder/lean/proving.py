"""Prove for a release that lean headers leave its code as it is: from settings to a table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from vllm_builder import treestate
from vllm_builder.cache import Cache, Workspace
from vllm_builder.errors import SettingsError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.lean.comparing import prove_unit
from vllm_builder.lean.model import LeanProof, UnitProof
from vllm_builder.lean.units import Unit, units
from vllm_builder.stages.compile import leanheaders
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.source.model import SourceRequest
from vllm_builder.stages.vendor.model import Sources

SAMPLE = 8


def prove(
    plan: Plan,
    *,
    cache: Cache,
    workspace: Workspace,
    environ: Mapping[str, str],
    request: SourceRequest | None = None,
    externals: Sources | None = None,
    offline: bool = False,
    count: int = SAMPLE,
    patterns: Sequence[str] = (),
    emit: Emit = ignore,
) -> LeanProof:
    """Configure the plan's tree and compile units both ways, one after the other.

    Args:
        count: how many units that include a lean header; 0 for all.
        patterns: shell-style patterns of units (``csrc/moe/*``), relative to the tree; empty: any.

    Raises:
        SettingsError: the patch set takes no part in the plan, or no unit matches.
        any class of :mod:`vllm_builder.errors` from 2x on.
    """
    from vllm_builder.pipeline import prepare_tree
    from vllm_builder.stages.compile.buildenv import child_environment
    from vllm_builder.stages.compile.configure import configure
    from vllm_builder.stages.environment import prepare

    if plan.device == "empty" or not any(step.set == "lean-headers" for step in plan.patches.steps):
        raise SettingsError(
            f"Lean headers take no part in this plan of {plan.source.release} for {plan.device}.",
            why="Nothing is compiled for it."
            if plan.device == "empty"
            else "The patch set lean-headers is switched off, or is not for this release, device or torch.",
            next="Give --device cpu, or --arch for CUDA."
            if plan.device == "empty"
            else "Leave out --no-lean-headers and --without-patch lean-headers; `vllm-builder patches show "
            "lean-headers` says for which releases and torch it is.",
        )
    spec = plan.compile.model_copy(update={"compiler_cache": "off"})
    tree, log = workspace.tree(plan.digest), workspace.log(plan.digest)
    prepare_tree(plan, tree, cache, request=request, externals=externals, offline=offline, log=log, emit=emit)
    if plan.toolkit is not None and plan.toolkit.spec is not None:
        from vllm_builder.stages.toolkit import assemble

        home = Path(plan.toolkit.home).parent
        assemble(plan.toolkit.spec, home, environ, plan.environment.indexes, offline=offline, emit=emit)
    environment = prepare(plan.environment, cache.environments, environ=environ, offline=offline, emit=emit)
    with treestate.building(tree):
        commands = configure(spec, tree=tree, environment=environment, log=log, environ=environ, emit=emit)
    found = units(commands, tree.resolve(), leanheaders.include_option(tree.resolve()))
    chosen = [unit for unit in found if not patterns or any(fnmatchcase(unit.name, p) for p in patterns)]
    if not chosen:
        raise SettingsError(
            f"No unit of {plan.source.release} matches {', '.join(patterns)}."
            if found
            else f"No unit of {plan.source.release} is compiled with the lean headers on its include path.",
            next=f"Units are source files such as {found[0].name}." if found else "Report this release.",
        )
    env = child_environment(spec, environment, environ)
    room = workspace.root / "units"
    proofs = _sample(chosen, count, room, env, emit)
    return LeanProof(
        version=spec.version,
        device=spec.device,
        archs=spec.archs,
        torch=plan.build_torch.version,
        compilers=tuple(f"{c.id} {c.version}" for c in spec.compilers),
        total=len(found),
        units=tuple(proofs),
    )


def _sample(
    chosen: list[Unit], count: int, room: Path, env: Mapping[str, str], emit: Emit
) -> list[UnitProof]:
    """Units in an order that is by chance and always the same, until enough of them were touched."""
    from vllm_builder.fs import remove_tree

    proofs: list[UnitProof] = []
    touched = 0
    for unit in sorted(chosen, key=lambda one: hashlib.sha256(one.name.encode()).digest()):
        if count and touched >= count:
            break
        proof = prove_unit(unit, room, env)
        proofs.append(proof)
        touched += proof.verdict != "untouched"
        times = f", {proof.full.cpu:.1f} -> {proof.lean.cpu:.1f} s" if proof.full and proof.lean else ""
        emit(Note(stage="prove-lean", message=f"{unit.name}: {proof.verdict}{times}"))
    remove_tree(room)
    return sorted(proofs, key=lambda proof: proof.unit)
