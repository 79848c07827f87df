"""A wheel is stored under a plan's digest only if the tree that it was compiled from is the plan's."""

from __future__ import annotations

import os
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline_helpers import Toy

from vllm_builder.errors import CompileFailed, ConfigureFailed, TreeChanged
from vllm_builder.events import Note


def broken_off(toy: Toy) -> Path:
    """A tree whose build failed, so that the next one goes on in it."""
    (toy.told / "fail").touch()
    with pytest.raises((CompileFailed, ConfigureFailed)):
        toy.build()
    (toy.told / "fail").unlink()
    tree: Path = toy.tree(toy.plan())
    assert tree.is_dir()
    return tree


def change(tree: Path) -> str:
    (tree / "csrc/kernel.h").write_text("int answer(); // mine\n")
    return "csrc/kernel.h"


def change_unseen_by_size(tree: Path) -> str:
    path = tree / "csrc/kernel.h"
    path.write_text(path.read_text().replace("answer", "umswer"))
    return "csrc/kernel.h"


def remove(tree: Path) -> str:
    (tree / "vllm/patched.py").unlink()
    return "vllm/patched.py"


def add_a_module(tree: Path) -> str:
    (tree / "vllm/mine.py").write_text("mine = True\n")
    return "vllm/mine.py"


def add_a_configuration(tree: Path) -> str:
    (tree / "setup.cfg").write_text("[bdist_wheel]\nbuild_number = 7\n")
    return "setup.cfg"


def change_an_external(tree: Path) -> str:
    folder = tree / "vllm/third_party/cutlass.src"
    (folder / "one.h").write_text("// mine\n")
    return "vllm/third_party/cutlass.src/one.h"


def make_a_link(tree: Path) -> str:
    (tree / "csrc/kernel.h").rename(tree.parent / "aside.h")
    (tree / "csrc/kernel.h").symlink_to(tree.parent / "aside.h")
    return "csrc/kernel.h"


EDITS = [
    *(change, change_unseen_by_size, remove, add_a_module, add_a_configuration),
    *(change_an_external, make_a_link),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda f: f.__name__)
def test_a_tree_that_was_edited_is_not_built(toy: Toy, edit: Callable[[Path], str]) -> None:
    external = toy.source / "vllm/third_party/cutlass.src"
    external.mkdir(parents=True)
    (external / "one.h").write_text("// one\n")
    tree = broken_off(toy)
    name = edit(tree)
    with pytest.raises(TreeChanged) as caught:
        toy.build()
    error = caught.value
    assert any(name in line for line in error.details), error.details
    assert f"--source {tree}" in error.next
    assert "--force" in error.next
    assert toy.compiled == 0


def test_what_setup_py_wrote_is_no_edit(toy: Toy) -> None:
    tree = broken_off(toy)
    assert (tree / "csrc/generated/kernel.cu").is_file()
    assert not toy.build().from_store
    assert toy.compiled == 1


def test_what_setup_py_wrote_may_not_be_edited_either(toy: Toy) -> None:
    tree = broken_off(toy)
    (tree / "csrc/generated/kernel.cu").write_text("// mine\n")
    with pytest.raises(TreeChanged) as caught:
        toy.build()
    assert any("csrc/generated/kernel.cu" in line for line in caught.value.details)


def test_an_edit_that_was_taken_back_is_none(toy: Toy) -> None:
    tree = broken_off(toy)
    path = tree / "csrc/kernel.h"
    before = path.read_text()
    change(tree)
    path.write_text(before)
    assert not toy.build().from_store


def test_a_finished_tree_that_was_edited_is_not_built_for_another_cache(toy: Toy) -> None:
    toy.build()
    change(toy.tree(toy.plan()))
    with pytest.raises(TreeChanged):
        toy.build(cache="another")
    # The wheel in the store is whole, and needs no tree.
    assert toy.build().from_store


def test_force_makes_the_tree_anew_and_keeps_the_edited_one(toy: Toy) -> None:
    tree = broken_off(toy)
    change(tree)
    assert not toy.build(force=True).from_store
    assert "mine" not in (tree / "csrc/kernel.h").read_text()
    (kept,) = tree.parent.glob(f"{tree.name}.edited-*")
    assert "mine" in (kept / "csrc/kernel.h").read_text()
    assert any(isinstance(e, Note) and str(kept) in e.message for e in toy.events)


def test_the_edited_tree_can_be_built_as_ones_own(toy: Toy) -> None:
    tree = broken_off(toy)
    add_a_module(tree)
    own = toy.plan(source=tree)
    assert own.digest != toy.plan().digest
    with zipfile.ZipFile(toy.build(own).wheel) as wheel:
        assert "vllm/mine.py" in wheel.namelist()


def test_a_wheel_of_a_tree_that_was_edited_meanwhile_is_not_stored(toy: Toy) -> None:
    (toy.told / "wait").touch()

    def edit() -> None:
        deadline = time.monotonic() + 30
        while not toy.compiled and time.monotonic() < deadline:
            time.sleep(0.02)
        change(toy.tree(toy.plan()))
        (toy.told / "wait").unlink()

    thread = threading.Thread(target=edit)
    thread.start()
    with pytest.raises(TreeChanged, match="while") as caught:
        toy.build()
    thread.join()
    assert any("csrc/kernel.h" in line for line in caught.value.details)
    with pytest.raises(TreeChanged):
        toy.build()


def test_a_build_that_was_killed_goes_on(toy: Toy) -> None:
    (toy.told / "wait").touch()
    child = os.fork()
    if child == 0:
        try:
            toy.build()
        finally:
            os._exit(1)
    deadline = time.monotonic() + 30
    while not toy.compiled and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    (toy.told / "wait").unlink()
    assert (toy.tree(toy.plan()) / "csrc/generated/kernel.cu").is_file()
    assert not toy.build().from_store


def test_an_edit_after_a_kill_is_seen(toy: Toy) -> None:
    tree = broken_off(toy)
    log = toy.workspace.log(toy.plan().digest)
    # As a killed build leaves it: what it wrote was not listed, and its log ended long ago.
    marker = tree.with_name(f"{tree.name}.building")
    marker.touch()
    long_ago = time.time() - 3600
    for file in (log, marker):
        os.utime(file, (long_ago, long_ago))
    name = add_a_module(tree)
    with pytest.raises(TreeChanged) as caught:
        toy.build()
    assert any(name in line for line in caught.value.details)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"csrc/kernel.h": 1}'])
def test_without_the_list_of_its_files_a_tree_cannot_be_trusted(toy: Toy, content: str | None) -> None:
    tree = broken_off(toy)
    listing = tree.with_name(f"{tree.name}.files.json")
    listing.unlink()
    if content is not None:
        listing.write_text(content)
    with pytest.raises(TreeChanged, match="cannot be told") as caught:
        toy.build()
    assert listing.name in caught.value.why
    assert not toy.build(force=True).from_store
