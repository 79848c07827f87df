"""From a build straight into an index: what ``build --publish`` adds to the pipeline.

A publishing that fails takes nothing back: the wheel is built, stored and handed over, and the error says how to publish it
alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_builder.errors import BuilderError, ContradictionError, SettingsError
from vllm_builder.events import Emit
from vllm_builder.settings.model import PUBLISHING, Settings
from vllm_builder.stages.publish.model import PublishRequest, PublishResult

if TYPE_CHECKING:
    from vllm_builder.cache import Cache
    from vllm_builder.pipeline import BuildResult


def check(settings: Settings, environ: Mapping[str, str]) -> None:
    """Refuse what cannot be published before anything is built.

    Raises:
        SettingsError, ProvenanceError: see :func:`vllm_builder.stages.publish.examine`.
        ContradictionError: only a part of the wheel is compiled.
    """
    if settings.publish is None:
        return
    if settings.extensions:
        raise ContradictionError(
            "--publish and --extensions exclude each other.",
            why="A wheel with some of its extensions is for development, and is never stored nor published.",
            next="Leave one of them out.",
        )
    if settings.offline and "://" in settings.publish:
        raise ContradictionError(
            f"--offline and --publish {settings.publish} exclude each other.",
            why="An object store or a server is reached through the network (--bundle implies --offline).",
            next="Publish to a folder; or leave --publish out, and publish the wheel alone: "
            "vllm-builder index publish WHEEL --to TO.",
        )
    from vllm_builder.stages.publish import examine

    examine(request(settings), environ)


def check_given(settings: Settings, given: Mapping[str, object]) -> None:
    """Refuse options that say how to publish, where nothing is.

    Args:
        given: what was said on the command line.

    Raises:
        SettingsError
    """
    lost = sorted(PUBLISHING & given.keys() - {"publish"})
    if settings.publish is None and lost:
        option = "--" + lost[0].replace("_", "-")
        raise SettingsError(
            f"{option} was given, and nothing is published.",
            next=f"Say where to, too: --publish FOLDER; or leave {option} out.",
        )


def request(settings: Settings, *wheels: Path) -> PublishRequest:
    """What the settings say of publishing."""
    return PublishRequest(
        wheels=wheels,
        to=settings.publish or "",
        channels=settings.channel,
        variant=settings.variant or "",
        sign_key=settings.sign_key,
        builder_id=settings.builder_id or "",
        simple_url=settings.simple_url or "",
        offline=settings.offline,
    )


def publish_built(
    result: BuildResult, settings: Settings, *, cache: Cache, environ: Mapping[str, str], emit: Emit
) -> PublishResult:
    """Publish the wheel of a build. It was verified against its plan, which says more than its record: not once more.

    Raises:
        what :func:`vllm_builder.stages.publish.publish` raises, with the way to go on from there.
    """
    from vllm_builder.stages.publish import publish

    wanted = request(settings, result.wheel).model_copy(update={"verified": _verified(result)})
    try:
        return publish(wanted, cache=cache, environ=environ, emit=emit)
    except BuilderError as error:
        again = f"vllm-builder index publish {command(result.wheel, settings)}"
        raise type(error)(
            error.what,
            why=error.why,
            next=f"{error.next} The wheel is built, and lies in {result.wheel}; to publish it alone: {again}".strip(),
            details=error.details,
        ) from error


def command(wheel: Path, settings: Settings) -> str:
    """The arguments that publish a wheel as these settings do."""
    words = [str(wheel), "--to", settings.publish or ""]
    for channel in settings.channel:
        words += ["--channel", channel]
    for name in ("variant", "sign_key", "builder_id", "simple_url"):
        if (value := getattr(settings, name)) is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)


def _verified(result: BuildResult) -> dict[str, int]:
    """Of the record's report, where there is one of these very bytes."""
    report = result.record.verify
    findings = report.get("findings", ())
    if report.get("sha256") != result.sha256 or any(one.get("severity") == "error" for one in findings):
        return {}
    return {result.sha256: sum(one.get("severity") == "warning" for one in findings)}
