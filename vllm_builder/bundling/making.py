"""Making a bundle: plan, gather what the plan needs, write it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vllm_builder import __version__
from vllm_builder.bundling.collecting import Collected
from vllm_builder.bundling.model import DECIDES, LOCK_FILE, PATCHES, WHEELS, Manifest
from vllm_builder.bundling.writing import check_output, listed, write_archive
from vllm_builder.cache import Cache
from vllm_builder.errors import BundleError, SettingsError
from vllm_builder.events import Emit, Note, StageFinished, StageStarted, ignore
from vllm_builder.fs import make_dir
from vllm_builder.indexes import redact
from vllm_builder.model import Model
from vllm_builder.settings.layers import Layers
from vllm_builder.settings.model import Settings
from vllm_builder.stages.plan.make import make_plan
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.plan.steps import default_cache, source_request

_KINDS: Final = {
    "source": "release",
    "git": "git objects",
    "externals": "external sources",
    PATCHES: "patch sets",
    WHEELS: "wheels",
    LOCK_FILE: "lock file of external sources",
}


class Part(Model):
    """Files of one kind."""

    kind: str
    files: int
    size: int


class Bundle(Model):
    """A bundle that was written."""

    path: Path
    size: int
    sha256: str
    digest: str
    """Of the plan."""
    version: str
    """Of the wheel."""
    parts: tuple[Part, ...]
    needs: tuple[str, ...]
    """What a machine has to have besides, in words."""
    seconds: float


def make_bundle(layers: Layers, output: Path, *, environ: Mapping[str, str], emit: Emit = ignore) -> Bundle:
    """Write all that the plan of some settings needs into one archive.

    Nothing appears under the archive's name before all of it is written.

    Raises:
        NotWritable: there is a file of that name already.
        BundleError: something cannot be put into a bundle.
        vllm_builder.errors.BuilderError: as for a plan and a build.
    """
    started = time.monotonic()
    output = output.expanduser().absolute()
    check_output(output)
    if layers.resolve().settings.bundle is not None:
        raise SettingsError("A bundle cannot be made from a bundle.", next="Copy the file instead.")
    plan, settings = make_plan(layers, environ=environ, emit=emit, portable=True)
    emit(StageStarted(stage="bundle", title="Bundle"))
    _check(plan)
    cache = default_cache(settings)
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=make_dir(cache.bundles)))
    try:
        collected = Collected(scratch, cache, emit, settings.offline)
        manifest = _gather(plan, settings, layers, collected, cache, environ, emit)
        raw = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
        sha256 = write_archive(output, raw.encode(), manifest.files, collected.files, emit)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = round(time.monotonic() - started, 3)
    size = output.stat().st_size
    emit(
        StageFinished(
            stage="bundle", seconds=seconds, summary=f"{len(manifest.files)} files in {output.name}"
        )
    )
    return Bundle(
        path=output,
        size=size,
        sha256=sha256,
        digest=plan.digest,
        version=plan.compile.version,
        parts=_parts(manifest),
        needs=manifest.needs,
        seconds=seconds,
    )


def _check(plan: Plan) -> None:
    """What would have to come along and cannot."""
    if "CMAKE_TOOLCHAIN_FILE" in plan.folders:
        raise BundleError(
            "CMAKE_TOOLCHAIN_FILE names a file of this machine.",
            why="It decides what is compiled, and is not put into a bundle.",
            next="Unset it, or set its choices with CC, CXX and CMAKE_ARGS.",
        )
    if plan.folders:
        name = sorted(plan.folders)[0]
        raise BundleError(
            f"{name} names a folder of this machine.",
            why="An external source that a variable names is not put into the tree, nor into a bundle.",
            next=f"Unset {name}; to take that source from the folder, give [externals.NAME] with path = "
            "in vllm-builder.toml.",
        )


def _gather(
    plan: Plan,
    settings: Settings,
    layers: Layers,
    collected: Collected,
    cache: Cache,
    environ: Mapping[str, str],
    emit: Emit,
) -> Manifest:
    from vllm_builder.bundling.wheels import wheels_of
    from vllm_builder.indexes import read_indexes
    from vllm_builder.resources import shipped
    from vllm_builder.stages.patch import load
    from vllm_builder.stages.vendor import write_lock

    spec = plan.environment
    source_file = collected.add_source(plan.source, source_request(settings, read_indexes(environ)))
    if plan.externals is not None:
        collected.add_externals(plan.externals, settings.externals)
        write_lock(plan.externals, collected.scratch / LOCK_FILE)
        collected.add(LOCK_FILE, collected.scratch / LOCK_FILE)
    for name, patch_set in load((shipped("patches"), *(p.expanduser() for p in settings.patches))).items():
        collected.add(f"{PATCHES}/{name}.toml", Path(patch_set.path))
    toolkit = plan.toolkit.spec if plan.toolkit else None
    wheels = wheels_of(
        spec.lock, spec.python, spec.indexes, cache,
        environ=environ, torch_backend=spec.torch_backend, offline=settings.offline, emit=emit,
    )  # fmt: skip
    if toolkit is not None:
        wheels += wheels_of(
            toolkit.lock, spec.python, read_indexes(environ), cache,
            environ=environ, offline=settings.offline, emit=emit,
        )  # fmt: skip
    for wheel in wheels:
        collected.add(f"{WHEELS}/{wheel.name}", wheel)
    _warn(plan, emit)
    return Manifest(
        builder=__version__,
        digest=plan.digest,
        inputs=plan.as_dict()["inputs"],
        version=plan.compile.version,
        settings=_plain_settings(settings),
        recipe=layers.recipe.model_copy(update={"path": None}) if layers.recipe else None,
        recipe_name=layers.recipe_name,
        device=plan.device,
        archs=plan.compile.archs,
        variables=dict(plan.compile.variables),
        platform=plan.platform,
        python_tag=spec.python.tag,
        # Where it was found says nothing to another machine, and may be a folder of this one.
        source=plan.source.model_copy(update={"location": ""}),
        source_file=source_file,
        packs=tuple(collected.packs),
        supplies=tuple(collected.supplies.values()),
        lock=spec.lock,
        build_torch=plan.build_torch,
        torch_from="machine" if spec.overlay else "bundle",
        toolkit=toolkit,
        toolkit_from="none" if plan.toolkit is None else "machine" if toolkit is None else "bundle",
        needs=_needs(plan),
        files=listed(collected.files),
    )


def _plain_settings(settings: Settings) -> dict[str, object]:
    """What was asked for, without credentials; folders only as far as they were said."""
    found = settings.model_dump(mode="json", include=set(DECIDES))
    for name in ("git_url", "torch_index"):
        found[name] = redact(found[name]) if found[name] else None
    for source in found["externals"].values():
        source["git"] = redact(source["git"]) if source["git"] else None
    return found


def _needs(plan: Plan) -> tuple[str, ...]:
    python = plan.environment.python
    needs = [f"{plan.platform}, and Python {'.'.join(python.version.split('.')[:2])} ({python.tag})"]
    host = {f"{c.id} {c.version}" for c in plan.compile.compilers if c.language != "CUDA"}
    if host:
        needs.append(f"C and C++ compilers ({', '.join(sorted(host))} for the same plan)")
    if plan.source.kind == "git" or plan.externals is not None:
        needs.append("git")
    if plan.environment.overlay:
        needs.append(f"torch {plan.build_torch.version} in that Python's environment (--torch existing)")
    if plan.toolkit is not None and plan.toolkit.spec is None:
        needs.append(f"a CUDA toolkit {plan.toolkit.version}")
    if plan.rust not in (None, "absent"):
        needs.append(f"{plan.rust}, and the crates of the Rust part in cargo's own cache")
    return tuple(needs)


def _warn(plan: Plan, emit: Emit) -> None:
    if plan.rust not in (None, "absent"):
        emit(
            Note(
                stage="bundle",
                level="warning",
                message="The crates of the release's Rust part are not in the bundle: cargo has to have them.",
            )
        )
    for name, value in plan.compile.variables.items():
        if value.startswith("/") and Path(value.split(":")[0]).exists():
            emit(
                Note(
                    stage="bundle",
                    level="warning",
                    message=f"{name}={value} names something of this machine, which is not in the bundle.",
                )
            )


def _parts(manifest: Manifest) -> tuple[Part, ...]:
    found: dict[str, list[int]] = {}
    for file in manifest.files:
        found.setdefault(_KINDS[file.path.split("/")[0]], []).append(file.size)
    return tuple(Part(kind=kind, files=len(sizes), size=sum(sizes)) for kind, sizes in found.items())
