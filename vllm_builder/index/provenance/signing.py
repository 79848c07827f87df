"""DSSE envelopes, and the keys that sign them: ed25519, ECDSA (P-256, P-384, P-521) and RSA, as PEM files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vllm_builder.errors import ProvenanceError
from vllm_builder.index.provenance.statement import PAYLOAD_TYPE

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

PASSPHRASE: Final = "VLLM_BUILDER_SIGN_PASSPHRASE"  # the variable's name
_SMALLEST_RSA: Final = 2048
_LARGEST_FILE: Final = 1 << 20


def load_signing_key(path: Path, environ: Mapping[str, str]) -> CryptoSigner:
    """A private key; one that is encrypted is opened with VLLM_BUILDER_SIGN_PASSPHRASE.

    Raises:
        ProvenanceError: it cannot be read, is of another kind, or the passphrase is missing or wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    data = _read(path, "signing key")
    if b"PRIVATE KEY-----" not in data:
        public = b"PUBLIC KEY-----" in data
        raise ProvenanceError(
            f"{path} is no private key.",
            why="It is the public half." if public else "There is no PEM block of a private key in it.",
            next="Give the private key as PEM, for example one made by `openssl genpkey -algorithm ed25519`.",
        )
    if b"OPENSSH PRIVATE KEY-----" in data:
        raise ProvenanceError(
            f"{path} is in OpenSSH's own format.",
            why="Keys for signing are read as PEM (PKCS #8).",
            next="Make one: `openssl genpkey -algorithm ed25519 -aes256 -out sign.pem`.",
        )
    passphrase = environ.get(PASSPHRASE, "")
    try:
        try:
            key: Any = load_pem_private_key(data, None)
        except TypeError:  # it is encrypted
            if not passphrase:
                raise ProvenanceError(
                    f"The signing key {path} is encrypted.",
                    why=f"{PASSPHRASE} is not set.",
                    next=f"Set {PASSPHRASE} in the environment; it is never taken from the command line.",
                ) from None
            key = load_pem_private_key(data, passphrase.encode())
        if isinstance(key, RSAPrivateKey) and key.key_size < _SMALLEST_RSA:
            raise ValueError(f"an RSA key of {key.key_size} bits is too short")
        return CryptoSigner(key)
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = passphrase and b"ENCRYPTED" in data
        raise ProvenanceError(
            f"The signing key {path} cannot be used.",
            # What the library says may quote nothing of the key; its first line is a sentence.
            why=f"The passphrase in {PASSPHRASE} does not open it." if wrong else str(error).splitlines()[0],
            next="Give an ed25519, ECDSA (P-256, P-384, P-521) or RSA key of 2048 bits or more, as PEM.",
        ) from None


def load_public_keys(paths: Iterable[Path]) -> tuple[SSlibKey, ...]:
    """The public keys in some PEM files.

    Raises:
        ProvenanceError: one cannot be read, or is none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    found = []
    for path in paths:
        data = _read(path, "public key")
        if b"PRIVATE KEY-----" in data:
            raise ProvenanceError(
                f"{path} is a private key.",
                why="Checking takes the public half; the private one should not travel.",
                next=f"Make it with `openssl pkey -in {path.name} -pubout`.",
            )
        try:
            found.append(SSlibKey.from_crypto(load_pem_public_key(data)))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ProvenanceError(
                f"{path} is no public key that can be used.",
                why=str(error).splitlines()[0],
                next="Give a PEM file (-----BEGIN PUBLIC KEY-----) of an ed25519, ECDSA or RSA key.",
            ) from None
    return tuple(found)


def envelope(statement: bytes, signer: CryptoSigner | None) -> bytes:
    """One line of JSON (``.intoto.jsonl``): the DSSE envelope around a statement; without a key it has no signature."""
    from securesystemslib.dsse import Envelope

    made = Envelope(statement, PAYLOAD_TYPE, {})
    if signer is not None:
        made.sign(signer)
    return (json.dumps(made.to_dict(), sort_keys=True, separators=(",", ":")) + "\n").encode()


def _read(path: Path, what: str) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            return file.read(_LARGEST_FILE)
    except OSError as error:
        raise ProvenanceError(
            f"The {what} {path} cannot be read.",
            why=f"{error.strerror or error}.",
            next="Give the path of a PEM file.",
        ) from None
