"""Addresses of upload servers: ``https://server/team/{channel}/``."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from vllm_builder.errors import SettingsError

CHANNEL: Final = "{channel}"
VARIANT: Final = "{variant}"


def check_address(url: str) -> str:
    """An address as it can be used and shown.

    Raises:
        SettingsError: it is none, holds credentials, or a placeholder that is not known. It is not repeated where there
            may be a password in it.
    """
    if "@" in url:
        raise SettingsError(
            "The address of the upload server holds a user name or a password.",
            why="It would be seen in the list of processes, in the shell's history and in logs.",
            next="Leave it out of the address, and put it into the environment (VLLM_BUILDER_PUBLISH_USERNAME and "
            "VLLM_BUILDER_PUBLISH_PASSWORD, or twine's or uv's variables), netrc or a keyring.",
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or re.search(r"\s", url):
        raise SettingsError(
            f"{url!r} is no address of an upload server.",
            next="Write for example https://wheels.example/team/dev/.",
        )
    unknown = set(re.findall(r"\{[^}]*\}?|\}", url)) - {CHANNEL, VARIANT}
    if unknown or {CHANNEL, VARIANT} & set(re.findall(r"\{\w+\}", parts.netloc)):
        raise SettingsError(
            f"{url!r}: {unknown.pop() if unknown else 'a placeholder in the host name'} cannot be used.",
            next=f"In the path, {CHANNEL} and {VARIANT} stand for the wheel's channel and variant.",
        )
    return url


def filled(url: str, channel: str, variant: str) -> str:
    return url.replace(CHANNEL, channel).replace(VARIANT, variant)


def is_open(url: str) -> bool:
    """Whether a password would travel for everybody to read."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return parts.scheme == "http" and not here
