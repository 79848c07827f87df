"""The real index and real releases."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_builder.cache import Cache
from vllm_builder.errors import ReleaseNotFound
from vllm_builder.events import ignore
from vllm_builder.indexes import Indexes, read_indexes
from vllm_builder.stages.source import SourceRequest, extract, releases, resolve, survey

pytestmark = pytest.mark.corpus
Sdist = Callable[[str], Path]


@pytest.fixture(scope="module")
def indexes() -> Indexes:
    # The isolation of single tests begins after this.
    return read_indexes()


@pytest.mark.parametrize("version", ["0.6.0", "0.9.2"])
def test_real_sdist_unpacks_as_tarfile_unpacks_it(sdist: Sdist, tmp_path: Path, version: str) -> None:
    extract(sdist(version), tmp_path / "ours")
    with tarfile.open(sdist(version)) as tar:
        expected = {
            member.name.partition("/")[2]: (member.size, int(member.mtime))
            for member in tar
            if member.isreg()
        }
    found = {
        path.relative_to(tmp_path / "ours").as_posix(): (path.stat().st_size, int(path.stat().st_mtime))
        for path in (tmp_path / "ours").rglob("*")
        if path.is_file()
    }
    assert found == expected


@pytest.mark.parametrize("version", ["0.6.0", "0.8.5.post1", "0.9.0.1"])
def test_real_sdist_by_its_path(sdist: Sdist, cache: Cache, version: str) -> None:
    request = SourceRequest(version=version, kind="path", path=sdist(version), indexes=Indexes())
    pin = resolve(request, cache)
    assert pin.release == version
    folder = survey(pin, cache)
    assert (folder / "setup.py").is_file()
    assert list(folder.glob("requirements*"))


def test_real_index_knows_the_releases(indexes: Indexes, cache: Cache) -> None:
    found = [file for file in releases(indexes, cache) if file.kind == "sdist"]
    versions = {file.version for file in found}
    assert {"0.6.0", "0.6.4.post1", "0.9.0.1", "0.9.2"} <= versions
    assert "0.15.0" not in versions
    assert all(file.sha256 for file in found)


@pytest.mark.parametrize(
    ("version", "words"), [("0.9.3", "0.9.2, 0.9.1, 0.10.0"), ("0.15.0", "--source git")]
)
def test_real_index_names_near_releases(indexes: Indexes, cache: Cache, version: str, words: str) -> None:
    with pytest.raises(ReleaseNotFound) as caught:
        resolve(SourceRequest(version=version, kind="pypi", indexes=indexes), cache, ignore)
    assert words in caught.value.next
