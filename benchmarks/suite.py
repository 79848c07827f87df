"""Everything side by side in one command: vllm-builder, the bare setup.py, ccache, pip wheel, fromager; CPU and CUDA.

    python benchmarks/suite.py --prepare                # downloads, environments, what is compiled beforehand
    python benchmarks/suite.py --budget 35              # goes on where it was broken off
    python benchmarks/suite.py --fresh --pairs 5        # all anew
    python benchmarks/suite.py --render                 # docs/benchmarks.md and .svg from docs/benchmarks.json alone
    python benchmarks/suite.py --cache-dir DIR -- --jobs 4

One round of every scenario comes first, then further ones while the time allows; within a pair the contenders take turns in
going first. Each value is kept in docs/benchmarks.json as soon as it is measured. What stands after ``--`` goes to every
build. The folder of the work (--folder, by default build/benchmarks) may be removed afterwards.

The exit status is 1 where a contender failed, and 3 where the time did not allow everything.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measuring import cpu, cuda, machine
from measuring.kit import Kit
from measuring.model import Failed, Scenario, TooLate, Unavailable
from measuring.page import page
from measuring.plot import plot
from measuring.results import OtherRun, Results
from measuring.running import Run
from measuring.stopwatch import Stopwatch

ROOT = Path(__file__).resolve().parent.parent
TORCH, OLD_TORCH, CUDA_TORCH = "2.13.0", "2.9.1", "2.11.0"


def scenarios(kit: Kit, pairs: int) -> list[Scenario]:
    """The most important ones first."""
    return [
        cpu.Cold(kit, cpu.job("v0.9.2", TORCH), "cpu").scenario(
            f"v0.9.2 for CPU, torch {TORCH}", pairs, everybody=True, heavy=False, guess=60
        ),
        cpu.HotFix(kit, cpu.job("v0.9.2", TORCH), "hotfix").scenario(
            "v0.9.2 for CPU with one line of Python changed", pairs
        ),
        cuda.Units(kit, cuda.job("v0.9.2", "sm_100", CUDA_TORCH)).scenario(
            f"v0.9.2 for CUDA, sm_100, torch {CUDA_TORCH}: a sample of units", pairs
        ),
        *(
            cpu.NextRelease(kit, cpu.job(f"v{one}", TORCH), cpu.job(f"v{two}", TORCH), two).scenario(
                f"v{two} for CPU after v{one}", pairs
            )
            for one, two in (("0.10.1", "0.10.1.1"), ("0.8.5", "0.8.5.post1"))
        ),
        cpu.Cold(kit, cpu.job("v0.14.1", OLD_TORCH), "cpu-0.14.1").scenario(
            f"v0.14.1 for CPU, torch {OLD_TORCH}", pairs, everybody=False, heavy=True, guess=120
        ),
    ]


def render(results: Results, all_: Sequence[Scenario], folder: Path) -> None:
    """Write the page and the drawing beside the results."""
    replay = folder / "replay.md"
    text = (
        f"What more cores would bring is simulated: [{replay.name}]({replay.name})."
        if replay.exists()
        else ""
    )
    (folder / "benchmarks.md").write_text(page(results, all_, replay=text), encoding="utf-8")
    (folder / "benchmarks.svg").write_text(plot(results, all_), encoding="utf-8")


def prepare(chosen: Sequence[Scenario]) -> int:
    """Make everything that is not measured, so that a later run spends its time on what is."""
    status = 0
    for scenario in chosen:
        print(scenario.title, file=sys.stderr, flush=True)
        try:
            scenario.prepare()
        except (Failed, Unavailable, TooLate) as error:
            print(f"  {error or 'the time is over'}", file=sys.stderr, flush=True)
            status = 1
    return status


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one pair of each")
    parser.add_argument(
        "--budget", type=float, default=60, metavar="MINUTES", help="for all of it (default: 60)"
    )
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", help="by name; they are shown with --list")
    parser.add_argument("--list", action="store_true", help="show the scenarios and their contenders")
    parser.add_argument("--fresh", action="store_true", help="begin anew; the results so far are kept beside")
    parser.add_argument(
        "--prepare", action="store_true", help="measure nothing, make what is not measured anyway"
    )
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs", help="folder of the page and of the results"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("build/benchmarks"), help="where everything is built"
    )
    parser.add_argument(
        "--cache-dir", type=Path, help="cache of earlier builds: its downloads, environments, toolkits"
    )
    parser.add_argument("more", nargs="*", help="further options for every build, after --")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    # So that what it has started ends with it, also where it is told to end or was started in the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    deadline = began + 60 * given.budget
    folder = given.folder.absolute()
    results_file = given.docs / "benchmarks.json"
    hide = [
        folder,
        *([given.cache_dir.absolute()] if given.cache_dir else []),
        ROOT,
        Path(sys.prefix),
        Path.home(),
    ]
    kit = Kit(
        folder,
        Stopwatch(deadline, hide),
        seed=given.cache_dir.absolute() if given.cache_dir else None,
        more=given.more,
    )
    all_ = scenarios(kit, 1 if given.quick else given.pairs)
    if given.list:
        for scenario in all_:
            print(
                f"{scenario.name:<14}{scenario.title}: {', '.join(one.name for one in scenario.contenders)}"
            )
        return 0
    if given.render:
        render(Results.read(results_file), all_, given.docs)
        return 0
    if unknown := set(given.only or ()) - {scenario.name for scenario in all_}:
        sys.exit(f"There is no scenario {', '.join(sorted(unknown))}; --list shows those that there are.")
    kit.open()
    chosen = [scenario for scenario in all_ if not given.only or scenario.name in given.only]
    if given.prepare:
        return prepare(chosen)
    try:
        tools = kit.tools()
    except (Failed, Unavailable, TooLate) as error:
        # The two contenders that need them say so in the table.
        print(f"pip and fromager: {error}", file=sys.stderr)
        tools = {}
    try:
        results = Results.resume(
            results_file,
            code=machine.code(ROOT),
            machine=machine.facts() | {"tools": tools},
            fresh=given.fresh,
        )
    except (OtherRun, ValueError) as error:
        sys.exit(str(error))
    run = Run(
        results,
        deadline=deadline,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        day=datetime.now(UTC).date().isoformat(),
    )
    try:
        run.all(chosen)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        render(results, all_, given.docs)
    for what, lines in (("failed", run.failed), ("the time did not allow", run.left)):
        for line in lines:
            print(f"{what}: {line}", file=sys.stderr)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes", file=sys.stderr)
    return 1 if run.failed else 3 if run.left else 0


if __name__ == "__main__":
    sys.exit(main())
