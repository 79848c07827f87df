"""Where a shared cache lies, read from what a person writes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["folder", "http", "redis", "objects"]

_KINDS: Final[dict[str, Kind]] = {
    "file": "folder",
    "http": "http",
    "https": "http",
    "redis": "redis",
    "rediss": "redis",
    "s3": "objects",
    "gs": "objects",
    "az": "objects",
}
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HALF: Final = re.compile(rf"(?i)({'|'.join(_KINDS)}):")
_HOST: Final = re.compile(r"[\w-]+(?:\.[\w-]+)*:\d{2,5}(?:/|$)")
_FORMS: Final = "a folder, http(s)://HOST/PATH, redis://HOST/DB, s3://BUCKET/PREFIX, gs:// or az://"


@dataclass(frozen=True, slots=True)
class Address:
    """``shown`` is what messages and records call it; only the other fields may hold credentials."""

    kind: Kind
    shown: str
    url: str = field(repr=False)
    """Without user name and password; of a folder its path."""
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def network(self) -> bool:
        """Whether anything but files of this machine is touched."""
        return self.kind != "folder"


def parse(text: str) -> Address:
    """Read an address.

    Args:
        text: a folder, ``file:///folder``, ``http(s)://[USER:PASSWORD@]HOST/PATH``, ``redis(s)://[[USER]:PASSWORD@]HOST/DB``,
            ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX`` or ``az://CONTAINER/PREFIX``.

    Raises:
        ValueError: it is none of these; its text holds nothing of the address.
    """
    found = _SCHEME.match(text)
    if found is None:
        if _HALF.match(text) or _HOST.match(text):
            raise ValueError("It looks like an address and lacks its //; a folder is written ./folder")
        if not text.strip() or "\0" in text:
            raise ValueError(f"It names no place ({_FORMS})")
        try:
            folder = str(Path(text).expanduser().absolute())
        except RuntimeError:
            raise ValueError("It names the home of somebody who has none") from None
        return Address("folder", folder, folder)
    kind = _KINDS.get(found[1].lower())
    if kind is None:
        raise ValueError(f"No shared cache can lie at {found[1]}:// addresses ({_FORMS})")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("It is no address: look at its host and port") from None
    if parts.query or parts.fragment:
        raise ValueError("It holds a query or a fragment, which no shared cache has")
    if kind == "folder":
        if parts.netloc not in {"", "localhost"} or not parts.path:
            raise ValueError("It names another machine; a folder is file:///folder, with three slashes")
        return Address(kind, unquote(parts.path), unquote(parts.path))
    if not parts.hostname:
        raise ValueError("It names no host or bucket")
    if kind == "objects" and "@" in parts.netloc:
        raise ValueError("It holds a user name or a password, which the store's own tools keep")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if kind == "objects":
        host = parts.netloc  # names of buckets are not folded
    plain = (
        f"{parts.scheme}://{host}{f':{port}' if port and kind != 'objects' else ''}{parts.path.rstrip('/')}"
    )
    if kind == "redis" and not re.fullmatch(r"/?\d{0,4}/?", parts.path):
        raise ValueError("Behind the host of a Redis server only the number of a database can stand")
    return Address(kind, plain, plain, unquote(parts.username or ""), unquote(parts.password or ""))


def has_credentials(text: str) -> bool:
    """Whether an address holds a user name or a password."""
    return "://" in text and "@" in text.partition("://")[2].partition("/")[0]
