"""Bad input of CUDA builds, as a person types it: its own error class, cause and cure, no traceback.

Nothing may be downloaded, installed or compiled for what can be known before.
"""

from __future__ import annotations

import json
import shutil
import socket
import zipfile
from pathlib import Path

import pytest
from cuda_person import Kit, Person
from vendor_helpers import Repository

from vllm_builder import errors

EXTENSIONS = """
ext_modules = []
ext_modules.append(CMakeExtension(name="vllm._C"))
ext_modules.append(CMakeExtension(name="vllm._vllm_fa3_C"))
ext_modules.append(CMakeExtension(name="vllm._flashmla_C"))
"""
MLA = """
cuda_archs_loose_intersection(FLASH_MLA_ARCHS "9.0a" "${CUDA_ARCHS}")
if(${CMAKE_CUDA_COMPILER_VERSION} VERSION_GREATER 12.3 AND FLASH_MLA_ARCHS)
  define_gpu_extension_target(_flashmla_C DESTINATION vllm)
else()
  add_custom_target(_flashmla_C)
endif()
"""


# -- architectures ------------------------------------------------------------------------------------
@pytest.mark.parametrize("archs", [("10.0", "10.0a"), ("sm_100", "100a"), ("9.0a", "sm_90")])
def test_a_base_arch_with_its_own_suffixed_form(person: Person, archs: tuple[str, str]) -> None:
    person.machine.toolkit("13.0")
    said = person.fails(errors.ArchError, "plan", "--arch", archs[0], "--arch", archs[1])
    assert "exclude each other" in said


def test_an_arch_list_of_the_environment_is_held_to_the_same(person: Person) -> None:
    person.machine.toolkit("13.0")
    person.machine.environ["TORCH_CUDA_ARCH_LIST"] = "10.0;10.0a"
    assert "exclude each other" in person.fails(errors.ArchError, "plan", "--device", "cuda")


@pytest.mark.parametrize("arch", ["sm_banana", "11", "99.9", "sm_95", "", "10.0b", "compute_"])
def test_an_arch_that_does_not_exist(person: Person, arch: str) -> None:
    person.machine.toolkit("13.0")
    said = person.fails(errors.ArchError, "plan", "--device", "cuda", "--arch", arch)
    assert "10.0" in said


def test_an_arch_that_the_toolkit_does_not_know(person: Person) -> None:
    person.machine.toolkit("12.4")
    said = person.fails(errors.ArchError, "build", "--arch", "sm_100", "--cuda", "system")
    assert "sm_100 (B200) needs nvcc >=12.8; found 12.4 only" in said


def test_an_arch_that_no_torch_build_knows(person: Person) -> None:
    person.machine.toolkit("12.9")
    said = person.fails(errors.ArchError, "build", "--arch", "sm_100", "--torch", "2.6.0", "--cuda", "system")
    assert "torch 2.6.0+cu124: its own kernels are for" in said


def test_an_arch_that_cmake_would_drop_without_a_word(person: Person) -> None:
    person.machine.toolkit("13.0")
    said = person.fails(errors.ArchError, "build", "--arch", "sm_110", "--cuda", "system")
    assert "drop sm_110 without a word" in said


# -- toolkits -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nvcc", "says"),
    [
        ("#!/bin/sh\nexit 1\n", "it says nothing"),
        ("#!/bin/sh\nprintf '\\377\\376 what?'\n", "what?"),
        ("#!/bin/sh\necho cannot load libfoo.so >&2\nexit 127\n", "libfoo"),
        ("\x7fELF rubbish", "Exec format"),
    ],
)
@pytest.mark.parametrize("way", ["named", "variable", "found"])
def test_a_broken_nvcc(person: Person, nvcc: str, says: str, way: str) -> None:
    home = person.machine.toolkit("12.6")
    (home / "bin" / "nvcc").write_text(nvcc)
    further = ["--cuda", "system"]
    if way == "named":
        further = ["--cuda-home", str(home)]
    elif way == "variable":
        person.machine.environ["CUDA_HOME"] = str(home)
    said = person.fails(errors.CompilerMissing, "build", "--arch", "sm_90", *further)
    assert says in said
    assert str(home) in said


def test_an_nvcc_that_cannot_compile(person: Person) -> None:
    home = person.machine.toolkit("12.6")
    nvcc = home / "bin" / "nvcc"
    text = nvcc.read_text().replace(
        "test", f"case \"$*\" in *dryrun*) echo '#$ PATH={home}/bin';; esac; test"
    )
    nvcc.write_text(text)
    said = person.fails(errors.CompilerMissing, "build", "--arch", "sm_90", "--cuda-home", str(home))
    assert "lacks cicc, cudafe++, ptxas, fatbinary" in said


@pytest.mark.parametrize(
    "part",
    [
        "include/cuda.h",
        "include/cusparse.h",
        "lib64/libcudart.so",
        "lib64/libnvrtc.so",
        "lib64/stubs/libcuda.so",
    ],
)
def test_half_a_toolkit(person: Person, part: str) -> None:
    home = person.machine.toolkit("12.6")
    (home / part).unlink()
    said = person.fails(errors.CompilerMissing, "build", "--arch", "sm_90", "--cuda", "system")
    assert f"lacks {Path(part).name}" in said
    assert "not usable" in said or "Looked at" in said


def test_a_gcc_that_is_too_new_for_nvcc(person: Person) -> None:
    person.machine.toolkit("12.6")
    person.machine.gcc("15.1.0")
    said = person.fails(errors.CompilerTooOld, "build", "--arch", "sm_90", "--cuda", "system")
    assert "gcc older than 14" in said
    assert "15.1.0" in said
    assert "CXX" in said


# -- extensions ---------------------------------------------------------------------------------------
@pytest.fixture
def with_extensions(person: Person) -> Person:
    from cuda_machine import SETUP

    person.machine.toolkit("13.0")
    files = {"setup.py": SETUP.replace("setup(name", f"{EXTENSIONS}\nsetup(name"), "CMakeLists.txt": MLA}
    person.machine.release("0.9.2", files=files)
    return person


@pytest.mark.parametrize("chosen", ["_vllm_fa3_C", "_C,_vllm_fa3_C", "_flashmla_C"])
def test_chosen_extensions_that_can_run_on_none_of_the_archs(with_extensions: Person, chosen: str) -> None:
    arguments = ("--arch", "sm_100", "--cuda", "system", "--extensions", chosen)
    said = with_extensions.fails(errors.ContradictionError, "build", *arguments)
    assert chosen.split(",")[-1] in said
    assert "cannot run on 10.0" in said


def test_what_the_person_insists_on_is_compiled(with_extensions: Person) -> None:
    arguments = (
        "--arch",
        "sm_100",
        "--cuda",
        "system",
        "--extensions",
        "_vllm_fa3_C",
        "--keep-dead",
        "--json",
    )
    code, out, err = with_extensions.types("plan", *arguments)
    assert code == 0, err
    assert set(json.loads(out)["plan"]["compile"]["without"]) == {"_C", "_flashmla_C"}


def test_chosen_extensions_that_can_run(with_extensions: Person) -> None:
    arguments = ("--arch", "sm_90a", "--cuda", "system", "--extensions", "_flashmla_C,_vllm_fa3_C")
    assert with_extensions.types("plan", *arguments)[0] == 0


# -- external sources ---------------------------------------------------------------------------------
def test_a_lock_with_another_hash(kit: Kit) -> None:
    kit.write_lock()
    kit.changed('^tree = ".{40}"', f'tree = "{"0" * 40}"')
    said = kit.person.fails(errors.HashMismatch, "build", *kit.common, *kit.mirrors)
    assert "kit is not what the lock names" in said
    assert "0" * 40 in said


def test_a_tag_that_moved(kit: Kit) -> None:
    kit.write_lock()
    old = kit.kit("rev-parse", "v1.0")
    other = Repository(kit.person.machine.folder / "upstream/other")
    other.commit({"kit.h": "another kit\n"})
    other("tag", "v1.0")
    shutil.rmtree(kit.person.machine.folder / "cache" / "git")
    said = kit.person.fails(errors.HashMismatch, "build", *kit.common, *kit.mirror(other.path))
    assert "v1.0" in said
    assert old[:12] in said
    assert other("rev-parse", "HEAD")[:12] in said
    assert str(other.path) in said


def test_a_lock_without_what_the_release_needs(kit: Kit) -> None:
    kit.write_lock()
    kit.changed('^revision = "v1.0"', 'revision = "v0.9"')
    said = kit.person.fails(errors.VendorError, "plan", *kit.common, *kit.mirrors)
    assert "kit at v1.0 is needed; the lock has it at v0.9" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("format = 1\n", "release"),
        ("this is no TOML", "TOML"),
        ('format = 9\nrelease = "0.9.2"\n', "format"),
        (None, ""),
    ],
)
def test_a_lock_file_that_is_none(kit: Kit, text: str | None, says: str) -> None:
    path = kit.person.machine.folder / "mine.toml"
    if text is not None:
        path.write_text(text)
    code, _, err = kit.person.types("plan", *kit.common, "--lock-file", str(path))
    assert code == errors.VendorError.exit_code, err
    assert "mine.toml" in err
    assert says.lower() in err.lower()


def _archive(kit: Kit, whole: bool) -> Path:
    path = kit.person.machine.folder / "kit.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("kit.h", "CMakeLists.txt", ".gitmodules"):
            archive.write(kit.kit.path / name, f"kit-1.0/{name}")
        archive.mkdir("kit-1.0/deep/core")
        if whole:
            archive.write(kit.core.path / "core.h", "kit-1.0/deep/core/core.h")
    return path


def test_an_archive_without_its_submodule(kit: Kit) -> None:
    kit.write_lock()
    shutil.rmtree(kit.person.machine.folder / "cache" / "git")
    (kit.person.machine.folder / "vllm-builder.toml").write_text(
        f'[externals.kit]\narchive = "{_archive(kit, whole=False)}"\n'
    )
    said = kit.person.fails(errors.VendorError, "build", *kit.common)
    assert "has nothing of the submodule deep/core" in said
    assert '[externals."kit/deep/core"]' in said


def test_a_mirror_that_is_down(kit: Kit) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}/kit.git"
    said = kit.person.fails(errors.VendorError, "plan", *kit.common, "--external", f"kit={url}")
    assert said.count("trying again") == 2
    assert f"{url}: " in said
    assert "(3 tries)" in said
    assert "[externals.kit] with git =" in said


def test_nothing_is_known_and_offline(kit: Kit) -> None:
    said = kit.person.fails(errors.OfflineMissing, "plan", *kit.common, "--offline")
    assert "kit v1.0: https://git.invalid/Kit.git" in said
    assert "--lock-file" in said


def test_a_source_folder_variable_that_names_nothing(person: Person) -> None:
    person.machine.toolkit("13.0")
    person.machine.environ["VLLM_CUTLASS_SRC_DIR"] = "/nonexistent/cutlass"
    person.machine.release("0.9.2", files={"CMakeLists.txt": "set(X $ENV{VLLM_CUTLASS_SRC_DIR})\n"})
    said = person.fails(errors.VendorError, "plan", "--arch", "sm_100", "--cuda", "system")
    assert "VLLM_CUTLASS_SRC_DIR=/nonexistent/cutlass is no folder" in said
