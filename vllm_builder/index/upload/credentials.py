"""Who uploads: found where twine, uv and pip look, never on a command line.

Our own variables come first, then twine's, uv's, ``~/.pypirc``, the keyring, netrc. Without any, nothing is sent.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from configparser import Error as ConfigError
from dataclasses import dataclass, field
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from vllm_builder.errors import SettingsError

TOKEN_USER: Final = "__token__"  # of PyPI's protocol
_VARIABLES: Final = (
    ("VLLM_BUILDER_PUBLISH_TOKEN", "VLLM_BUILDER_PUBLISH_USERNAME", "VLLM_BUILDER_PUBLISH_PASSWORD"),
    ("", "TWINE_USERNAME", "TWINE_PASSWORD"),
    ("UV_PUBLISH_TOKEN", "UV_PUBLISH_USERNAME", "UV_PUBLISH_PASSWORD"),
)
PLACES: Final = (
    "VLLM_BUILDER_PUBLISH_USERNAME and _PASSWORD (or _TOKEN), TWINE_USERNAME and TWINE_PASSWORD, UV_PUBLISH_*, ~/.pypirc, "
    "the keyring, ~/.netrc"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str = ""
    password: str = field(default="", repr=False)
    origin: str = ""
    """Where they were found, in words; empty: there are none."""

    def scrub(self, text: str) -> str:
        """A text of the server's without the password, in whatever form a server may repeat it."""
        if not self.password:
            return text
        basic = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        for secret in (basic, self.password, quote(self.password, safe=""), repr(self.password)[1:-1]):
            text = text.replace(secret, "***")
        return text


def find_credentials(url: str, environ: Mapping[str, str]) -> Credentials:
    """The first that are found for a server.

    Raises:
        SettingsError: a user is named and no password, or a file that may hold them cannot be read.
    """
    return next(_found(url, environ), Credentials())


def _found(url: str, environ: Mapping[str, str]) -> Iterator[Credentials]:
    for token, user, password in _VARIABLES:
        if token and environ.get(token):
            yield Credentials(TOKEN_USER, environ[token], token)
        if name := environ.get(user, ""):
            if password in environ:
                yield Credentials(name, environ[password], user)
            if (found := _keyring(url, name)) is not None:
                yield found
            raise SettingsError(
                f"{user} is set, and there is no password.",
                next=f"Set {password}, too, or put it into the keyring for {url}.",
            )
        if environ.get(password):
            # As uv and twine have it for a token alone.
            yield Credentials(TOKEN_USER, environ[password], password)
    home = Path(environ["HOME"]) if environ.get("HOME") else None
    if home is not None and (found := _pypirc(url, home / ".pypirc")) is not None:
        yield found
    if (found := _keyring(url, None)) is not None:
        yield found
    files = (
        [Path(environ["NETRC"])] if environ.get("NETRC") else [home / ".netrc"] if home is not None else []
    )
    for file in files:
        if (found := _netrc(url, file)) is not None:
            yield found


def _pypirc(url: str, file: Path) -> Credentials | None:
    if not file.is_file():
        return None
    from twine.exceptions import TwineException
    from twine.utils import get_config

    try:
        sections = get_config(str(file))
    except (OSError, ValueError, TwineException, ConfigError) as error:
        # What the parser says quotes lines of the file.
        raise SettingsError(
            f"{file} cannot be read ({type(error).__name__}).", next="Mend it or move it away."
        ) from None
    for name, section in sections.items():
        if (section.get("repository") or "").rstrip("/") == url.rstrip("/") and section.get("username"):
            return Credentials(
                section["username"] or "", section.get("password") or "", f"[{name}] of {file}"
            )
    return None


def _keyring(url: str, user: str | None) -> Credentials | None:
    import keyring
    from keyring.errors import KeyringError

    for place in (url, urlsplit(url).netloc):
        try:
            found = keyring.get_credential(place, user)
        except (KeyringError, RuntimeError):
            return None  # no keyring on this machine, or a locked one
        if found is not None and found.password is not None and user in {None, found.username}:
            return Credentials(found.username, found.password, "the keyring")
    return None


def _netrc(url: str, file: Path) -> Credentials | None:
    try:
        found = netrc(str(file)).authenticators(urlsplit(url).hostname or "")
    except FileNotFoundError:
        return None
    except (OSError, NetrcParseError, UnicodeDecodeError) as error:
        # What the parser says quotes the file.
        raise SettingsError(
            f"{file} cannot be read ({type(error).__name__}).", next="Mend it or move it away."
        ) from None
    if found is None or found[2] is None:
        return None
    return Credentials(found[0] or found[1] or "", found[2], str(file))
