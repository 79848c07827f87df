"""A shared cache on a web server that takes PUT: WebDAV, nginx with ``dav_methods PUT``, and what ccache can use."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from typing import Final

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from vllm_builder.shared.places.base import ANSWER, CONNECT, Refused, Unreachable

_REFUSALS: Final = {
    401: "it wants a user name and a password, or others (401)",
    403: "it does not permit that (403)",
    405: "it does not take that method (405)",
    407: "the proxy wants a password (407)",
    413: "it takes no entries of that size (413; nginx: client_max_body_size)",
    501: "it does not know that method (501)",
    507: "no space is left there (507)",
}
_ABSENT: Final = frozenset({404, 410})
_NO_PARENT: Final = frozenset({404, 409})


class Web:
    """See :class:`.base.Place`. Where none is in the address, the password is taken from netrc."""

    def __init__(self, url: str, username: str = "", password: str = "") -> None:
        self._url = url.rstrip("/")
        self._made: set[str] = set()
        self._session = requests.Session()
        adapter = HTTPAdapter(pool_connections=2, pool_maxsize=32, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._session.max_redirects = 3
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers["Accept-Encoding"] = "identity"
        if username or password:
            self._session.auth = HTTPBasicAuth(username.encode(), password.encode())

    def read(self, key: str, limit: int) -> bytes | None:
        try:
            with self._session.get(f"{self._url}/{key}", stream=True, timeout=(CONNECT, ANSWER)) as answer:
                if answer.status_code in _ABSENT:
                    return None
                _check(answer)
                data = bytearray()
                for chunk in answer.iter_content(1 << 18):
                    data += chunk
                    if len(data) > limit:
                        break
                return bytes(data[: limit + 1])
        except (requests.RequestException, OSError) as error:
            raise _failure(error) from error

    def write(self, key: str, data: bytes) -> None:
        try:
            answer = self._put(key, data)
            if answer.status_code in _NO_PARENT and self._make_parents(key):
                answer = self._put(key, data)
            _check(answer)
        except (requests.RequestException, OSError) as error:
            raise _failure(error) from error

    def _put(self, key: str, data: bytes) -> requests.Response:
        return self._session.put(
            f"{self._url}/{key}",
            data=data,
            timeout=(CONNECT, ANSWER),
            headers={"Content-Type": "application/octet-stream"},
        )

    def _make_parents(self, key: str) -> bool:
        """WebDAV makes no folders by itself; returns whether one was made."""
        parts = key.split("/")[:-1]
        any_made = False
        for count in range(1, len(parts) + 1):
            folder = "/".join(parts[:count])
            if folder in self._made:
                continue
            answer = self._session.request("MKCOL", f"{self._url}/{folder}/", timeout=(CONNECT, ANSWER))
            # 405: it is there.
            if answer.status_code not in {200, 201, 204, 405}:
                return False
            self._made.add(folder)
            any_made = True
        return any_made


def _check(answer: requests.Response) -> None:
    status = answer.status_code
    if status in _REFUSALS:
        raise Refused(_REFUSALS[status])
    if not 200 <= status < 300:
        raise Unreachable(f"it answers {status}")


def _failure(error: Exception) -> Unreachable:
    """No text of the error's: it holds addresses."""
    if isinstance(error, requests.exceptions.SSLError):
        return Unreachable("its certificate is not accepted")
    if isinstance(error, requests.exceptions.ProxyError):
        return Unreachable("the proxy cannot be used")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Unreachable(f"no connection within {CONNECT:g} s")
    if isinstance(error, requests.exceptions.Timeout):
        return Unreachable(f"no answer for {ANSWER:g} s")
    text = str(error)
    for said in ("Name or service not known", "Temporary failure in name resolution", "Connection refused"):
        if said in text:
            return Unreachable(said[0].lower() + said[1:])
    return Unreachable(f"the connection broke ({type(error).__name__})")
