"""Planning with a bundle: the same plan again, on a machine that can ask nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from vllm_builder import __version__
from vllm_builder.bundling.collecting import supplied
from vllm_builder.bundling.model import DECIDES, LOCK_FILE, PATCHES, WHEELS, Manifest
from vllm_builder.bundling.reading import Opened, open_bundle
from vllm_builder.errors import BundleError, ContradictionError, PatchSetError, SettingsError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.indexes import Indexes
from vllm_builder.settings.layers import Layers
from vllm_builder.settings.model import Settings
from vllm_builder.stages.plan.archs import parse_archs
from vllm_builder.stages.plan.explain import Difference, differences
from vllm_builder.stages.plan.make import make_plan, plan_platform
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.plan.pins import Pins
from vllm_builder.stages.plan.steps import default_cache
from vllm_builder.stages.source.versions import parse_release

_MACHINES_OWN: Final = {"cuda", "cuda_home"}
_SUGGESTED: Final = {"compiler_cache"}
_OPTIONS: Final = {"parameters": "parameter", "variables": "variable", "externals": "external"}
_AS_ASKED: Final = (
    *("version", "pin_torch", "build_type", "keep_dead", "lean_headers", "parameters", "extensions"),
    *("with_patch", "without_patch"),
)


def plan_with(layers: Layers, *, environ: Mapping[str, str], emit: Emit = ignore) -> tuple[Plan, Settings]:
    """As :func:`~vllm_builder.stages.plan.make.make_plan`, for settings that name a bundle.

    What is the machine's own (Python, compilers, headers, folders) is found here; everything else is the
    bundle's. What the bundle decides counts before the environment and files, as if it were said on the command
    line; something else that is said there is an error. No network is touched.

    Raises:
        ContradictionError: the command line says something else than the bundle.
        BundleError: the plan would not be the bundle's, and ``allow_differences`` is not set.
        vllm_builder.errors.BuilderError: as for a plan.
    """
    settings = layers.resolve().settings
    assert settings.bundle is not None
    file = settings.bundle.expanduser().absolute()
    if settings.refresh:
        raise ContradictionError(
            "--refresh asks the network, and --bundle is for a machine without one.",
            next="Leave out one of the two.",
        )
    opened = open_bundle(file, default_cache(settings), emit)
    manifest = opened.manifest
    if manifest.platform != plan_platform():
        raise BundleError(
            f"{file.name} is for {manifest.platform}, and this machine is {plan_platform()}.",
            why="The packages in it cannot be installed here.",
            next="Have a bundle made on a machine like this one.",
        )
    _agree(layers, opened)
    layers.fixed = _fixed(layers, opened)
    layers.fixed_origin = f"the bundle {file.name}"
    layers.recipe, layers.recipe_name = manifest.recipe, manifest.recipe_name
    try:
        plan, settings = make_plan(layers, environ=environ, emit=emit, pins=_pins(opened))
    except (SettingsError, PatchSetError) as error:
        asked = manifest.asked
        if not (isinstance(error, PatchSetError) or asked.extensions or asked.parameters):
            raise
        # Patch sets, their parameters and the extensions are the bundle's to say.
        raise BundleError(
            f"What the bundle {file.name} says cannot be planned: {error.what}",
            why=error.why,
            next="Have the bundle made again.",
            details=error.details,
        ) from error
    _compare(plan, opened, settings, emit)
    return plan, settings


def _pins(opened: Opened) -> Pins:
    manifest, origin = opened.manifest, f"the bundle {opened.file.name}"
    place = opened.place(manifest.source_file)
    if manifest.source.kind == "tree":
        place = opened.folder / "source-tree"
    wheels = Indexes(
        no_index=True, find_links=(str(opened.folder / WHEELS),), origins=(f"find-links: {origin}",)
    )
    return Pins(
        origin=origin,
        source=manifest.source.model_copy(update={"location": str(place), "reason": f"from {origin}"}),
        patches=opened.folder / PATCHES,
        python_tag=manifest.python_tag,
        lock=manifest.lock,
        torch=manifest.build_torch.model_copy(update={"origin": origin})
        if manifest.torch_from == "bundle"
        else None,
        toolkit=manifest.toolkit,
        indexes=wheels,
    )


def _fixed(layers: Layers, opened: Opened) -> dict[str, Any]:
    """The settings that a bundle decides, as they are on this machine."""
    manifest = opened.manifest
    asked = manifest.asked
    places = {one.file: opened.place(one.file) for one in manifest.supplies}
    fixed: dict[str, Any] = {
        **{name: getattr(asked, name) for name in _AS_ASKED},
        "device": manifest.device,
        "arch": manifest.archs,
        "recipe": manifest.recipe_name or "none",
        "torch": "existing" if manifest.torch_from == "machine" else manifest.build_torch.version,
        "torch_index": None,
        "source": "auto",
        "git_url": str(opened.place(manifest.source_file))
        if manifest.source.kind == "git"
        else Settings.model_fields["git_url"].default,
        "patches": (),
        "externals": supplied(manifest.supplies, places),
        "lock_file": opened.folder / LOCK_FILE if manifest.supplies else None,
        "variables": manifest.variables,
        "offline": True,
    }
    given = {*layers.command_line, *layers.environment}
    if manifest.toolkit_from == "bundle":
        fixed |= {"cuda": "pypi", "cuda_home": None}
    elif manifest.toolkit_from == "machine" and not given & _MACHINES_OWN:
        fixed["cuda"] = "system"
    if "compiler_cache" not in given:
        fixed["compiler_cache"] = asked.compiler_cache
    return fixed


# What the command line says besides ---------------------------------------------------------------
def _agree(layers: Layers, opened: Opened) -> None:
    manifest = opened.manifest
    chain = []
    for name, value in layers.command_line.items():
        if name not in DECIDES or name in _SUGGESTED:
            continue
        if name in _MACHINES_OWN and manifest.toolkit_from == "machine":
            continue
        if not _same(name, value, manifest):
            option = "VERSION" if name == "version" else f"--{_OPTIONS.get(name, name.replace('_', '-'))}"
            chain.append(
                f"{option} {_shown(value)} (command line), {_shown(_of(name, manifest))} (the bundle)"
            )
    if chain:
        raise ContradictionError(
            f"The command line says something else than the bundle {opened.file.name}.",
            why=f"{'; '.join(chain)}.",
            next="Leave that out, or have another bundle made.",
        )


def _of(name: str, manifest: Manifest) -> Any:
    """What a bundle has for a setting, in the words of who made it."""
    if name == "device":
        return manifest.device
    if name == "arch":
        return manifest.archs
    if name == "recipe":
        return manifest.recipe_name or "none"
    if name == "torch" and manifest.asked.torch == "auto":
        return manifest.build_torch.version
    if name == "cuda" and manifest.toolkit_from == "bundle":
        return "pypi"
    if name == "variables":
        return manifest.variables
    return getattr(manifest.asked, name)


def _same(name: str, value: Any, manifest: Manifest) -> bool:
    held = _of(name, manifest)
    if name == "version":
        release = parse_release(str(value))
        return value == held or (release is not None and str(release) == manifest.source.release)
    if name == "arch":
        return sorted(parse_archs(tuple(value), {})) == sorted(held)
    if name == "torch" and value != held:
        return str(value) in {manifest.asked.torch, held.split("+")[0], manifest.build_torch.version}
    if name in ("variables", "parameters"):
        return all(held.get(key) == str(item) for key, item in value.items())
    try:
        return bool(getattr(Settings.model_validate({name: value}), name) == held)
    except ValidationError:
        raise SettingsError(
            f"--{name.replace('_', '-')} {value!r} cannot be used.", next="Leave it out: the bundle decides."
        ) from None


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


# The plan that came out --------------------------------------------------------------------------
def _compare(plan: Plan, opened: Opened, settings: Settings, emit: Emit) -> None:
    manifest = opened.manifest
    if plan.digest == manifest.digest:
        return
    found = differences(plan.as_dict()["inputs"], manifest.inputs)
    # Where something is added to what was empty, that it was empty says no more.
    lines = [_line(one) for one in found if {one.this, one.other} not in ({None, "[]"}, {None, "{}"})]
    if settings.allow_differences:
        for line in lines:
            emit(Note(stage="bundle", level="warning", message=f"Not as in the bundle: {line}"))
        return
    by_version = ""
    if manifest.builder != __version__:
        by_version = f" It was made by vllm-builder {manifest.builder}; this is {__version__}."
    count = "1 input differs" if len(lines) == 1 else f"{len(lines)} inputs differ"
    raise BundleError(
        f"This machine makes another plan of {opened.file.name} than the one that it was made for.",
        why=f"{count} (below): the digest is {plan.digest[:12]} here and {manifest.digest[:12]} in the bundle."
        f"{by_version}",
        next="Make the machine like the other in these (CC, CXX, --python, --cuda-home, variables), or accept "
        "them with --allow-differences: the wheel is then built and stored as what it is on this machine.",
        details=lines,
    )


def _line(one: Difference) -> str:
    here, there = (("absent" if side is None else side) for side in (one.this, one.other))
    return f"{one.path}: {here} here, {there} in the bundle"
