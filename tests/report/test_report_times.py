"""ninja's log, and where in time its commands are put."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_helpers import BEGAN, edge_line

from vllm_builder.report.ninjalog import Edge, edges, unique
from vllm_builder.report.timeline import covered, place, slots


def test_a_log_of_ninja_1_13() -> None:
    text = (
        "# ninja log v7\n"
        "5\t194264\t1795260114997481299\tCMakeFiles/_C.dir/csrc/a.cu.o\tc80dd76ec62770e4\n"
        "194266\t332803\t1795260309256442080\tCMakeFiles/_C.dir/csrc/b.cu.o\t3249a59353488615\n"
    )
    first, second = place(edges(text))
    assert (first.edge.output, first.edge.start, first.edge.end) == (
        "CMakeFiles/_C.dir/csrc/a.cu.o",
        0.005,
        194.264,
    )
    assert second.began - first.began == pytest.approx(194.261, abs=0.02)
    assert first.began == pytest.approx(1795260114.997, abs=0.01)


def test_time_stamps_in_whole_seconds_of_an_old_ninja() -> None:
    (edge,) = edges("# ninja log v5\n100\t9000\t1600000009\ta.o\tabc\n")
    assert edge.stamp == 1600000009
    assert place([edge], [1600000000.2])[0].began == pytest.approx(1600000000.3, abs=0.01)


def test_a_command_with_several_outputs_is_one() -> None:
    lines = edge_line(0, 2, BEGAN, "a.h", command="1") + edge_line(0, 2, BEGAN, "a.cpp", command="1")
    assert [edge.output for edge in edges(lines)] == ["a.h"]


@pytest.mark.parametrize(
    "line",
    [
        "1\t2\t3\ta.o",
        "x\t2\t3\ta.o\th",
        "5\t2\t3\ta.o\th",
        "1\t2\t3\t\th",
        "1\t\N{SUPERSCRIPT TWO}\t3\ta.o\th",
        "1\t2\t3\tbuild.ninja\th",
        "1\t99999999999999\t3\ta.o\th",
        "-1\t2\t3\ta.o\th",
        "",
    ],
)
def test_damaged_lines_count_as_nothing(line: str) -> None:
    assert edges(f"# ninja log v7\n{line}\n") == []


@given(st.text(alphabet="0123456789\t\n #abc./\x00é", max_size=300))
def test_any_text_is_borne(text: str) -> None:
    for placed in place(edges(text), [BEGAN]):
        assert placed.ended >= placed.began


def test_two_ninjas_are_told_apart_in_any_order() -> None:
    """After recompaction lines have no order, and both count from zero."""
    first = [edge_line(n, n + 1, BEGAN, f"a{n}.o") for n in range(5)]
    second = [edge_line(n, n + 1, BEGAN + 3600, f"b{n}.o") for n in range(5)]
    mixed = "".join(line for pair in zip(second, first, strict=True) for line in pair)
    began = {one.edge.output: one.began for one in place(edges(mixed))}
    assert began["a3.o"] == pytest.approx(BEGAN + 3)
    assert began["b3.o"] == pytest.approx(BEGAN + 3603)


def test_links_are_stamped_when_they_are_written() -> None:
    text = edge_line(0, 30, BEGAN, "a.o") + edge_line(0, 20, BEGAN, "b.o")
    text += edge_line(30, 47, BEGAN, "_C.abi3.so", stamped="end")
    placed = place(edges(text))
    assert [(one.edge.output, round(one.began - BEGAN)) for one in placed] == [
        ("b.o", 0),
        ("a.o", 0),
        ("_C.abi3.so", 30),
    ]


def test_a_link_alone_in_a_second_run() -> None:
    text = "".join(edge_line(n, n + 9, BEGAN, f"{n}.o") for n in range(4))
    text += edge_line(0.1, 17, BEGAN + 500, "_C.abi3.so", stamped="end")
    assert place(edges(text))[-1].began == pytest.approx(BEGAN + 500.1)
    assert place(edges(text), known=[BEGAN + 501])[-1].began == pytest.approx(BEGAN + 501.1)


def test_runs_of_small_units_right_after_each_other() -> None:
    """What ended shortly before another ninja began was stamped at its start all the same."""
    text = "".join(edge_line(n / 5, n / 5 + 1.8, BEGAN, f"a{n}.o") for n in range(2))
    text += "".join(edge_line(n / 5, n / 5 + 1.8, BEGAN + 3, f"b{n}.o") for n in range(4))
    began = {one.edge.output: one.began for one in place(edges(text))}
    assert began["a1.o"] == pytest.approx(BEGAN + 0.2)
    assert began["b1.o"] == pytest.approx(BEGAN + 3.2)


def test_links_that_take_equally_long_do_not_make_a_ninja_of_their_own() -> None:
    text = "".join(edge_line(n, n + 9, BEGAN, f"{n}.o") for n in range(3))
    text += "".join(edge_line(20 + n, 22.5 + n, BEGAN, f"_{n}_C.so", stamped="end") for n in range(5))
    assert [round(one.began - BEGAN) for one in place(edges(text))] == [0, 1, 2, 20, 21, 22, 23, 24]


def test_what_has_no_time_stamp_ran_with_its_neighbour() -> None:
    text = "".join(edge_line(n, n + 1, BEGAN, f"{n}.o") for n in range(3))
    text += edge_line(3, 4, BEGAN, "install", stamped="never")
    assert place(edges(text))[-1].began == pytest.approx(BEGAN + 3)


_RUN = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 5000)), min_size=2, max_size=12)


@given(st.lists(_RUN, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_every_command_is_put_where_it_ran(runs: list[list[tuple[int, int]]], shuffle: object) -> None:
    """Runs that lie further apart than they are long, in any order."""
    lines, truth = [], {}
    for number, spans in enumerate(runs):
        zero = BEGAN + number * 100_000
        for at, (start, length) in enumerate(spans):
            name = f"{number}-{at}.o"
            lines.append(edge_line(start / 10, (start + length) / 10, zero, name, command=name))
            truth[name] = zero + start / 10
    shuffle.shuffle(lines)  # type: ignore[attr-defined]
    for one in place(edges("".join(lines))):
        assert one.began == pytest.approx(truth[one.edge.output], abs=0.51)


_SPANS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 30)).map(lambda s: (s[0], s[0] + s[1])), max_size=40
)


@given(_SPANS)
def test_slots_hold_one_unit_at_a_time_and_are_as_few_as_can_be(spans: list[tuple[int, int]]) -> None:
    rows = slots(spans)
    for a, (start, end) in enumerate(spans):
        for b, (other, until) in enumerate(spans[:a]):
            if rows[a] == rows[b]:
                assert end <= other or until <= start
    at_once = max((sum(s <= t < e for s, e in spans) for t in range(100)), default=0)
    empty = any(s == e for s, e in spans)
    assert len(set(rows)) <= at_once + empty * len(spans)


@given(_SPANS)
def test_covered_seconds(spans: list[tuple[int, int]]) -> None:
    assert covered(spans) == sum(any(s <= t < e for s, e in spans) for t in range(100))


def test_a_log_read_twice_counts_once() -> None:
    edge, other = Edge(0, 1, BEGAN, "a.o", "h"), Edge(0, 1.1, BEGAN + 90, "a.o", "h")
    restated = Edge(0, 1, BEGAN + 1, "a.o", "h")
    assert unique([edge, restated, other]) == [edge, other]


def test_a_log_whose_time_stamps_cmake_had_renewed() -> None:
    """``ninja -t restat``, which CMake calls when it generates, puts the outputs' own times for those of their start."""
    spans = [(0, 7), (0, 11), (7, 9), (11, 12)]
    text = "".join(edge_line(a, b, BEGAN, f"a{n}.o", stamped="end") for n, (a, b) in enumerate(spans))
    text += "".join(edge_line(n, n + 1.7, BEGAN + 500, f"b{n}.o") for n in range(2))
    assert [round(one.began - BEGAN) for one in place(edges(text))] == [0, 0, 7, 11, 500, 501]
