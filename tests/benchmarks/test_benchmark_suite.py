"""The benchmark suite with contenders that only pretend: order, pairs, statistics, going on, and what it shows."""

from __future__ import annotations

import json
import math
import signal
import statistics
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measuring import machine
from measuring.model import Contender, Failed, Measured, Ratio, Scenario, TooLate, Unavailable
from measuring.page import page
from measuring.plot import plot
from measuring.results import OtherRun, Results, Spread
from measuring.running import Run, order
from measuring.stopwatch import Stopwatch

MACHINE = {
    "processor": "Test | <CPU>",
    "cores": 2,
    "memory": 8,
    "system": "Linux",
    "compiler": "g++",
    "python": "3",
}
SECONDS = st.floats(min_value=0.001, max_value=1e6)


class Stage:
    """Contenders whose times are given; ``went`` is who was really run."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.went: list[tuple[str, str]] = []
        self.prepared = 0
        self.now = 0.0
        self.raising: dict[str, Exception] = {}

    def contender(self, name: str, **more: Any) -> Contender:
        def measure(pair: str) -> Measured:
            if name in self.raising:
                raise self.raising[name]
            self.went.append((name, pair))
            self.now += self.seconds[name]
            return Measured(self.seconds[name], 2 * self.seconds[name], 0.01, {"hits": 1})

        return Contender(name, f"label of {name}", measure, self.seconds[name], **more)

    def scenario(self, name: str = "one", pairs: int = 3, **more: Any) -> Scenario:
        contenders = tuple(self.contender(one, ours=one == "ours") for one in self.seconds)
        return Scenario(
            name, f"Title of {name}", "What it is.", contenders,
            (Ratio("ours / bare", "ours", "bare", 0.5),),
            tuple((str(number + 1),) for number in range(pairs)),
            prepare=self.prepare, **more,
        )  # fmt: skip

    def prepare(self) -> None:
        self.prepared += 1


def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.json", code="c0de", machine=MACHINE)


def run(found: Results, stage: Stage, scenarios: list[Scenario], *, deadline: float = math.inf) -> Run:
    made = Run(found, deadline=deadline, clock=lambda: stage.now, day="2030-01-02")
    made.all(scenarios)
    return made


# order


def test_each_contender_goes_first_in_turn() -> None:
    stage = Stage(ours=1, bare=2, pip=3)
    scenario = stage.scenario(pairs=3)
    assert [scenario.turns(pair)[0].name for pair in scenario.pairs] == ["ours", "bare", "pip"]
    assert all(
        {one.name for one in scenario.turns(pair)} == {"ours", "bare", "pip"} for pair in scenario.pairs
    )


def test_one_that_needs_another_goes_right_after_it() -> None:
    stage = Stage(ours=1, bare=2, warm=3)
    contenders = (
        stage.contender("warm", after="ours"),
        stage.contender("ours"),
        stage.contender("bare"),
    )
    scenario = Scenario("s", "S", "", contenders, (), (("1",), ("2",)))
    assert [[one.name for one in scenario.turns(pair)] for pair in scenario.pairs] == [
        ["ours", "warm", "bare"],
        ["bare", "ours", "warm"],
    ]


def test_first_rounds_come_first_and_heavy_scenarios_last() -> None:
    stage = Stage(ours=1, bare=1)
    light, heavy = stage.scenario("light", 2), stage.scenario("heavy", 2, heavy=True)
    last = stage.scenario("last", 1)
    assert [(s.name, pair) for s, pair in order([heavy, light, last])] == [
        ("heavy", "1"), ("light", "1"), ("last", "1"), ("light", "2"), ("heavy", "2"),
    ]  # fmt: skip
    assert list(order([])) == []


# going on


def test_a_run_that_was_broken_off_goes_on_with_the_contender_that_is_missing(tmp_path: Path) -> None:
    stage = Stage(ours=1, bare=2)
    scenario = stage.scenario(pairs=2)
    stage.raising["bare"] = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        run(results(tmp_path), stage, [scenario])
    assert stage.went == [("ours", "1")]
    stage.raising.clear()
    again = Results.resume(tmp_path / "results.json", code="c0de", machine=MACHINE)
    run(again, stage, [scenario])
    assert stage.went == [("ours", "1"), ("bare", "1"), ("bare", "2"), ("ours", "2")]
    assert stage.prepared == 2
    run(again, stage, [scenario])
    assert len(stage.went) == 4
    assert stage.prepared == 2, "nothing is prepared where nothing is missing"


@pytest.mark.parametrize("changed", [{"code": "other"}, {"machine": MACHINE | {"cores": 64}}])
def test_values_of_other_code_or_another_machine_are_not_mixed(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    stage = Stage(ours=1, bare=2)
    run(results(tmp_path), stage, [stage.scenario()])
    path = tmp_path / "results.json"
    before = path.read_bytes()
    with pytest.raises(OtherRun, match=f"another {next(iter(changed))}.*--fresh"):
        Results.resume(path, **({"code": "c0de", "machine": MACHINE} | changed))
    assert path.read_bytes() == before
    assert Results.resume(path, code="other", machine=MACHINE, fresh=True).values == {}
    assert path.with_name("results.json.before").read_bytes() == before


def test_other_versions_of_tools_are_no_other_machine(tmp_path: Path) -> None:
    stage = Stage(ours=1, bare=2)
    path = tmp_path / "results.json"
    run(Results.resume(path, code="c", machine=MACHINE), stage, [stage.scenario()])
    again = Results.resume(path, code="c", machine=MACHINE | {"tools": {"pip": "30"}})
    assert again.machine["tools"] == {"pip": "30"}
    assert len(again.of("one", "ours")) == 3


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": 7}', '{"schema": 1, "code": "", "machine": {}}']
)
def test_a_damaged_file_is_said_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError):
        Results.resume(path, code="c0de", machine=MACHINE)
    assert path.read_text() == content


def test_what_the_time_does_not_allow_is_left_out_whole_and_said(tmp_path: Path) -> None:
    stage = Stage(ours=10, bare=20)
    found = results(tmp_path)
    made = run(found, stage, [stage.scenario(pairs=3)], deadline=65)
    assert stage.went == [("ours", "1"), ("bare", "1"), ("bare", "2"), ("ours", "2")]
    assert made.left == ["one, 3"]
    assert made.failed == []


def test_a_later_scenario_that_fits_is_still_run(tmp_path: Path) -> None:
    slow, quick = Stage(ours=100, bare=100), Stage(ours=1, bare=1)
    made = run(results(tmp_path), quick, [slow.scenario("slow", 1), quick.scenario("quick", 1)], deadline=50)
    assert (slow.went, len(quick.went), made.left) == ([], 2, ["slow, 1"])


def test_what_was_measured_decides_what_still_fits(tmp_path: Path) -> None:
    """The guess is for the first time alone."""
    stage = Stage(ours=10, bare=10)
    scenario = stage.scenario(pairs=2)
    stage.seconds.update(ours=100, bare=100)
    assert run(results(tmp_path), stage, [scenario], deadline=300).left == ["one, 2"]


def test_time_that_runs_out_within_a_contender_keeps_nothing_of_it(tmp_path: Path) -> None:
    stage = Stage(ours=1, bare=1)
    stage.raising["bare"] = TooLate()
    found = results(tmp_path)
    assert run(found, stage, [stage.scenario(pairs=1)]).left == ["one, 1"]
    assert Results.read(found.path).of("one", "bare") == {}
    assert set(Results.read(found.path).of("one", "ours")) == {"1"}


@pytest.mark.parametrize(("error", "failed"), [(Unavailable("No such tool."), 0), (Failed("It died."), 1)])
def test_a_contender_that_cannot_is_not_tried_again_and_stands_in_the_table(
    tmp_path: Path, error: Exception, failed: int
) -> None:
    stage = Stage(ours=1, bare=2)
    stage.raising["bare"] = error
    found = results(tmp_path)
    scenario = stage.scenario(pairs=2)
    made = run(found, stage, [scenario])
    assert len(made.failed) == failed
    assert len(stage.went) == 2
    shown = page(Results.read(found.path), [scenario])
    assert f"| label of bare | | | 0 | {error} |" in shown
    # In a later run it is tried again, and what was said of it is gone.
    stage.raising.clear()
    run(found, stage, [scenario])
    assert str(error) not in page(found, [scenario])


def test_what_cannot_be_prepared_is_left_out_with_the_reason(tmp_path: Path) -> None:
    def refuse() -> None:
        raise Unavailable("There is no toolkit.")

    stage = Stage(ours=1, bare=2)
    scenario = Scenario("s", "S", "", stage.scenario().contenders, (), (("1",), ("2",)), prepare=refuse)
    found = results(tmp_path)
    run(found, stage, [scenario])
    assert stage.went == []
    assert found.absent == {"s": {"ours": "There is no toolkit.", "bare": "There is no toolkit."}}


# statistics


@given(st.lists(SECONDS, min_size=1))
def test_a_spread_is_minimum_median_and_maximum(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread is not None
    assert (spread.low, spread.high, spread.count) == (min(values), max(values), len(values))
    assert spread.middle == statistics.median(values)
    assert spread.low <= spread.middle <= spread.high


def test_of_nothing_there_is_no_spread() -> None:
    assert Spread.of([]) is None


@given(
    over=st.dictionaries(st.sampled_from("123456"), SECONDS),
    under=st.dictionaries(st.sampled_from("123456"), SECONDS),
)
def test_ratios_are_taken_within_pairs_that_both_have_run(
    over: dict[str, float], under: dict[str, float]
) -> None:
    found = Results(Path("unwritten"), code="", machine={})
    found.values = {
        "s": {
            name: {pair: Measured(value, 3 * value) for pair, value in pairs.items()}
            for name, pairs in (("a", over), ("b", under))
        }
    }
    ratios = found.ratios("s", Ratio("a / b", "a", "b"))
    assert ratios == {pair: over[pair] / under[pair] for pair in over if pair in under}
    cpu = found.ratios("s", Ratio("a / b", "a", "b", quantity="cpu"))
    assert cpu == pytest.approx(ratios)
    turned = found.ratios("s", Ratio("b / a", "b", "a"))
    assert {pair: 1 / one for pair, one in turned.items()} == pytest.approx(ratios)


def test_a_time_of_nothing_gives_no_ratio() -> None:
    found = Results(Path("unwritten"), code="", machine={})
    found.values = {"s": {"a": {"1": Measured(1, 1)}, "b": {"1": Measured(0, 0)}}}
    assert found.ratios("s", Ratio("a / b", "a", "b")) == {}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.dictionaries(
            st.text(min_size=1, max_size=5), st.dictionaries(st.text(max_size=5), SECONDS), max_size=3
        ),
        max_size=3,
    )
)
def test_a_file_gives_back_what_was_put_in(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, dict[str, dict[str, float]]]
) -> None:
    made = Results(tmp_path_factory.mktemp("r") / "r.json", code="c", machine=MACHINE)
    for scenario, contenders in values.items():
        for contender, pairs in contenders.items():
            for pair, seconds in pairs.items():
                made.add(scenario, contender, pair, Measured(round(seconds, 3), 1.0), day="2030-01-02")
    made.write()
    assert Results.read(made.path).values == made.values


# what is shown


def filled(tmp_path: Path, scenario: Scenario, make: Callable[[float], Measured]) -> Results:
    found = results(tmp_path)
    for number, pair in enumerate(scenario.pairs):
        found.add("one", "ours", pair, make(4.0 + number), day="2030-01-02")
        found.add("one", "bare", pair, make(10.0 * (number + 1)))
    return found


def test_the_page_shows_each_figure_as_three_and_the_ratios_of_pairs(tmp_path: Path) -> None:
    scenario = Stage(ours=1, bare=1).scenario()
    found = filled(tmp_path, scenario, lambda seconds: Measured(seconds, 2 * seconds))
    shown = page(found, [scenario], replay="See replay.")
    assert "| label of ours | 4.00 / 5.00 / 6.00 | 8.0 / 10.0 / 12.0 | 3 |  |" in shown
    assert "| label of bare | 10.0 / 20.0 / 30.0 | 20.0 / 40.0 / 60.0 | 3 |  |" in shown
    # 4/10, 5/20, 6/30: not the ratio of the medians' neighbours.
    assert "| ours / bare | 0.20 / 0.25 / 0.40 | 3 | ≤ 0.5: met |" in shown
    assert "| 2 | 5.00 / 10.00 | 20.00 / 40.00 |" in shown
    assert "| 3 | 6.00 / 12.00 | 30.00 / 60.00 |" in page(found, [Stage(ours=1, bare=1).scenario(pairs=1)])
    assert "2030-01-02" in shown
    assert "See replay." in shown
    assert "Provisional" not in shown


def test_a_goal_that_is_missed_is_said(tmp_path: Path) -> None:
    scenario = Stage(ours=1, bare=1).scenario(pairs=1)
    found = results(tmp_path)
    found.add("one", "ours", "1", Measured(9, 9))
    found.add("one", "bare", "1", Measured(10, 10))
    assert "≤ 0.5: **missed**" in page(found, [scenario])


def test_a_busy_machine_makes_the_page_provisional(tmp_path: Path) -> None:
    scenario = Stage(ours=1, bare=1).scenario()
    found = filled(tmp_path, scenario, lambda seconds: Measured(seconds, seconds, foreign=0.4))
    assert "**Provisional.** Other processes used 40% of the cores" in page(found, [scenario])


def test_a_scenario_of_which_nothing_is_known_is_not_shown(tmp_path: Path) -> None:
    scenario = Stage(ours=1, bare=1).scenario()
    assert scenario.title not in page(results(tmp_path), [scenario])
    assert scenario.title not in plot(results(tmp_path), [scenario])


def test_the_drawing_holds_its_text_as_text_and_bars_in_scale(tmp_path: Path) -> None:
    scenario = Stage(ours=1, bare=1).scenario()
    found = filled(tmp_path, scenario, lambda seconds: Measured(seconds, seconds))
    root = ET.fromstring(plot(found, [scenario]))
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{name}text")]
    assert texts == ["Title of one (seconds)", "label of ours", "5.00", "label of bare", "20.0"]
    bars = {
        e.get("class"): float(e.get("width", "0"))
        for e in root.iter(f"{name}rect")
        if e.get("class") != "back"
    }
    assert bars["ours"] / bars["other"] == pytest.approx(5 / 20, rel=0.01)
    assert "prefers-color-scheme: dark" in (root.findtext(f"{name}style") or "")
    width = float(root.get("width", "0"))
    places = [float(e.get("x", "0")) for e in root.iter(f"{name}text")]
    assert max(places) < width - 40


# the stopwatch, and what is told of a machine


def test_the_stopwatch_measures_the_command_alone(tmp_path: Path) -> None:
    watch = Stopwatch(time.monotonic() + 60)
    program = "import time; t = time.process_time()\nwhile time.process_time() < t + .2: pass\nprint('said')"
    took, said = watch.run([sys.executable, "-c", program], cwd=tmp_path, env={}, log=tmp_path / "log")
    assert said == "said\n"
    assert took.cpu >= 0.2
    assert took.wall >= 0.2
    assert 0 <= took.foreign <= 1


def test_a_command_that_fails_is_told_without_folders(tmp_path: Path) -> None:
    watch = Stopwatch(time.monotonic() + 60, [tmp_path])
    program = f"import sys; sys.exit('error: no file {tmp_path}/x')"
    with pytest.raises(Failed, match=r"exit status 1: error: no file …/x"):
        watch.run([sys.executable, "-c", program], cwd=tmp_path, env={}, log=tmp_path / "log")
    with pytest.raises(Failed):
        watch.run([tmp_path / "none"], cwd=tmp_path, env={}, log=tmp_path / "log")


def test_a_command_ends_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("measuring.stopwatch._GRACE", 0.0)
    watch = Stopwatch(time.monotonic() - 1)
    begun = time.monotonic()
    with pytest.raises(TooLate):
        watch.run(["sleep", "100"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, log=tmp_path / "log")
    assert time.monotonic() - begun < 50


def test_an_interrupt_ends_the_command_and_what_it_started(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    program = "sleep 1000 & echo $! > pid; wait"
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            Stopwatch(time.monotonic() + 60).run(
                ["sh", "-c", program], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, log=tmp_path / "log"
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    sleeper = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while lives(sleeper) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not lives(sleeper)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_facts_name_neither_the_machine_nor_its_folders() -> None:
    import platform

    told = json.dumps(machine.facts())
    assert machine.facts()["cores"] >= 1
    assert str(Path.home()) not in told or str(Path.home()) == "/"
    assert not platform.node() or platform.node() not in told


def test_the_digest_of_the_code_follows_its_content(tmp_path: Path) -> None:
    (tmp_path / "vllm_builder").mkdir()
    file = tmp_path / "vllm_builder" / "a.py"
    file.write_text("one")
    before = machine.code(tmp_path)
    assert machine.code(tmp_path) == before
    file.write_text("two")
    assert machine.code(tmp_path) != before
