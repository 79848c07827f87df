"""``python -I -S -B __main__.py NVCC ARGUMENT...``: see the package."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __package__ in {None, ""}:
    # Started by path, with the standard library alone; behind which vllm-builder is looked for.
    sys.path.append(str(Path(__file__).resolve().parents[4]))

from vllm_builder.stages.compile.passes.kept import Kept
from vllm_builder.stages.compile.passes.reading import Failed, Unfamiliar, read
from vllm_builder.stages.compile.passes.unit import Unit

_PLAIN = re.compile(
    r"-(rdc|dc|dw|dlto|G|g|ggdb.*|g[0-9]|lineinfo|M|MM|keep|ptx|cubin|fatbin|cuda|E|run|link|lib|gen-opt-lto)(=.*)?|"
    r"--(relocatable-device-code|device-c|device-w|device-debug|debug|generate-line-info|keep|dryrun|.*dependencies)(=.*)?"
)


def _threads(arguments: Sequence[str]) -> int:
    for at, word in enumerate(arguments):
        name, _, value = word.partition("=")
        if name in {"-t", "--threads", "-threads"}:
            value = value or "".join(arguments[at + 1 : at + 2])
            return max(1, int(value)) if value.isdigit() and int(value) else os.cpu_count() or 1
    return 1


def compile_unit(command: list[str], kept: Kept, tree: str) -> None:
    """Compile as ``command``, nvcc with arguments, would.

    Raises:
        Unfamiliar, Failed: it is to be left to nvcc, or failed.
    """
    if "-c" not in command or any(map(_PLAIN.fullmatch, command)):
        raise Unfamiliar("not a plain compilation")
    dry = subprocess.run([*command, "--dryrun"], capture_output=True, text=True, check=False)
    if dry.returncode:
        raise Failed("nvcc")
    passes = read(dry.stderr, os.environ)
    if any(re.match(r"-g(?!nu|cc|c)", word) for word in passes.host):
        raise Unfamiliar("debug information")
    with tempfile.TemporaryDirectory(prefix="passes-") as room:
        Unit(passes, kept, Path(room), tree).compile(command, _threads(command))


def main(command: list[str]) -> int:
    folder, log = os.environ.get("VLLM_BUILDER_PASSES"), os.environ.get("VLLM_BUILDER_PASSES_LOG")
    if not folder or os.path.basename(command[0]) != "nvcc":  # noqa: PTH119
        os.execvp(command[0], command)
    kept = Kept(Path(folder))
    left, number, said = "", 0, b""
    try:
        compile_unit(command, kept, os.environ.get("VLLM_BUILDER_PASSES_TREE", ""))
    except Failed as failed:
        left, number, said = f"failed: {failed}", failed.number, failed.said
    except (Unfamiliar, OSError, ValueError, IndexError, KeyError) as error:
        left = f"{type(error).__name__}: {error}"
    if log:
        line = {"left": left, "hits": kept.hits, "misses": kept.misses, "made": kept.made}
        with contextlib.suppress(OSError), open(log, "a") as file:  # noqa: PTH123
            file.write(json.dumps(line) + "\n")
    if number:
        sys.stderr.buffer.write(said)
        # In nvcc's words. It would only be killed once more.
        print(f"nvcc error   : '{left[8:]}' died due to signal {number}", file=sys.stderr)
        return number
    if left:
        os.execvp(command[0], command)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
