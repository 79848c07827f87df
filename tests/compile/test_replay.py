"""benchmarks/replay.py: what it reads, and that the order of compilation keeps what is promised of it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import replay
from hypothesis import given
from hypothesis import strategies as st
from replay import DATA, Recorded, read

from vllm_builder.stages.compile.packing import GIB

UNIT = "CMakeFiles/_C.dir/csrc/a.cu.o"


def test_all_kinds_of_recordings_are_read(tmp_path: Path) -> None:
    log = f"# ninja log v7\n5\t2005\t7\t{UNIT}\tabc\n2005\t2006\t8\t_C.so\tdef\n"
    journal = [
        {"kind": "run", "at": 1.0, "jobs": 2},
        {"kind": "peak", "source": "/t/csrc/a.cu", "m": 2 * GIB},
        {"kind": "peak", "source": "/t/csrc/a.cu", "m": 3 * GIB},
        {"kind": "edges", "log": log, "sources": {UNIT: "/t/csrc/a.cu"}},
    ]
    learned = {"units": {"csrc/a.cu": {"content": "1", "seconds": 2.0, "peak": 3 * GIB}}}
    texts = {
        ".ninja_log": (log, Recorded(UNIT, 2.0)),
        "p.journal.jsonl": ("\n".join(map(json.dumps, journal)), Recorded(UNIT, 2.0, 3 * GIB)),
        "learned.json": (json.dumps(learned), Recorded("csrc/a.cu", 2.0, 3 * GIB)),
        "times.tsv": (f"5\t2005\t{UNIT}\n2005\t2006\t_C.so\n", Recorded(UNIT, 2.0)),
        "peaks.tsv": (f"# words\n{UNIT}\t2.0\t3072\n", Recorded(UNIT, 2.0, 3 * GIB)),
    }
    for name, (text, unit) in texts.items():
        (tmp_path / name).write_text(text)
        assert read(tmp_path / name) == [unit], name


def test_a_target_is_told_by_cmakes_folder() -> None:
    inner = Recorded("vllm-flash-attn/CMakeFiles/_vllm_fa2_C.dir/csrc/flash_attn/a.cu.o", 1)
    assert (inner.target, inner.source) == ("_vllm_fa2_C", "csrc/flash_attn/a.cu")
    assert Recorded("csrc/a.cu", 1).source == "csrc/a.cu"


@given(st.binary(max_size=300), st.sampled_from([".ninja_log", "a.json", "a.jsonl", "a.tsv"]))
def test_what_is_no_recording_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("recording") / name
    path.write_bytes(data)
    with contextlib.suppress(ValueError):
        assert read(path)


@pytest.mark.parametrize("per_core", [4.0, 2.0])
@pytest.mark.parametrize("cores", [4, 8, 16, 32, 64])
def test_the_shipped_recording_ends_near_the_bound_within_its_memory(cores: int, per_core: float) -> None:
    """The promise: at most 1.05 times the bound, memory never above its limit."""
    row = replay.replay(read(DATA), cores, int(cores * per_core * GIB))
    ours = row.outcomes["ours"]
    assert ours.ratio <= 1.05
    assert ours.memory <= 1.0
    assert ours.seconds <= row.outcomes["pool"].seconds


def test_with_plenty_of_memory_longest_first_on_two_cores_is_no_slower_than_ninja() -> None:
    row = replay.replay(read(DATA), 2, 64 * GIB)
    assert row.outcomes["ours"].seconds <= row.outcomes["ninja"].seconds
    assert row.outcomes["ours"].ratio <= 1.01


def test_wrong_times_never_cost_memory() -> None:
    row = replay.replay(read(DATA), 8, 16 * GIB, wrong=0.5)
    assert row.outcomes["ours"].memory <= 1.0
    assert row.outcomes["ninja"].memory > 2.0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.tsv"
    table.write_text(
        "".join(f"CMakeFiles/_C.dir/u{n}.cu.o\t{10 + n}\t{1000 * (n % 3 + 1)}\n" for n in range(9))
    )
    command = ["--units", str(table), "--cores", "2", "4", "--memory", "8"]
    assert replay.main([*command, "--goal", "1.2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["cores"] for row in said["rows"]] == [2, 4]
    assert said["rows"][0]["bound"] == 63.0
    assert replay.main([*command, "--goal", "0.5"]) == 1
    assert "missed: 2 cores, 8 GiB" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        replay.main(["--units", str(tmp_path / "nowhere.tsv")])
    with pytest.raises(SystemExit):
        replay.main([*command, "--target", "_moe_C"])
