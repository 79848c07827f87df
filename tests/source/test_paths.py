"""Trees and archives that already lie on the machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from source_helpers import Heard, Repository, make_sdist, write_tree

from vllm_builder.cache import Cache
from vllm_builder.errors import ContradictionError, HashMismatch, HostileArchive, SourceError
from vllm_builder.stages.source import SourcePin, SourceRequest, fetch, resolve, survey
from vllm_builder.stages.source.paths import tree_identity

Ask = Callable[..., SourceRequest]


@pytest.fixture
def at(cache: Cache, ask: Ask, heard: Heard) -> Callable[..., SourcePin]:
    def find(path: Path, version: str = "latest") -> SourcePin:
        return resolve(ask(version, "path", path=path), cache, heard)

    return find


def test_tree_with_pkg_info(at: Callable[..., SourcePin], tmp_path: Path) -> None:
    pin = at(write_tree(tmp_path / "tree", "0.9.2"))
    assert (pin.kind, pin.release, pin.location) == ("tree", "0.9.2", str(tmp_path / "tree"))
    assert pin.identity.startswith("tree:")


def test_version_must_agree_with_the_tree(at: Callable[..., SourcePin], tmp_path: Path) -> None:
    tree, archive = write_tree(tmp_path / "tree", "0.9.2"), make_sdist(tmp_path, "0.9.2")
    for path in (tree, archive):
        assert at(path, "v0.9.2").release == "0.9.2"
        with pytest.raises(ContradictionError) as caught:
            at(path, "0.9.1")
        assert "0.9.2" in caught.value.what


def test_tree_without_any_version(at: Callable[..., SourcePin], tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", "0.9.2", pkg_info=False)
    assert at(tree, "0.9.2").release == "0.9.2"
    with pytest.raises(SourceError, match="which release"):
        at(tree, "latest")


def test_work_tree_of_git(at: Callable[..., SourcePin], repository: Repository, heard: Heard) -> None:
    assert at(repository.path).release == "0.10.0rc2.dev2"
    repository("checkout", "--quiet", "v0.9.2")
    (repository.path / "setup.py").write_text("edited\n")  # dirty, and still 0.9.2
    assert at(repository.path).release == "0.9.2"
    with pytest.raises(ContradictionError):
        at(repository.path, "0.9.1")
    repository("checkout", "--quiet", "--force", "feature")
    assert at(repository.path, "0.9.5").release == "0.9.5"
    assert "built as 0.9.5" in heard.notes


def test_identity_is_content_and_nothing_else(tmp_path: Path) -> None:
    one, two = write_tree(tmp_path / "one", "0.9.2"), write_tree(tmp_path / "two", "0.9.2")
    os.utime(two / "setup.py", (1, 1))
    (two / ".git").mkdir()
    (two / ".git/HEAD").write_text("x")
    (two / "build/lib").mkdir(parents=True)
    (two / "build/lib/x.o").write_text("x")
    (two / "vllm/__pycache__").mkdir()
    (two / "vllm/__pycache__/a.pyc").write_text("x")
    (two / "vllm/_C.abi3.so").write_text("x")
    (two / "vllm.egg-info").mkdir()
    assert tree_identity(one) == tree_identity(two)
    seen = {tree_identity(one)}
    for change in (
        lambda: (two / "setup.py").write_text("other"),
        lambda: (two / "setup.py").chmod(0o755),
        lambda: (two / "setup.py").rename(two / "setup2.py"),
        lambda: (two / "link").symlink_to("setup2.py"),
        lambda: (two / "vllm/build").mkdir() or (two / "vllm/build/kept.py").write_text("x"),
        lambda: (two / "vllm/third_party").mkdir() or (two / "vllm/third_party/kept.so").write_text("x"),
    ):
        change()
        seen.add(tree_identity(two))
    assert len(seen) == 7


def test_tree_is_copied_and_the_original_left_alone(
    at: Callable[..., SourcePin], cache: Cache, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "tree", "0.9.2")
    (tree / ".git").mkdir()
    (tree / "link").symlink_to("setup.py")
    (tree / "setup.py").chmod(0o444)
    pin = at(tree)
    fetch(pin, tmp_path / "copy", cache)
    (tmp_path / "copy/setup.py").write_text("patched")
    assert (tree / "setup.py").read_text() == "# setup\n"
    assert not (tmp_path / "copy/.git").exists()
    assert (tmp_path / "copy/link").is_symlink()
    assert os.access(tmp_path / "copy/tools/run.sh", os.X_OK)


def test_changes_after_planning_are_noticed(
    at: Callable[..., SourcePin], cache: Cache, tmp_path: Path
) -> None:
    tree, archive = write_tree(tmp_path / "tree", "0.9.2"), make_sdist(tmp_path, "0.9.2")
    of_tree, of_archive = at(tree), at(archive)
    (tree / "csrc/kernel.cu").write_text("other")
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(SourceError, match="has changed"):
        fetch(of_tree, tmp_path / "copy", cache)
    with pytest.raises(HashMismatch, match="has changed"):
        fetch(of_archive, tmp_path / "copy", cache)
    assert not (tmp_path / "copy").exists()
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    assert at(tree).identity != of_tree.identity


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside"])
def test_link_out_of_the_tree(at: Callable[..., SourcePin], tmp_path: Path, target: str) -> None:
    tree = write_tree(tmp_path / "tree", "0.9.2")
    (tree / "evil").symlink_to(target)
    with pytest.raises(SourceError, match="evil"):
        at(tree)


def test_neither_file_nor_folder(at: Callable[..., SourcePin], tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", "0.9.2")
    os.mkfifo(tree / "pipe")
    with pytest.raises(SourceError, match="neither a file"):
        at(tree)


@pytest.mark.parametrize("strange", ["missing", "empty folder", "other project", "text file"])
def test_what_is_no_vllm(at: Callable[..., SourcePin], tmp_path: Path, strange: str) -> None:
    path = tmp_path / "thing"
    if strange == "empty folder":
        path.mkdir()
    elif strange == "other project":
        write_tree(path, "0.9.2")
        (path / "PKG-INFO").write_text("Name: other\nVersion: 1\n")
    elif strange == "text file":
        path.write_text("hello")
    with pytest.raises(SourceError) as caught:
        at(path)
    assert caught.value.next


def test_archive_by_its_path(at: Callable[..., SourcePin], cache: Cache, tmp_path: Path) -> None:
    pin = at(make_sdist(tmp_path, "0.9.2"))
    assert (pin.kind, pin.release) == ("sdist", "0.9.2")
    fetch(pin, tmp_path / "tree", cache)
    assert (tmp_path / "tree/csrc/kernel.cu").exists()


def test_archive_without_pkg_info_is_known_by_its_name(at: Callable[..., SourcePin], tmp_path: Path) -> None:
    archive = make_sdist(tmp_path, "0.9.2", pkg_info=False)
    assert at(archive).release == "0.9.2"
    nameless = archive.rename(tmp_path / "main.tar.gz")
    assert at(nameless, "0.9.2").release == "0.9.2"
    with pytest.raises(SourceError, match="which release"):
        at(nameless)


def test_archive_without_top_folder(at: Callable[..., SourcePin], cache: Cache, tmp_path: Path) -> None:
    write_tree(tmp_path / "plain", "0.9.2")
    archive = Path(shutil.make_archive(str(tmp_path / "flat"), "gztar", tmp_path / "plain"))
    pin = at(archive)
    fetch(pin, tmp_path / "tree", cache)
    assert pin.release == "0.9.2"
    assert (tmp_path / "tree/vllm/envs.py").exists()
    assert (survey(pin, cache) / "requirements/build.txt").exists()


def test_hostile_archive_by_its_path(at: Callable[..., SourcePin], tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("vllm/../../evil"))
    with pytest.raises(HostileArchive):
        at(tmp_path / "evil.tar.gz")
    assert not (tmp_path / "evil").exists()
