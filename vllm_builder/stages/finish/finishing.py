"""Make the wheel that is handed on of the one that setup.py wrote."""

from __future__ import annotations

from contextlib import ExitStack
from email.parser import BytesParser
from itertools import product
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from vllm_builder.errors import WheelError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.stages.finish.metadata import require_torch, tag_wheel
from vllm_builder.stages.finish.model import Finished, FinishSpec
from vllm_builder.stages.finish.repacking import COMPRESSOR, Earlier, Members, write
from vllm_builder.stages.finish.sbom import Materials, sbom
from vllm_builder.stages.verify.inspecting import may_be_library, read_modules
from vllm_builder.stages.verify.platforms import required_names, true_platform
from vllm_builder.wheelfile import Wheel, open_wheel
from vllm_builder.wheelfile.record import BUILD_RECORD, SBOM, BuildRecord


def finish(
    wheel: Path,
    spec: FinishSpec,
    record: BuildRecord,
    materials: Materials,
    *,
    out: Path,
    earlier: Path | None = None,
    emit: Emit = ignore,
) -> Finished:
    """Write the finished wheel into a folder, whole or not at all; the one that setup.py wrote stays.

    Its bytes follow from the members, the spec, the record and the materials alone (and from zlib's version).

    Args:
        wheel: as setup.py wrote it.
        spec: the plan's.
        record: goes into ``.dist-info``, and into the SBOM's facts.
        materials: what the SBOM names.
        out: folder for the finished wheel; another one than ``wheel`` lies in.
        earlier: a wheel that was finished with the same compressor (:data:`COMPRESSOR`): members that are the same
            there are not compressed again. It does not change the bytes; one that cannot be read is passed over.
        emit: hears of the platform that the wheel is for, and why.

    Raises:
        WheelError: ``wheel`` is no whole wheel, or a library in it cannot be read.
        NoSpace, NotWritable
    """
    with open_wheel(wheel) as opened:
        members = Members(opened)
        removed: tuple[str, ...] = ()
        if spec.torch:
            name = f"{opened.dist_info}/METADATA"
            metadata, removed = require_torch(members.read(name), spec.torch)
            members.replace(name, metadata)
        platform, reason = _platform(opened, record, spec)
        filename = _retag(wheel.name, members, platform)
        if reason:
            emit(Note(stage="finish", message=f"The wheel is for {platform}: {reason}."))
        members.replace(f"{opened.dist_info}/{BUILD_RECORD}", record.to_json().encode())
        members.replace(f"{opened.dist_info}/{SBOM}", sbom(record, materials, epoch=spec.epoch).encode())
        with ExitStack() as stack:
            before = _opened(earlier, stack) if earlier is not None else None
            write(members, out / filename, epoch=spec.epoch, earlier=before)
    return Finished(
        wheel=out / filename,
        platform=platform,
        reason=reason,
        torch=spec.torch,
        removed=removed,
        compressor=COMPRESSOR,
    )


def _opened(earlier: Path, stack: ExitStack) -> Earlier | None:
    try:
        return Earlier(stack.enter_context(open_wheel(earlier)))
    except WheelError:
        return None


def _platform(wheel: Wheel, record: BuildRecord, spec: FinishSpec) -> tuple[str, str]:
    """What the tags have to say, and why; ``any`` where nothing is compiled."""
    modules = read_modules(wheel, filter(may_be_library, wheel.members.values()))
    if not modules:
        return "any", ""
    names = {wheel.name, *required_names(wheel.metadata.requires_dist)}
    if record.torch or spec.torch:
        names.add("torch")
    return true_platform([module.library for module in modules], names)


def _retag(filename: str, members: Members, platform: str) -> str:
    """The file's new name; WHEEL gets the same tags."""
    try:
        _, _, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise WheelError(f"{filename} is no name of a wheel.", why=str(error)) from error
    parts = filename.removesuffix(".whl").split("-")
    pythons, abis = parts[-3], parts[-2]
    name = f"{members.dist_info}/WHEEL"
    wheel = members.read(name)
    pure = BytesParser().parsebytes(wheel, headersonly=True).get("Root-Is-Purelib", "").strip().lower()
    if platform == "any":
        # Nothing in it is compiled; whatever setup.py says besides, it knows best.
        return filename
    if pure == "true" or {tag.platform for tag in tags} == {"any"}:
        raise WheelError(
            f"{filename} is said to fit every machine, and holds shared libraries.",
            why="Installed elsewhere, they would not load.",
            next="Look at the end of the log: setup.py took it for a pure wheel.",
        )
    new = [f"{p}-{a}-{platform}" for p, a in product(pythons.split("."), abis.split("."))]
    members.replace(name, tag_wheel(wheel, tuple(new)))
    return "-".join([*parts[:-1], platform]) + ".whl"
