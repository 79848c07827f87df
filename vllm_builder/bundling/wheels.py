"""The files of a lock: one wheel for each package, with its hash."""

from __future__ import annotations

import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from vllm_builder.cache import Cache
from vllm_builder.errors import InstallError, OfflineMissing, ResolutionError
from vllm_builder.events import Emit, Note
from vllm_builder.fs import make_dir
from vllm_builder.indexes import Indexes, redact
from vllm_builder.stages.environment.model import Interpreter
from vllm_builder.stages.environment.uv import run_uv


def wheels_of(
    lock: Sequence[str],
    interpreter: Interpreter,
    indexes: Indexes,
    cache: Cache,
    *,
    environ: Mapping[str, str],
    torch_backend: str = "",
    offline: bool = False,
    emit: Emit,
) -> tuple[Path, ...]:
    """A wheel for each line of a lock: fetched into the cache, held against the index's hash.

    What an index has as source only is built into a wheel here: a closed machine lacks what that takes.

    Raises:
        ResolutionError: a package has no file for this interpreter, or is no longer there.
        InstallError: a wheel cannot be built.
        OfflineMissing: names what is in no cache.
        HashMismatch, SourceError, NoSpace, NotWritable
    """
    from vllm_builder.stages.source.download import cached_file, download
    from vllm_builder.stages.source.http import Http
    from vllm_builder.stages.source.listing import local_path

    listed = _listed(lock, interpreter, indexes, environ, torch_backend, offline)
    order = {tag: number for number, tag in enumerate(tags_of(interpreter))}
    chosen = [_choose(line, listed, order) for line in lock]
    if offline:
        missing = [
            f"{_name(one)} from {redact(one['url'])}"
            for one in chosen
            if local_path(one["url"]) is None
            and not (_sha256(one) and cached_file(cache, _sha256(one) or "", _name(one)).is_file())
        ]
        if missing:
            raise OfflineMissing(
                f"{len(missing)} packages are not in the cache, and --offline forbids to fetch them.",
                next="Run the same command with network.",
                details=missing,
            )
    found: list[Path] = []
    with Http(indexes) as http:
        for one in chosen:
            path, _ = download(one["url"], _name(one), cache, emit, http, sha256=_sha256(one))
            if path.suffix != ".whl":
                path = _built(path, interpreter, indexes, environ, offline, emit)
            found.append(path)
    return tuple(found)


def tags_of(interpreter: Interpreter) -> list[Tag]:
    """What an interpreter of this machine can install, best first."""
    digits = interpreter.tag.removeprefix("cp").rstrip("t")
    version = (int(digits[0]), int(digits[1:]))
    return [
        *cpython_tags(version, abis=[interpreter.tag]),
        *compatible_tags(version, interpreter=f"cp{digits}"),
    ]


def _listed(
    lock: Sequence[str],
    interpreter: Interpreter,
    indexes: Indexes,
    environ: Mapping[str, str],
    torch_backend: str,
    offline: bool,
) -> dict[tuple[str, str], dict[str, Any]]:
    """All files of the locked packages, as uv writes them into a PEP 751 lock file."""
    command = ["pip", "compile", "-", "--format", "pylock.toml", "--no-deps", "--no-header", "--quiet"]
    command += ["--python", interpreter.path]
    if torch_backend:
        command += ["--torch-backend", torch_backend]
    run = run_uv(command, environ=environ, indexes=indexes, offline=offline, stdin="\n".join(lock) + "\n")
    if run.returncode:
        error = OfflineMissing if offline else ResolutionError
        raise error(
            "The locked packages cannot be found at their indexes.",
            why=f"Asked: {indexes.describe()}.",
            next="If a file vanished from an index, --refresh resolves the versions again.",
            details=[line for line in run.stderr.splitlines() if line.strip()][:25],
        )
    packages = tomllib.loads(run.stdout).get("packages", [])
    return {(canonicalize_name(one["name"]), one["version"]): one for one in packages if "version" in one}


def _choose(
    line: str, listed: Mapping[tuple[str, str], dict[str, Any]], order: Mapping[Tag, int]
) -> dict[str, Any]:
    """The file of a package that fits best: ``url``, ``hashes``."""
    name, _, version = line.partition("==")
    package = listed.get((canonicalize_name(name.strip()), version.strip()), {})
    fitting: list[tuple[int, str, dict[str, Any]]] = []
    for wheel in package.get("wheels", ()):
        wheel = _with_url(wheel)
        try:
            tags = parse_wheel_filename(_name(wheel))[3]
        except InvalidWheelFilename:
            continue
        ranks = [order[tag] for tag in tags if tag in order]
        if ranks:
            fitting.append((min(ranks), _name(wheel), wheel))
    if fitting:
        return min(fitting, key=lambda one: one[:2])[2]
    if "sdist" in package:
        return _with_url(package["sdist"])
    raise ResolutionError(
        f"{line} has no file that this Python could install.",
        why="A bundle holds every package of the build environment as a wheel.",
        next="Choose another --python, or see which files the index has.",
    )


def _with_url(file: dict[str, Any]) -> dict[str, Any]:
    return file if "url" in file else {**file, "url": Path(file["path"]).absolute().as_uri()}


def _name(file: Mapping[str, Any]) -> str:
    return str(file.get("name") or unquote(urlsplit(file["url"]).path.rpartition("/")[2]))


def _sha256(file: Mapping[str, Any]) -> str | None:
    found = file.get("hashes", {}).get("sha256")
    return str(found).lower() if found and re.fullmatch(r"[0-9a-fA-F]{64}", str(found)) else None


def _built(
    sdist: Path,
    interpreter: Interpreter,
    indexes: Indexes,
    environ: Mapping[str, str],
    offline: bool,
    emit: Emit,
) -> Path:
    """The wheel of a source distribution, kept beside it."""
    folder = make_dir(sdist.parent / f"built-{interpreter.tag}")
    for known in folder.glob("*.whl"):
        return known
    emit(Note(stage="bundle", message=f"{sdist.name} has no wheel: building one"))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = ["build", "--wheel", "--quiet", "--python", interpreter.base or interpreter.path]
        command += ["--out-dir", scratch, str(sdist)]
        run = run_uv(command, environ=environ, indexes=indexes, offline=offline)
        wheels = list(Path(scratch).glob("*.whl"))
        if run.returncode or len(wheels) != 1:
            raise InstallError(
                f"{sdist.name} exists as source only, and no wheel can be built of it.",
                why=f"uv build ended with {run.returncode}.",
                next="The lines shown say why.",
                details=[line for line in run.stderr.splitlines() if line.strip()][-25:],
            )
        return wheels[0].replace(folder / wheels[0].name)
