"""Locks that name what could not be had, and locks of several devices."""

from __future__ import annotations

from pathlib import Path

import pytest
from vendor_upstream import Upstream

from vllm_builder.errors import VendorError
from vllm_builder.settings.model import Settings
from vllm_builder.stages.plan.externals import lock_file, plan_externals
from vllm_builder.stages.vendor.discovery import cmake_files, discover
from vllm_builder.stages.vendor.locking import check, for_build, joined, lock, read_lock, write_lock
from vllm_builder.stages.vendor.model import ExternalSource, Lock

SECOND = """
if(VLLM_TARGET_DEVICE STREQUAL "cpu")
  FetchContent_Declare(core GIT_REPOSITORY https://git.invalid/core GIT_TAG main)
  FetchContent_MakeAvailable(core)
endif()
"""


def partial(upstream: Upstream) -> Lock:
    """A lock in which ``Attention`` could not be had."""
    sources = {**upstream.sources, "attention": ExternalSource(git=str(upstream.tree / "none"))}
    return lock(
        discover(upstream.tree, device="cuda"), sources, upstream.cache, release="1.0",
        cmake=cmake_files(upstream.tree), keep_going=True,
    )  # fmt: skip


def test_what_cannot_be_had_is_written_down(upstream: Upstream, tmp_path: Path) -> None:
    made = partial(upstream)
    assert [one.name for one in made.externals] == ["kit", "direct"]
    assert [(one.name, one.revision) for one in made.unlocked] == [("Attention", "main")]
    write_lock(made, tmp_path / "l.toml")
    assert read_lock(tmp_path / "l.toml") == made
    (problem,) = check(made, discover(upstream.tree, device="cuda"))
    assert problem == "Attention at main is needed; it could not be had when the lock was written"
    # Locked later, it is no longer missing.
    assert joined(made, Lock(release="1.0", externals=upstream.lock().externals[1:2])).unlocked == ()


def test_a_plan_asks_for_what_its_lock_does_not_have(upstream: Upstream, tmp_path: Path) -> None:
    path = tmp_path / "l.toml"
    write_lock(partial(upstream), path)
    settings = Settings(version="1.0", lock_file=path, externals=upstream.sources)
    found = plan_externals(upstream.tree, "1.0", device="cuda", settings=settings, cache=upstream.cache)
    assert found.lock is not None
    assert [one.name for one in found.lock.externals] == ["kit", "Attention", "direct"]
    assert found.lock.unlocked == ()
    # A lock that says nothing of it was written for something else.
    write_lock(Lock(release="1.0", externals=upstream.lock().externals[:1]), path)
    with pytest.raises(VendorError, match="does not fit") as error:
        plan_externals(upstream.tree, "1.0", device="cuda", settings=settings, cache=upstream.cache)
    assert any("Attention" in line for line in error.value.details)


def test_one_lock_for_several_devices(upstream: Upstream) -> None:
    with (upstream.tree / "CMakeLists.txt").open("a") as file:
        file.write(SECOND)
    cuda, cpu = (discover(upstream.tree, device=device, machine="x86_64") for device in ("cuda", "cpu"))
    assert [one.needed for one in cuda if one.name == "core"] == ["no"]
    own = lock([one for one in cpu if one.name == "core"], upstream.sources, upstream.cache, release="1.0")
    both = joined(upstream.lock(), own)
    assert [one.name for one in both.externals] == ["kit", "Attention", "direct", "core"]
    assert check(both, cuda) == ()
    assert check(both, cpu) == ()
    assert [one.name for one in for_build(both, cuda).externals] == ["kit", "Attention", "direct"]
    # Two revisions under one name get a folder each.
    other = own.externals[0].model_copy(update={"name": "kit", "folder": both.externals[0].folder})
    folders = [one.folder for one in joined(both, Lock(release="1.0", externals=(other,))).externals]
    assert len(set(folders)) == len(folders)


def test_in_a_checkout_the_shipped_locks_are_not_the_persons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/vllm-1.0.toml").touch()
    monkeypatch.chdir(tmp_path)
    settings = Settings(version="1.0")
    assert lock_file(settings, "1.0") == (Path("locks/vllm-1.0.toml"), True)
    monkeypatch.setattr("vllm_builder.stages.plan.externals.shipped", lambda kind: tmp_path / kind)
    assert lock_file(settings, "1.0") == (tmp_path / "locks/vllm-1.0.toml", False)
