"""The provenance of a wheel that is to be published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_builder.errors import ProvenanceError
from vllm_builder.index.candidates import Candidate
from vllm_builder.wheelfile import open_wheel
from vllm_builder.wheelfile.record import SBOM

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


@dataclass(frozen=True, slots=True)
class Proof:
    """``envelope`` is what goes beside the wheel; empty where nothing is known."""

    envelope: bytes = b""
    keyid: str = ""

    def facts(self) -> dict[str, Any]:
        state = "none" if not self.envelope else "signed" if self.keyid else "unsigned"
        return {"provenance": state, "keyid": self.keyid}


def prove(one: Candidate, signer: CryptoSigner | None, builder_id: str = "") -> Proof:
    """The signed (or unsigned) statement of a wheel with a build record; nothing for any other.

    Raises:
        ProvenanceError: the record does not make a statement.
    """
    from vllm_builder.index.provenance.signing import envelope
    from vllm_builder.index.provenance.statement import statement

    with open_wheel(one.path) as wheel:
        record = wheel.build_record
        if record is None:
            return Proof()
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
    return Proof(envelope(said, signer), signer.public_key.keyid if signer is not None else "")
