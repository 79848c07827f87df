"""Is a wheel what was asked for?"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_builder.errors import BuilderError, OfflineMissing, VerifyFailed, VerifyWarned
from vllm_builder.events import Emit, ignore
from vllm_builder.stages.verify.checks import CHECKS, OF_LIBRARIES
from vllm_builder.stages.verify.checks.torch_side import needs_torch_cxx
from vllm_builder.stages.verify.expectations import (
    Expectations,
    default_cuda,
    from_options,
    from_record,
    from_release,
    identified,
)
from vllm_builder.stages.verify.inspecting import foreign_libraries
from vllm_builder.stages.verify.model import Finding, Report, count
from vllm_builder.stages.verify.subject import Subject, read_parts
from vllm_builder.stages.verify.surroundings import Surroundings, providers_of
from vllm_builder.stages.verify.torches import exports_folder, find_torch
from vllm_builder.wheelfile import open_wheel

if TYPE_CHECKING:
    from vllm_builder.cache import Cache
    from vllm_builder.stages.verify.exports import TorchBuild
    from vllm_builder.wheelfile.wheel import Wheel

_RANK = {"error": 0, "warning": 1, "info": 2}


def verify(
    location: str | Path,
    expectations: Expectations | None = None,
    *,
    cache: Cache,
    archs: tuple[str, ...] = (),
    torch: str = "",
    against: str | Path | None = None,
    max_glibc: str = "",
    max_size: int = 0,
    environ: Mapping[str, str] | None = None,
    offline: bool = False,
    emit: Emit = ignore,
) -> Report:
    """Hold a wheel against what is expected of it.

    Args:
        location: path or address of the wheel.
        expectations: a plan's; without them, those of the wheel's record, else of the release that its version names.
        cache: where the release's files and torch's exports are kept.
        archs: GPUs that are wanted, ``("10.0",)``; in place of what the record says.
        torch: a version, or where an installed one is; see :func:`find_torch`.
        against: another wheel, of which nothing may be lost.
        max_glibc: ``2.28``.
        max_size: bytes.
        offline: fetch nothing; what would have to be fetched is not checked, and the report says so.

    Raises:
        WheelError: it is no wheel, or cannot be read as one.
        SettingsError, OfflineMissing: there is no such torch; a wheel is behind an address, and ``offline``.
    """
    started = time.monotonic()
    environ = dict(os.environ if environ is None else environ)
    if offline:
        _refuse_addresses(location, against)
    with ExitStack() as stack:
        wheel = stack.enter_context(open_wheel(location, emit=emit))
        unknown: dict[str, str] = {}
        base = expectations or _expected_of(wheel, cache, environ, offline, emit, unknown)
        expected = from_options(base, archs=archs, max_size=max_size, max_glibc=max_glibc)
        if expected.extensions is None:
            unknown["extensions"] = "it is not known which extensions the wheel should hold"
        if expected.device in {"cuda", ""} and not expected.archs:
            unknown["kernels"] = "for which GPUs the wheel is, is not known; give --arch"
        parts, unreadable = read_parts(wheel, expected.archs)
        foreign = foreign_libraries(wheel)
        if foreign:
            unknown["libraries"] = f"{foreign[0]}"
        machine = next((part.library.machine for part in parts), "x86_64")
        build = None
        if torch:
            build = find_torch(
                torch,
                machine=machine,
                cache=cache,
                environ=environ,
                offline=offline,
                emit=emit,
                needs_cuda=any("cuda" in soname for part in parts for soname in part.library.needed),
            )
        base_subject = None
        if against is not None:
            other = stack.enter_context(open_wheel(against, emit=emit))
            base_subject = _subject(other, Expectations(), (), None, cache)
        surroundings = Surroundings(
            machine, build, providers_of((part.library, part.exports) for part in parts)
        )
        subject = Subject(
            wheel, expected, parts, unreadable, surroundings, base_subject, exports_folder(cache), unknown
        )
        if build is None and needs_torch_cxx(subject):
            unknown["symbols of torch"] = "against which torch, was not said; give --torch"
        findings = [finding for check in CHECKS.values() for finding in check(subject)]
        findings += [
            Finding(check="not-checked", severity="info", what=f"Not checked: {name}.", why=why)
            for name, why in unknown.items()
        ]
        return Report(
            wheel=wheel.location,
            sha256=_sha256(wheel),
            expected=expected.origin,
            torch=f"{build.version} ({build.origin})" if build else "",
            findings=tuple(sorted(findings, key=lambda f: _RANK[f.severity])),
            checks=tuple(
                name
                for name in CHECKS
                if name not in unknown
                and (name != "against" or against)
                and not (foreign and name in OF_LIBRARIES)
            ),
            answers=_answers(subject),
            seconds=round(time.monotonic() - started, 2),
        )


def _refuse_addresses(*locations: str | Path | None) -> None:
    for location in locations:
        if re.match(r"(?i)https?://", str(location or "")):
            raise OfflineMissing(
                f"{str(location).rpartition('/')[2] or location} is behind an address, and --offline forbids to fetch it.",
                next="Download the wheel and name the file, or leave --offline away.",
            )


def judge(report: Report, *, strict: bool = False) -> None:
    """Turn a report into an error where the wheel is not good.

    Raises:
        VerifyFailed: there is a finding that is an error.
        VerifyWarned: ``strict``, and there is a warning.
    """
    name = Path(report.wheel).name
    errors = [f for f in report.findings if f.severity == "error"]
    warnings = [f for f in report.findings if f.severity == "warning"]
    if errors:
        raise VerifyFailed(
            f"{name} is not what was asked for: {count(len(errors), 'error')}"
            f"{', ' + count(len(warnings), 'warning') if warnings else ''}.",
            why=errors[0].what,
            next=errors[0].cure,
            details=[one_line(f) for f in (*errors, *warnings)],
        )
    if strict and warnings:
        raise VerifyWarned(
            f"{name} does what was asked for, with {count(len(warnings), 'warning')}, and --strict allows none.",
            why=warnings[0].what,
            next=warnings[0].cure,
            details=[one_line(f) for f in warnings],
        )


def tally(report: Report) -> str:
    """``1 error, 3 warnings, 2 remarks``."""
    counts = Counter(f.severity for f in report.findings if f.check != "not-checked")
    words = (("error", "error"), ("warning", "warning"), ("info", "remark"))
    said = [count(counts[severity], word) for severity, word in words if counts[severity]]  # type: ignore[index]
    return ", ".join(said) or "nothing to remark"


def one_line(finding: Finding) -> str:
    """``error rpath: _C has RPATH /build.``"""
    return f"{finding.severity} {finding.check}: {finding.what}"


def _expected_of(
    wheel: Wheel, cache: Cache, environ: Mapping[str, str], offline: bool, emit: Emit, unknown: dict[str, str]
) -> Expectations:
    """What a wheel's record says; without one what its release makes for the device that its version names."""
    record = wheel.build_record
    if record is not None:
        found = from_record(record)
        if found.requirements is None:
            unknown["requirements"] = "the wheel's record does not say them"
        return found
    if wheel.name != "vllm":
        unknown["requirements"] = f"it is a wheel of {wheel.name}; only vLLM's releases are known"
        return Expectations()
    release, device, cuda = identified(str(wheel.version))
    if not device:
        unknown["requirements"] = f"which device {wheel.version} is for, its name does not say"
        return Expectations(release=release)
    folder = None
    try:
        folder = _release_folder(release, cache, environ, offline, emit)
    except BuilderError as error:
        unknown["requirements"] = f"the release's own are not at hand: {error.what}"
    if device == "cuda" and not cuda and folder is not None:
        cuda = _default_cuda_of(folder)
    machine = next((m for t in wheel.tags for m in ("x86_64", "aarch64") if t.platform.endswith(m)), "")
    found = from_release(release, device, cuda=cuda, machine=machine, folder=folder)
    if folder is not None and found.requirements is None:
        unknown["requirements"] = "it cannot be read from which file the release's setup.py takes them"
    return found


def _release_folder(
    release: str, cache: Cache, environ: Mapping[str, str], offline: bool, emit: Emit
) -> Path:
    """The small files of a release, from the configured indexes or the cache.

    Raises:
        any error of the source stage.
    """
    from vllm_builder.indexes import read_indexes
    from vllm_builder.stages.source import SourceRequest, resolve, survey

    request = SourceRequest(version=release, kind="pypi", indexes=read_indexes(environ), offline=offline)
    pin = resolve(request, cache, emit)
    return survey(pin, cache, emit, offline=offline, request=request)


def _default_cuda_of(folder: Path) -> str:
    from vllm_builder.stages.plan.release import Release

    pin = Release(folder).torch_pin("cuda", {})
    return default_cuda(pin[0]) if pin else ""


def _subject(
    wheel: Wheel, expected: Expectations, archs: tuple[str, ...], build: TorchBuild | None, cache: Cache
) -> Subject:
    parts, unreadable = read_parts(wheel, archs)
    machine = next((part.library.machine for part in parts), "x86_64")
    own = providers_of((part.library, part.exports) for part in parts)
    return Subject(
        wheel, expected, parts, unreadable, Surroundings(machine, build, own), None, exports_folder(cache)
    )


def _answers(subject: Subject) -> dict[str, dict[str, dict[str, int]]]:
    return {
        gpu: {part.name: dict(Counter(part.answers[gpu])) for part in subject.gpu_parts()}
        for gpu in subject.expected.archs
    }


def _sha256(wheel: Wheel) -> str:
    """Of a wheel that is here; of one that is read by ranges it would cost the whole download."""
    if wheel.remote:
        return ""
    digest = hashlib.sha256()
    for block in wheel.raw():  # it may lie in a temporary file that has no name
        digest.update(block)
    return digest.hexdigest()
