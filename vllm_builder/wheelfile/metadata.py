"""METADATA and WHEEL of a wheel, as they are written: strange values are shown, not refused."""

from __future__ import annotations

from collections.abc import Mapping
from email.parser import BytesParser
from email.policy import compat32

from packaging.metadata import parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import parse_tag

from vllm_builder.errors import WheelError
from vllm_builder.model import Model


class Metadata(Model):
    """The file METADATA."""

    name: str
    version: str
    metadata_version: str
    summary: str = ""
    requires_python: str = ""
    requires_dist: tuple[str, ...] = ()
    """As written, in order."""
    provides_extra: tuple[str, ...] = ()
    fields: Mapping[str, tuple[str, ...]] = {}
    """Every field, also unknown ones: name in lower case with underscores (``requires_dist``) -> values. The
    description is left out."""


class WheelFields(Model):
    """The file WHEEL."""

    version: str
    """Of the format, ``1.0``."""
    generator: str = ""
    root_is_purelib: bool = False
    tags: tuple[str, ...] = ()
    """As written, in order: ``cp38-abi3-manylinux_2_28_x86_64``."""
    build: str = ""

    @property
    def expanded(self) -> frozenset[str]:
        """The tags with compressed sets taken apart: ``py2.py3-none-any`` are two."""
        return frozenset(str(one) for tag in self.tags for one in parse_tag(tag))


def parse_metadata(data: bytes, where: str) -> Metadata:
    """Read METADATA with :mod:`packaging.metadata`; ``where`` is for messages.

    Raises:
        WheelError: it has no name or version, or is no text with headers.
    """
    try:
        raw, unknown = parse_email(data)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise WheelError(f"{where} cannot be read.", why=str(error)) from error
    fields: dict[str, tuple[str, ...]] = {}
    for key, value in raw.items():
        if isinstance(value, str):
            fields[key] = (value,)
        elif isinstance(value, list):
            fields[key] = tuple(str(item) for item in value)
        elif isinstance(value, dict):
            fields[key] = tuple(f"{name}, {item}" for name, item in value.items())
    for key, values in unknown.items():
        name = str(key).lower().replace("-", "_")
        fields[name] = fields.get(name, ()) + tuple(str(value) for value in values)
    fields.pop("description", None)

    def single(key: str) -> str:
        return fields.get(key, ("",))[0].strip()

    if not single("name") or not single("version"):
        raise WheelError(
            f"{where} has no {'Version' if single('name') else 'Name'}.",
            why="No installer takes such a wheel.",
        )
    return Metadata(
        name=single("name"),
        version=single("version"),
        metadata_version=single("metadata_version"),
        summary=single("summary"),
        requires_python=single("requires_python"),
        requires_dist=fields.get("requires_dist", ()),
        provides_extra=fields.get("provides_extra", ()),
        fields=fields,
    )


def parse_wheel_fields(data: bytes, where: str) -> WheelFields:
    """Read WHEEL; ``where`` is for messages.

    Raises:
        WheelError: its format is unknown, or it has no version or no valid tag.
    """
    headers = BytesParser(policy=compat32).parsebytes(data, headersonly=True)

    def all_of(key: str) -> tuple[str, ...]:
        return tuple(str(value).strip() for value in headers.get_all(key) or ())

    def single(key: str) -> str:
        return (all_of(key) or ("",))[0]

    version = single("Wheel-Version")
    if not version.startswith("1."):
        raise WheelError(
            f"{where} has the format {version[:40]!r}.",
            why="Installers know the wheel format 1.0 and its successors 1.x.",
        )
    tags = all_of("Tag")
    if not tags or any(tag.count("-") != 2 or not all(tag.split("-")) for tag in tags):
        raise WheelError(f"{where} has no valid Tag.", why="No installer knows whether such a wheel fits.")
    if any(tag.count(".") > 64 for tag in tags) or len(tags) > 1000:
        raise WheelError(f"{where} has more tags than any wheel.")
    return WheelFields(
        version=version,
        generator=single("Generator"),
        root_is_purelib=single("Root-Is-Purelib").lower() == "true",
        tags=tags,
        build=single("Build"),
    )


def valid_requirement(text: str) -> bool:
    """Whether installers understand a Requires-Dist (PEP 508)."""
    try:
        Requirement(text)
    except InvalidRequirement:
        return False
    return True
