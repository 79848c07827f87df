"""Who goes when: each pair whole, the important ones first, and nothing that the time does not allow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from measuring.model import Contender, Failed, Scenario, TooLate, Unavailable
from measuring.results import Results


def order(scenarios: Sequence[Scenario]) -> Iterator[tuple[Scenario, str]]:
    """First one round of every scenario, then the further rounds, those of heavy scenarios last."""
    for scenario in scenarios:
        for pair in scenario.rounds[0] if scenario.rounds else ():
            yield scenario, pair
    longest = max((len(scenario.rounds) for scenario in scenarios), default=0)
    for heavy in (False, True):
        for number in range(1, longest):
            for scenario in scenarios:
                if scenario.heavy is heavy and number < len(scenario.rounds):
                    for pair in scenario.rounds[number]:
                        yield scenario, pair


class Run:
    """Measure what is not yet among the results, until all is done or the time is over.

    ``deadline`` is a moment of ``clock``, in seconds. ``left`` names afterwards what the time did not allow, as
    ``scenario, pair``, and ``failed`` what a contender failed in.
    """

    def __init__(
        self,
        results: Results,
        *,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda _: None,
        day: str = "",
    ) -> None:
        self.results = results
        self.deadline = deadline
        self.clock = clock
        self.say = say
        self.day = day
        self.left: list[str] = []
        self.failed: list[str] = []
        self._prepared: dict[str, str] = {}
        # Not those of an earlier run: what failed then is tried again.
        self._given_up: set[tuple[str, str]] = set()

    def all(self, scenarios: Sequence[Scenario]) -> None:
        for scenario, pair in order(scenarios):
            self.pair(scenario, pair)

    def pair(self, scenario: Scenario, pair: str) -> None:
        missing = [
            one
            for one in scenario.turns(pair)
            if not self.results.has(scenario.name, one.name, pair)
            and (scenario.name, one.name) not in self._given_up
        ]
        if not missing:
            return
        expected = sum(self._seconds(scenario, one) for one in missing)
        if scenario.name not in self._prepared:
            expected += scenario.prepare_seconds
        if self.clock() + expected > self.deadline:
            self.left.append(f"{scenario.name}, {pair}")
            return
        self.say(f"{scenario.title}: {pair}")
        if not self._prepare(scenario):
            return
        for one in missing:
            if not self._measure(scenario, one, pair):
                self.left.append(f"{scenario.name}, {pair}")
                return

    def _prepare(self, scenario: Scenario) -> bool:
        why = self._prepared.get(scenario.name)
        if why is None:
            why = ""
            try:
                scenario.prepare()
            except (Unavailable, Failed) as error:
                why = str(error)
                for one in scenario.contenders:
                    self._give_up(scenario, one, why, failed=isinstance(error, Failed))
            except TooLate:
                self.left.append(scenario.name)
                return False
            self._prepared[scenario.name] = why
        return not why

    def _measure(self, scenario: Scenario, one: Contender, pair: str) -> bool:
        try:
            value = one.measure(pair)
        except (Unavailable, Failed) as error:
            self._give_up(scenario, one, str(error), failed=isinstance(error, Failed))
            return True
        except TooLate:
            return False
        self.results.add(scenario.name, one.name, pair, value, day=self.day)
        self.say(f"  {one.label:<40} {value.wall:8.2f} s wall {value.cpu:8.2f} s CPU")
        return True

    def _give_up(self, scenario: Scenario, one: Contender, why: str, *, failed: bool) -> None:
        self._given_up.add((scenario.name, one.name))
        self.results.leave_out(scenario.name, one.name, why)
        self.say(f"  {one.label:<40} {why}")
        if failed:
            self.failed.append(f"{scenario.name}, {one.name}: {why}")

    def _seconds(self, scenario: Scenario, one: Contender) -> float:
        known = self.results.seconds(scenario.name, one.name)
        return one.seconds if known is None else known
