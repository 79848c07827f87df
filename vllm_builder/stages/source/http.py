"""HTTP as the person's index configuration wants it: credentials, certificates, proxies, retries.

Only imported where something is really fetched: requests costs a quarter of a second.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from vllm_builder import __version__
from vllm_builder.indexes import Indexes, credentials, redact

CONNECT_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 60.0
RETRIES: Final = 4
BACKOFF = 0.5
"""Seconds before the second try; doubles with each further one. Tests set it to 0."""


class Http:
    """A session that knows which host gets which credentials.

    Proxies, ``.netrc`` and CA bundles of the environment are honoured as requests does; what pip's
    configuration says goes before them.
    """

    def __init__(self, indexes: Indexes) -> None:
        self._indexes = indexes
        self._auth: dict[str, tuple[str, str]] = {}
        for url in (indexes.index_url, *indexes.extra_index_urls, *indexes.find_links):
            found = credentials(url)
            if found:
                self._auth[urlsplit(redact(url)).netloc] = found
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"vllm-builder/{__version__}"
        retry = urllib3.Retry(
            total=RETRIES,
            backoff_factor=BACKOFF,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("GET", "HEAD"),
            raise_on_status=False,
        )
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def __enter__(self) -> Http:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def get(
        self, url: str, *, headers: dict[str, str] | None = None, stream: bool = False
    ) -> requests.Response:
        """GET with retries on connection errors, 429 and 5xx. The caller judges the status.

        Raises:
            requests.RequestException
        """
        given = credentials(url)
        plain = redact(url)
        parts = urlsplit(plain)
        options: dict[str, Any] = {}
        auth = given or self._auth.get(parts.netloc)
        if auth:
            options["auth"] = auth
        # Given per request: only so do they go before what the environment says.
        if {parts.netloc, parts.hostname} & set(self._indexes.trusted_hosts):
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
            options["verify"] = False
        elif self._indexes.cert:
            options["verify"] = self._indexes.cert
        if self._indexes.client_cert:
            options["cert"] = self._indexes.client_cert
        if self._indexes.proxy:
            options["proxies"] = {"http": self._indexes.proxy, "https": self._indexes.proxy}
        return self._session.get(
            plain, headers=headers, stream=stream, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), **options
        )


def reason_of(error: BaseException) -> str:
    """The innermost cause of a network error in a few words."""
    seen: set[int] = set()
    current: BaseException = error
    while id(current) not in seen:
        seen.add(id(current))
        inner = getattr(current, "reason", None) or (current.args[0] if current.args else None)
        if not isinstance(inner, BaseException):
            break
        current = inner
    text = " ".join(str(current).split()) or type(current).__name__
    # urllib3 puts the repr of its connection object before the sentence.
    return text.split("object at 0x", 1)[-1].partition(": ")[2] if "object at 0x" in text else text
