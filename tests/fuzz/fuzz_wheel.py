"""Coverage-guided fuzzing of the wheel container: any bytes give a wheel or WheelError, in bounded time and memory.

    pip install -e '.[fuzz]'
    python tests/fuzz/fuzz_wheel.py -runs=100000 -rss_limit_mb=1024 -timeout=10 [CORPUS_FOLDER]

Half of the inputs are the bytes of a zip file as they are; the other half are read as instructions for the tests' own
zip writer, so that what needs right checksums and offsets to be reached is reached too.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "wheelfile"))

with atheris.instrument_imports(include=["vllm_builder.wheelfile"]):
    from test_any_input import SEEDS, read_all

    import vllm_builder.wheelfile.inflating
    import vllm_builder.wheelfile.recordcheck
    import vllm_builder.wheelfile.wheel  # noqa: F401
from wheel_helpers import INFO, METADATA, NAME, WHEEL, Entry, zip_bytes

_FOLDER = Path(tempfile.mkdtemp(prefix="vllm-builder-fuzz-"))
_PATH = _FOLDER / NAME
_NAMES = [
    f"{INFO}/METADATA",
    f"{INFO}/WHEEL",
    f"{INFO}/RECORD",
    f"{INFO}/vllm-builder.json",
    "a",
    "A",
    "a/b",
    "é",
    "d/",
    "x.so",
]


def one(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    raw = provider.ConsumeBool()
    _PATH.write_bytes(data[1:] if raw else _written(provider))
    read_all(_PATH)


def _written(provider: atheris.FuzzedDataProvider) -> bytes:
    entries = []
    for number in range(provider.ConsumeIntInRange(1, 8)):
        name = _NAMES[number] if number < 3 else provider.PickValueInList(_NAMES)
        text = {0: METADATA, 1: WHEEL}.get(number, "").encode()
        data = (
            text
            if text and provider.ConsumeBool()
            else provider.ConsumeBytes(provider.ConsumeIntInRange(0, 200))
        )
        entry = Entry(name, data, method=provider.PickValueInList([0, 8, 8, 8]))
        if provider.ConsumeBool():
            _lie(provider, entry)
        entries.append(entry)
    return zip_bytes(
        entries,
        zip64=provider.ConsumeBool(),
        comment=provider.ConsumeBytes(provider.ConsumeIntInRange(0, 30)),
    )


def _lie(provider: atheris.FuzzedDataProvider, entry: Entry) -> None:
    number = provider.ConsumeIntInRange(0, 1 << 32)
    match provider.ConsumeIntInRange(0, 9):
        case 0:
            entry.size = min(number, 0xFFFFFFFF)
        case 1:
            entry.compressed = min(number, 0xFFFFFFFF)
        case 2:
            entry.packed = provider.ConsumeBytes(100)
        case 3:
            entry.offset = number & 0xFFF
        case 4:
            entry.extra = provider.ConsumeBytes(40)
        case 5:
            entry.local_extra = provider.ConsumeBytes(40)
        case 6:
            entry.flags = number & 0xFFFF
        case 7:
            entry.mode = number & 0xFFFF
        case 8:
            entry.name = provider.ConsumeBytes(30)
        case 9:
            entry.flags, entry.after = 8, provider.ConsumeBytes(24)


def main() -> None:
    atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
    corpus = _FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(b"\1" + seed)
    (corpus / "written").write_bytes(bytes(400))
    atheris.Setup([*sys.argv, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
