"""``vllm-builder source``: the tree that a build would compile, and how to go on by hand."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from cuda_person import Kit

from vllm_builder import errors
from vllm_builder.cache import Cache
from vllm_builder.pipeline import prepare_tree
from vllm_builder.settings.model import Settings


def _files(tree: Path) -> dict[str, bytes]:
    return {p.relative_to(tree).as_posix(): p.read_bytes() for p in tree.rglob("*") if p.is_file()}


def test_it_is_the_tree_that_build_compiles_with_its_externals(kit: Kit) -> None:
    folder = kit.person.machine.folder
    code, out, err = kit.person.types("source", *kit.common, *kit.mirrors, "--dest", "out")
    assert code == 0, err
    assert out == f"{folder / 'out'}\n"
    found = _files(folder / "out")
    assert "vllm/third_party/kit.src/deep/core/core.h" in found
    assert b"GIT_REPOSITORY" not in found["CMakeLists.txt"]
    sources = {"kit": str(kit.kit.path), "core": str(kit.core.path)}
    made = kit.person.machine.plan(arch=("sm_100",), cuda="system", externals=sources)
    externals = Settings.model_validate({"externals": sources}).externals
    prepare_tree(made, folder / "built", Cache(folder / "cache"), externals=externals)
    assert found == _files(folder / "built")
    assert not list(folder.glob(".out*"))


def test_the_command_that_it_prints_is_one_for_a_shell(kit: Kit) -> None:
    folder = kit.person.machine.folder
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(
        '#!/bin/sh\npwd; echo "$CXXFLAGS"; echo "$TORCH_CUDA_ARCH_LIST"; echo "$CUDA_HOME"; echo "$@"\n'
    )
    python.chmod(0o755)
    value = "-DNAME='it is' -DCOST=\\$5 `x`"
    dest = "a folder's name"
    further = ("--dest", dest, "--variable", f"CXXFLAGS={value}", "--arch", "sm_90")
    code, _, err = kit.person.types("source", *kit.common, *kit.mirrors, *further)
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if line.startswith("  cd "))
    environ = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    run = subprocess.run(["sh", "-c", line], env=environ, cwd="/", capture_output=True, text=True, check=True)
    *said, arguments = run.stdout.splitlines()
    assert said == [str(folder / dest), value, "9.0;10.0", str(folder / "cuda-13.0")]
    assert arguments.startswith("setup.py bdist_wheel")


def test_nothing_is_left_behind_where_it_fails(kit: Kit) -> None:
    folder = kit.person.machine.folder
    kit.write_lock()
    kit.changed('^tree = ".{40}"', f'tree = "{"0" * 40}"')
    kit.person.fails(errors.HashMismatch, "source", *kit.common, *kit.mirrors, "--dest", "out")
    assert not (folder / "out").exists()
    assert not list(folder.glob(".out*"))


def test_a_folder_that_exists_is_never_written_to(kit: Kit) -> None:
    folder = kit.person.machine.folder
    (folder / "out").symlink_to("nowhere")
    kit.person.fails(errors.NotWritable, "source", *kit.common, *kit.mirrors, "--dest", "out")
    assert (folder / "out").is_symlink()


def test_as_json(kit: Kit) -> None:
    code, out, _ = kit.person.types("source", *kit.common, *kit.mirrors, "--dest", "out", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["variables"]["TORCH_CUDA_ARCH_LIST"] == "10.0"
    assert found["patch_report"]["entries"]


def test_a_misspelt_source_is_not_overlooked(kit: Kit) -> None:
    code, _, err = kit.person.types(
        "source", *kit.common, "--external", f"kits={kit.kit.path}", "--dest", "out"
    )
    assert code == errors.SettingsError.exit_code
    assert "did you mean kit?" in err
    # What another release has is no mistake.
    code, _, err = kit.person.types(
        "source", *kit.common, *kit.mirrors, "--external", "flashmla=/nonexistent", "--dest", "out"
    )
    assert code == 0, err
