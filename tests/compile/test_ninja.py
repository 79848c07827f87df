"""ninja's status lines and log."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.stages.compile.ninja import NinjaProgress, finished_edges


def status(finished: int, total: int, seconds: float, running: int = 2) -> str:
    return f"[{finished}/{total}, {running} running, {seconds:.3f}s] Building CXX object x.o"


def test_one_run() -> None:
    progress = NinjaProgress()
    assert not progress.feed("-- Configuring done")
    assert not progress.feed("[3/9] Building something without our status")
    for number in range(1, 5):
        assert progress.feed(status(number, 10, number * 2.0))
    event = progress.event(current=("a.cpp",))
    assert (event.done, event.total, event.rate, event.current) == (4, 10, 0.5, ("a.cpp",))
    assert event.eta is not None
    assert 11 < event.eta <= 12


def test_several_runs_add_up() -> None:
    progress = NinjaProgress()
    for finished, total, seconds in (
        (1, 2, 0.5),
        (2, 2, 1.0),
        (1, 3, 0.4),
        (2, 3, 0.8),
        (3, 3, 1.2),
        (1, 1, 0.1),
    ):
        progress.feed(status(finished, total, seconds))
    assert (progress.finished, progress.total) == (6, 6)


def test_earlier_units_count_as_done() -> None:
    progress = NinjaProgress()
    progress.feed(status(1, 4, 0.5))
    event = progress.event(earlier=6)
    assert (event.done, event.total) == (7, 10)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1e6))))
def test_any_sequence_is_borne(lines: list[tuple[int, int, float]]) -> None:
    progress = NinjaProgress()
    before = 0
    for finished, total, seconds in lines:
        progress.feed(status(finished, total, seconds))
        assert progress.finished >= before or finished < 50
        before = progress.finished
        event = progress.event()
        assert event.eta is None or event.eta >= 0


@given(st.text())
def test_any_text_is_borne(text: str) -> None:
    NinjaProgress().feed(text)


def test_edges_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / ".ninja_log"
    log.write_text(
        "# ninja log v6\n"
        "0\t10\t1\ta.o\taaaa\n"
        "0\t12\t1\tb.o\tbbbb\n"
        "0\t12\t1\tb.d\tbbbb\n"
        "3\t15\t1\ta.o\taaaa\n"
        "1\t2\t1\tbuild.ninja\tcccc\n"
        "5\t20\t1\tc"
    )
    assert finished_edges([log]) == 2
    assert finished_edges([tmp_path / "none"]) == 0


@given(st.binary())
def test_a_damaged_log_is_borne(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".ninja_log"
        path.write_bytes(data)
        assert finished_edges([path]) >= 0
