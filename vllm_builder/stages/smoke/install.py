"""The wheel in an environment of its own, with torch alone or with all that it requires."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from vllm_builder.errors import InstallError, OfflineMissing, ResolutionError, SettingsError
from vllm_builder.events import Emit, Note
from vllm_builder.indexes import Indexes
from vllm_builder.stages.environment.interpreter import torch_in
from vllm_builder.stages.environment.model import Interpreter
from vllm_builder.stages.environment.uv import run_uv
from vllm_builder.stages.environment.whole import installed
from vllm_builder.stages.smoke.contents import Contents
from vllm_builder.stages.smoke.room import Room

_BACKEND = re.compile(r"cpu|cu\d{3}|rocm\d.*|xpu")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The torch to install. ``attempts``: requirement and PyTorch's own index (or none), the best first."""

    attempts: tuple[tuple[str, str], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Installed:
    packages: Mapping[str, str]
    torch: str
    """``2.13.0+cpu``; empty without torch."""


def wanted_torch(contents: Contents, choice: str | None) -> Wanted | None:
    """Which torch the wheel is tried with; None where it needs none.

    Raises:
        SettingsError: ``choice`` is no version.
    """
    if choice is not None:
        try:
            version = str(Version(choice))
        except InvalidVersion:
            raise SettingsError(
                f"--torch {choice} is no version.", next="Give one such as 2.11.0 or 2.11.0+cu130."
            ) from None
        return Wanted(_attempts(version), f"--torch {choice}")
    if contents.record is not None and contents.record.torch:
        version = contents.record.torch
        return Wanted(_attempts(version), f"the wheel was compiled against {version}")
    if contents.torch is not None:
        requirement = f"torch{contents.torch.specifier}"
        return Wanted(((requirement, ""),), f"the wheel requires {requirement}")
    if contents.links_torch:
        return Wanted(
            (("torch", ""),), "the newest: the wheel does not say which one it was compiled against"
        )
    return None


def _attempts(version: str) -> tuple[tuple[str, str], ...]:
    """A build tag names PyTorch's own index; PyPI has the same version without the tag."""
    public, _, tag = version.partition("+")
    exact = (f"torch=={version}", "")
    if not _BACKEND.fullmatch(tag):
        return (exact,)
    return (exact, (f"torch=={version}", tag), (f"torch=={public}", ""))


def install(
    contents: Contents,
    room: Room,
    python: Interpreter,
    torch: Wanted | None,
    *,
    full: bool,
    further: Sequence[str] = (),
    indexes: Indexes,
    environ: Mapping[str, str],
    offline: bool,
    emit: Emit,
) -> Installed:
    """Make the environment.

    Args:
        further: requirements that are resolved together with the others.

    Raises:
        InstallError, ResolutionError, OfflineMissing
    """
    made = run_uv(
        ["venv", "--no-project", "--python", python.base or python.path, str(room.environment)],
        environ=environ,
        offline=True,
    )
    if made.returncode:
        raise _install_error("An environment for the wheel cannot be made.", made.stderr)
    wheel = f"{contents.name} @ {contents.path.absolute().as_uri()}"
    # All requirements are resolved together with torch, and the light way has torch's own alone.
    for number, (requirement, backend) in enumerate(torch.attempts if torch else (("", ""),)):
        last = torch is None or number == len(torch.attempts) - 1
        wanted = [line for line in (requirement, wheel if full else "", *further) if line]
        if not wanted:
            break
        what = "the wheel with all its requirements" if full else requirement
        emit(Note(stage="smoke", message=f"Installing {what}" + (f" ({requirement})" if full else "")))
        arguments = ["pip", "install", "--python", str(room.python), "-r", "-"]
        arguments += ["--torch-backend", backend] if backend else []
        done = run_uv(
            arguments, environ=environ, indexes=indexes, offline=offline, stdin="\n".join(wanted) + "\n"
        )
        if done.returncode == 0:
            if last and number:
                message = f"{torch.attempts[0][0]} could not be had" if torch else ""
                emit(Note(stage="smoke", level="warning", message=f"{message}; took {requirement}."))
            break
        if last:
            raise _failed(done.stderr, wanted, python, indexes, offline)
    if not full:
        _run(["--no-deps", wheel], room, indexes, environ, offline)
    packages = installed(room.environment)
    site = next((room.environment / "lib").glob("python*/site-packages"))
    found = torch_in(python.model_copy(update={"site_packages": (str(site),)}))
    return Installed(packages, found.version if found else "")


def _run(
    arguments: Sequence[str], room: Room, indexes: Indexes, environ: Mapping[str, str], offline: bool
) -> None:
    command = ["pip", "install", "--python", str(room.python), *arguments]
    done = run_uv(command, environ=environ, indexes=indexes, offline=offline)
    if done.returncode:
        raise _install_error("The wheel cannot be installed.", done.stderr)


def _failed(
    said: str, wanted: Sequence[str], python: Interpreter, indexes: Indexes, offline: bool
) -> Exception:
    if "No solution found" not in said:
        return _install_error("What the wheel needs cannot be installed.", said)
    if offline and "network was disabled" in said:
        return OfflineMissing(
            f"{', '.join(wanted)}: not all of it is on this machine, and --offline forbids to fetch it.",
            why="uv's cache and the folders of pip's configuration lack a part.",
            next="Run once without --offline, or put its wheels into a folder that find-links names.",
            details=_lines(said),
        )
    return ResolutionError(
        "What the wheel needs cannot be had together.",
        why=f"Wanted: {', '.join(wanted)}; Python {python.version}; index {indexes.describe()}.",
        next="Choose another --torch or --python, or check pip's index settings. Without --serve and --full the wheel "
        "is tried with torch alone.",
        details=_lines(said),
    )


def _install_error(what: str, said: str) -> InstallError:
    return InstallError(
        what,
        why="uv refused it.",
        next="uv's lines say why; free space and a tag for another system are usual reasons.",
        details=_lines(said),
    )


def _lines(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.strip()][-25:]
