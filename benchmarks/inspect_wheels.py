"""List the GPU code of real wheels, and hold it against NVIDIA's cuobjdump, library by library.

    python benchmarks/inspect_wheels.py                     the wheels below (downloads them once, into the user cache)
    python benchmarks/inspect_wheels.py WHEEL NAME==VERSION ...      wheel files, and others from the package index

Compared is every piece of GPU code: kind, architecture with its suffix, version and compression. Seconds of reading are
those of :func:`vllm_builder.binary.read_library` over all shared libraries, mapped from the disk cache: all that is
known of a library, not GPU code alone. Unzipping is not in them. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import mmap
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "binary"))

from cuobjdump import Unreadable, cuobjdump, difference
from public_wheels import cache_folder, libraries

from vllm_builder.binary import is_elf, read_library
from vllm_builder.binary.model import Library
from vllm_builder.errors import WheelError

WHEELS = (
    "vllm==0.9.2",
    "vllm==0.33.0",
    "bitsandbytes==0.50.2",
    "xformers==0.0.30",
    "xformers==0.0.32.post2",
    "torch==2.11.0",
)


@dataclass
class Row:
    wheel: str
    libraries: int = 0
    with_code: int = 0
    pieces: int = 0
    size: int = 0
    ours: float = 0
    tool: float = 0
    problems: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheels", nargs="*", default=WHEELS)
    tool = cuobjdump()
    if not tool:
        print("cuobjdump is not here; pip install nvidia-cuda-cuobjdump", file=sys.stderr)
        return 2
    print(
        f"{'wheel':48} {'MB':>6} {'libs':>5} {'GPU':>4} {'pieces':>7} {'ours':>7} {'cuobjdump':>10}  agreement"
    )
    failed = False
    for wheel in parser.parse_args().wheels:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(wheel, shared_libraries(wheel, Path(folder)), tool)
        failed |= any(not problem.startswith("the tool") for problem in row.problems)
        print(
            f"{row.wheel:48} {row.size / 1e6:6.0f} {row.libraries:5} {row.with_code:4} {row.pieces:7} "
            f"{row.ours:6.2f}s {row.tool:9.2f}s  {'; '.join(row.problems) or 'all'}",
            flush=True,
        )
    return failed


def shared_libraries(wheel: str, folder: Path) -> list[Path]:
    if "==" in wheel:
        return libraries(wheel, cache_folder())
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if ".so" in Path(name).name]
        return [Path(archive.extract(name, folder)) for name in members]


def measure(wheel: str, paths: list[Path], tool: Path) -> Row:
    row = Row(Path(wheel).name)
    for path in paths:
        try:
            library, seconds = read(path)
        except WheelError as error:
            row.problems.append(f"{path.name} refused: {error.why}")
            continue
        if not library:
            continue
        row.libraries += 1
        row.size += path.stat().st_size
        row.with_code += bool(library.units)
        row.pieces += sum(len(unit.codes) for unit in library.units)
        row.ours += seconds
        start = time.perf_counter()
        try:
            if told := difference(tool, path, library):
                row.problems.append(f"{path.name}: {told}")
        except Unreadable:
            row.problems.append(f"the tool gives up on {path.name}")
        row.tool += time.perf_counter() - start
    return row


def read(path: Path) -> tuple[Library | None, float]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if not is_elf(data):
            return None, 0
        start = time.perf_counter()
        library = read_library(data, name=path.name)
        return library, time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
