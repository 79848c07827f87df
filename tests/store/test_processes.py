"""Several builders at once, and builders that are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from store_helpers import NAME, digest_of, make_record, make_wheel

from vllm_builder.errors import Busy, NoSpace
from vllm_builder.events import Event, Note
from vllm_builder.stages.store import Entry, Store

Put = Callable[..., Entry]

# A builder as the pipeline is one: look, lock, look again, "compile", add.
BUILDER = """
import json, os, sys, time
from pathlib import Path
from vllm_builder.stages.store import Store, Record, WheelFile, now

root, digest, folder, hold = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
notes = []
store = Store(root)
with store.lock(digest, emit=lambda e: notes.append(e.message)):
    entry = store.get(digest)
    if entry is None:
        (folder / f"compiled-{os.getpid()}").touch()
        print("compiling", flush=True)
        time.sleep(hold)
        wheel = folder / str(os.getpid()) / "vllm-0.9.2+cpu-cp38-abi3-linux_x86_64.whl"
        wheel.parent.mkdir()
        wheel.write_bytes(os.urandom(1 << 20))
        record = Record(digest=digest, release="0.9.2", version="0.9.2+cpu", device="cpu",
                        wheel=WheelFile.of(wheel), created=now())
        entry = store.add(digest, wheel, record)
print(json.dumps({"sha256": entry.record.wheel.sha256, "notes": notes}))
"""


def start(store: Store, folder: Path, hold: float, label: str = "a") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(store.root), digest_of(label), str(folder), str(hold)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_builders_of_one_plan_compile_once(store: Store, tmp_path: Path) -> None:
    first = start(store, tmp_path, 1.5)
    assert first.stdout is not None
    assert first.stdout.readline() == "compiling\n"
    others = [start(store, tmp_path, 1.5) for _ in range(3)]
    answers = [json.loads(p.communicate(timeout=60)[0].splitlines()[-1]) for p in (first, *others)]
    assert len(list(tmp_path.glob("compiled-*"))) == 1
    assert len({a["sha256"] for a in answers}) == 1
    assert answers[0]["notes"] == []
    for answer in answers[1:]:
        assert f"process {first.pid}" in answer["notes"][0]
    assert len(store.entries()) == 1
    assert store.verify().ok


def test_different_plans_do_not_wait_for_each_other(store: Store, tmp_path: Path) -> None:
    with store.lock(digest_of("a")):
        other = start(store, tmp_path, 0, "b")
        assert json.loads(other.communicate(timeout=60)[0].splitlines()[-1])["notes"] == []


def test_the_lock_of_a_killed_builder_is_free_and_nothing_half_written_is_served(
    store: Store, tmp_path: Path
) -> None:
    victim = start(store, tmp_path, 60)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "compiling\n"
    with pytest.raises(Busy) as busy, store.lock(digest_of("a"), timeout=0.2):
        pass
    assert str(victim.pid) in busy.value.why
    assert [h.pid for h in store.running()] == [victim.pid]
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    with store.lock(digest_of("a"), timeout=10):
        assert store.get(digest_of("a")) is None
    assert store.running() == []


def test_threads_of_one_process_exclude_each_other(store: Store) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with Store(store.root).lock(digest_of("a")):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_a_waiter_is_told_who_and_since_when(store: Store) -> None:
    events: list[Event] = []
    with store.lock(digest_of("a")):

        def wait() -> None:
            with pytest.raises(Busy), store.lock(digest_of("a"), timeout=0.5, emit=events.append):
                pass

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    notes = [e.message for e in events if isinstance(e, Note)]
    assert len(notes) == 1
    assert f"process {os.getpid()}" in notes[0]
    assert "since 20" in notes[0]


def test_prune_leaves_what_a_running_build_uses(store: Store, put: Put, tmp_path: Path) -> None:
    used = put("a")
    put("b")
    with store.lock(used.digest):
        report = store.prune(keep=0, last_good=True)
        assert [k.reason for k in report.kept] == ["in use by a running build"]
        assert [e.digest for e in store.entries()] == [used.digest]
    assert store.prune(keep=0, last_good=True).kept == ()
    assert store.entries() == []


# Killed at every step ------------------------------------------------------------------------------
_STEPS = frozenset(
    {"open", "os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "os.utime", "shutil.rmtree"}
)


def _in_child(action: Callable[[], object], at_step: Callable[[int, str], None], root: str) -> int:
    """Run ``action`` in a forked child that calls ``at_step`` before each change below ``root``."""

    def child() -> None:
        count = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event in _STEPS and root in str(arguments[0]) and not (event == "open" and _reads(arguments)):
                count += 1
                at_step(count, event)

        sys.addaudithook(hook)
        action()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def _reads(arguments: tuple[object, ...]) -> bool:
    return arguments[1] == "r" or (arguments[1] is None and int(str(arguments[2])) & 3 == os.O_RDONLY)


@pytest.mark.parametrize("force", [False, True])
def test_killed_at_any_step_of_adding_leaves_a_whole_entry_or_none(
    store: Store, put: Put, tmp_path: Path, force: bool
) -> None:
    digest = digest_of("a")
    if force:
        put("a", b"the old one")
    wheel = make_wheel(tmp_path / "new", os.urandom(3 << 20))
    record = make_record(digest, wheel)
    before = len(store.entries())
    survived = 0
    for step in range(1, 100):

        def kill(count: int, event: str, step: int = step) -> None:
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

        code = _in_child(lambda: store.add(digest, wheel, record, force=force), kill, str(store.root))
        assert store.verify().ok, f"after step {step}"
        there = len(store.entries()) - before
        assert there in {0, 1}
        if force:
            found = store.get(digest)
            assert found is not None
            assert found.record.wheel.sha256 == record.wheel.sha256 or there == 0
        if there:
            store.prune(only=[digest], last_good=True)
            survived += 1
            if force:
                put("a", b"the old one")
        if code == 0:
            break
        assert code == -signal.SIGKILL
    else:
        pytest.fail("adding never came to its end")
    assert step > 8, "the hook saw no steps"
    assert survived
    # What the killed ones left behind goes with the next to come.
    put("b")
    assert list((store.root / "tmp").iterdir()) == []


def test_a_full_disk_at_any_step_of_adding_is_an_error_and_leaves_nothing(
    store: Store, put: Put, tmp_path: Path
) -> None:
    put("b")
    digest = digest_of("a")
    wheel = make_wheel(tmp_path / "new", b"x" * 1000)
    record = make_record(digest, wheel)

    fired: list[str] = []

    def add() -> None:
        try:
            store.add(digest, wheel, record)
        except NoSpace as error:
            os._exit(70 if error.next else 1)
        os._exit(4 if fired else 0)

    codes = []
    for step in range(1, 100):

        def fill(count: int, event: str, step: int = step) -> None:
            # Removing needs no space.
            if count == step and event not in {"os.remove", "os.rmdir", "shutil.rmtree"}:
                fired.append(event)
                raise OSError(28, "No space left on device")

        codes.append(_in_child(add, fill, str(store.root)))
        assert store.verify().ok
        if codes[-1] == 0:
            break
        if codes[-1] == 4:
            # That step could be done without: the folder was there, or could not be synced.
            assert store.get(digest) is not None
            store.prune(only=[digest], last_good=True)
            continue
        assert codes[-1] == 70, f"step {step}"
        assert store.find(digest) is None
        assert list((store.root / "tmp").iterdir()) == []
    assert codes.count(70) >= 4
    assert codes[-1] == 0


def test_the_temporary_folder_of_a_living_process_is_left_alone(
    store: Store, put: Put, tmp_path: Path
) -> None:
    from vllm_builder.stages.store import scratch

    mine = scratch.new(store.root, "mine")
    put("a")
    store.prune()
    assert mine.is_dir()
    elsewhere = store.root / "tmp" / "abcd-00000000-1-xyz"
    elsewhere.mkdir()
    put("b")
    assert elsewhere.is_dir(), "another machine's, and young"
    os.utime(elsewhere, (0, 0))
    put("c")
    assert not elsewhere.exists()
    assert NAME in {e.wheel.name for e in store.entries()}
