"""Whether what a build fetches can be reached: the configured index and the repository, nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vllm_builder.doctor.model import Check
from vllm_builder.indexes import Indexes, read_indexes, redact
from vllm_builder.settings.model import Settings

SECONDS = 12.0
"""The longest that any of them is waited for."""


def reach(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """The package indexes, then the repository. With ``--offline`` nothing is touched."""
    indexes = read_indexes(environ)
    if settings.offline:
        yield Check(name="network", verdict="note", found="not asked (--offline)")
        return
    for link in indexes.find_links:
        if _local(link) is not None and not _exists(link):
            yield Check(
                name="find-links",
                verdict="warning",
                found=f"{redact(link)} does not exist",
                cure="Correct pip's or uv's find-links.",
            )
    if not indexes.no_index:
        yield _index(indexes)
    yield _repository(settings)


def shared_cache(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Whether the shared cache answers, where one is set."""
    if settings.shared_cache is None:
        return
    from vllm_builder.shared.address import parse
    from vllm_builder.shared.probing import probe

    address = parse(settings.shared_cache)
    if settings.offline and address.network:
        yield Check(name="shared cache", verdict="note", found=f"{address.shown}: not asked (--offline)")
        return
    found = probe(address, environ)
    if found.reads and found.writes:
        yield Check(name="shared cache", verdict="good", found=f"{address.shown} answers")
    elif found.reads:
        yield Check(
            name="shared cache", verdict="note", found=f"{address.shown} is only read: {found.problem}"
        )
    else:
        yield Check(
            name="shared cache",
            verdict="warning",
            found=f"{address.shown}: {found.problem}",
            cure="Builds go on without it; look at its server, or leave --shared-cache out.",
        )


def _index(indexes: Indexes) -> Check:
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    url = indexes.index_url or PYPI_SIMPLE_ENDPOINT
    shown = redact(indexes.index_url) if indexes.index_url else "the default index"
    if _local(url) is not None:
        problem = "" if _exists(url) else "does not exist"
    else:
        problem = _within(lambda: _get(f"{url.rstrip('/')}/ninja/", indexes))
    return Check(
        name="index",
        verdict="warning" if problem else "good",
        found=f"{shown}: {problem}" if problem else f"{shown} answers",
        cure="Check proxy and index settings (pip config, PIP_INDEX_URL), or work with --offline from the caches."
        if problem
        else "",
    )


def _get(url: str, indexes: Indexes) -> str:
    import requests

    from vllm_builder.stages.source.http import Http, reason_of

    try:
        with Http(indexes) as http, http.get(url, stream=True) as answer:
            return "" if answer.ok else f"answers with status {answer.status_code}"
    except requests.RequestException as problem:
        return reason_of(problem)


def _repository(settings: Settings) -> Check:
    from vllm_builder.stages.source.gitrun import GitFailed, run_git

    url = settings.git_url
    problem = ""
    try:
        run_git(["ls-remote", "--quiet", url, "HEAD"], timeout=SECONDS, secret_url=url)
    except GitFailed as failed:
        problem = str(failed)
    needed = settings.source == "git"
    return Check(
        name="repository",
        verdict=("problem" if needed else "warning") if problem else "good",
        found=f"{redact(url)}: {problem}" if problem else f"{redact(url)} answers",
        cure="Give a mirror with --git-url, or take the release's sdist with --source pypi."
        if problem
        else "",
    )


def _within(ask: Callable[[], str]) -> str:
    """What ``ask`` says within the time; its thread cannot hold up the end of the program."""
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(ask()), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return said[0] if said else f"no answer within {SECONDS:.0f} seconds"


def _local(place: str) -> Path | None:
    if place.startswith("file:"):
        return Path(url2pathname(urlsplit(place).path))
    return Path(place) if "://" not in place else None


def _exists(place: str) -> bool:
    path = _local(place)
    return path is not None and path.exists()
