"""From a plan to a stored wheel: what is made, what is made once, and what a second builder does."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from typing import Any

import pytest
from pipeline_helpers import Toy

from vllm_builder.cache import Cache
from vllm_builder.errors import BuilderError, CompileFailed, ConfigureFailed, NoSpace
from vllm_builder.events import Note, StageFinished
from vllm_builder.pipeline import BuildResult, prepare_tree
from vllm_builder.stages.store import Entry, Store


def test_a_wheel_is_built_stored_and_handed_over(toy: Toy) -> None:
    result = toy.build()
    assert not result.from_store
    assert result.wheel.parent == toy.workspace.out
    with zipfile.ZipFile(result.wheel) as wheel:
        assert "vllm/patched.py" in wheel.namelist()
    assert result.record.patch_report["entries"]
    stages = [e.stage for e in toy.events if isinstance(e, StageFinished)]
    assert stages == ["source", "patch", "environment", "compile", "finish", "verify"]
    # Compile's own copy has served.
    assert not list((toy.workspace.root / "dist").iterdir())


def test_the_second_time_nothing_is_compiled(toy: Toy) -> None:
    first = toy.build()
    second = toy.build()
    assert (second.from_store, second.sha256, toy.compiled) == (True, first.sha256, 1)


def test_the_persons_settings_for_setup_py_do_not_change_the_wheel(toy: Toy) -> None:
    plain = toy.build().wheel.read_bytes()
    (toy.folder / ".pydistutils.cfg").write_text(
        "[bdist_wheel]\nbuild_number = 7\ncompression = stored\nplat_name = any\n[build_py]\noptimize = 2\n"
    )
    again = toy.build(cache="another", force=True)
    assert again.wheel.name == "vllm-1.2.3+empty-py3-none-any.whl"
    assert members(again.wheel.read_bytes()) == members(plain)


def members(wheel: bytes) -> dict[str, int]:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        return {one.filename: one.compress_type for one in archive.infolist()}


def test_force_compiles_anew_in_a_new_tree(toy: Toy) -> None:
    toy.build()
    left = toy.tree(toy.plan()) / "build" / "left"
    left.touch()
    assert not toy.build(force=True).from_store
    assert toy.compiled == 2
    assert not left.exists()


def test_a_forced_build_that_was_broken_off_goes_on(toy: Toy) -> None:
    toy.build()
    (toy.told / "fail").touch()
    with pytest.raises((CompileFailed, ConfigureFailed)):
        toy.build(force=True)
    left = toy.tree(toy.plan()) / "build" / "left"
    left.touch()
    (toy.told / "fail").unlink()
    assert not toy.build(force=True).from_store
    assert left.exists()


def test_a_damaged_wheel_is_built_again(toy: Toy) -> None:
    first = toy.build()
    entry = Store(toy.folder / "cache" / "store").find(first.digest)
    assert entry is not None
    entry.wheel.chmod(0o644)
    entry.wheel.write_bytes(b"")
    second = toy.build()
    assert not second.from_store
    assert zipfile.is_zipfile(second.wheel)


def test_a_wheel_of_some_extensions_is_never_stored(toy: Toy) -> None:
    plan = toy.plan(extensions=("vllm._C",))
    result = toy.build(plan)
    assert result.wheel.parent == toy.workspace.out / "partial"
    assert json.loads(result.wheel.with_name(f"{result.wheel.name}.json").read_text())["extensions"]
    assert Store(toy.folder / "cache" / "store").find(plan.digest) is None
    assert not toy.build(plan).from_store


def test_a_full_disk_is_said_before_anything_is_begun(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1 << 20

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage)
    with pytest.raises(NoSpace):
        toy.build()
    assert not toy.tree(toy.plan()).exists()


def test_a_half_made_tree_is_made_again(toy: Toy) -> None:
    plan = toy.plan()
    tree = toy.tree(plan)
    tree.mkdir(parents=True)
    (tree / "half").touch()
    report = prepare_tree(plan, tree, Cache(toy.folder / "cache"))
    assert not (tree / "half").exists()
    assert prepare_tree(plan, tree, Cache(toy.folder / "cache")) == report


def test_a_tree_of_another_plan_at_the_same_place_is_made_again(toy: Toy) -> None:
    plan, cache = toy.plan(), Cache(toy.folder / "cache")
    tree = toy.tree(plan)
    prepare_tree(plan, tree, cache)
    ready = tree.with_name(f"{tree.name}.ready.json")
    ready.write_text(json.dumps(json.loads(ready.read_text()) | {"digest": "0" * 64}))
    (tree / "of-the-other").touch()
    prepare_tree(plan, tree, cache)
    assert not (tree / "of-the-other").exists()


class Builders:
    """Several builds at once, in threads."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.results: list[BuildResult | BuilderError] = []
        self.threads: list[threading.Thread] = []

    def start(self, cache: str) -> None:
        def build() -> None:
            try:
                self.results.append(self.toy.build(cache=cache))
            except BuilderError as error:
                self.results.append(error)

        self.threads.append(threading.Thread(target=build))
        self.threads[-1].start()

    def join(self) -> list[BuildResult]:
        for thread in self.threads:
            thread.join(60)
        found = []
        for result in self.results:
            if isinstance(result, BuilderError):
                raise result
            found.append(result)
        assert len(found) == len(self.threads)
        return found


def until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_two_builders_of_one_plan_compile_once(toy: Toy) -> None:
    (toy.told / "wait").touch()
    builders = Builders(toy)
    builders.start("cache")
    until(lambda: toy.compiled, 30)
    builders.start("cache")
    until(lambda: any(isinstance(e, Note) and "Waiting" in e.message for e in toy.events), 30)
    (toy.told / "wait").unlink()
    results = builders.join()
    assert sorted(r.from_store for r in results) == [False, True]
    assert len({r.sha256 for r in results}) == 1
    assert toy.compiled == 1


def test_builders_with_caches_of_their_own_share_a_workspace(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, second_is_here = Store.add, threading.Event()

    def slow(self: Store, *arguments: Any, **options: Any) -> Entry:
        if self.root.parent.name == "first":
            # Long enough for the second one to compile into the same folders, if it may.
            second_is_here.wait(2)
        else:
            second_is_here.set()
            builders.threads[0].join(30)
        return add(self, *arguments, **options)

    monkeypatch.setattr(Store, "add", slow)
    builders = Builders(toy)
    builders.start("first")
    until(lambda: toy.compiled, 30)
    builders.start("second")
    results = builders.join()
    assert [r.from_store for r in results] == [False, False]
    for cache in ("first", "second"):
        assert Store(toy.folder / cache / "store").get(results[0].digest) is not None
