"""Coverage-guided fuzzing of the readers of ELF files, fatbin containers, cubins and PTX.

    python tests/fuzz/fuzz_binary.py -runs=1000000              options are libFuzzer's
    python tests/fuzz/fuzz_binary.py -runs=1000000 FOLDER       keep what reaches new code, and go on from it

Whatever the input: nothing but WheelError comes out, within 5 seconds and 2 GiB. What is read makes sense: it lies in
the file and can be written as JSON. The first byte of an input chooses the reader. Seeds are small libraries that gcc
compiles on the spot, and containers as nvcc writes them. Needs the extra ``fuzz``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "binary"))
with atheris.instrument_imports(include=["vllm_builder.binary"]):
    from vllm_builder.binary import exports, kernels, read_fatbin, read_library
    from vllm_builder.binary.model import GpuCode, Unit
from vllm_builder.errors import WheelError

LIMITS = {"-timeout": "5", "-rss_limit_mb": "2048", "-max_len": "8192"}


def one(data: bytes) -> None:
    """Give one input to the reader that its first byte names."""
    kind, data = data[:1], data[1:]
    with suppress(WheelError):
        match kind:
            case b"E":
                library(data)
            case b"F":
                names(data, read_fatbin(data, name="x"))
            case b"C" | b"P":
                code = GpuCode(
                    kind="sass" if kind == b"C" else "ptx",
                    arch="9.0",
                    version=(1, 8),
                    offset=0,
                    stored=len(data),
                    size=len(data),
                )
                kernels(data, code)


def library(data: bytes) -> None:
    found = read_library(data, name="x")
    assert found.model_dump_json()
    assert all(size <= len(data) for size in found.sections.values()) or len(found.sections) > 1
    names_of_exports = exports(data)
    assert len({name for name in names_of_exports if "@" not in name}) <= found.exports
    names(data, found.units)


def names(data: bytes, units: tuple[Unit, ...]) -> None:
    for code in [code for unit in units for code in unit.codes][:8]:
        assert 0 <= code.offset <= code.offset + (code.block[0] or code.stored) <= len(data)
        kernels(data, code)


def seeds(folder: Path) -> None:
    """Small real inputs for every reader."""
    import lz4.block
    import zstandard
    from binary_helpers import compile_c, container, entry, library_with, parts

    ptx = (
        b".version 9.0\n// .entry no\n/* .entry no */ .visible .entry _Z1fv(\n.param .u64 p)\n{ ret; }\n" * 2
    )
    small = ("-nostartfiles", "-s", "-Wl,-z,noseparate-code,-z,norelro,--build-id")
    source = '#include <math.h>\n#include <stdio.h>\nint f(int x) { return printf("%f", pow(x, 2.5)); }\n'
    plain = compile_c(
        folder, source + "void *PyInit_x(void) { return 0; }", *small, "-lm", "-Wl,-rpath,/a:/b"
    )
    (folder / "map").write_text("V1 { global: f; local: *; };")
    versioned = compile_c(folder, source, *small, f"-Wl,--version-script={folder / 'map'}", name="v.so")
    cubin = bytearray(versioned.read_bytes())
    cubin[18] = 190  # of a machine that a cubin has
    raw = entry(bytes(ptx), kind=1, version=(9, 0), extra=bytes(16))
    packed = entry(zstandard.compress(ptx), kind=1, flags=0x108011, raw=len(ptx))
    fast = entry(lz4.block.compress(bytes(cubin), store_size=False), flags=0x1002011, sm=100, raw=len(cubin))
    both = entry(zstandard.compress(bytes(400)), kind=256, sm=0, flags=0x8011, raw=400,
                 extra=parts((0, 100, 80, 17), (100, 300, 90, 0x100011)))  # fmt: skip
    inputs = {
        "plain": b"E" + plain.read_bytes(),
        "versioned": b"E" + versioned.read_bytes(),
        "gpu": b"E" + library_with(folder, container(raw, packed)).read_bytes(),
        "fatbin": b"F" + container(raw, fast, packed) + bytes(8) + container(both),
        "cubin": b"C" + bytes(cubin),
        "ptx": b"P" + ptx,
    }
    (folder / "seeds").mkdir()
    for name, data in inputs.items():
        (folder / "seeds" / name).write_bytes(data)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    seeds(folder)
    start = Path.cwd()
    os.chdir(folder)  # where libFuzzer writes an input that breaks something
    own = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    kept = [str(start / a) for a in sys.argv[1:] if not a.startswith("-")]
    limits = [f"{k}={v}" for k, v in LIMITS.items() if not any(a.startswith(f"{k}=") for a in own)]
    atheris.Setup([sys.argv[0], *limits, *own, *kept, str(folder / "seeds")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
