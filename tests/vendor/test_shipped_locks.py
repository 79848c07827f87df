"""The lock files that are shipped: each can be read, is sound, and fits its release."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_builder.resources import shipped
from vllm_builder.stages.vendor.discovery import cmake_files, discover
from vllm_builder.stages.vendor.locking import check, read_lock, write_lock
from vllm_builder.stages.vendor.mirrors import repository_key
from vllm_builder.stages.vendor.model import LockedExternal, LockedSubmodule

LOCKS = sorted(shipped("locks").glob("*.toml"))
CORPUS = ("0.6.0", "0.6.3.post1", "0.8.5.post1", "0.9.2", "0.11.0", "0.20.0", "0.33.0")


def walk(one: LockedExternal | LockedSubmodule) -> Iterator[LockedExternal | LockedSubmodule]:
    yield one
    for part in one.submodules:
        yield from walk(part)


def test_there_is_one_for_every_release() -> None:
    assert len(LOCKS) >= 64
    assert {f"vllm-{version}.toml" for version in CORPUS} <= {path.name for path in LOCKS}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_each_is_sound(path: Path, tmp_path: Path) -> None:
    lock = read_lock(path)  # the model refuses what is no hash and no path inside
    assert path.name == f"vllm-{lock.release}.toml"
    folders = [one.folder for one in lock.externals]
    assert len(set(folders)) == len(folders)
    for one in (part for external in lock.externals for part in walk(external)):
        assert one.url.startswith("https://")
        assert one.tree != one.commit
        # What is left out of one copy of CUTLASS is left out of all of them: nothing was locked before the table.
        assert bool(one.without) == repository_key(one.url).endswith("/cutlass")
    assert {one.name for one in lock.externals} | {one.name for one in lock.unlocked} >= {"cutlass"}
    # As vllm-builder itself writes it.
    write_lock(lock, tmp_path / "lock.toml")
    assert tomllib.loads((tmp_path / "lock.toml").read_text()) == tomllib.loads(path.read_text())


def test_one_commit_has_one_hash_in_all_of_them() -> None:
    seen: dict[tuple[str, tuple[str, ...]], str] = {}
    for path in LOCKS:
        for external in read_lock(path).externals:
            for one in walk(external):
                assert seen.setdefault((one.commit, one.without), one.tree) == one.tree, path.name
    assert seen


@pytest.mark.corpus
@pytest.mark.parametrize("version", CORPUS)
def test_it_fits_its_release(version: str, sdist: Callable[[str], Path], tmp_path: Path) -> None:
    from vllm_builder.stages.patch import READ_PATTERNS
    from vllm_builder.stages.source.extraction import extract
    from vllm_builder.stages.source.surveying import matcher

    extract(sdist(version), tmp_path / "tree", select=matcher(READ_PATTERNS))
    lock = read_lock(shipped("locks") / f"vllm-{version}.toml")
    absent = {one.name for one in lock.unlocked}
    texts = b"".join(cmake_files(tmp_path / "tree").values()).decode()
    for device in ("cuda", "cpu"):
        # No nvcc and no architecture named: all that any build for the device may need.
        found = discover(tmp_path / "tree", device=device, machine="x86_64", cpuinfo="flags: avx2 avx512f")
        assert {line.partition(" ")[0] for line in check(lock, found)} <= absent
    for one in lock.externals:
        assert one.written in texts
