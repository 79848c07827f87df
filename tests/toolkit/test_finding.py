"""Toolkits of the machine, each with a verdict."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toolkit_helpers import fake_toolkit

from vllm_builder.memo import Memo
from vllm_builder.stages.toolkit import Candidate, find_toolkits


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    return Memo(tmp_path / "memo", "plan")


def found(memo: Memo, root: Path, **environ: str | Path) -> list[Candidate]:
    given = {k: str(v) for k, v in environ.items()}
    return list(find_toolkits({"PATH": "/nonexistent", **given}, memo, root=root))


def test_all_are_found_in_order_and_once(tmp_path: Path, memo: Memo) -> None:
    root = tmp_path / "root"
    usual = root / "usr" / "local"
    new = fake_toolkit(usual / "cuda-12.10", "12.10")
    old = fake_toolkit(usual / "cuda-12.9", "12.9")
    (usual / "cuda").symlink_to("cuda-12.9")
    conda = fake_toolkit(tmp_path / "conda", "12.4")
    on_path = fake_toolkit(tmp_path / "elsewhere", "11.8")
    all_of_them = found(
        memo, root, PATH=f"{on_path / 'bin'}{os.pathsep}/nonexistent", CONDA_PREFIX=conda, CUDA_HOME=old
    )
    assert [(c.origin, c.version, c.verdict, c.named) for c in all_of_them] == [
        ("CUDA_HOME", "12.9", "whole", True),
        ("PATH", "11.8", "whole", False),
        ("conda environment", "12.4", "whole", False),
        ("usual folder", "12.10", "whole", False),
    ]
    assert all_of_them[3].home == str(new)


def test_nothing_there(tmp_path: Path, memo: Memo) -> None:
    assert found(memo, tmp_path) == []


def test_a_named_place_without_a_toolkit_is_listed(tmp_path: Path, memo: Memo) -> None:
    (only,) = found(memo, tmp_path, CUDA_HOME=tmp_path / "none")
    assert (only.verdict, only.named) == ("missing", True)
    assert "has no nvcc" in only.sentence()


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
def test_half_a_toolkit_says_what_is_missing(tmp_path: Path, memo: Memo, part: str) -> None:
    home = fake_toolkit(tmp_path / "half", "12.9", without=(part,))
    (only,) = found(memo, tmp_path / "root", CUDA_HOME=home)
    assert (only.verdict, only.version) == ("half", "12.9")
    assert only.lacking == (Path(part).name,)


def test_a_half_one_that_is_completed_is_whole(tmp_path: Path, memo: Memo) -> None:
    home = fake_toolkit(tmp_path / "half", "12.9", without=("include/cuda.h",))
    assert found(memo, tmp_path / "root", CUDA_HOME=home)[0].verdict == "half"
    (home / "include" / "cuda.h").touch()
    assert found(memo, tmp_path / "root", CUDA_HOME=home)[0].verdict == "whole"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#!/bin/sh\necho cannot load libfoo.so >&2\nexit 127\n", "libfoo"),
        ("#!/bin/sh\necho hello\n", "hello"),
        ("#!/bin/sh\nkill -9 $$\n", "says nothing"),
        ("\x7fELF rubbish", "Exec format"),
    ],
)
def test_a_broken_nvcc(tmp_path: Path, memo: Memo, text: str, says: str) -> None:
    home = fake_toolkit(tmp_path / "broken", "12.9")
    (home / "bin" / "nvcc").write_text(text)
    (only,) = found(memo, tmp_path / "root", CUDA_HOME=home)
    assert only.verdict == "broken"
    assert says in only.sentence()


def test_a_script_that_stands_elsewhere_leads_to_its_toolkit(tmp_path: Path, memo: Memo) -> None:
    home = fake_toolkit(tmp_path / "real", "13.0", archs="compute_75\\ncompute_100\\ncompute_121\\n")
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    (only,) = found(memo, tmp_path / "root", PATH=tmp_path / "bin")
    assert (only.home, only.archs) == (str(home), ("7.5", "10.0", "12.1"))


@pytest.mark.parametrize("program", ["cicc", "cudafe++", "ptxas", "fatbinary"])
def test_an_nvcc_whose_own_programs_are_not_there_is_half_a_toolkit(
    tmp_path: Path, memo: Memo, program: str
) -> None:
    home = fake_toolkit(tmp_path / "half", "12.9", programs=True)
    assert found(memo, tmp_path / "root", CUDA_HOME=home)[0].verdict == "whole"
    (gone,) = home.glob(f"**/bin/{program}")
    gone.unlink()
    (only,) = found(memo, tmp_path / "root", CUDA_HOME=home)
    assert (only.verdict, only.lacking) == ("half", (program,))


def test_an_nvcc_that_does_not_say_where_it_looks_for_programs_is_believed(
    tmp_path: Path, memo: Memo
) -> None:
    home = fake_toolkit(tmp_path / "silent", "12.9")
    assert found(memo, tmp_path / "root", CUDA_HOME=home)[0].verdict == "whole"
