"""Publish wheels: read, judge, say where they come from, and hand them to the index in one transaction."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_builder.errors import PublishRefused, SettingsError
from vllm_builder.events import Emit, Note, StageFinished, StageStarted, ignore
from vllm_builder.index import layout
from vllm_builder.index.candidates import Candidate, read_candidate
from vllm_builder.index.provenance.checking import key_ids
from vllm_builder.stages.publish.destinations import Destination, destination_of
from vllm_builder.stages.publish.judging import judge_all
from vllm_builder.stages.publish.model import PublishedWheel, PublishRequest, PublishResult
from vllm_builder.stages.publish.proving import prove, state

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

    from vllm_builder.cache import Cache

_STAGE = "publish"


def examine(request: PublishRequest, environ: Mapping[str, str]) -> None:
    """Find out what is wrong with a request before anything is done: a build of hours comes before it.

    Raises:
        SettingsError: the destination, a channel, a variant or the reason cannot be used, or they exclude each other.
        ProvenanceError: the key cannot be used.
    """
    _prepared(request, environ)


def publish(
    request: PublishRequest,
    *,
    cache: Cache,
    environ: Mapping[str, str] | None = None,
    emit: Emit = ignore,
) -> PublishResult:
    """Publish wheels: on a folder or an object store all of them appear in one moment, or none.

    A wheel that is there already, byte for byte, is left alone: it is neither verified nor uploaded again.

    Args:
        cache: what verifying keeps: exports of torch, files of releases.
        environ: environment variables; credentials and the passphrase of a key come from here.

    Raises:
        WheelError: one is no wheel, or is not what its file name says.
        PublishRefused: one is not good, cannot be placed, or another file has its name; nothing is published.
        ProvenanceError: the key cannot be used.
        SettingsError: see :func:`examine`.
        StorageFailed, NotWritable, NoSpace, Busy, IndexDamaged: the destination does not take it.
    """
    started = time.monotonic()
    environ = dict(os.environ if environ is None else environ)
    destination, signer = _prepared(request, environ)
    emit(StageStarted(stage=_STAGE, title=f"Publish to {destination.shown}"))
    candidates = _read(request, destination)
    there = destination.present(candidates)
    new = [one for one in candidates if one.filename not in there]
    checked = judge_all(new, request, cache=cache, environ=environ, emit=emit)
    proofs: dict[str, bytes] = {}
    if request.provenance and destination.takes_provenance:
        # Also of those that are there: they may be there without.
        proofs = {one.filename: prove(one, signer, request.builder_id) for one in candidates}
        _say_unproven({one.filename: proofs[one.filename] for one in new}, signer is not None, emit)
    elif request.provenance:
        emit(Note(stage=_STAGE, message="Without provenance: an upload server has no place for it"))
    ready = [
        replace(
            one,
            checked=checked.get(one.filename, one.checked),
            provenance=proofs.get(one.filename, b""),
        )
        for one in candidates
    ]
    done = destination.put(ready, emit=emit)
    beside = destination.provenance(done)
    _say_other_signatures(proofs, beside, signer, emit)
    seconds = round(time.monotonic() - started, 3)
    wheels = tuple(
        PublishedWheel(
            **one.model_dump(),
            checked=checked.get(one.filename),
            **state(beside.get(one.filename)),
        )
        for one in done
    )
    emit(StageFinished(stage=_STAGE, seconds=seconds, summary=_summary(wheels)))
    return PublishResult(to=destination.shown, wheels=wheels, seconds=seconds)


def _prepared(request: PublishRequest, environ: Mapping[str, str]) -> tuple[Destination, CryptoSigner | None]:
    for channel in request.channels:
        layout.channel_name(channel)
    if request.variant:
        layout.variant_name(request.variant)
    if request.no_verify is not None and not request.no_verify.strip():
        raise SettingsError(
            "Why the wheel is not to be verified, was not said.",
            why="The reason is kept in the index, for those who install it.",
            next='Give one: --no-verify "built elsewhere, verified by hand".',
        )
    if request.expects and not request.group:
        raise SettingsError(
            "Variants to wait for were given, but no group.",
            next="Name the group that they belong to: --group nightly-2026-01-31.",
        )
    destination = destination_of(request, environ)
    if request.sign_key is None:
        return destination, None
    if not destination.takes_provenance or not request.provenance:
        raise SettingsError(
            "A key was given, and there is no provenance to sign.",
            why="An upload server has no place for it."
            if not destination.takes_provenance
            else "It was asked to leave the provenance out.",
            next="Leave --sign-key out, or publish to a folder or an object store, with provenance.",
        )
    from vllm_builder.index.provenance.signing import load_signing_key

    return destination, load_signing_key(request.sign_key, environ)


def _read(request: PublishRequest, destination: Destination) -> list[Candidate]:
    """
    Raises:
        PublishRefused: two of the given files have the same name, and are not the same.
    """
    found: dict[str, Candidate] = {}
    for path in request.wheels:
        one = read_candidate(
            path, channels=request.channels, variant=request.variant or destination.only_variant
        )
        other = found.setdefault(one.filename, one)
        if other.sha256 != one.sha256:
            raise PublishRefused(
                f"Two different files of the name {one.filename} are to be published.",
                why=f"{other.path} is sha256 {other.sha256}, {one.path} is {one.sha256}.",
                next="Publish one of them.",
            )
    return list(found.values())


def _say_unproven(proofs: Mapping[str, bytes], signed: bool, emit: Emit) -> None:
    without = [name for name, proof in proofs.items() if not proof]
    if without:
        message = f"No provenance for {_names(without)}: without a build record it is not known what it was built from"
        emit(Note(stage=_STAGE, message=message, level="warning" if signed else "info"))
    if len(without) < len(proofs) and not signed:
        emit(Note(stage=_STAGE, message="The provenance is not signed (--sign-key)"))


def _say_other_signatures(
    proofs: Mapping[str, bytes], beside: Mapping[str, bytes], signer: CryptoSigner | None, emit: Emit
) -> None:
    """The first provenance of a wheel stays: that of an earlier publishing, be it with another key or none."""
    if signer is None:
        return
    own = signer.public_key.keyid
    others = [name for name, proof in proofs.items() if proof and own not in key_ids(beside.get(name, b""))]
    if others:
        message = (
            f"{_names(others)}: the provenance there is of an earlier publishing, and not signed by this key"
        )
        emit(Note(stage=_STAGE, message=message, level="warning"))


def _summary(wheels: Sequence[PublishedWheel]) -> str:
    counts: dict[str, int] = {}
    for one in wheels:
        counts[one.outcome] = counts.get(one.outcome, 0) + 1
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items())


def _names(names: Sequence[str] | frozenset[str]) -> str:
    listed = sorted(names)
    return listed[0] if len(listed) == 1 else f"{listed[0]} and {len(listed) - 1} more"
