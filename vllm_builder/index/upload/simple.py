"""What an upload server has already: its simple pages (PEP 503, PEP 691).

Only the server itself counts: pypiserver, asked for a project that it has not, redirects to PyPI.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from vllm_builder.errors import StorageFailed
from vllm_builder.fs import sha256_file
from vllm_builder.index.upload.sending import answered, unreachable

if TYPE_CHECKING:
    import requests
    from pypi_simple import DistributionPackage, ProjectPage

    from vllm_builder.index.upload.credentials import Credentials

_REDIRECTS: Final = 5
_CHUNK: Final = 1 << 20
_KNOWN: Final = ("sha256", "sha512", "sha384", "blake2b", "sha3_256", "sha1", "md5")
"""Strongest first; pypiserver names nothing but md5 unless told to."""
_LEGACY: Final = {
    "https://upload.pypi.org/legacy/": "https://pypi.org/simple/",
    "https://test.pypi.org/legacy/": "https://test.pypi.org/simple/",
}


def roots(url: str, simple_url: str = "") -> tuple[str, ...]:
    """Where the pages of an upload server may be: ``+simple/`` of devpi; ``simple/`` of pypiserver, Nexus, Artifactory."""
    if simple_url:
        return (simple_url.rstrip("/") + "/",)
    base = url.rstrip("/") + "/"
    if base in _LEGACY:
        return (_LEGACY[base],)
    found = [base + "+simple/", base + "simple/"]
    if base.endswith("/legacy/"):
        found.append(base.removesuffix("legacy/") + "simple/")
    return tuple(found)


def find(
    session: requests.Session, places: tuple[str, ...], project: str, filename: str, who: Credentials
) -> DistributionPackage | None:
    """The file of that name, as the server lists it; None where it has none.

    Raises:
        StorageFailed: the server does not let us look, or cannot be reached.
    """
    for place in places:
        page = _page(session, f"{place}{project}/", project, who)
        for one in page.packages if page is not None else ():
            if one.filename == filename:
                return one
    return None


def is_same(
    session: requests.Session, found: DistributionPackage, path: Path, sha256: str, who: Credentials
) -> bool:
    """Whether a listed file has the bytes of a file here, by the strongest hash that the server names, else by fetching it.

    Raises:
        StorageFailed: it cannot be fetched.
    """
    digests = dict(found.digests)
    for name in _KNOWN:
        if name in digests:
            mine = sha256 if name == "sha256" else _digest(path, name)
            return digests[name].lower() == mine
    return _fetched(session, found.url, who) == sha256


def _page(session: requests.Session, url: str, project: str, who: Credentials) -> ProjectPage | None:
    from pypi_simple import ACCEPT_ANY, ProjectPage, UnsupportedContentTypeError, UnsupportedRepoVersionError

    response = _get(session, url, who, {"Accept": ACCEPT_ANY})
    if response is None:
        return None
    with response:
        try:
            return ProjectPage.from_response(response, project)
        except (
            UnsupportedContentTypeError,
            UnsupportedRepoVersionError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:
            raise StorageFailed(
                f"{url} is no page of an index.",
                why=f"{type(error).__name__}; it is {response.headers.get('Content-Type', 'of no type')}.",
                next="Say where the server's pages are: --simple-url URL.",
            ) from error


def _fetched(session: requests.Session, url: str, who: Credentials) -> str:
    import requests

    digest = hashlib.sha256()
    response = _get(session, url.partition("#")[0], who, {})
    if response is None:
        return ""
    try:
        with response:
            for chunk in response.iter_content(_CHUNK):
                digest.update(chunk)
    except (requests.RequestException, OSError) as error:
        raise unreachable(url, error, who) from None
    return digest.hexdigest()


def _get(
    session: requests.Session, url: str, who: Credentials, headers: dict[str, str]
) -> requests.Response | None:
    """The answer, or None where the server has nothing under the address; redirects are followed within the server."""
    import requests

    origin = urlsplit(url)[:2]
    for _ in range(_REDIRECTS):
        try:
            response = session.get(url, headers=headers, allow_redirects=False, stream=True)
        except (requests.RequestException, OSError) as error:
            raise unreachable(url, error, who) from None
        if response.is_redirect:
            response.close()
            url = urljoin(url, response.headers.get("Location", ""))
            if urlsplit(url)[:2] != origin:
                return None
            continue
        if response.status_code in {404, 410}:
            response.close()
            return None
        if not response.ok:
            raise answered(response, who, "does not show what it has")
        return response
    raise StorageFailed(
        f"{url} redirects without end.", next="Say where the server's pages are: --simple-url URL."
    )


def _digest(path: Path, name: str) -> str:
    if name == "sha256":
        return sha256_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
