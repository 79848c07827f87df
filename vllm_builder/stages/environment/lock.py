"""Resolving build requirements to exact versions, through uv and the person's own indexes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vllm_builder.errors import OfflineMissing, ResolutionError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.indexes import Indexes
from vllm_builder.memo import Memo
from vllm_builder.stages.environment.model import Interpreter


def resolve_lock(
    requirements: Sequence[str],
    interpreter: Interpreter,
    indexes: Indexes,
    *,
    environ: Mapping[str, str],
    memo: Memo,
    torch_backend: str = "",
    offline: bool = False,
    refresh: bool = False,
    emit: Emit = ignore,
) -> tuple[str, ...]:
    """Resolve to ``name==version`` lines, sorted.

    The answer is remembered per question until ``refresh``: the same command plans the same environment
    tomorrow, whatever was uploaded overnight.

    Raises:
        ResolutionError: uv's own explanation is in ``details``.
        OfflineMissing
    """
    question = [
        sorted(requirements),
        interpreter.version,
        interpreter.tag,
        # Without credentials: the answer is kept on disk.
        indexes.describe(),
        torch_backend,
    ]
    remembered = None if refresh else memo.get(question)
    if remembered is not None:
        return tuple(remembered)
    from vllm_builder.stages.environment.uv import run_uv

    emit(Note(stage="plan", message=f"Resolving {len(requirements)} build requirements", level="debug"))
    command = ["pip", "compile", "-", "--python", interpreter.path, "--quiet", "--no-header", "--no-annotate"]
    if torch_backend:
        command += ["--torch-backend", torch_backend]
    run = run_uv(
        command, environ=environ, indexes=indexes, offline=offline, stdin="\n".join(requirements) + "\n"
    )
    if run.returncode:
        details = [line for line in run.stderr.splitlines() if line.strip()][:25]
        if offline:
            raise OfflineMissing(
                "The build requirements were never resolved on this machine, and --offline forbids to ask.",
                why=f"Wanted: {', '.join(sorted(requirements))}.",
                next="Run the same `plan` once with network, or give --torch existing and indexes on this machine.",
                details=details,
            )
        raise ResolutionError(
            "The build requirements cannot be resolved.",
            why=f"Wanted: {', '.join(sorted(requirements))}; "
            f"Python {interpreter.version}; index {indexes.describe()}.",
            next="Choose another --torch, --torch-index or --python, or check pip's index settings.",
            details=details,
        )
    lock = tuple(
        sorted(
            line.split(";")[0].strip() for line in run.stdout.splitlines() if re.match(r"[A-Za-z0-9]", line)
        )
    )
    memo.put(question, list(lock))
    return lock


def locked_version(lock: Sequence[str], name: str) -> str | None:
    """The version that a lock gives to a package (canonical name), or None."""
    for line in lock:
        found, _, version = line.partition("==")
        if re.sub(r"[-_.]+", "-", found.strip()).lower() == name:
            return version.strip()
    return None
