"""Many publishers at one index, ended by SIGKILL at random moments and started anew.

    python benchmarks/index_publishers.py --to FOLDER                 200 wheels, 8 publishers
    python benchmarks/index_publishers.py --s3                        the same on an S3-speaking server on loopback
    python benchmarks/index_publishers.py --to s3://bucket/prefix     on a real one: the prefix must be empty

A publisher notes each wheel that the index acknowledged. One that was killed starts again with what it has not noted; every
tenth wheel is published by two at once. Afterwards all that was acknowledged must be in the index with the right hash, and
each page must be what the manifest says. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests/index"), str(HERE.parent / "tests/wheelfile"), str(HERE.parent)]

VARIANTS = ("cpu", "cu129", "cu130")


class Notes:
    """What one publisher notes; each line is written whole or not at all, and outlives the publisher."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, kind: str, text: str = "") -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{kind} {text}\n".encode())
        os.close(fd)

    def of(self, kind: str) -> list[str]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.split(" ")[0] == kind]


def publisher(to: str, wheels: list[Path], notes: Notes) -> None:
    from vllm_builder.index import layout
    from vllm_builder.index.candidates import read_candidate
    from vllm_builder.index.publishing import publish
    from vllm_builder.index.storage import open_storage
    from vllm_builder.index.storage.base import Changed

    storage = open_storage(to)
    replace = storage.replace

    def counted(key: str, *arguments: object, **more: object) -> str:
        try:
            token: str = replace(key, *arguments, **more)  # type: ignore[arg-type]
        except Changed:
            notes.add("conflict" if key == layout.ROOT else "page-conflict")
            raise
        if key == layout.ROOT:
            notes.add("commit")
        return token

    storage.replace = counted  # type: ignore[method-assign,assignment]
    done = set(notes.of("acknowledged"))
    for path in wheels:
        if path.name not in done:
            publish(storage, [read_candidate(path, channels=["nightly"])])
            notes.add("acknowledged", path.name)


def drive(
    to: str, folder: Path, *, wheels: int, publishers: int, kills: int, pause: float, seed: int
) -> dict[str, object]:
    """Run it. The publishers are forked of this process, which has read all modules and does nothing itself."""
    import importlib

    from index_helpers import make_wheel

    for name in ("publishing", "storage.objects", "storage.s3"):
        importlib.import_module(f"vllm_builder.index.{name}")

    chance = random.Random(seed)
    paths = [
        make_wheel(folder / "dist", f"demo{number % 2}", f"0.{number}.0+{VARIANTS[number % 3]}")
        for number in range(wheels)
    ]
    tasks = [paths[number::publishers] for number in range(publishers)]
    for number, path in enumerate(paths[::10]):
        tasks[(number * 10 + 1) % publishers].append(path)
    notes = [Notes(folder / f"notes-{number}") for number in range(publishers)]
    begun = time.monotonic()
    alive: dict[int, int] = {}
    left = kills
    failed = 0

    def start(number: int) -> None:
        pid = os.fork()
        if pid:
            alive[pid] = number
            return
        try:
            publisher(to, tasks[number], notes[number])
        except BaseException as error:  # noqa: BLE001 (it is noted, and judged)
            notes[number].add("failed", repr(error))
            os._exit(1)
        os._exit(0)

    for number in range(publishers):
        start(number)
    next_kill = time.monotonic() + chance.expovariate(1 / pause)
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            number = alive.pop(pid)
            if os.WIFSIGNALED(status):
                start(number)
            elif os.WEXITSTATUS(status):
                failed += 1
            continue
        if left and time.monotonic() >= next_kill:
            os.kill(chance.choice(sorted(alive)), signal.SIGKILL)
            left -= 1
            next_kill = time.monotonic() + chance.expovariate(1 / pause)
        time.sleep(0.002)
    seconds = time.monotonic() - begun
    commits = sum(len(one.of("commit")) for one in notes)
    return {
        "to": to.split("://")[0] if "://" in to else "folder",
        "wheels": wheels,
        "publishers": publishers,
        "kills": kills - left,
        "failed": [text for one in notes for text in one.of("failed")],
        "seconds": round(seconds, 1),
        "commits_per_second": round(commits / seconds, 1),
        "conflicts_of_the_root": sum(len(one.of("conflict")) for one in notes),
        "conflicts_of_pages": sum(len(one.of("page-conflict")) for one in notes),
        "acknowledged": sorted({name for one in notes for name in one.of("acknowledged")}),
    }


def judge(to: str, found: dict[str, object]) -> None:
    """Raises:
    AssertionError: something that was acknowledged is not there, or the index is not in order.
    """
    from datetime import timedelta

    from index_helpers import assert_sound

    from vllm_builder.index import layout
    from vllm_builder.index.checking import check
    from vllm_builder.index.storage import open_storage
    from vllm_builder.index.transaction import finish_leftovers

    storage = open_storage(to)
    assert not found["failed"], found["failed"]
    snapshot = assert_sound(storage)
    assert snapshot is not None
    acknowledged = found.pop("acknowledged")
    assert isinstance(acknowledged, list)
    assert len(acknowledged) == found["wheels"]
    assert sorted(file.filename for _, file in snapshot.files()) == acknowledged
    found["journals_left"] = len(list(storage.list(layout.JOURNAL)))
    finish_leftovers(storage, older=timedelta(0))
    assert not list(storage.list(layout.JOURNAL))
    assert_sound(storage)
    found["shards_left_behind"] = _left_behind(storage, snapshot.root)
    # What was killed in the middle leaves things that nobody names, and that prune deletes: no errors.
    report = check(storage)
    assert report.good, [one for one in report.findings if one.severity == "error"]
    found["check"] = {
        "errors": 0,
        "others": sorted({f"{one.severity}: {one.check}" for one in report.findings}),
        "files": report.files,
        "pages": report.pages,
        "seconds": round(report.seconds, 1),
    }


def _left_behind(storage: object, root: object) -> int:
    keys = {found.key for found in storage.list("manifest/")}  # type: ignore[attr-defined]
    named = {ref.key for ref in root.shards} | {one.key for one in root.superseded}  # type: ignore[attr-defined]
    return len(keys - named - {"manifest/root.json"})


@contextlib.contextmanager
def place(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    if not arguments.s3:
        yield arguments.to or str(folder / "index"), {}
        return
    from index_helpers import s3_server

    with s3_server() as server:
        yield f"s3://{server.bucket}/team", server.env


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--to")
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--wheels", type=int, default=200)
    parser.add_argument("--publishers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--pause", type=float, default=0.3, help="mean seconds between two kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--driven", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = {name: getattr(arguments, name) for name in ("wheels", "publishers", "kills", "pause", "seed")}
    if arguments.driven:
        print(json.dumps(drive(arguments.to, arguments.driven, **sizes)))
        return
    with tempfile.TemporaryDirectory() as temporary, place(arguments, Path(temporary)) as (to, env):
        found = run(to, Path(temporary), env=env, **sizes)
    print(json.dumps(found))


def run(to: str, folder: Path, *, env: dict[str, str], **sizes: float) -> dict[str, object]:
    """Drive in a process of its own: one that forks should have no threads, and this one may serve the store.

    Raises:
        AssertionError: see :func:`judge`.
    """
    options = [f"--{name}={value}" for name, value in sizes.items()]
    done = subprocess.run(
        [sys.executable, __file__, f"--to={to}", f"--driven={folder}", *options],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    os.environ.update(env)
    judge(to, found)
    return found


if __name__ == "__main__":
    main()
