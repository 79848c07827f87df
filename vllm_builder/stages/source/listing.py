"""What the configured indexes offer: every file of every release, over the Simple API and find-links."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from vllm_builder.cache import Cache
from vllm_builder.errors import SourceError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.indexes import Indexes, redact
from vllm_builder.memo import Memo
from vllm_builder.stages.source.model import ReleaseFile

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

    from vllm_builder.stages.source.http import Http

PROJECT: Final = "vllm"


class _Unusable(Exception):
    """An index that could not be read; the text says why."""


def releases(
    indexes: Indexes, cache: Cache, *, offline: bool = False, emit: Emit = ignore, project: str = PROJECT
) -> list[ReleaseFile]:
    """All files of all releases that the configured indexes, folders and pages list.

    The same file name in several places counts once, with the first place that has it: find-links, then the
    index, then the extra indexes. Sorted by version, then by file name. Offline, places on this machine are
    read and what the others said last time is remembered.

    Args:
        project: canonical name of another project than vLLM.

    Raises:
        SourceError: no place could be read at all.
    """
    return _listing(indexes, cache, offline=offline, emit=emit, project=project)[0]


def listing(
    indexes: Indexes, cache: Cache, *, offline: bool = False, emit: Emit = ignore
) -> tuple[list[ReleaseFile], list[str]]:
    """As :func:`releases`, and with it a sentence about each place that could not be read."""
    return _listing(indexes, cache, offline=offline, emit=emit)


def _listing(
    indexes: Indexes, cache: Cache, *, offline: bool, emit: Emit, project: str = PROJECT
) -> tuple[list[ReleaseFile], list[str]]:
    from packaging.version import Version

    from vllm_builder.stages.source.http import Http

    memo = Memo(cache.memo, "index")
    places = [(link, True) for link in indexes.find_links]
    if not indexes.no_index:
        places += [(url, False) for url in (_default(indexes), *indexes.extra_index_urls)]
    files: dict[str, ReleaseFile] = {}
    problems: list[str] = []
    with Http(indexes) as http:
        for place, flat in places:
            question = [redact(place), flat, *([project] if project != PROJECT else [])]
            remote = _is_remote(place)
            try:
                if remote and offline:
                    remembered = memo.get(question)
                    if remembered is None:
                        raise _Unusable("not asked before, and --offline forbids to ask now")
                    found = [ReleaseFile.model_validate(one) for one in remembered]
                else:
                    found = _read(place, project, flat=flat, http=http)
                    if remote:
                        memo.put(question, [file.model_dump() for file in found])
            except _Unusable as error:
                problems.append(f"{redact(place)}: {error}")
                if not (offline and remote):
                    emit(
                        Note(
                            stage="source",
                            message=f"The index {redact(place)} cannot be read ({error}).",
                            level="warning",
                        )
                    )
                continue
            for file in found:
                first = files.setdefault(file.filename, file)
                if first.sha256 and file.sha256 and first.sha256 != file.sha256 and file.kind == "sdist":
                    emit(
                        Note(
                            stage="source",
                            message=f"{file.filename}: {first.index} (taken) and {file.index} differ.",
                            level="warning",
                        )
                    )
    if problems and len(problems) == len(places):
        raise SourceError(
            "No package index could be read.",
            why=problems[0],
            next="Check the network, the proxy and pip's index settings; with a local copy: --source PATH.",
            details=problems,
        )
    return sorted(files.values(), key=lambda f: (Version(f.version), f.filename)), problems


def _default(indexes: Indexes) -> str:
    if indexes.index_url:
        return indexes.index_url
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    return PYPI_SIMPLE_ENDPOINT


def _is_remote(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def local_path(place: str) -> Path | None:
    """The path of a ``file://`` URL or of a plain path; None for anything remote."""
    if place.startswith("file:"):
        return Path(url2pathname(urlsplit(place).path))
    return None if "://" in place else Path(place)


def _read(place: str, project: str, *, flat: bool, http: Http) -> list[ReleaseFile]:
    path = local_path(place)
    if path is None:
        url = place if flat else f"{place.rstrip('/')}/{project}/"
        return _read_remote(url, place, project, http)
    target = path if flat else path / project
    page = target / "index.html" if target.is_dir() else target
    if page.is_file() and (not flat or not target.is_dir()):
        return _parse_html(page, place, project)
    if target.is_dir():
        return _read_folder(target, place, project)
    if flat or not path.is_dir():
        raise _Unusable("there is no such file or folder")
    return []  # an index without this project


def _read_folder(folder: Path, place: str, project: str) -> list[ReleaseFile]:
    from pypi_simple import UnparsableFilenameError, parse_filename

    found = []
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise _Unusable(error.strerror or str(error)) from error
    for entry in entries:
        try:
            named, version, kind = parse_filename(entry.name)
        except UnparsableFilenameError:
            continue
        if _canonical(named) == project:
            found += _file(entry.name, entry.absolute().as_uri(), version, kind, place)
    return found


def _parse_html(page: Path, place: str, project: str) -> list[ReleaseFile]:
    from pypi_simple import ProjectPage, UnsupportedRepoVersionError

    try:
        parsed = ProjectPage.from_html(project, page.read_bytes(), base_url=page.absolute().as_uri())
    except (OSError, UnsupportedRepoVersionError) as error:
        raise _Unusable(str(error)) from error
    return _convert(parsed.packages, place, project)


def _read_remote(url: str, place: str, project: str, http: Http) -> list[ReleaseFile]:
    from pypi_simple import (
        ACCEPT_ANY,
        ProjectPage,
        UnsupportedContentTypeError,
        UnsupportedRepoVersionError,
    )

    from vllm_builder.stages.source.http import reason_of

    try:
        response = http.get(url, headers={"Accept": ACCEPT_ANY})
    except (OSError, ValueError) as error:  # a RequestException is an OSError; so is a missing CA bundle
        raise _Unusable(reason_of(error)) from error
    if response.status_code == 404:
        return []
    if not response.ok:
        raise _Unusable(f"it answered {response.status_code} {response.reason}")
    try:
        page = ProjectPage.from_response(response, project)
    except (UnsupportedContentTypeError, UnsupportedRepoVersionError, ValueError) as error:
        raise _Unusable(f"its page cannot be read: {' '.join(str(error).split())[:200]}") from error
    return _convert(page.packages, place, project)


def _convert(packages: list[DistributionPackage], place: str, wanted: str) -> list[ReleaseFile]:
    from pypi_simple import UnparsableFilenameError, parse_filename

    found = []
    for package in packages:
        name, version, kind = package.filename, package.version, package.package_type
        project: str | None = package.project
        if version is None:  # a page for people may call its links anything; the URL has the name
            name = unquote(urlsplit(package.url).path.rpartition("/")[2])
            try:
                project, version, kind = parse_filename(name)
            except UnparsableFilenameError:
                continue
        if project is None or _canonical(project) != wanted:
            continue
        found += _file(
            name,
            package.url,
            version,
            kind,
            place,
            sha256=package.digests.get("sha256"),
            size=package.size,
            yanked=package.is_yanked,
            reason=package.yanked_reason or "",
        )
    return found


def _file(
    name: str,
    url: str,
    version: str,
    kind: str | None,
    place: str,
    *,
    sha256: str | None = None,
    size: int | None = None,
    yanked: bool = False,
    reason: str = "",
) -> list[ReleaseFile]:
    from packaging.version import InvalidVersion, Version

    try:
        normal = str(Version(version))
    except InvalidVersion:
        return []
    if "/" in name or name.startswith("."):
        return []
    return [
        ReleaseFile(
            version=normal,
            filename=name,
            url=redact(url),
            kind="sdist" if kind == "sdist" else "wheel" if kind == "wheel" else "other",
            sha256=sha256.lower() if sha256 else None,
            size=size,
            yanked=yanked,
            yanked_reason=reason,
            index=redact(place),
        )
    ]


def _canonical(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)
