"""Lock, fetch, place, repoint: over small repositories, with CMake itself at the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from vendor_helpers import Repository
from vendor_upstream import Upstream

from vllm_builder.errors import HashMismatch, OfflineMissing, VendorError
from vllm_builder.events import Event, Note
from vllm_builder.stages.patch import PatchSelection, apply
from vllm_builder.stages.patch.cmake import CMakeFile
from vllm_builder.stages.vendor.discovery import discover
from vllm_builder.stages.vendor.locking import check, read_lock, write_lock
from vllm_builder.stages.vendor.mirrors import repository_key
from vllm_builder.stages.vendor.model import ExternalSource, Lock
from vllm_builder.stages.vendor.placing import fetch_externals, patch_steps
from vllm_builder.stages.vendor.treehash import folder_hash

KIT = "vllm/third_party/kit.src"
ATTENTION = "vllm/third_party/Attention.src"


def zipped(folder: Path, to: Path) -> Path:
    """As hosting sites pack a commit: one top folder, executable bits, submodules as empty folders."""
    with zipfile.ZipFile(to, "w") as archive:
        for path in sorted(folder.rglob("*")):
            name = f"top/{path.relative_to(folder)}"
            if path.is_symlink():
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, 0o120777 << 16
                archive.writestr(info, os.readlink(path))  # noqa: PTH115
            else:
                archive.write(path, name)
    return to


# Locking ------------------------------------------------------------------------------------------
def test_a_lock_names_commits_trees_and_nested_submodules(upstream: Upstream, tmp_path: Path) -> None:
    lock = upstream.lock()
    kit, attention, direct = lock.externals
    assert kit.commit == upstream.kit("rev-parse", "v1.0^{commit}")
    assert [part.path for part in kit.submodules] == ["deep/core"]
    (inner,) = attention.submodules
    assert (inner.path, inner.commit) == ("csrc/kit", upstream.attention("rev-parse", "HEAD:csrc/kit"))
    assert [part.path for part in inner.submodules] == ["deep/core"]
    assert inner.submodules[0].commit == upstream.core("rev-parse", "HEAD")
    # A repository without pictures has git's own hash.
    assert attention.tree == upstream.attention("rev-parse", "HEAD^{tree}")
    assert kit.tree != upstream.kit("rev-parse", "v1.0^{tree}")
    # Nothing names this submodule; and GIT_SUBMODULES "" asks for none.
    assert set(attention.left_out) == {"csrc/unused"}
    assert direct.submodules == ()
    assert set(direct.left_out) == {"deep/core"}
    write_lock(lock, tmp_path / "lock.toml")
    assert read_lock(tmp_path / "lock.toml") == lock


def test_one_mirror_serves_all_spellings_of_a_url(upstream: Upstream) -> None:
    fetch_externals(upstream.lock(), upstream.sources, upstream.tree, upstream.cache)
    assert len(list(upstream.cache.git.glob("external-*kit*.git"))) == 1
    spellings = (
        "https://github.com/NVIDIA/cutlass.git",
        "http://u:p@github.com/nvidia/cutlass/",
        "git@github.com:nvidia/Cutlass",
    )
    assert {repository_key(url) for url in spellings} == {"github.com/nvidia/cutlass"}


def test_a_revision_that_does_not_exist(upstream: Upstream) -> None:
    text = (upstream.tree / "CMakeLists.txt").read_text().replace('"v1.0"', '"v9"')
    (upstream.tree / "CMakeLists.txt").write_text(text)
    with pytest.raises(VendorError) as error:
        upstream.lock()
    assert "kit" in error.value.what
    assert "v9" in error.value.why
    assert "[externals.kit]" in error.value.next


def test_a_mirror_that_is_down_is_tried_again_then_named(upstream: Upstream) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/core"
        upstream.sources["core"] = ExternalSource(git=url)
        heard: list[Event] = []
        from vllm_builder.stages.vendor.discovery import cmake_files
        from vllm_builder.stages.vendor.locking import lock

        with pytest.raises(VendorError) as error:
            lock(
                discover(upstream.tree, device="cuda"), upstream.sources, upstream.cache, release="1.0",
                cmake=cmake_files(upstream.tree), emit=heard.append,
            )  # fmt: skip
    assert error.value.what == "The external source kit/deep/core could not be fetched."
    assert url in error.value.why
    assert "(3 tries)" in error.value.why
    assert '[externals."kit/deep/core"]' in error.value.next
    assert sum("trying again" in event.message for event in heard if isinstance(event, Note)) == 2


def test_check_tells_what_differs(upstream: Upstream) -> None:
    lock = upstream.lock()
    externals = discover(upstream.tree, device="cuda")
    assert check(lock, externals) == ()
    text = (upstream.tree / "CMakeLists.txt").read_text()
    (upstream.tree / "CMakeLists.txt").write_text(text.replace('"v1.0"', '"v1.1"'))
    problems = check(lock, discover(upstream.tree, device="cuda"))
    assert any("kit at v1.1 is needed; the lock has it at v1.0" in problem for problem in problems)
    assert any("is not in the tree" in problem for problem in check(lock, externals, upstream.tree))


@pytest.mark.parametrize(
    "text", ["format = 1\n", "][", 'release = "1"\nformat = 3\n', 'release = "1"\nexternal = 1\n']
)
def test_a_lock_file_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "l.toml").write_text(text)
    with pytest.raises(VendorError, match="cannot be used"):
        read_lock(tmp_path / "l.toml")


def test_a_lock_cannot_name_a_folder_outside(upstream: Upstream) -> None:
    data = upstream.lock().model_dump()
    for folder in ("../x", "/x", "a/../../x", ""):
        data["externals"][0]["folder"] = folder
        with pytest.raises(ValueError, match="relative path"):
            Lock.model_validate(data)


# Placing ------------------------------------------------------------------------------------------
def test_placed_whole_and_without_git(upstream: Upstream) -> None:
    fetch_externals(upstream.lock(), upstream.sources, upstream.tree, upstream.cache)
    third_party = upstream.tree / "vllm/third_party"
    assert sorted(path.name for path in third_party.iterdir()) == ["Attention.src", "direct.src", "kit.src"]
    assert (upstream.tree / KIT / "kit.h").read_text() == "kit v1.0\n"
    assert (upstream.tree / ATTENTION / "csrc/kit/kit.h").read_text() == "kit 0.5\n"
    assert (upstream.tree / ATTENTION / "csrc/kit/deep/core/core.h").read_text() == "core\n"
    assert (upstream.tree / ATTENTION / "link").is_symlink()
    assert not list(third_party.rglob("*.png"))
    assert not list(third_party.rglob(".git"))
    # The bytes of the commit, whatever .gitattributes says of them.
    stored = upstream.kit("cat-file", "-s", "v1.0:crlf.bat")
    assert (upstream.tree / KIT / "crlf.bat").stat().st_size == int(stored)
    assert os.access(upstream.tree / KIT / "run.sh", os.X_OK)


def test_from_the_cache_offline_and_again(upstream: Upstream) -> None:
    lock = upstream.lock()
    fetch_externals(lock, {}, upstream.tree, upstream.cache, offline=True)
    before = (upstream.tree / KIT).stat().st_ino
    fetch_externals(lock, {}, upstream.tree, upstream.cache, offline=True)
    assert (upstream.tree / KIT).stat().st_ino == before
    shutil.rmtree(upstream.cache.git)
    shutil.rmtree(upstream.tree / ATTENTION)
    with pytest.raises(OfflineMissing) as error:
        fetch_externals(lock, {}, upstream.tree, upstream.cache, offline=True)
    assert [line.partition(":")[0] for line in error.value.details] == [
        "Attention",
        "Attention/csrc/kit",
        "Attention/csrc/kit/deep/core",
    ]


def test_a_changed_file_in_the_tree_is_found(upstream: Upstream) -> None:
    lock = upstream.lock()
    fetch_externals(lock, upstream.sources, upstream.tree, upstream.cache)
    externals = discover(upstream.tree, device="cuda")
    assert check(lock, externals, upstream.tree) == ()
    (upstream.tree / ATTENTION / "csrc/kit/kit.h").write_text("changed\n")
    (problem,) = check(lock, externals, upstream.tree)
    assert problem.startswith("Attention/csrc/kit is not what the lock names")
    with pytest.raises(HashMismatch):
        fetch_externals(lock, upstream.sources, upstream.tree, upstream.cache)


def test_from_a_folder_or_an_archive(upstream: Upstream, tmp_path: Path) -> None:
    lock = upstream.lock()
    fetch_externals(lock, upstream.sources, upstream.tree, upstream.cache)
    folder = shutil.copytree(upstream.tree / ATTENTION, tmp_path / "by-hand", symlinks=True)
    (folder / "csrc/unused").mkdir(exist_ok=True)
    (folder / "csrc/unused/file").write_text("not asked for\n")
    (folder / "a.png").write_bytes(b"a picture")
    for number, source in enumerate(
        (ExternalSource(path=folder), ExternalSource(archive=zipped(folder, tmp_path / "a.zip")))
    ):
        shutil.rmtree(upstream.tree / ATTENTION)
        shutil.rmtree(upstream.cache.git, ignore_errors=True)
        fetch_externals(lock, {"ATTENTION": source}, upstream.tree, upstream.cache, offline=True)
        assert check(lock, discover(upstream.tree, device="cuda"), upstream.tree) == (), number
        assert not (upstream.tree / ATTENTION / "csrc/unused").exists()


def test_an_archive_that_lacks_a_submodule(upstream: Upstream, tmp_path: Path) -> None:
    lock = upstream.lock()
    fetch_externals(lock, upstream.sources, upstream.tree, upstream.cache)
    folder = shutil.copytree(upstream.tree / ATTENTION, tmp_path / "by-hand", symlinks=True)
    kit = shutil.move(folder / "csrc/kit", tmp_path / "kit-by-hand")
    (folder / "csrc/kit").mkdir()
    archive = zipped(folder, tmp_path / "a.zip")
    shutil.rmtree(upstream.tree / ATTENTION)
    shutil.rmtree(upstream.cache.git)
    sources = {"attention": ExternalSource(archive=archive)}
    with pytest.raises(VendorError) as error:
        fetch_externals(lock, sources, upstream.tree, upstream.cache)
    assert "a.zip has nothing of the submodule csrc/kit" in error.value.what
    assert '[externals."Attention/csrc/kit"]' in error.value.next
    assert not (upstream.tree / ATTENTION).exists()
    sources["Attention/csrc/kit"] = ExternalSource(path=Path(kit))
    fetch_externals(lock, sources, upstream.tree, upstream.cache)
    assert check(lock, discover(upstream.tree, device="cuda"), upstream.tree) == ()


def test_the_wrong_archive_leaves_nothing(upstream: Upstream, tmp_path: Path) -> None:
    lock = upstream.lock()
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "kit.h").write_text("something else\n")
    sources = upstream.sources | {
        "kit": ExternalSource(path=wrong),
        "kit/deep/core": upstream.sources["core"],
    }
    with pytest.raises(HashMismatch) as error:
        fetch_externals(lock, sources, upstream.tree, upstream.cache)
    assert "kit is not what the lock names" in error.value.what
    assert not (upstream.tree / KIT).exists()
    with pytest.raises(VendorError, match="does not exist"):
        fetch_externals(lock, {"kit": ExternalSource(path=tmp_path / "no")}, upstream.tree, upstream.cache)


def test_the_hash_is_gits(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    files = {"a.b/x": "1", "a/x": "2", "a-b": "3", "ü/ö.txt": "4", "deep/er/y": "", "z": b"\0\xff"}
    repository.commit(files)
    (repository.path / "a/x").chmod(0o755)
    (repository.path / "l").symlink_to("a/x")
    (repository.path / "empty").mkdir()
    repository.commit({})
    assert folder_hash(repository.path) == repository("rev-parse", "HEAD^{tree}")


# Repointing ---------------------------------------------------------------------------------------
def test_cmake_configures_with_no_network_and_no_variables(upstream: Upstream, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    assert cmake is not None, "the tests need CMake"
    lock = upstream.lock()
    fetch_externals(lock, upstream.sources, upstream.tree, upstream.cache)
    selection = PatchSelection(steps=patch_steps(lock))
    apply(selection, upstream.tree)
    text = (upstream.tree / "CMakeLists.txt").read_text()
    assert "GIT_" not in text.replace("GIT_TAG above", "")
    assert CMakeFile(text.encode()).error is None
    assert "# in step with KIT_REVISION above" in text
    assert not [one for one in discover(upstream.tree, device="cuda") if one.needed != "no"]
    apply(selection, upstream.tree)
    assert (upstream.tree / "CMakeLists.txt").read_text() == text
    run = subprocess.run(
        [cmake, "-S", str(upstream.tree), "-B", str(tmp_path / "build")],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    # And without the folder CMake itself says what is missing.
    shutil.rmtree(upstream.tree / KIT)
    run = subprocess.run(
        [cmake, "-S", str(upstream.tree), "-B", str(tmp_path / "again")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "kit.src" in run.stderr


def test_setuptools_ships_nothing_of_the_externals(upstream: Upstream) -> None:
    fetch_externals(upstream.lock(), upstream.sources, upstream.tree, upstream.cache)
    for folder in ("vllm", "vllm/third_party", "vllm/third_party/pynvml", f"{KIT}/python"):
        (upstream.tree / folder).mkdir(exist_ok=True)
        (upstream.tree / folder / "__init__.py").touch()
    # In a process of its own: setuptools refuses to be imported where distutils is loaded already.
    for find in ("find_packages", "find_namespace_packages"):
        program = f"import sys, setuptools; print(sorted(setuptools.{find}(sys.argv[1], include=['vllm*'])))"
        found = subprocess.run(
            [sys.executable, "-c", program, str(upstream.tree)], capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == "['vllm', 'vllm.third_party', 'vllm.third_party.pynvml']"
