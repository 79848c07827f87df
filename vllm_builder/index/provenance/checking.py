"""Is the provenance beside a wheel the wheel's, and signed by whom it should be?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from vllm_builder.index.provenance.statement import (
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    check_predicate,
)
from vllm_builder.model import Model

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

LARGEST: Final = 4 << 20
"""Bytes; a statement has some thousands."""


class ProvenanceFinding(Model):
    """``error``: not to be trusted. ``info``: less is proven than could be."""

    severity: Literal["error", "info"]
    what: str
    cure: str = ""


def check_provenance(
    data: bytes | None, *, filename: str, sha256: str, keys: Sequence[SSlibKey] = (), plan_digest: str = ""
) -> tuple[ProvenanceFinding, ...]:
    """Hold the provenance beside a wheel against the wheel; never raises, whatever the bytes are.

    Args:
        data: content of ``WHEEL.intoto.jsonl``, one DSSE envelope a line; None where there is none.
        filename: of the wheel.
        sha256: of the wheel's bytes as they are.
        keys: public keys, one of which must have signed; none: signatures are not looked at, and that is said.
        plan_digest: of the plan that the wheel's record names; empty: not compared.

    Returns:
        what is wrong or not proven; nothing where all is good.
    """
    if not data:
        return (
            _finding(
                bool(keys), "There is no provenance.", "Publish the wheel from a build, with --sign-key."
            ),
        )
    try:
        envelopes = _envelopes(data)
        for one in envelopes:
            _check_statement(one, filename, sha256, plan_digest)
    except ValueError as error:
        return (
            _finding(
                True, f"The provenance cannot be trusted: {error}.", "Delete the wheel, and publish it again."
            ),
        )
    return tuple(_check_signatures(envelopes, keys))


def key_ids(data: bytes) -> tuple[str, ...]:
    """Ids of the keys that are said to have signed; nothing is checked."""
    try:
        return tuple(dict.fromkeys(keyid for one in _envelopes(data) for keyid in one.signatures))
    except ValueError:
        return ()


def _check_signatures(envelopes: Sequence[Envelope], keys: Sequence[SSlibKey]) -> Iterator[ProvenanceFinding]:
    signed = any(one.signatures for one in envelopes)
    if not signed:
        yield _finding(bool(keys), "The provenance is not signed.", "Publish with --sign-key.")
    elif not keys:
        yield _finding(False, "The signature was not checked.", "Give the public key: --key FILE.")
    elif not any(_signed_by(one, key) for one in envelopes for key in keys):
        names = sorted({keyid or "no key id" for one in envelopes for keyid in one.signatures})
        yield _finding(
            True,
            f"The provenance is signed by none of the given keys (signature of: {', '.join(names)}).",
            "Give the public key of the team that published it; if that is one of these, the statement was changed.",
        )


def _signed_by(one: Envelope, key: SSlibKey) -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
    from securesystemslib.signer import Signature

    for signature in one.signatures.values():
        try:
            # The key id is a hint (DSSE): other tools make it in another way, or leave it out.
            key.verify_signature(Signature(key.keyid, signature.signature), one.pae())
        except (UnverifiedSignatureError, VerificationError):
            continue
        return True
    return False


def _envelopes(data: bytes) -> list[Envelope]:
    """
    Raises:
        ValueError: they are none.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import FormatError

    if len(data) > LARGEST:
        raise ValueError(f"it has {len(data)} bytes")
    found = []
    for line in data.splitlines():
        if not line.strip():
            continue
        try:
            value = _object(line)
            # As the library reads it, a key id is not optional.
            for signature in value.get("signatures", ()):
                signature.setdefault("keyid", "")
            found.append(Envelope.from_dict(value))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError, FormatError) as error:
            raise ValueError(f"it is no DSSE envelope ({type(error).__name__})") from error
    if not found:
        raise ValueError("it is empty")
    return found


def _check_statement(one: Envelope, filename: str, sha256: str, plan_digest: str) -> None:
    """
    Raises:
        ValueError: it is not about this wheel, or not what it should be.
    """
    if one.payload_type != PAYLOAD_TYPE:
        raise ValueError(f"its payload is {one.payload_type!r}")
    try:
        found = _object(one.payload)
    except (ValueError, RecursionError) as error:
        raise ValueError("its payload is no JSON object") from error
    if found.get("_type") != STATEMENT_TYPE:
        raise ValueError("it is no in-toto statement v1")
    if found.get("predicateType") != PREDICATE_TYPE:
        raise ValueError(f"its predicate is {found.get('predicateType')!r}, not SLSA provenance v1")
    subjects = found.get("subject")
    about = [one for one in subjects if isinstance(one, dict)] if isinstance(subjects, list) else []
    if not any(one.get("name") == filename and _sha256(one) == sha256 for one in about):
        named = ", ".join(str(one.get("name")) for one in about[:3])
        same = any(one.get("name") == filename for one in about)
        raise ValueError("it is about other bytes" if same else f"it is about {named or 'nothing'}")
    predicate = found.get("predicate")
    if not isinstance(predicate, dict):
        raise ValueError("it has no predicate")  # noqa: TRY004 (of the content, not of an argument)
    try:
        check_predicate(predicate)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error) or "its predicate cannot be read") from error
    run = predicate.get("runDetails", {}).get("metadata", {}).get("invocationId", "")
    if plan_digest and run != plan_digest:
        raise ValueError("it is about another build than the wheel's own record")


def _sha256(subject: Mapping[str, Any]) -> object:
    digest = subject.get("digest")
    return digest.get("sha256") if isinstance(digest, dict) else None


def _object(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it is no object")  # noqa: TRY004
    return found


def _finding(error: bool, what: str, cure: str) -> ProvenanceFinding:
    return ProvenanceFinding(severity="error" if error else "info", what=what, cure=cure)
