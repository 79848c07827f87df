"""Words for signals and loader errors, which torch is chosen, and ops that crash."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from vllm_builder.errors import SettingsError
from vllm_builder.stages.smoke import computing, deaths
from vllm_builder.stages.smoke.contents import Contents
from vllm_builder.stages.smoke.install import wanted_torch
from vllm_builder.stages.smoke.room import Room
from vllm_builder.wheelfile.record import BuildRecord


def test_an_instruction_that_lacks_names_what_the_processor_has_not() -> None:
    why, cure = deaths.explain_signal(signal.SIGILL, frozenset({"avx2"}))
    assert "SIGILL" in why
    assert "no AVX-512," in why
    assert "AVX2" not in why
    assert "--recipe cpu" in cure
    why, _ = deaths.explain_signal(signal.SIGILL, frozenset({"avx2", "avx512f", "avx512_bf16", "amx_tile"}))
    assert "has no" not in why


def test_flags_are_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx512f\nbugs : x\n")
    assert deaths.processor_flags(tmp_path) == {"fpu", "avx2", "avx512f"}
    assert deaths.processor_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("/x/_C.abi3.so: undefined symbol: _ZN3c1013x", "undefined symbol: _ZN3c1013x"),
        ("/lib/libc.so.6: version `GLIBC_2.38' not found (required by /x/_C.abi3.so)", "it wants GLIBC_2.38"),
        (
            "libcudart.so.13: cannot open shared object file: No such file or directory",
            "libcudart.so.13 is not on this machine",
        ),
        ("something new", "something new"),
    ],
)
def test_why_a_library_was_refused(error: str, said: str) -> None:
    why, cure = deaths.explain_import(f"ImportError: {error}", "2.9.1")
    assert said in why
    assert cure


def test_only_the_drivers_libraries_are_the_drivers() -> None:
    words = ": cannot open shared object file: No such file or directory"
    assert deaths.needs_driver(f"ImportError: libcuda.so.1{words}") == "libcuda.so.1"
    assert deaths.needs_driver(f"ImportError: libcudart.so.13{words}") is None
    assert deaths.needs_driver("ImportError: /x/libcuda.so.1: undefined symbol: x") is None


def contents(*, torch: str = "", compiled: str = "", links: bool = False) -> Contents:
    record = None
    if compiled:
        record = BuildRecord(
            builder="x", digest="0" * 64, release="0.9.2", version="0.9.2+cpu", device="cpu", torch=compiled
        )
    wanted = Requirement(torch) if torch else None
    return Contents(Path("x.whl"), "vllm", "1", SpecifierSet(), (), (), wanted, links, record)


def test_the_torch_is_the_one_that_was_asked_for_or_compiled_against_or_required() -> None:
    def attempts(one: Contents, choice: str | None = None) -> tuple[tuple[str, str], ...]:
        found = wanted_torch(one, choice)
        return found.attempts if found else ()

    everything = contents(torch="torch>=2.11,<2.12", compiled="2.11.0+cu130", links=True)
    assert attempts(everything, "2.10") == (("torch==2.10", ""),)
    assert attempts(everything) == (
        ("torch==2.11.0+cu130", ""),
        ("torch==2.11.0+cu130", "cu130"),
        ("torch==2.11.0", ""),
    )
    assert attempts(contents(torch="torch>=2.11,<2.12", links=True)) == (("torch<2.12,>=2.11", ""),)
    assert attempts(contents(compiled="2.13.0a0+gitabc")) == (("torch==2.13.0a0+gitabc", ""),)
    assert attempts(contents(links=True)) == (("torch", ""),)
    assert wanted_torch(contents(), None) is None
    with pytest.raises(SettingsError):
        wanted_torch(everything, "new")


def test_an_op_that_crashes_or_hangs_does_not_take_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that computes is a stand-in here: torch is not installed."""
    fake = tmp_path / "ops.py"
    fake.write_text(
        "import json, os, sys, time\n"
        "out = open(sys.argv[1], 'a')\n"
        "def say(**v): out.write(json.dumps(v) + '\\n'); out.flush()\n"
        "for op in ('a', 'crash', 'b', 'wrong', 'half', 'none'):\n"
        "    if op in sys.argv[2].split(','): continue\n"
        "    say(begin=op, dtype='float32')\n"
        "    if op == 'crash': os.kill(os.getpid(), 11)\n"
        "    if op == 'hang': time.sleep(600)\n"
        "    if op == 'none': say(op=op, dtype='float16', skipped='not implemented for Half'); continue\n"
        "    say(op=op, dtype='float32', difference=1e-7, within=op != 'wrong')\n"
        "    if op == 'half': say(op=op, dtype='float16', skipped='not implemented for Half')\n"
        "say(end=True, unknown=['x::new'], without_kernel=[])\n"
    )
    room = Room(tmp_path, tmp_path)
    for folder in (room.work, room.logs):
        folder.mkdir()
    monkeypatch.setattr(
        computing, "program", lambda room, name, *arguments: [sys.executable, "-I", str(fake), *arguments]
    )
    found = {t.name: t for t in computing.try_ops(room, {}, [], 60)}
    assert {name: t.outcome for name, t in found.items()} == {
        "a": "passed",
        "crash": "failed",
        "b": "passed",
        "wrong": "failed",
        "half": "passed",
        "none": "not tried",
        "1 other ops": "not tried",
    }
    assert "SIGSEGV" in found["crash"].detail
    assert "with float32" in found["crash"].detail
    assert "not implemented for Half" in found["half"].detail
    fake.write_text(fake.read_text().replace("'crash', 'b'", "'hang', 'b'"))
    found = {t.name: t for t in computing.try_ops(Room(tmp_path, tmp_path), {}, [], 3)}
    assert found["hang"].outcome == "failed"
    assert "no end after" in found["hang"].detail
    assert found["a"].outcome == "passed"
    assert found["the other ops"].outcome == "not tried"
