"""What the publish stage takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from vllm_builder.index.model import Checked, Published
from vllm_builder.model import Free, Model

Provenance = Literal["none", "unsigned", "signed"]


class PublishRequest(Model):
    """Which wheels go where. None of it changes a wheel. It holds no secret: those come from the environment."""

    wheels: Free[tuple[Path, ...]]
    to: Free[str]
    """A folder, ``s3://bucket/prefix``, or the address of an upload server, there with ``{channel}`` and ``{variant}``."""
    channels: Free[tuple[str, ...]] = ()
    """None: ``release`` for a final version, ``nightly`` for others."""
    variant: Free[str] = ""
    """Empty: what each wheel says of itself."""
    group: Free[str] = ""
    """A name that several publishers share: their wheels appear when all of ``expects`` is there."""
    expects: Free[tuple[str, ...]] = ()
    """Variants of the group."""
    no_verify: Free[str | None] = None
    """Why the wheels are not verified; goes into the manifest. None: they are."""
    verified: Free[Mapping[str, int]] = {}
    """Wheels that were verified already, by their SHA-256: how many warnings there were."""
    provenance: Free[bool] = True
    sign_key: Free[Path | None] = None
    """A private key (PEM). An encrypted one is opened with VLLM_BUILDER_SIGN_PASSPHRASE."""
    builder_id: Free[str] = ""
    """URI of who built; empty: a name for this version of vllm-builder."""
    simple_url: Free[str] = ""
    """Of an upload server: where its pages are; empty: where the known servers have them."""
    offline: Free[bool] = False
    """Fetch nothing for verifying."""


class PublishedWheel(Published):
    """What became of one wheel, wherever it went."""

    checked: Checked | None = None
    """How it was judged; None where it was there already."""
    provenance: Provenance = "none"
    keyid: str = ""
    """Of the key that signed."""


class PublishResult(Model):
    """``to`` is without credentials."""

    to: str
    wheels: tuple[PublishedWheel, ...]
    seconds: float
