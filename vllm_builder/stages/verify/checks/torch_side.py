"""Do the wheel's libraries and torch go together, apart from single symbols?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.version import InvalidVersion, Version

from vllm_builder.stages.verify.model import Finding
from vllm_builder.stages.verify.subject import Part, Subject
from vllm_builder.stages.verify.torch_abi import added_after, cxx_symbols, oldest_torch, stable_symbols


def stable_torch(subject: Subject) -> Iterator[Finding]:
    """Functions of torch's stable ABI that the torch in question does not have yet."""
    torch = _torch_version(subject)
    if not torch:
        return
    build = subject.surroundings.torch
    for part in subject.parts:
        functions = stable_symbols(s.name for s in part.library.imports if not s.weak)
        if not functions:
            continue
        late = [
            name for name in added_after(functions, torch) if build is None or name not in build.all_names
        ]
        if late:
            yield Finding(
                check="stable-abi",
                severity="error",
                what=f"{part.short} needs torch {oldest_torch(functions)} or later, and torch is {torch}: "
                f"{', '.join(late[:5])}{f' and {len(late) - 5} more' if len(late) > 5 else ''}.",
                where=part.name,
                why="It uses functions of torch's stable ABI that came later; importing it fails with 'undefined symbol'.",
                cure=f"Use torch {oldest_torch(functions)} or later, or build against torch {torch} "
                "(TORCH_TARGET_VERSION).",
            )


def cuda_runtime(subject: Subject) -> Iterator[Finding]:
    """The CUDA runtime that is needed must be of torch's CUDA major version."""
    build = subject.surroundings.torch
    cuda = build.cuda if build is not None else _cuda_of(subject)
    if not cuda:
        return
    major = cuda.split(".")[0]
    others: dict[tuple[str, bool], list[Part]] = {}
    for part in subject.parts:
        found = part.module.cuda_runtime
        if found.isdigit() and found != major:
            # What Python does not import is loaded by code that may choose (bitsandbytes has a library for each CUDA).
            others.setdefault((found, part.module.abi3 is not None), []).append(part)
    for (found, imported), parts in others.items():
        yield Finding(
            check="cuda-runtime",
            severity="error" if imported else "warning",
            what=f"{', '.join(part.short for part in parts)}: libcudart.so.{found} is needed, and "
            f"torch{_named(build)} is for "
            f"CUDA {cuda}.",
            where=", ".join(part.name for part in parts),
            why="Two CUDA runtimes in one process do not share streams and memory; mostly the other "
            "one is not there at all.",
            cure=f"Build with a toolkit of CUDA {major}, or use a torch for CUDA {found}.",
        )


def needs_torch_cxx(subject: Subject) -> bool:
    """Whether any library wants something of torch."""
    return any(
        cxx_symbols(names) or stable_symbols(names)
        for names in ([s.name for s in part.library.imports] for part in subject.parts)
    )


def _torch_version(subject: Subject) -> str:
    build = subject.surroundings.torch
    text = build.version if build is not None else subject.expected.torch
    try:
        return str(Version(text)) if text else ""
    except InvalidVersion:
        return ""


def _cuda_of(subject: Subject) -> str:
    """CUDA's version by the build tag of the torch that is expected; else that of the toolkit."""
    match = re.search(r"\+cu(\d{3})\b", subject.expected.torch)
    return f"{match[1][:-1]}.{match[1][-1]}" if match else subject.expected.cuda


def _named(build: object) -> str:
    version = getattr(build, "version", "")
    return f" {version}" if version else ""
