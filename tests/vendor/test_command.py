"""``vllm-builder vendor`` as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from vendor_upstream import Upstream

from vllm_builder.errors import VendorError


@pytest.fixture
def vendor(upstream: Upstream, tmp_path: Path):  # type: ignore[no-untyped-def]
    (upstream.tree / "setup.py").write_text("# setup\n")
    (upstream.tree / "PKG-INFO").write_text("Name: vllm\nVersion: 1.0\n")
    lines = [f'[externals.{name}]\ngit = "{source.git}"\n' for name, source in upstream.sources.items()]
    (tmp_path / "vllm-builder.toml").write_text("".join(lines))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        common = ["--source", str(upstream.tree), "--device", "cuda", "--cache-dir", str(tmp_path / "cache")]
        return subprocess.run(
            [sys.executable, "-m", "vllm_builder", "vendor", "1.0", *common, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=False,
        )

    return run


def test_list_lock_check_and_place(vendor, upstream: Upstream, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    listed = vendor("--json")
    found = json.loads(listed.stdout)
    assert [one["name"] for one in found["externals"]] == ["kit", "Attention", "direct"]
    assert found["lock"] is None
    assert vendor("--check").returncode == VendorError.exit_code
    locked = vendor("--lock")
    assert locked.returncode == 0, locked.stderr
    assert locked.stdout == "locks/vllm-1.0.toml\n"
    assert vendor("--check").returncode == 0
    placed = vendor("--tree", str(upstream.tree))
    assert placed.returncode == 0, placed.stderr
    assert (upstream.tree / "vllm/third_party/kit.src/kit.h").is_file()
    assert "GIT_REPOSITORY" not in (upstream.tree / "CMakeLists.txt").read_text()


def test_check_of_a_tree_that_differs(vendor, upstream: Upstream, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert vendor("--lock").returncode == 0
    checked = vendor("--check", "--tree", str(upstream.tree), "--json")
    assert checked.returncode == 1
    assert "kit is not in the tree (vllm/third_party/kit.src)" in json.loads(checked.stdout)["problems"]


def test_lock_past_what_cannot_be_had_and_add_it_later(vendor, upstream: Upstream, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    settings = tmp_path / "vllm-builder.toml"
    whole = settings.read_text()
    settings.write_text(whole.replace(str(upstream.attention.path), str(tmp_path / "none")))
    assert vendor("--lock").returncode == VendorError.exit_code
    assert not (tmp_path / "locks").exists()
    kept = vendor("--lock", "--keep-going")
    assert kept.returncode == 1
    assert "Attention main: https://git.invalid/attention could not be had" in kept.stdout
    assert vendor("--check").returncode == 1
    settings.write_text(whole)
    added = vendor("--lock", "--add")
    assert added.returncode == 0, added.stderr
    assert vendor("--check").returncode == 0


def test_a_lock_of_another_device_is_not_written_over(vendor, upstream: Upstream, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert vendor("--lock").returncode == 0
    (file,) = (tmp_path / "locks").iterdir()
    before = file.read_text()
    cmake = upstream.tree / "CMakeLists.txt"
    cmake.write_text(f'if(VLLM_TARGET_DEVICE STREQUAL "cuda")\n{cmake.read_text()}endif()\n')
    run = vendor("--lock", "--device", "cpu", "--recipe", "none")
    assert run.returncode == VendorError.exit_code
    assert "would lose" in run.stderr
    assert file.read_text() == before
    assert vendor("--lock", "--device", "cpu", "--recipe", "none", "--add").returncode == 0
    assert vendor("--check").returncode == 0


def test_a_tree_that_is_none_is_left_alone(vendor, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert vendor("--lock").returncode == 0
    run = vendor("--tree", str(tmp_path / "typo"))
    assert run.returncode == VendorError.exit_code
    assert "no such folder" in run.stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[externals.kit]\ngti = "x"\n', "gti"),
        ('[externals.kit]\ngit = "x"\npath = "y"\n', "git and path exclude each other"),
        ("[externals.kit]\n", "is needed"),
    ],
)
def test_a_source_that_cannot_be_used(vendor, text: str, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "vllm-builder.toml").write_text(text)
    run = vendor("--json")
    assert run.returncode == 10
    answer = json.loads(run.stdout)
    assert words in json.dumps(answer)
    assert "vllm-builder.toml" in json.dumps(answer)


def test_what_excludes_each_other(vendor) -> None:  # type: ignore[no-untyped-def]
    assert vendor("--lock", "--check").returncode == 10
    assert vendor("--lock", "--offline").returncode == 10
    assert vendor("--check", "--add").returncode == 10
    assert vendor("--keep-going").returncode == 10


def test_the_shipped_lock_is_known_where_the_person_has_none(tmp_path: Path, upstream: Upstream) -> None:
    import shutil

    from vllm_builder.resources import shipped

    (shipped_lock,) = shipped("locks").glob("vllm-0.9.2.toml")
    tree = upstream.tree
    (tree / "setup.py").write_text("# setup\n")
    (tree / "PKG-INFO").write_text("Name: vllm\nVersion: 0.9.2\n")

    def check(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vllm_builder", "vendor", "0.9.2", "--check", "--json", "--source", str(tree),
             "--cache-dir", str(tmp_path / "cache"), *arguments],
            capture_output=True, text=True, cwd=tmp_path, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip

    run = check()
    assert run.returncode == 1, run.stderr
    answer = json.loads(run.stdout)
    assert answer["lock_file"] == str(shipped_lock)
    assert any(problem.startswith("kit at v1.0 is needed") for problem in answer["problems"])
    # --lock-file is a setting like all others: also of the environment.
    shutil.copy(shipped_lock, tmp_path / "mine.toml")
    assert json.loads(check("--lock-file", "mine.toml").stdout)["lock_file"] == "mine.toml"


def test_the_devices_own_recipe_counts_as_in_a_plan(vendor, upstream: Upstream, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "cpu.toml").write_text('variables = { VLLM_CPU_DISABLE_AVX512 = "true" }\n')
    cmake = upstream.tree / "CMakeLists.txt"
    cmake.write_text(f"if(NOT DEFINED ENV{{VLLM_CPU_DISABLE_AVX512}})\n{cmake.read_text()}endif()\n")

    def needed(*arguments: str) -> set[str]:
        return {
            one["needed"]
            for one in json.loads(vendor("--device", "cpu", "--json", *arguments).stdout)["externals"]
        }

    assert needed() == {"no"}
    assert needed("--recipe", "none") == {"yes"}
    assert needed("--recipe", "none", "--variable", "VLLM_CPU_DISABLE_AVX512=true") == {"no"}
