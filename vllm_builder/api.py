"""The typed Python API: the same options as the command line, as keyword arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from vllm_builder import publication, shared
from vllm_builder.cache import Cache, Workspace
from vllm_builder.errors import SettingsError
from vllm_builder.events import Emit, ignore
from vllm_builder.settings.layers import Layers, gather
from vllm_builder.settings.model import Settings
from vllm_builder.settings.options import Options
from vllm_builder.stages.plan.make import make_plan
from vllm_builder.stages.plan.steps import default_cache, source_request

if TYPE_CHECKING:
    from vllm_builder.bundling import Bundle
    from vllm_builder.pipeline import BuildResult
    from vllm_builder.stages.plan.model import Plan
    from vllm_builder.stages.publish import PublishResult
    from vllm_builder.stages.smoke import SmokeReport
    from vllm_builder.stages.verify.model import Comparison, Inspection, Report


def plan(
    version: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    emit: Emit = ignore,
    **options: Unpack[Options],
) -> Plan:
    """Decide what :func:`build` would do; nothing but the download cache is written.

    Args:
        version: as on the command line, ``v0.9.2``; None with ``bundle=FILE``.
        environ: environment variables, by default those of the process.
        emit: is called with each event.
        **options: any field of :class:`~vllm_builder.settings.model.Settings`.

    Raises:
        vllm_builder.errors.BuilderError: one of its classes, for anything that cannot be planned.
    """
    return planned(version, environ=environ, emit=emit, **options)[0]


def planned(
    version: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    emit: Emit = ignore,
    **options: Unpack[Options],
) -> tuple[Plan, Settings]:
    """As :func:`plan`, with the settings besides."""
    environ = dict(os.environ if environ is None else environ)
    if version is not None:
        _check_named(version)
    given = {} if version is None else {"version": version}
    return decide(gather({**given, **_plain(options)}, environ), environ=environ, emit=emit)


def decide(
    layers: Layers, *, environ: Mapping[str, str] | None = None, emit: Emit = ignore
) -> tuple[Plan, Settings]:
    """The plan of some settings, made anew or with what a bundle holds; and the settings that count."""
    environ = dict(os.environ if environ is None else environ)
    given = layers.resolve().settings
    publication.check_given(given, layers.command_line)
    shared.check_given(layers.command_line)
    if given.bundle is None:
        if "version" not in {**layers.command_line, **layers.environment}:
            raise SettingsError("Which release?", next="Give VERSION (v0.9.2, latest), or --bundle FILE.")
        return make_plan(layers, environ=environ, emit=emit)
    from vllm_builder.bundling import plan_with

    return plan_with(layers, environ=environ, emit=emit)


def bundle(
    version: str,
    output: Path | str,
    *,
    environ: Mapping[str, str] | None = None,
    emit: Emit = ignore,
    **options: Unpack[Options],
) -> Bundle:
    """Write one archive with all that building a release needs; ``build(bundle=FILE)`` uses it without network.

    Args and errors are those of :func:`plan`; ``output`` must not exist.
    """
    from vllm_builder.bundling import make_bundle

    _check_named(version)
    environ = dict(os.environ if environ is None else environ)
    layers = gather({"version": version, **_plain(options)}, environ)
    return make_bundle(layers, Path(output), environ=environ, emit=emit)


def build(
    version: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    emit: Emit = ignore,
    **options: Unpack[Options],
) -> BuildResult:
    """From a release to a wheel: out of the store, or planned, fetched, patched, compiled and stored.

    Args and errors are those of :func:`plan`; the result names the wheel and its record.
    """
    environ = dict(os.environ if environ is None else environ)
    made, settings = planned(version, environ=environ, emit=emit, **options)
    return obey(made, settings, environ=environ, emit=emit)


def obey(
    made: Plan, settings: Settings, *, environ: Mapping[str, str] | None = None, emit: Emit = ignore
) -> BuildResult:
    """Carry out a plan with the folders that the settings name, and publish the wheel where they say so."""
    from vllm_builder.pipeline import run

    environ = dict(os.environ if environ is None else environ)
    publication.check(settings, environ)
    cache = default_cache(settings)
    with shared.opened(settings, environ, emit) as others:
        result = run(
            made,
            cache=cache,
            workspace=workspace_of(settings),
            out=settings.out.expanduser().absolute() if settings.out else None,
            environ=environ,
            request=source_request(settings, made.environment.indexes),
            externals=settings.externals,
            offline=settings.offline,
            force=settings.force,
            reuse=settings.reuse,
            shared=others,
            emit=emit,
        )
    if settings.publish is None:
        return result
    published = publication.publish_built(result, settings, cache=cache, environ=environ, emit=emit)
    return result.model_copy(update={"published": published})


def publish(
    *wheels: Path | str,
    to: Path | str,
    channel: Sequence[str] = (),
    variant: str = "",
    group: str = "",
    expects: Sequence[str] = (),
    no_verify: str | None = None,
    provenance: bool = True,
    sign_key: Path | str | None = None,
    builder_id: str = "",
    simple_url: str = "",
    offline: bool = False,
    cache_dir: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    emit: Emit = ignore,
) -> PublishResult:
    """Publish finished wheels: verified, with their provenance, all of them in one transaction.

    Args:
        to: a folder, ``s3://bucket/prefix``, or the address of an upload server.
        no_verify: why the wheels are not verified; kept in the index.
        cache_dir: of what verifying keeps; by default as for builds.
        environ: where credentials are looked for, by default that of the process.

    The others are fields of :class:`~vllm_builder.stages.publish.PublishRequest`, and errors are those of
    :func:`vllm_builder.stages.publish.publish`.
    """
    from vllm_builder.stages.publish import PublishRequest
    from vllm_builder.stages.publish import publish as carry_out

    environ = dict(os.environ if environ is None else environ)
    request = PublishRequest(
        wheels=tuple(Path(wheel) for wheel in wheels),
        to=os.fspath(to),
        channels=(channel,) if isinstance(channel, str) else tuple(channel),
        variant=variant,
        group=group,
        expects=tuple(expects),
        no_verify=no_verify,
        provenance=provenance,
        sign_key=Path(sign_key) if sign_key is not None else None,
        builder_id=builder_id,
        simple_url=simple_url,
        offline=offline,
    )
    return carry_out(request, cache=_cache(cache_dir, environ), environ=environ, emit=emit)


def inspect(wheel: Path | str, *, libraries: bool = True, emit: Emit = ignore) -> Inspection:
    """What is in a wheel, on disk or behind an address; nothing of it is run.

    Args:
        libraries: read its shared libraries; of a remote wheel they are nearly all of it.

    Raises:
        WheelError: it cannot be read.
        NoSpace: there is no room to unpack its libraries in the folder for temporary files.
    """
    from vllm_builder.stages.verify.inspecting import inspect as read

    return read(wheel, emit=emit, libraries=libraries)


def verify(
    wheel: Path | str,
    *,
    arch: str | Sequence[str] = (),
    torch: Path | str = "",
    against: Path | str | None = None,
    max_glibc: str = "",
    max_size: int = 0,
    offline: bool = False,
    cache_dir: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    emit: Emit = ignore,
) -> Report:
    """Whether a wheel is what was asked for; a bad one is a report that is not ``good``, and no exception.

    Args:
        arch: GPUs that it must serve, ``"sm_100"`` or several; by default those of its build record.
        torch: the torch that it must go with: a version, or where one is installed.
        against: a wheel of which it must have lost nothing.
        max_glibc: the oldest system that it must run on, ``"2.28"``.
        max_size: bytes that the file may have; 0: those that upstream allows.

    Raises:
        WheelError: it cannot be read.
        ArchError, SettingsError, OfflineMissing: what it is to be held against is misspelt or cannot be had.
    """
    from vllm_builder.stages.plan.archs import parse_archs
    from vllm_builder.stages.verify.verifying import verify as check

    environ = dict(os.environ if environ is None else environ)
    return check(
        wheel,
        cache=_cache(cache_dir, environ),
        archs=parse_archs([arch] if isinstance(arch, str) else arch, environ) if arch else (),
        torch=str(torch),
        against=against,
        max_glibc=max_glibc,
        max_size=max_size,
        environ=environ,
        offline=offline,
        emit=emit,
    )


def compare(a: Path | str, b: Path | str, *, emit: Emit = ignore) -> Comparison:
    """What differs between two wheels, files or addresses.

    Raises:
        WheelError: one of them cannot be read.
    """
    from vllm_builder.stages.verify.comparing import compare as held

    return held(a, b, emit=emit)


def smoke(
    wheel: Path | str,
    *,
    serve: bool = False,
    full: bool = False,
    python: Path | str | None = None,
    torch: str | None = None,
    further: str | Sequence[str] = (),
    keep: Path | str | None = None,
    offline: bool = False,
    cache_dir: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    emit: Emit = ignore,
) -> SmokeReport:
    """Install a wheel in an environment of its own, import it, compute with it and serve with it.

    A wheel that fails is a report that is not ``good``, and no exception.

    Args:
        serve: also start the OpenAI server with a tiny model; all requirements are installed.
        full: install all requirements, not torch alone.
        further: requirements to install besides (``--with``): ``"transformers<4.54"``.
        keep: a new folder for the environment, which is then left.

    Raises:
        WheelError, InstallError, ResolutionError, PythonNotFound, ContradictionError: it cannot be read or installed.
    """
    from vllm_builder.stages.smoke import SmokeOptions
    from vllm_builder.stages.smoke import smoke as run

    environ = dict(os.environ if environ is None else environ)
    options = SmokeOptions(
        wheel=Path(wheel),
        serve=serve,
        full=full,
        python=None if python is None else str(python),
        torch=torch,
        further=(further,) if isinstance(further, str) else tuple(further),
        keep=None if keep is None else Path(keep),
        offline=offline,
    )
    return run(options, _cache(cache_dir, environ), environ=environ, emit=emit)


def _cache(folder: Path | str | None, environ: Mapping[str, str]) -> Cache:
    given = {} if folder is None else {"cache_dir": Path(folder)}
    return default_cache(gather(given, environ).resolve().settings)


def _check_named(version: object) -> None:
    if not isinstance(version, str):
        raise SettingsError(
            f"The version is {version!r}, which is no text.",
            why="Nothing is built that was not asked for by name.",
            next='Give a release such as "v0.9.2", or "latest".',
        )


def workspace_of(settings: Settings) -> Workspace:
    return Workspace(settings.workspace.expanduser().absolute())


_TEXTS = ("shared_cache", "recipe", "cuda", "python", "source", "git_url", "torch_index", "publish")
"""Settings that are a word or a path: a path object is taken for what it says."""


def _path_text(name: str, path: str) -> str:
    # A bare name would be a word of the setting's (a recipe's name, ``git``, ``3.12``).
    return path if os.sep in path or name == "torch_index" else os.path.join(os.curdir, path)  # noqa: PTH118


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in options.items():
        if name in ("arch", "patches", "with_patch", "without_patch", "channel") and isinstance(
            value, str | Path
        ):
            out[name] = (value,)
        else:
            out[name] = tuple(value) if isinstance(value, list) else value
        if name in _TEXTS and isinstance(value, os.PathLike):
            out[name] = _path_text(name, os.fspath(value))
    return out
