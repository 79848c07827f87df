"""The external sources of a plan: which lock counts, what is remembered, and what is part of the digest."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cuda_machine import Machine
from vendor_helpers import Repository

from vllm_builder.cache import Cache
from vllm_builder.errors import OfflineMissing, SettingsError, VendorError
from vllm_builder.events import Event, Note
from vllm_builder.settings.model import Settings
from vllm_builder.settings.recipe import load_recipe
from vllm_builder.stages.plan.externals import Externals, folder_variables, plan_externals
from vllm_builder.stages.vendor import External, discover, write_lock

CMAKE = """
include(FetchContent)
if(VLLM_TARGET_DEVICE STREQUAL "cuda")
  FetchContent_Declare(kit GIT_REPOSITORY https://git.invalid/Kit.git GIT_TAG v1.0)
else()
  FetchContent_Declare(oneDNN GIT_REPOSITORY https://git.invalid/onednn GIT_TAG v3.0)
endif()
"""
MAKE = "FetchContent_MakeAvailable(kit oneDNN)\n"


class World:
    """A release that fetches ``kit`` for CUDA and ``oneDNN`` else, their repositories, and a folder to be in."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.here = folder / "here"
        self.shipped = folder / "shipped"
        for path in (self.here, self.shipped / "locks", folder / "tree"):
            path.mkdir(parents=True)
        monkeypatch.chdir(self.here)
        monkeypatch.setattr("vllm_builder.stages.plan.externals.shipped", lambda name: self.shipped / name)
        monkeypatch.setattr("vllm_builder.stages.vendor.mirrors.WAITS", ())
        (folder / "tree" / "CMakeLists.txt").write_text(CMAKE + MAKE)
        self.kit = Repository(folder / "kit")
        self.commit = self.kit.commit({"kit.h": "kit\n"})
        self.kit("tag", "v1.0")
        onednn = Repository(folder / "onednn")
        onednn.commit({"dnn.h": "dnn\n"})
        onednn("tag", "v3.0")
        self.sources: dict[str, Any] = {"kit": str(folder / "kit"), "onednn": str(folder / "onednn")}
        self.events: list[Event] = []

    def plan(self, device: str = "cuda", **settings: Any) -> Externals:
        self.events.clear()
        chosen = Settings.model_validate({"externals": self.sources, **settings})
        return plan_externals(
            self.folder / "tree",
            "1.0",
            device=device,
            settings=chosen,
            cache=Cache(self.folder / "cache"),
            emit=self.events.append,
        )

    def asked(self) -> bool:
        return any(isinstance(event, Note) and "Asking for" in event.message for event in self.events)

    def lock_at(self, path: Path, commit: str = "") -> Path:
        """Write what the repositories say into a lock file; with another commit it can be told apart."""
        found = self.plan().lock
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        assert found is not None
        if commit:
            one = found.externals[0].model_copy(update={"commit": commit * 40})
            found = found.model_copy(update={"externals": (one,)})
        write_lock(found, path)
        return path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def _commits(found: Externals) -> list[str]:
    assert found.lock is not None
    return [one.commit for one in found.lock.externals]


def test_without_a_lock_the_repositories_are_asked_once(world: World) -> None:
    found = world.plan()
    assert world.asked()
    assert _commits(found) == [world.commit]
    assert "by its repository" in found.told[0][2]
    assert len(found.steps) == 1
    shutil.rmtree(world.folder / "kit")
    assert world.plan() == found
    assert not world.asked()
    assert world.plan(offline=True) == found


def test_refresh_asks_again(world: World) -> None:
    world.plan()
    new = world.kit.commit({"kit.h": "another\n"})
    world.kit("tag", "--force", "v1.0")
    assert _commits(world.plan()) == [world.commit]
    assert _commits(world.plan(refresh=True)) == [new]
    assert _commits(world.plan()) == [new]
    assert _commits(world.plan(refresh=True, offline=True)) == [new]


def test_the_lock_of_the_command_line_comes_first_then_the_folder_then_the_shipped_one(world: World) -> None:
    given = world.lock_at(world.folder / "given.toml", "a")
    own_path = world.lock_at(world.folder / "own.toml", "b")
    world.lock_at(world.shipped / "locks" / "vllm-1.0.toml", "c")
    shipped = world.plan()
    assert _commits(shipped) == ["c" * 40]
    assert "by the shipped lock" in shipped.told[0][2]
    (world.here / "locks").mkdir()
    own_path.rename(world.here / "locks" / "vllm-1.0.toml")
    own = world.plan()
    assert _commits(own) == ["b" * 40]
    assert "by the lock file locks/vllm-1.0.toml" in own.told[0][2]
    assert _commits(world.plan(lock_file=given)) == ["a" * 40]
    assert not world.asked()


def test_a_lock_of_ones_own_that_does_not_fit_is_refused_and_a_shipped_one_is_added_to(world: World) -> None:
    path = world.lock_at(world.folder / "given.toml")
    path.write_text(path.read_text().replace('revision = "v1.0"', 'revision = "v0.9"'))
    with pytest.raises(VendorError, match=r"given.toml does not fit") as caught:
        world.plan(lock_file=path)
    assert caught.value.details[0] == "kit at v1.0 is needed; the lock has it at v0.9"
    assert not world.asked()
    shutil.copy(path, world.shipped / "locks" / "vllm-1.0.toml")
    assert _commits(world.plan()) == [world.commit]
    assert world.asked()


def test_a_lock_of_another_release(world: World) -> None:
    path = world.lock_at(world.folder / "given.toml")
    path.write_text(path.read_text().replace('release = "1.0"', 'release = "2.0"'))
    with pytest.raises(VendorError, match=r"is for 2.0, not for 1.0"):
        world.plan(lock_file=path)


def test_a_lock_file_that_is_not_there(world: World) -> None:
    with pytest.raises(VendorError, match="There is no lock file"):
        world.plan(lock_file=world.folder / "none.toml")


def test_offline_names_all_that_is_not_known(world: World) -> None:
    cmake = world.folder / "tree" / "CMakeLists.txt"
    cmake.write_text(cmake.read_text().replace("else()", "endif()\nif(VLLM_TARGET_DEVICE)"))
    with pytest.raises(OfflineMissing) as caught:
        world.plan(offline=True)
    assert caught.value.details == (
        "kit v1.0: https://git.invalid/Kit.git",
        "oneDNN v3.0: https://git.invalid/onednn",
    )
    assert "[externals.kit]" in caught.value.next


def test_a_mirror_does_not_change_what_is_locked_and_another_commit_does(
    world: World, tmp_path: Path
) -> None:
    from vllm_builder.model import digest

    first = world.plan()
    shutil.copytree(world.folder / "kit", tmp_path / "copy")
    shutil.rmtree(world.folder / "cache")
    second = world.plan(externals={**world.sources, "kit": str(tmp_path / "copy")})
    assert digest(first.lock) == digest(second.lock)
    assert digest(list(first.steps)) == digest(list(second.steps))
    world.kit.commit({"kit.h": "another\n"})
    world.kit("tag", "--force", "v1.0")
    assert digest(world.plan(refresh=True).lock) != digest(first.lock)


def test_nothing_is_asked_for_a_device_that_compiles_nothing(world: World) -> None:
    assert world.plan("empty", offline=True) == Externals()


def test_the_cpu_has_its_own(world: World) -> None:
    found = world.plan("cpu").lock
    assert found is not None
    assert [one.name for one in found.externals] == ["oneDNN"]


def test_a_release_that_fetches_nothing(world: World) -> None:
    (world.folder / "tree" / "CMakeLists.txt").write_text("project(x)\n")
    assert world.plan(offline=True) == Externals()


def test_what_a_damaged_memory_says_is_asked_again(world: World) -> None:
    found = world.plan()
    for path in (world.folder / "cache").glob("memo/externals/*.json"):
        path.write_text(path.read_text().replace(world.commit, "no commit"))
    assert world.plan() == found


# -- folders that variables name ----------------------------------------------------------------------
def test_the_content_of_a_source_folder_counts_and_not_its_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.h").write_text("1\n")
    first = folder_variables({"VLLM_CUTLASS_SRC_DIR": str(tmp_path / "a"), "CXXFLAGS": "-O2"})
    assert list(first) == ["VLLM_CUTLASS_SRC_DIR"]
    assert folder_variables({"VLLM_CUTLASS_SRC_DIR": str(tmp_path / "b")}) == first
    (tmp_path / "b" / "x.h").write_text("2\n")
    assert folder_variables({"VLLM_CUTLASS_SRC_DIR": str(tmp_path / "b")}) != first
    assert folder_variables({"VLLM_CUTLASS_SRC_DIR": ""}) == {}
    with pytest.raises(VendorError, match="is no folder"):
        folder_variables({"VLLM_CUTLASS_SRC_DIR": str(tmp_path / "none")})


def test_whole_plans_differ_by_the_content_of_a_source_folder(machine: Machine, tmp_path: Path) -> None:
    machine.toolkit("13.0")
    machine.release("0.9.2", files={"CMakeLists.txt": "set(X $ENV{VLLM_CUTLASS_SRC_DIR})\n"})
    machine.environ["VLLM_CUTLASS_SRC_DIR"] = str(tmp_path / "kit")
    (tmp_path / "kit").mkdir()
    digests = []
    for text in ("1", "1", "2"):
        (tmp_path / "kit" / "x.h").write_text(text)
        digests.append(machine.plan(arch=("sm_100",), cuda="system").digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.corpus
@pytest.mark.parametrize(("recipe", "fetched"), [("cpu", []), (None, ["oneDNN v3.7.1: https://github.com"])])
def test_the_cpu_plan_of_a_real_release_wants_onednn_only_where_the_recipe_does_not_say_avx2(
    sdist: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str | None,
    fetched: list[str],
) -> None:
    def on_a_machine_with_avx512(folder: Path, **more: Any) -> tuple[External, ...]:
        return discover(folder, **{**more, "machine": "x86_64", "cpuinfo": "flags : avx2 avx512f\n"})

    monkeypatch.setattr("vllm_builder.stages.plan.externals.discover", on_a_machine_with_avx512)
    monkeypatch.setattr("vllm_builder.stages.plan.externals.shipped", lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with tarfile.open(sdist("0.9.2")) as archive:
        wanted = [m for m in archive if m.name.endswith((".cmake", "CMakeLists.txt"))]
        archive.extractall(tmp_path, wanted, filter="data")
    variables = load_recipe(recipe).for_release("0.9.2")["variables"] if recipe else {}

    def plan() -> Externals:
        return plan_externals(
            tmp_path / "vllm-0.9.2",
            "0.9.2",
            device="cpu",
            settings=Settings.model_validate({"offline": True}),
            cache=Cache(tmp_path / "cache"),
            variables=variables,
        )

    if not fetched:
        assert plan() == Externals()
        return
    with pytest.raises(OfflineMissing) as caught:
        plan()
    assert [line.rpartition("/oneapi")[0] for line in caught.value.details] == fetched


def test_another_choice_of_submodules_is_another_question(world: World) -> None:
    core = Repository(world.folder / "core")
    core.commit({"core.h": "core\n"})
    world.kit.submodule(core, "deep/core", str(core.path))
    world.kit("tag", "--force", "v1.0")
    without = world.plan().lock
    assert without is not None
    assert without.externals[0].submodules == ()
    asked = {"git": str(world.kit.path), "submodules": ["deep/core"]}
    with_core = world.plan(externals={"kit": asked}).lock
    assert with_core is not None
    assert [part.path for part in with_core.externals[0].submodules] == ["deep/core"]
    assert world.plan().lock == without
    # Nor is the choice for one external a choice for another.
    world.plan(externals={"kit": world.sources["kit"], "other": asked}, offline=True)


def test_a_toolchain_file_counts_with_its_content(tmp_path: Path) -> None:
    file = tmp_path / "toolchain.cmake"
    file.write_text("set(CMAKE_CXX_FLAGS_INIT -O2)\n")
    first = folder_variables({"CMAKE_TOOLCHAIN_FILE": str(file)})
    assert list(first) == ["CMAKE_TOOLCHAIN_FILE"]
    file.write_text("set(CMAKE_CXX_FLAGS_INIT -O3)\n")
    assert folder_variables({"CMAKE_TOOLCHAIN_FILE": str(file)}) != first
    with pytest.raises(SettingsError) as caught:
        folder_variables({"CMAKE_TOOLCHAIN_FILE": str(tmp_path / "none")})
    assert "CMAKE_TOOLCHAIN_FILE" in caught.value.what
