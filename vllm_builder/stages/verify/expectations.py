"""What a wheel should be: from its plan, its record, its release or a person's options."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal

from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from vllm_builder.architectures import can_run
from vllm_builder.errors import WheelError
from vllm_builder.model import Model
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import Torch
from vllm_builder.stages.plan.compatibility import compatibility, cuda_version, within
from vllm_builder.stages.verify.table import Code, KnownExtension, table
from vllm_builder.wheelfile.record import BuildRecord


class ExpectedExtension(Model):
    """One compiled part (or folder of Python files) that a wheel should hold."""

    name: str
    path: str
    """In the wheel, without the ending of a library: ``vllm/_C``; a folder ends with ``/``."""
    code: Code
    archs: tuple[str, ...] = ()
    """Of ``fixed`` code: its own architectures that serve a GPU which was asked for, ``("9.0a",)``."""
    all_archs: tuple[str, ...] = ()
    """Of ``fixed`` code: all that it may have, whatever was asked for."""
    one_of: bool = False
    """One of ``archs`` is enough."""
    required: bool = True
    optional: bool = False
    """The release builds it where it can, and is whole without it: its absence is a warning."""
    reason: str = ""
    """Why it need not be there."""

    def finds(self, members: Iterable[str]) -> str | None:
        """The member that is this part; of a folder any file in it."""
        for name in members:
            if self.path.endswith("/"):
                if name.startswith(self.path):
                    return name
            elif name == self.path or (name.startswith(f"{self.path}.") and name.endswith(".so")):
                return name
        return None


class Expectations(Model):
    """What may be demanded of a wheel. What is empty or None is not known, and not checked."""

    origin: str = ""
    """In words: ``its build record``, ``the release 0.9.2``."""
    release: str = ""
    version: str = ""
    device: Literal["cuda", "cpu", "empty", ""] = ""
    archs: tuple[str, ...] = ()
    """GPUs that it must serve, ``("10.0",)``."""
    extensions: tuple[ExpectedExtension, ...] | None = None
    lists: tuple[str, ...] = ()
    """Lists of architectures that the release's CMake files give to single kernels: ``8.0;8.6;8.9``, ``8.0+PTX``."""
    partial: bool = False
    """Built with ``--extensions``: the others may be missing."""
    torch: str = ""
    """``2.11.0+cu130``: what it was compiled against."""
    cuda: str = ""
    """CUDA's version, ``13.0``."""
    requirements: tuple[str, ...] | None = None
    """Requires-Dist of the release for this device, unpatched and without extras."""
    limited_api: str = ""
    """``cp38``; empty for a wheel of one Python."""
    max_size: int = 0
    """Bytes that the wheel may have; 0: no limit."""
    max_glibc: str = ""
    """``2.28``."""


def parse_expectations(values: Mapping[str, object]) -> Expectations:
    """From JSON types.

    Raises:
        WheelError: they are none.
    """
    try:
        return Expectations.model_validate(dict(values))
    except ValidationError as error:
        raise WheelError(
            "The expectations in the wheel's build record cannot be read.",
            why=str(error).splitlines()[0],
            next="Name what is expected with options (--arch, --torch).",
        ) from error


def from_record(record: BuildRecord) -> Expectations:
    """What a wheel's own record says that it should be.

    Raises:
        WheelError: see :func:`parse_expectations`.
    """
    if record.expectations:
        found = parse_expectations(record.expectations)
        return found.model_copy(update={"origin": "its build record"})
    found = from_release(
        record.release,
        record.device,
        record.archs,
        cuda=record.toolkit,
        left_out=record.left_out,
        chosen=record.extensions,
    )
    update = {"origin": "its build record", "version": record.version, "torch": record.torch}
    return found.model_copy(update=update)


def from_release(
    release: str,
    device: str,
    archs: tuple[str, ...] = (),
    *,
    cuda: str = "",
    machine: str = "",
    python: str = "",
    left_out: Mapping[str, str] = {},  # never changed
    chosen: Collection[str] = (),
    names: Collection[str] | None = None,
    folder: Path | None = None,
) -> Expectations:
    """What a release makes for a device.

    Args:
        release: ``0.9.2``.
        device: ``cuda``, ``cpu``, ``empty``.
        archs: GPUs that are wanted; none: which extensions hold code for which GPU is not demanded.
        cuda: version of nvcc, ``13.0``.
        machine: as ``uname -m`` says.
        python: version of the Python that compiles, ``3.11``.
        left_out: modules that are left out on purpose, with reasons.
        chosen: the only modules that are built; none: all.
        names: modules that the release's own setup.py knows; others are not expected.
        folder: the release's small files, unpatched; for its requirements.
    """
    expected = []
    for known in table().of(release, device, machine) if device != "empty" else ():
        if names is not None and known.name not in names:
            continue
        if (cuda and known.cuda and not within(known.cuda, cuda)) or (
            python and known.python and not within(known.python, python)
        ):
            continue
        expected.append(_expected(known, archs, cuda, left_out, chosen))
    requirements = None
    lists: tuple[str, ...] = ()
    if folder is not None:
        from vllm_builder.stages.plan.supported import kernel_lists
        from vllm_builder.stages.verify.requirements import release_requirements

        requirements = release_requirements(folder, release, device, cuda)
        lists = kernel_lists(folder) if device == "cuda" else ()
    known_release = device == "empty" or bool(expected)
    return Expectations(
        origin=f"the release {release}",
        release=release,
        device=device,
        archs=archs,
        extensions=tuple(expected) if known_release else None,
        lists=lists,
        partial=bool(chosen),
        cuda=cuda,
        requirements=requirements,
    )


def from_options(
    base: Expectations, *, archs: tuple[str, ...] = (), max_size: int = 0, max_glibc: str = ""
) -> Expectations:
    """What a person asks for beyond, or in place of, what is known otherwise.

    Other GPUs than ``base`` names change which extensions must be there and for what.
    """
    update: dict[str, object] = {}
    origins = [base.origin] if base.origin else []
    if archs and archs != base.archs:
        again = from_release(base.release, base.device, archs, cuda=base.cuda) if base.release else base
        update |= {"archs": archs, "extensions": _demanded(base.extensions, again.extensions)}
        origins.append(f"--arch {','.join(archs)}")
    if max_size:
        update["max_size"] = max_size
        origins.append("--max-size")
    if max_glibc:
        update["max_glibc"] = max_glibc
        origins.append(f"--max-glibc {max_glibc}")
    return base.model_copy(update=update | {"origin": ", ".join(origins)})


def planned_expectations(
    folder: Path, release: str, spec: CompileSpec, torch: Torch, python: str, rust: str | None
) -> Expectations:
    """What a plan's wheel has to be; stored in the plan and in the wheel's record.

    Args:
        folder: the survey of the release, unpatched.
        torch: what setup.py sees: it asks its CUDA version when it takes the requirements.
        python: version of the Python that compiles.
        rust: the plan's word about the Rust part: its toolchain, ``absent``, or None where the release has none.
    """
    from vllm_builder.stages.compile.rust import rust_parts
    from vllm_builder.stages.plan.extensions import listed
    from vllm_builder.stages.plan.supported import kernel_lists
    from vllm_builder.stages.verify.requirements import release_requirements

    found = from_release(
        release,
        spec.device,
        spec.archs,
        cuda=next((c.version for c in spec.compilers if c.language == "CUDA"), ""),
        machine=platform.machine(),
        python=python,
        left_out=spec.without,
        chosen=spec.extensions,
        names=listed(folder) if spec.device != "empty" else (),
    )
    extensions = found.extensions
    if extensions is not None and not spec.extensions and rust not in (None, "absent"):
        extensions += tuple(
            ExpectedExtension(
                name=part.target, path=part.target.replace(".", "/"), code="none", optional=True
            )
            for part in rust_parts(folder)
        )
    return found.model_copy(
        update={
            "origin": "the plan",
            "version": spec.version,
            "torch": "" if spec.device == "empty" else torch.version,
            "extensions": extensions,
            "lists": kernel_lists(folder) if spec.device == "cuda" else (),
            "requirements": release_requirements(folder, release, spec.device, torch.cuda or ""),
            "limited_api": spec.limited_api or "",
        }
    )


def identified(version: str) -> tuple[str, str, str]:
    """Release, device and CUDA that a wheel's version names.

    ``0.9.2+cu130`` -> ``("0.9.2", "cuda", "13.0")``; ``0.9.2+cpu`` -> ``("0.9.2", "cpu", "")``. Without a local part it is
    the release's default: CUDA, in the version of the torch that it pins. A part that means something else gives
    an empty device.
    """
    try:
        parsed = Version(version)
    except InvalidVersion:
        return version, "", ""
    words = (parsed.local or "").split(".")
    for word in words:
        if word in {"cpu", "empty"}:
            return parsed.public, word, ""
        if re.fullmatch(r"cu\d{3}", word):
            return parsed.public, "cuda", cuda_version(word)
    return parsed.public, "" if parsed.local else "cuda", ""


def default_cuda(torch: str) -> str:
    """CUDA's version of the torch build that a plain ``pip install`` brings; empty where it is not known."""
    builds = compatibility().torch_builds(torch)
    return cuda_version(builds.default) if builds else ""


def _expected(
    known: KnownExtension,
    archs: tuple[str, ...],
    cuda: str,
    left_out: Mapping[str, str],
    chosen: Collection[str],
) -> ExpectedExtension:
    every = known.codes(cuda)
    serving = tuple(code for code in every if any(can_run(code, gpu) for gpu in archs))
    reason = ""
    if known.name in left_out:
        reason = f"left out on purpose: {left_out[known.name]}"
    elif chosen and known.name not in chosen:
        reason = "not one of --extensions"
    elif every and not archs:
        reason = "for which GPUs the wheel is, is not known"
    elif every and not serving and not known.empty:
        reason = f"has code for {', '.join(every)} only"
    elif every and not serving:
        reason = f"could only hold empty kernels: it has code for {', '.join(every)} only"
    return ExpectedExtension(
        name=known.name,
        path=known.path,
        code=known.code,
        archs=serving if known.code == "fixed" else (),
        all_archs=every if known.code == "fixed" else (),
        one_of=known.one_of,
        required=not reason,
        reason=reason,
    )


def _demanded(
    base: tuple[ExpectedExtension, ...] | None, again: tuple[ExpectedExtension, ...] | None
) -> tuple[ExpectedExtension, ...] | None:
    """The second set, but what the first one left out on purpose stays left out."""
    if base is None or again is None:
        return again if base is None else base
    purpose = {
        one.name: one for one in base if "left out on purpose" in one.reason or "--extensions" in one.reason
    }
    known = {one.name for one in again}
    merged = [
        one.model_copy(update={"required": False, "reason": purpose[one.name].reason})
        if one.name in purpose
        else one
        for one in again
    ]
    # What only the plan knew (Rust parts) stays as it was.
    return (*merged, *(one for one in base if one.name not in known))
