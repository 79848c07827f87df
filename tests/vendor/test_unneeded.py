"""Folders that no build reads: left out of the lock's hash, of what is fetched and of what is placed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from vendor_upstream import Upstream

from vllm_builder.errors import HashMismatch
from vllm_builder.stages.vendor.discovery import discover
from vllm_builder.stages.vendor.locking import check, read_lock, write_lock
from vllm_builder.stages.vendor.model import ExternalSource, LockedExternal
from vllm_builder.stages.vendor.placing import fetch_externals
from vllm_builder.stages.vendor.unneeded import Unneeded, table, unneeded

KIT = "vllm/third_party/kit.src"
INNER = "vllm/third_party/Attention.src/csrc/kit"


@pytest.fixture
def sparse(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """``kit`` has documents and a page in a folder that is only sometimes read; nested, an older kit has not."""
    upstream.kit.commit(
        {
            "docs/a.html": "page\n",
            "docs/deep/b.html": "page of v1.1\n",
            "docs.h": "not in the folder\n",
            "samples/s.h": "sample\n",
        }
    )
    upstream.kit("tag", "v1.1")
    text = (upstream.tree / "CMakeLists.txt").read_text().replace('"v1.0"', '"v1.1"')
    (upstream.tree / "CMakeLists.txt").write_text(text)
    rules = (Unneeded.model_validate({"repository": "kit", "never": ["docs"], "unless-named": ["samples"]}),)
    monkeypatch.setattr("vllm_builder.stages.vendor.unneeded.table", lambda: rules)
    return upstream


def fetched(upstream: Upstream, path: str) -> bool:
    """Whether the mirror in the cache has a file."""
    (mirror,) = (p for p in upstream.cache.git.glob("external-*-kit-*.git") if p.is_dir())
    blob = upstream.kit("rev-parse", f"v1.1:{path}")
    # Without lazy fetching, which would bring what is asked about.
    run = subprocess.run(
        ["git", "--git-dir", str(mirror), "cat-file", "-e", blob],
        env={**os.environ, "GIT_NO_LAZY_FETCH": "1"},
        capture_output=True,
        check=False,
    )
    return run.returncode == 0


def test_not_fetched_not_placed_not_counted(sparse: Upstream, tmp_path: Path) -> None:
    lock = sparse.lock()
    kit, attention, _ = lock.externals
    assert kit.without == ("docs", "samples")
    assert attention.without == ()
    assert attention.submodules[0].without == ("docs", "samples")
    fetch_externals(lock, sparse.sources, sparse.tree, sparse.cache)
    assert (sparse.tree / KIT / "docs.h").is_file()
    assert not (sparse.tree / KIT / "docs").exists()
    assert not (sparse.tree / KIT / "samples").exists()
    assert (sparse.tree / INNER / "kit.h").is_file()
    assert fetched(sparse, "docs.h")
    assert not fetched(sparse, "docs/deep/b.html")
    write_lock(lock, tmp_path / "lock.toml")
    assert read_lock(tmp_path / "lock.toml") == lock
    externals = discover(sparse.tree, device="cuda")
    assert check(lock, externals, sparse.tree) == ()
    # What somebody puts into such a folder does not count; what is beside it does.
    (sparse.tree / KIT / "docs").mkdir()
    (sparse.tree / KIT / "docs/x").touch()
    assert check(lock, externals, sparse.tree) == ()
    (sparse.tree / KIT / "docsx").touch()
    assert any("not what the lock names" in problem for problem in check(lock, externals, sparse.tree))


@pytest.mark.parametrize("where", ["release", "holder"])
def test_a_folder_that_cmake_code_names_stays(sparse: Upstream, where: str) -> None:
    if where == "release":
        with (sparse.tree / "CMakeLists.txt").open("a") as file:
            file.write('set(X "${kit_SOURCE_DIR}/include;${kit_SOURCE_DIR}/samples/common")\n')
    else:
        sparse.attention.commit({"cmake/x.cmake": "include_directories(${HERE}/csrc/kit/samples)\n"})
    kit, attention, _ = sparse.lock().externals
    assert kit.without == (("docs",) if where == "release" else ("docs", "samples"))
    assert attention.submodules[0].without == ("docs",)


def test_one_mirror_for_locks_with_and_without(sparse: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    small = sparse.lock()
    monkeypatch.setattr("vllm_builder.stages.vendor.unneeded.table", tuple)
    whole = sparse.lock()
    assert whole.externals[0].without == ()
    assert whole.externals[0].tree != small.externals[0].tree
    assert fetched(sparse, "docs/a.html")
    fetch_externals(whole, {}, sparse.tree, sparse.cache, offline=True)
    assert (sparse.tree / KIT / "docs/deep/b.html").is_file()
    # And back: what needs less has all that it needs.
    shutil.rmtree(sparse.tree / "vllm")
    fetch_externals(small, {}, sparse.tree, sparse.cache, offline=True)
    assert not (sparse.tree / KIT / "docs").exists()


def test_folders_and_archives_by_hand_have_everything(sparse: Upstream, tmp_path: Path) -> None:
    from test_vendoring import zipped

    lock = sparse.lock()
    fetch_externals(lock, sparse.sources, sparse.tree, sparse.cache)
    hand = shutil.copytree(sparse.tree / KIT, tmp_path / "kit-by-hand", symlinks=True)
    old = shutil.copytree((sparse.tree / INNER).parents[1], tmp_path / "attention-by-hand", symlinks=True)
    for folder in (hand / "docs/deep", hand / "samples", old / "csrc/kit/docs"):
        folder.mkdir(parents=True)
        (folder / "c.html").touch()
    for kit, attention in (
        (ExternalSource(path=hand), ExternalSource(path=old)),
        (
            ExternalSource(archive=zipped(hand, tmp_path / "k.zip")),
            ExternalSource(archive=zipped(old, tmp_path / "a.zip")),
        ),
    ):
        shutil.rmtree(sparse.tree / "vllm")
        sources = {"kit": kit, "attention": attention, "direct": sparse.sources["kit"]}
        fetch_externals(lock, sources, sparse.tree, sparse.cache)
        assert check(lock, discover(sparse.tree, device="cuda"), sparse.tree) == ()
        assert not (sparse.tree / KIT / "docs").exists()
        assert not (sparse.tree / INNER / "docs").exists()
    (hand / "docs.h").write_text("another\n")
    shutil.rmtree(sparse.tree / "vllm")
    with pytest.raises(HashMismatch):
        fetch_externals(lock, {"kit": ExternalSource(path=hand)}, sparse.tree, sparse.cache)


def test_a_lock_of_format_1_means_whole_repositories(upstream: Upstream, tmp_path: Path) -> None:
    write_lock(upstream.lock(), tmp_path / "lock.toml")
    text = (tmp_path / "lock.toml").read_text()
    (tmp_path / "lock.toml").write_text(text.replace("format = 2", "format = 1"))
    lock = read_lock(tmp_path / "lock.toml")
    assert lock.externals == upstream.lock().externals
    fetch_externals(lock, upstream.sources, upstream.tree, upstream.cache)


def test_a_lock_cannot_leave_out_a_folder_outside(upstream: Upstream) -> None:
    data = upstream.lock().externals[0].model_dump()
    for folder in ("..", "/", "a/../..", ""):
        with pytest.raises(ValueError, match="relative path"):
            LockedExternal.model_validate({**data, "without": [folder]})


def test_the_shipped_table() -> None:
    for url in ("https://github.com/nvidia/cutlass.git", "git@host.invalid:fork/CUTLASS"):
        assert {"docs", "test", "examples"} <= set(unneeded(url, ()))
        kept = unneeded(url, {"${CUTLASS_DIR}/examples/77_blackwell_fmha;${CUTLASS_DIR}/examples/common"})
        assert "docs" in kept
        assert "examples" not in kept
    assert unneeded("https://github.com/vllm-project/FlashMLA", ()) == ()
    # Headers, and the Python that writes Machete's sources.
    for needed in ("include", "tools", "cmake", "python", "python/cutlass_library"):
        assert not any(needed in (*rule.never, *rule.unless_named) for rule in table())


def test_nothing_is_removed_through_a_link_in_a_folder_by_hand(sparse: Upstream, tmp_path: Path) -> None:
    lock = sparse.lock()
    fetch_externals(lock, sparse.sources, sparse.tree, sparse.cache)
    hand = shutil.copytree(sparse.tree / INNER, tmp_path / "kit-by-hand", symlinks=True)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "core").mkdir(parents=True)
    (elsewhere / "core/precious").touch()
    shutil.rmtree(hand / "deep")
    (hand / "deep").symlink_to(elsewhere)
    (hand / "unused").symlink_to(elsewhere)
    kit = lock.externals[0].model_copy(
        update={"submodules": (), "without": ("deep/core", "docs"), "left_out": {"unused": "0" * 40}}
    )
    shutil.rmtree(sparse.tree / "vllm")
    with pytest.raises(HashMismatch):
        fetch_externals(
            lock.model_copy(update={"externals": (kit,)}),
            {"kit": ExternalSource(path=hand)},
            sparse.tree,
            sparse.cache,
        )
    assert (elsewhere / "core/precious").exists()
