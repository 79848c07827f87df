"""Which external sources a build needs, and what exactly they are."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from vllm_builder.cache import Cache
from vllm_builder.errors import OfflineMissing, SettingsError, VendorError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.fs import sha256_file
from vllm_builder.memo import Memo
from vllm_builder.resources import shipped
from vllm_builder.settings.model import Settings
from vllm_builder.stages.patch.operations import Step
from vllm_builder.stages.vendor import cmake_files, discover, lock, patch_steps, read_lock
from vllm_builder.stages.vendor.locking import check, given, key
from vllm_builder.stages.vendor.mirrors import how_to_supply
from vllm_builder.stages.vendor.model import External, Lock, LockedExternal
from vllm_builder.stages.vendor.unneeded import table


@dataclass(frozen=True, slots=True)
class Externals:
    """What the plan says of them."""

    lock: Lock | None = None
    steps: tuple[Step, ...] = ()
    """The patch operations after which CMake takes them from the tree."""
    told: tuple[tuple[str, str, str], ...] = ()
    """Lines of the plan: what, value, because of."""


def plan_externals(
    folder: Path,
    release: str,
    *,
    device: str,
    settings: Settings,
    cache: Cache,
    cuda: str | None = None,
    archs: tuple[str, ...] = (),
    variables: Mapping[str, str] = {},  # never changed
    emit: Emit = ignore,
) -> Externals:
    """Find the externals that a build fetches and lock them.

    The lock is taken from ``--lock-file``, else from ``locks/vllm-VERSION.toml`` of the current folder, else from
    the one that is shipped; what none of them has is asked of the repositories, and the answer is remembered.

    Args:
        folder: the release's tree, or a survey of it.
        variables: environment variables that the build will have.

    Raises:
        VendorError: the lock file does not fit the release, or a repository cannot be reached.
        OfflineMissing: a repository would have to be asked, and ``--offline`` forbids it.
    """
    if device == "empty":
        return Externals()
    found = find_externals(folder, device=device, cuda=cuda, archs=archs, variables=variables)
    _refuse_misspelt(settings.externals, {one.name for one in found})
    wanted = [one for one in found if one.needed != "no"]
    if not wanted:
        return Externals()
    path, own = lock_file(settings, release)
    known = read_lock(path, release) if path else None
    picked = {key(one): one for one in known.externals} if known else {}
    unknown = [one for one in wanted if key(one) not in picked]
    absent = {key(one) for one in known.unlocked} if known else set()
    if own and any(key(one) not in absent for one in unknown):
        assert known is not None
        raise VendorError(
            f"{path} does not fit this build.",
            why=f"The CMake files of {release} fetch what it does not have.",
            details=check(known, found),
            next="Write it anew with vllm-builder vendor VERSION --lock, or leave --lock-file out.",
        )
    asked = _ask(unknown, folder, release, settings, cache, emit) if unknown else {}
    # One that is declared twice alike, for two branches that may both be taken, is one.
    chosen = {key(one): picked.get(key(one)) or asked[key(one)] for one in wanted}
    result = Lock(release=release, externals=tuple(chosen.values()))
    told = tuple(
        (
            "external",
            f"{one.name} {one.revision[:12] if len(one.revision) == 40 else one.revision}"
            + "".join(f", {part.path} {part.commit[:12]}" for part in one.submodules),
            f"CMake fetches it; commit {one.commit[:12]} by "
            + (
                f"{'the lock file' if own else 'the shipped lock'} {path}"
                if name in picked
                else "its repository"
            ),
        )
        for name, one in chosen.items()
    )
    return Externals(result, patch_steps(result), told)


def _refuse_misspelt(given: Iterable[str], known: set[str]) -> None:
    """A name that is nearly one of the release's; one that it does not have at all may be another release's."""
    known = {name.lower() for name in known}
    for name in given:
        top = name.partition("/")[0].lower()
        near = get_close_matches(top, known, n=1, cutoff=0.85)
        if top not in known and near:
            raise SettingsError(
                f"This release has no external source {top!r} (did you mean {near[0]}?).",
                why="Where it is to come from was given under that name, and would not be used.",
                next=f"Correct [externals.{top}] in the settings file, or --external.",
            )


def find_externals(
    folder: Path,
    *,
    device: str,
    cuda: str | None = None,
    archs: tuple[str, ...] = (),
    variables: Mapping[str, str] = {},  # never changed
) -> tuple[External, ...]:
    """:func:`~vllm_builder.stages.vendor.discover` for a build on this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    return discover(
        folder,
        device=device,
        cuda=cuda,
        archs=archs,
        machine=platform.machine(),
        cpuinfo=cpuinfo.read_text("utf-8", "replace") if cpuinfo.is_file() else None,
        environment=variables,
    )


def lock_file(settings: Settings, release: str) -> tuple[Path | None, bool]:
    """The lock file that counts, and whether it is the person's own."""
    if settings.lock_file is not None:
        return settings.lock_file.expanduser(), True
    own = lock_to_write(settings, release)
    ours = shipped("locks") / own.name
    if own.is_file() and not (ours.is_file() and own.samefile(ours)):
        return own, True
    return (ours, False) if ours.is_file() else (None, False)


def lock_to_write(settings: Settings, release: str) -> Path:
    """Where a new lock file is put: where the next plan finds it first."""
    return settings.lock_file.expanduser() if settings.lock_file else Path("locks") / f"vllm-{release}.toml"


def lock_of_release(settings: Settings, release: str) -> tuple[Lock, Path]:
    """The lock that counts for a release, and its file.

    Raises:
        VendorError: there is none, or it is another release's.
    """
    path, _ = lock_file(settings, release)
    path = path or lock_to_write(settings, release)
    return read_lock(path, release), path


def _ask(
    externals: list[External], folder: Path, release: str, settings: Settings, cache: Cache, emit: Emit
) -> dict[tuple[str, str], LockedExternal]:
    """Lock what no lock file has, by its repositories or by what they said before."""
    memo = Memo(cache.memo, "externals")
    cmake = cmake_files(folder)
    found: dict[tuple[str, str], LockedExternal] = {}
    missing: list[External] = []
    for one in externals:
        asked = given(settings.externals, one.name)
        question = {
            "release": release,
            "external": one.model_dump(mode="json", exclude={"file", "line", "conditions", "needed", "why"}),
            "submodules": None if asked is None else list(asked),
            "unneeded": [rule.model_dump(mode="json") for rule in table()],
        }
        answer = None if settings.refresh and not settings.offline else _locked(memo.get(question))
        if answer is not None:
            found[key(one)] = answer
        elif settings.offline:
            missing.append(one)
        else:
            emit(Note(stage="plan", message=f"Asking for {one.name} {one.revision}: no lock file has it."))
            (locked,) = lock(
                [one], settings.externals, cache, release=release, cmake=cmake, emit=emit
            ).externals
            memo.put(question, locked.model_dump(mode="json"))
            found[key(one)] = locked
    if missing:
        raise OfflineMissing(
            "What the external sources are is not known, and --offline forbids to ask their repositories.",
            why=f"No lock file for {release} has them, and they were not asked for on this machine before.",
            details=[f"{one.name} {one.revision}: {one.url}" for one in missing],
            next="Run the same command once with network; give a lock file with --lock-file (`vllm-builder vendor "
            f"{release} --lock` writes it); or use a bundle. {how_to_supply((missing[0].name,))}",
        )
    return found


def _locked(answer: object) -> LockedExternal | None:
    """A remembered answer; None where there is none, or it cannot be read any more."""
    try:
        return LockedExternal.model_validate(answer)
    except ValidationError:
        return None


def folder_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Content hashes of the folders that ``*_SRC_DIR`` variables name, and of CMake's toolchain file.

    Their paths say nothing of what is compiled.

    Raises:
        VendorError: one of them is no folder.
        SettingsError: the toolchain file cannot be read.
    """
    from vllm_builder.stages.vendor.treehash import folder_hash

    found = {}
    for name, value in variables.items():
        if name == "CMAKE_TOOLCHAIN_FILE" and value:
            found[name] = _file_hash(name, value)
        if not name.endswith("_SRC_DIR") or not value:
            continue
        folder = Path(value).expanduser()
        if not folder.is_dir():
            raise VendorError(
                f"{name}={value} is no folder.",
                why="The release's CMake code would take an external source from there.",
                next=f"Correct {name}, or unset it: the source is then put into the tree.",
            )
        found[name] = f"tree:{folder_hash(Path(os.path.realpath(folder)))}"
    return found


def _file_hash(name: str, value: str) -> str:
    path = Path(value).expanduser()
    try:
        return f"sha256:{sha256_file(path)}"
    except OSError as error:
        raise SettingsError(
            f"{name}={value} cannot be read.",
            why=f"{error.strerror or error}.",
            next=f"Correct {name}, or unset it.",
        ) from error
