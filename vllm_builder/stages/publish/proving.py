"""The provenance of a wheel that is to be published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_builder.errors import ProvenanceError
from vllm_builder.index.candidates import Candidate
from vllm_builder.wheelfile import open_wheel
from vllm_builder.wheelfile.record import SBOM

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


def prove(one: Candidate, signer: CryptoSigner | None, builder_id: str = "") -> bytes:
    """The envelope around the statement of a wheel with a build record; empty for any other.

    Raises:
        ProvenanceError: the record does not make a statement.
    """
    from vllm_builder.index.provenance.signing import envelope
    from vllm_builder.index.provenance.statement import statement

    with open_wheel(one.path) as wheel:
        record = wheel.build_record
        if record is None:
            return b""
        place = f"{wheel.dist_info}/{SBOM}"
        sbom = wheel.read(place) if place in wheel.members else b""
    try:
        said = statement(record, filename=one.filename, sha256=one.sha256, sbom=sbom, builder_id=builder_id)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise ProvenanceError(
            f"No provenance can be made of the build record in {one.filename}.",
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            next="Build the wheel again, or publish it without: --no-provenance.",
        ) from error
    return envelope(said, signer)


def state(data: bytes | None) -> dict[str, Any]:
    """What lies beside a wheel, for the result: ``provenance`` and ``keyid``. Nothing of it is checked here."""
    from vllm_builder.index.provenance.checking import key_ids

    if not data:
        return {"provenance": "none"}
    keys = key_ids(data)
    return {"provenance": "signed" if keys else "unsigned", "keyid": keys[0] if keys else ""}
