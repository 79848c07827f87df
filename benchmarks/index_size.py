"""What publishing one more wheel costs, against the number of files that the index has.

    python benchmarks/index_size.py [--folder FOLDER] [--profile 5000]

The files are those of one project in one variant, all of them in the channel ``nightly``, each in the channels of its
version and commit, and one in ten in ``release``. Published is one more nightly. Beside it stands what writing just
the pages of that wheel takes, the page for people among them: from the manifest as it lies there (what a rebuild of these
pages costs), and of that what is rendering and writing alone. The channel of thousands is written anew in
any case. Times are of the processor, the best of several: a disk or another program does not count.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha1, sha256
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests/index"), str(HERE.parent / "tests/wheelfile"), str(HERE.parent)]

from index_helpers import make_wheel  # noqa: E402

from vllm_builder.index import landing, layout, pages  # noqa: E402
from vllm_builder.index.candidates import read_candidate  # noqa: E402
from vllm_builder.index.manifest import Draft, Snapshot, commit, load  # noqa: E402
from vllm_builder.index.model import Facts, File, Page  # noqa: E402
from vllm_builder.index.publishing import publish  # noqa: E402
from vllm_builder.index.storage.folder import Folder  # noqa: E402

SIZES = (0, 100, 1000, 5000)
TIMES = 5
START = datetime(2025, 1, 1, tzinfo=UTC)


def file(number: int) -> File:
    version = f"0.{number // 100}.{number % 100}.dev{number}"
    full = f"{version}+cu130"
    digest = sha256(full.encode()).hexdigest()
    channels = ["nightly", version, sha1(full.encode(), usedforsecurity=False).hexdigest()]
    if number % 10 == 0:
        channels.append("release")
    return File(
        filename=f"vllm-{full}-cp38-abi3-manylinux_2_28_x86_64.whl",
        project="vllm",
        version=full,
        sha256=digest,
        size=400_000_000 + number,
        uploaded=START + timedelta(hours=number),
        metadata_sha256=digest,
        requires_python=">=3.10,<3.14",
        channels=tuple(sorted(channels)),
        provenance_sha256=digest,
        facts=Facts(
            release=version,
            commit=channels[2],
            device="cuda",
            archs=("8.0", "8.9", "9.0a", "10.0a", "12.0"),
            cuda="13.0",
            torch="2.11.0+cu130",
            digest=digest,
            summary="A high-throughput and memory-efficient inference and serving engine for LLMs",
        ),
    )


def fill(storage: Folder, count: int) -> None:
    def add(draft: Draft) -> None:
        files = draft.files("vllm", "cu130")
        for number in range(count):
            one = file(number)
            files[one.filename] = one

    if count:
        # The pages of each version and commit are not of interest.
        storage.delete([commit(storage, add).journal])


def own_pages(version: str) -> tuple[Page, ...]:
    channels = ("nightly", version)
    return tuple(Page(channel=one, variant="cu130", project="vllm") for one in channels)


def again(snapshot: Snapshot) -> Snapshot:
    """The same files, one revision later: pages of it are written anew."""
    root = snapshot.root.model_copy(update={"revision": snapshot.root.revision + 1})
    later = Snapshot(snapshot.storage, root, None)
    later._shards = dict(snapshot._shards)
    return later


@dataclass
class Row:
    publish: float
    rebuild: float
    write: float
    page: int
    shards: int


def measure(folder: Path, count: int, profile: bool) -> Row:
    storage = Folder(folder / f"index-{count}")
    fill(storage, count)
    whole, rebuilt, alone = [], [], []
    for number in range(TIMES):
        version = f"9.9.9.dev{number}"
        one = read_candidate(
            make_wheel(folder / f"dist-{count}", "vllm", f"{version}+cu130"), channels=["nightly"]
        )
        profiler = cProfile.Profile() if profile and number == TIMES - 1 else None
        begun = time.process_time()
        if profiler:
            profiler.enable()
        publish(storage, [one])
        if profiler:
            profiler.disable()
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(45)
        else:
            whole.append(time.process_time() - begun)
        begun = time.process_time()
        snapshot = load(storage)
        assert snapshot is not None
        list(snapshot.files())
        later = again(snapshot)
        read = time.process_time()
        made = own_pages(version)
        written = pages.write(storage, later, made)
        landing.write(storage, later, [f"vllm {version}+cu130"], made)
        ended = time.process_time()
        rebuilt.append(ended - begun)
        alone.append(ended - read)
        assert written == 4, written
        # The next one has to be a later revision again.
        for _ in range(2):
            commit(storage, lambda draft: draft.groups.pop("x", None) or draft.delete.append("journal/none"))
    page = storage.stat(f"{layout.folder_of('nightly', 'cu130', 'vllm')}{layout.JSON}")
    root = load(storage)
    assert root is not None
    shards = sum(storage.stat(ref.key).size for ref in root.root.shards)  # type: ignore[union-attr]
    return Row(
        min(whole),
        min(rebuilt),
        min(alone),
        page.size if page else 0,
        shards,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--profile", type=int, action="append", default=[])
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        print("files  publish ms  own pages ms  ratio  of it written ms  page KB  manifest KB")
        for count in arguments.sizes:
            row = measure(folder, count, count in arguments.profile)
            print(
                f"{count:5}  {row.publish * 1e3:10.0f}  {row.rebuild * 1e3:12.0f}  {row.publish / row.rebuild:5.2f}"
                f"  {row.write * 1e3:16.0f}  {row.page // 1024:7}  {row.shards // 1024:11}"
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
