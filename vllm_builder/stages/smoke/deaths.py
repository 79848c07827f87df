"""Why a program of the wheel's environment did not come to its end, and why an extension did not load, in words."""

from __future__ import annotations

import re
import signal
from pathlib import Path

_CPU_VARIANTS = (
    ("avx2", "AVX2"),
    ("avx512f", "AVX-512"),
    ("avx512_bf16", "AVX-512 BF16"),
    ("amx_tile", "AMX"),
)
"""Flags of /proc/cpuinfo that vLLM's CPU build has variants for (cmake/cpu_extension.cmake), least first."""

_CAUSES = {
    signal.SIGSEGV: (
        "it read or wrote memory that is not its own; of an import that otherwise means another torch or another Python "
        "than it was compiled for",
        "Compile it against the torch that is installed here (--torch), or give --torch the one it was compiled for.",
    ),
    signal.SIGABRT: (
        "it gave up by itself: a C++ exception that nobody caught, or an assertion",
        "See the last lines.",
    ),
    signal.SIGBUS: (
        "a file that is mapped into memory is shorter than it should be: a full disk, or a damaged library",
        "Look at the free space, and at the wheel with `vllm-builder verify`.",
    ),
    signal.SIGFPE: ("a division by zero or the like", "See the last lines."),
    signal.SIGKILL: (
        "it was killed from outside, in all likelihood for memory",
        "Free memory, and try again.",
    ),
}


def processor_flags(root: Path = Path("/")) -> frozenset[str]:
    """What the processor can do, as /proc/cpuinfo spells it; empty where it does not say."""
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.M)
    return frozenset(match[1].split()) if match else frozenset()


def explain_signal(number: int, flags: frozenset[str]) -> tuple[str, str]:
    """What a signal means, with its likely cause, and what to do."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}", "See the last lines."
    if number == signal.SIGILL:
        lacking = [said for flag, said in _CPU_VARIANTS if flag not in flags] if flags else []
        have = f" (this one has no {', no '.join(lacking)})" if lacking else ""
        return (
            f"{name}: it uses an instruction that this processor does not have{have}",
            "Build it without, for a CPU wheel with `--recipe cpu` (AVX2) and never on a newer processor with "
            "--recipe none; or use it on a processor that has them.",
        )
    cause, cure = _CAUSES.get(signal.Signals(number), ("", "See the last lines."))
    return (f"{name}: {cause}" if cause else name), cure


_DRIVER = re.compile(r"(libcuda\.so(?:\.\d+)?|libnvidia-ml\.so(?:\.\d+)?): cannot open shared object file")
_LIBRARY = re.compile(r"(\S+?\.so[\w.]*): cannot open shared object file")
_SYMBOL = re.compile(r"undefined symbol: (\w+)(?:, version (\S+))?")
_VERSION = re.compile(r"version [`'](\w+?_[\d.]+)' not found")


def needs_driver(error: str) -> str | None:
    """The library of the NVIDIA driver that an import lacked, if that was the reason."""
    match = _DRIVER.search(error)
    return match[1] if match else None


def explain_import(error: str, torch: str) -> tuple[str, str]:
    """Why the loader refused a library, and what to do.

    Args:
        error: what Python said.
        torch: the installed version.
    """
    if match := _SYMBOL.search(error):
        return (
            f"undefined symbol: {match[1]}. No library that it is linked to has it"
            + (f"; installed is torch {torch}" if torch else ""),
            "Give --torch the version that it was compiled against; `vllm-builder verify` names what lacks.",
        )
    if match := _VERSION.search(error):
        return (
            f"it wants {match[1]}, and this machine's library is older",
            "Use a newer system, or build the wheel on an older one (`verify --max-glibc`).",
        )
    if match := _LIBRARY.search(error):
        cure = f"Install the package that holds {match[1]}"
        if match[1].startswith("libcud") or match[1].startswith("libnv"):
            cure = "Install a torch for the CUDA that the wheel was compiled for (--torch)"
        elif match[1].startswith(("libtorch", "libc10")):
            cure = "The wheel is linked to a part of torch that this build of it does not have; build it against this one"
        return f"{match[1]} is not on this machine", f"{cure}."
    return error, "See the last lines."
