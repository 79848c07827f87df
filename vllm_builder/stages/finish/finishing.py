"""Make the wheel that is handed on of the one that setup.py wrote."""

from __future__ import annotations

import mmap
import re
import tempfile
import zipfile
from email.parser import BytesParser
from itertools import product
from pathlib import Path
from shutil import copyfileobj

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from vllm_builder.binary import is_elf, read_library
from vllm_builder.binary.model import Library
from vllm_builder.binary.platform import Floor, platform_floor
from vllm_builder.errors import WheelError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.fs import make_dir, os_errors
from vllm_builder.stages.finish.metadata import require_torch, tag_wheel
from vllm_builder.stages.finish.model import Finished, FinishSpec
from vllm_builder.stages.finish.repacking import COMPRESSOR, Members, open_members, refusing, write
from vllm_builder.stages.finish.sbom import Materials, sbom
from vllm_builder.wheelfile.record import BUILD_RECORD, SBOM, BuildRecord

_SHARED = re.compile(r"\.so(\.\d+)*$")


def finish(
    wheel: Path,
    spec: FinishSpec,
    record: BuildRecord,
    materials: Materials,
    *,
    out: Path,
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
        emit: hears of the platform that the wheel is for, and why.

    Raises:
        WheelError: ``wheel`` is no whole wheel, or a library in it cannot be read.
        NoSpace, NotWritable
    """
    make_dir(out)
    archive, members = open_members(wheel)
    with archive, refusing(wheel):
        floor = platform_floor(_libraries(archive, members, out))
        removed: tuple[str, ...] = ()
        if spec.torch:
            name = f"{members.dist_info}/METADATA"
            metadata, removed = require_torch(members.read(name), spec.torch)
            members.replace(name, metadata)
        filename = _retag(wheel.name, members, floor)
        _say(floor, filename, emit)
        members.replace(f"{members.dist_info}/{BUILD_RECORD}", record.to_json().encode())
        members.replace(f"{members.dist_info}/{SBOM}", sbom(record, materials, epoch=spec.epoch).encode())
        write(members, out / filename, epoch=spec.epoch)
    return Finished(
        wheel=out / filename,
        platform=floor.platform,
        reason=floor.reason,
        outside=floor.outside,
        torch=spec.torch,
        removed=removed,
        compressor=COMPRESSOR,
    )


def _libraries(archive: zipfile.ZipFile, members: Members, folder: Path) -> list[Library]:
    """All shared libraries and programs, one at a time on disk: some have hundreds of megabytes."""
    found = []
    for name in sorted(members.names()):
        # Programs, too, need a system that is new enough.
        if not _SHARED.search(name) and not members.executable(name):
            continue
        with os_errors(f"unpacking {name}"), tempfile.TemporaryFile(dir=folder) as file:
            with archive.open(name) as content:
                copyfileobj(content, file, 1 << 20)
            file.flush()
            if file.tell() and (library := _read(file.fileno(), name)):
                found.append(library)
    return found


def _read(descriptor: int, name: str) -> Library | None:
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        return read_library(data, name=name) if is_elf(data) else None


def _retag(filename: str, members: Members, floor: Floor) -> str:
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
    if floor.platform == "any":
        # Nothing in it is compiled; whatever setup.py says besides, it knows best.
        return filename
    if pure == "true" or {tag.platform for tag in tags} == {"any"}:
        raise WheelError(
            f"{filename} is said to fit every machine, and holds shared libraries.",
            why="Installed elsewhere, they would not load.",
            next="Look at the end of the log: setup.py took it for a pure wheel.",
        )
    platform = floor.platform
    new = [f"{p}-{a}-{platform}" for p, a in product(pythons.split("."), abis.split("."))]
    members.replace(name, tag_wheel(wheel, tuple(new)))
    return "-".join([*parts[:-1], platform]) + ".whl"


def _say(floor: Floor, filename: str, emit: Emit) -> None:
    if floor.platform != "any":
        emit(Note(stage="finish", message=f"{filename}: {floor.platform}, because {floor.reason}"))
