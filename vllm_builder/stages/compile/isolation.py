"""Compiling without any network (``--isolate``): whether the kernel allows it, and what to do where it does not.

The fence keeps a build from fetching anything unseen; it is none against a release that wants to get out (path
names of Unix sockets still reach servers on this machine). It does not change a wheel: what it keeps from being
built is an error, never a smaller wheel. So it is no part of the plan's digest.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from vllm_builder.errors import CompileFailed, ContradictionError, IsolationRefused
from vllm_builder.stages.compile import cutoff, diagnose
from vllm_builder.stages.compile.diagnose import Diagnosis

_SECONDS = 20


def isolated(command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` without a network."""
    return [sys.executable, "-I", "-S", "-B", cutoff.__file__, *command]


def refusal(*, root: Path = Path("/")) -> tuple[str, str] | None:
    """Really try it, in a child: None where it works, else why not, and the cure.

    Args:
        root: where /proc is looked for, for the reason alone.
    """
    try:
        run = subprocess.run(isolated(()), capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Trying it failed: {error}.", "Check the Python that runs vllm-builder."
    if run.returncode == 0:
        return None
    try:
        said = json.loads(run.stdout)
        return reason(int(said["errno"]), str(said["step"]), root)
    except (ValueError, KeyError, TypeError):
        lines = run.stderr.strip().splitlines()
        return (
            f"Trying it failed: {lines[-1] if lines else run.returncode}.",
            "It needs Linux and a whole Python.",
        )


def reason(number: int, step: str, root: Path) -> tuple[str, str]:
    """Why the kernel refused, and the cure, as the switches of kernels, distributions and containers say."""

    def switch(name: str) -> str:
        try:
            return (root / "proc/sys" / name.replace(".", "/")).read_text().strip()
        except OSError:
            return ""

    for name, off, on in (
        ("user.max_user_namespaces", "0", "15000"),
        ("user.max_net_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        if switch(name) == off:
            return f"{name} is {off} on this machine.", f"Let an administrator run `sysctl -w {name}={on}`."
    if number == errno.ENOSPC:
        return (
            "The limit on namespaces is reached.",
            "Raise user.max_user_namespaces and user.max_net_namespaces.",
        )
    if number in {errno.EPERM, errno.EACCES}:
        return (
            f"The kernel does not permit it ({step}); in a container its seccomp or AppArmor profile is the reason.",
            "Start the container with --security-opt seccomp=unconfined (or a profile that allows unshare).",
        )
    if number in {errno.EINVAL, errno.ENOSYS}:
        return "This kernel has no user or network namespaces.", "Build on another machine."
    return f"{step}: {errno.errorcode.get(number, number)}.", "Build on another machine."


def require(compiler_cache: str, origin: str) -> None:
    """Make sure that a build can be isolated.

    Args:
        compiler_cache: of the build.
        origin: where the wish comes from.

    Raises:
        ContradictionError: with sccache.
        IsolationRefused
    """
    if compiler_cache == "sccache":
        raise ContradictionError(
            "--isolate and sccache exclude each other.",
            why="sccache hands every compiler to a server that lives on outside the build, and its network with it. "
            f"--isolate comes from: {origin}.",
            next="Choose --compiler-cache ccache (or off), or leave out --isolate.",
        )
    found = refusal()
    if found is not None:
        why, cure = found
        raise IsolationRefused(
            "A build without any network is not possible here.",
            why=f"{why} --isolate comes from: {origin}.",
            next=f"{cure} Or leave out --isolate: the build can then reach the network.",
        )


def explained(found: Diagnosis, log: Path, offset: int) -> Diagnosis:
    """A diagnosis that names the isolation where the failed step wanted to fetch something."""
    if found.kind not in ("configure", "compile"):
        return found
    lines: Iterable[str] = [*found.excerpt, found.error]
    if found.kind == "configure":
        lines = [*lines, *diagnose.read_from(log, offset)]
    wish = diagnose.fetching(lines)
    if wish is None:
        return found
    who, advice = wish
    cause = f"{found.cause} " if found.cause else ""
    return replace(
        found,
        cause=f"{cause}There is no network in this build (--isolate), and {who}.",
        next=f"{advice} Or leave out --isolate.",
    )


def refuse_losses(parts: Sequence[tuple[str, str, str]], log: Path, offset: int) -> None:
    """Refuse a wheel that lacks a part only because it could not be fetched.

    Args:
        parts: part, reason and level of what setup.py left out.
        log: the log, from byte ``offset`` on.

    Raises:
        CompileFailed
    """
    lost = [part for part, _, level in parts if level == "warning"]
    wish = diagnose.fetching(diagnose.read_from(log, offset)) if lost else None
    if wish is not None:
        who, advice = wish
        raise CompileFailed(
            f"Not built: {', '.join(lost)}.",
            why=f"There is no network in this build (--isolate), and {who}. With a network the wheel would hold it.",
            next=f"{advice} Or leave out --isolate. The whole log is {log}.",
        )
