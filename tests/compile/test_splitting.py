"""The cache for passes of nvcc, without nvcc."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.errors import ContradictionError
from vllm_builder.stages.compile import splitting
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.compile.passes.kept import Kept, Names, digest
from vllm_builder.stages.compile.passes.reading import Unfamiliar, read

DRY = """\
#$ _SPACE_=
#$ TOP=/cuda/bin/..
#$ CICC_PATH=/cuda/bin/../nvvm/bin
#$ PATH=/cuda/bin:/bin
#$ gcc -D__CUDA_ARCH__=1000 -D__CUDA_ARCH_LIST__=1000 -E -x c++ "k.cu" -o "k.cpp1.ii"
#$ gcc -D__CUDA_ARCH_LIST__=1000 -E -x c++ "k.cu" -o "k.cpp4.ii"
#$ -- Filter Dependencies -- > k.o.d
#$ cudafe++ --gen_c_file_name "k.cudafe1.cpp" "k.cpp4.ii"
#$ "$CICC_PATH/cicc" -arch compute_100 "k.cpp1.ii" -o "k.ptx"
#$ ptxas -arch=sm_100 "k.ptx" -o "k.cubin"
#$ fatbinary --create="k.fatbin" "--image3=kind=elf,sm=100,file=k.cubin" --embedded-fatbin="k.fatbin.c"
#$ gcc -D__CUDA_ARCH__=1000 -D__CUDA_ARCH_LIST__=1000 -c -x c++ "k.cudafe1.cpp" -o "k.o"
#$ rm k.cubin
"""


def test_reading_what_nvcc_would_run() -> None:
    found = read(DRY, {"HOME": "/h"})
    assert found.dependencies == "k.o.d"
    assert found.env["PATH"] == "/cuda/bin:/bin"
    assert [words[-1] for words in found.device_texts] == ["k.cpp1.ii"]
    assert found.host_text[-1] == "k.cpp4.ii"
    assert found.cicc[0][0] == "/cuda/bin/../nvvm/bin/cicc"
    assert found.host[-3:] == ["k.cudafe1.cpp", "-o", "k.o"]


@pytest.mark.parametrize(
    "line",
    [
        "#$ nvlink -o k.o",
        "nvcc warning : something",
        '#$ gcc -c -x c++ "k.cudafe1.cpp" -o "k.o"',
        '#$ gcc -E "$(touch /tmp/x)" -o x.ii',
        '#$ "$CICC_PATH/cicc" -lineinfo "k.cpp1.ii" -o "k.ptx"',
        '#$ cudafe++ --device-c "k.cpp4.ii"',
    ],
)
def test_anything_else_is_unfamiliar(line: str) -> None:
    with pytest.raises(Unfamiliar):
        read(f"{DRY}{line}\n", {})


@given(st.lists(st.sampled_from(DRY.splitlines()) | st.text()))
def test_any_text_is_understood_or_refused(lines: list[str]) -> None:
    try:
        found = read("\n".join(lines), {})
    except (Unfamiliar, ValueError):
        return
    assert found.cicc
    assert found.host


def test_a_damaged_entry_is_none(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    key = digest("kind", b"text")
    kept.put(key, {"a": b"one", "b": b"two"})
    assert kept.get(key) == {"a": b"one", "b": b"two"}
    [path] = tmp_path.glob("??/*")
    whole = path.read_bytes()
    for damaged in (b"", whole[:-3], whole[:5], b"[]\n" + whole, b"\xff" * 40):
        path.write_bytes(damaged)
        assert kept.get(key) is None


def test_no_changed_byte_gives_another_content(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    files = {"a": b"one", "b": b"two more"}
    key = digest("kind", b"text")
    kept.put(key, files)
    [path] = tmp_path.glob("??/*")
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            assert kept.get(key) in (None, files)


def test_parts_of_a_digest_do_not_run_into_each_other() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest(b"ab", b"c")}) == 4


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (b"namespace THRUST_300001_SM_1000_1200_NS {", False),
        (b"namespace CUB_300001_SM_1000_1200 {", False),
        (b"namespace MINE_SM_1000_1200_NS {", True),
        (b"namespace CUB_300001_SM_1000_12000 {", True),
        (b"int _SM_1000_1200;", True),
    ],
)
def test_only_cccls_own_names_are_taken_out(text: bytes, counts: bool) -> None:
    names = Names(["-D__CUDA_ARCH_LIST__=1000,1200"])
    other = Names(["-D__CUDA_ARCH_LIST__=1000"])
    same = names.taken_out(text) == other.taken_out(text.replace(b"_1000_1200", b"_1000"))
    assert same is not counts


def test_results_for_another_list_of_architectures() -> None:
    one, two = Names(["-D__CUDA_ARCH_LIST__=1000"]), Names(["-D__CUDA_ARCH_LIST__=1000,1200"])
    for names in (one, two):
        names.taken_out(
            b"namespace THRUST_300001%s_NS { namespace CUB_300001%s {" % ((names.archs.encode(),) * 2)
        )
    files = {
        "device.ptx": b"_ZN6thrust24THRUST_300001_SM_1000_NS6detail3seqE 18CUB_300001_SM_10006detail",
        "stub.c": b"::thrust::THRUST_300001_SM_1000_NS::seq; _ZN6thrust24THRUST_300001_SM_1000_NS3seqE",
    }
    kept = one.taken_out_of(files)
    assert kept is not None
    assert one.put_in(kept) == files
    assert two.put_in(kept) == {
        "device.ptx": b"_ZN6thrust29THRUST_300001_SM_1000_1200_NS6detail3seqE 23CUB_300001_SM_1000_12006detail",
        "stub.c": b"::thrust::THRUST_300001_SM_1000_1200_NS::seq; _ZN6thrust29THRUST_300001_SM_1000_1200_NS3seqE",
    }


@pytest.mark.parametrize(
    "text",
    [
        b'.string "thrust::THRUST_300001_SM_1000_NS::f"',
        b".b8 name[] = {" + b", ".join(b"%d" % byte for byte in b"THRUST_300001_SM_1000_NS") + b"}",
        b"25THRUST_300001_SM_1000_NS",
        b"24THRUST_300001_SM_1000_NS \x01m",
    ],
)
def test_results_that_are_good_for_one_list_alone(text: bytes) -> None:
    names = Names(["-D__CUDA_ARCH_LIST__=1000"])
    names.taken_out(b"namespace THRUST_300001_SM_1000_NS {")
    assert names.taken_out_of({"device.ptx": text}) is None


def test_trimming_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "ab" / str(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 10)
        os.utime(path, (number, number))
    assert splitting.trim(tmp_path, 25) == 20
    assert sorted(p.name for p in tmp_path.glob("??/*")) == ["2", "3"]


def test_which_nvcc_is_split() -> None:
    assert splitting.choose("auto", "13.0")[0]
    assert not splitting.choose("auto", "12.9")[0]
    assert not splitting.choose("auto", None)[0]
    assert not splitting.choose("ccache", "13.0")[0]
    for nvcc in ("12.9", None):
        with pytest.raises(ContradictionError, match="nvcc"):
            splitting.choose("split", nvcc)


def test_an_old_sccache_under_a_new_nvcc_is_refused() -> None:
    splitting.check_sccache("13.0", "0.16.0")
    splitting.check_sccache("13.3", "0.18.0")
    splitting.check_sccache("13.3", None)
    with pytest.raises(ContradictionError, match=r"sccache 0\.16\.0"):
        splitting.check_sccache("13.3", "0.16.0")


def test_a_prefix_of_the_persons_own_stays(tmp_path: Path) -> None:
    wanted = CompileSpec(device="cuda", version="1", scm_version="1", passes_dir=str(tmp_path / "passes"))
    mine = {"PATH": "/bin", "CCACHE_PREFIX": "distcc"}
    splitting.split(wanted, mine, tree=tmp_path, state=tmp_path / "state")
    assert mine == {"PATH": "/bin", "CCACHE_PREFIX": "distcc"}
    assert splitting.prefix_of_others(mine) == "distcc"
    ours = {"PATH": "/bin"}
    splitting.split(wanted, ours, tree=tmp_path, state=tmp_path / "state")
    assert splitting.prefix_of_others(ours) == ""


def test_answers_are_summed(tmp_path: Path) -> None:
    calls = [
        {"left": "", "hits": 3, "misses": 2, "made": ["cicc", "ptxas"]},
        *[{"left": why, "hits": 0, "misses": 0, "made": []} for why in ("one", "two", "two")],
        {"left": "", "hits": 1, "misses": 0, "made": []},
    ]
    lines = [json.dumps(call) + "\n" for call in calls]
    # A line that was cut short counts nothing, and hides none of the others.
    (tmp_path / "passes.jsonl").write_text("".join([lines[0], '{"left": "", "hi\n', *lines[1:]]))
    counts, why = splitting.answers(tmp_path)
    assert counts == {"passes_hits": 4, "passes_misses": 2, "not_split": 3}
    assert why == "two"
    counts, why = splitting.answers(tmp_path / "none")
    assert (set(counts.values()), why) == ({0}, "")
