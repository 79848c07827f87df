"""What setup.py asks torch for, asked once of each build environment: see :mod:`.lighttorch`, which answers with it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from vllm_builder.memo import Memo
from vllm_builder.stages.native.lighttorch import ANSWERED

if TYPE_CHECKING:
    from vllm_builder.cache import Cache
    from vllm_builder.stages.environment.model import Environment

NAMES: Final = ("CUDA_HOME", "ROCM_HOME")
"""All that setup.py of 0.6.0 to 0.33.0 takes from ``torch.utils.cpp_extension``."""
_VARIABLES: Final = ("CUDA_HOME", "CUDA_PATH", "ROCM_HOME", "ROCM_PATH", "HIP_PATH", "PATH")
"""On which its answers depend."""
_FILES: Final = ("__init__.py", "version.py", "utils/cpp_extension.py")
_PATIENCE: Final = 120.0
_ASK: Final = f"""
import json, {ANSWERED} as found
print(json.dumps({{name: getattr(found, name) for name in {NAMES!r} if hasattr(found, name)}}))
"""


def torch_facts(
    cache: Cache, environment: Environment, variables: Mapping[str, str]
) -> dict[str, str | None] | None:
    """The real torch's values of :data:`NAMES`: remembered, or asked for (which loads it, once for an environment).

    Args:
        variables: as setup.py is given them.

    Returns:
        None where it does not answer; then setup.py has to do with torch itself.
    """
    question = _question(environment, variables)
    if question is None:
        return None
    memo = Memo(cache.memo, "torch")
    known = memo.get(question)
    if _is_answer(known):
        return known
    answer = _ask(environment, variables)
    if answer is not None:
        memo.put(question, answer)
    return answer


def _question(environment: Environment, variables: Mapping[str, str]) -> dict[str, Any] | None:
    """The torch that this environment imports, as its files are now, and the variables; None without one."""
    for folder in environment.site_packages:
        if (folder / "torch" / "__init__.py").is_file():
            files: dict[str, list[int] | None] = {}
            for name in _FILES:
                path = folder / "torch" / name
                try:
                    stat = path.stat()
                except OSError:
                    files[str(path)] = None
                else:
                    files[str(path)] = [stat.st_size, stat.st_mtime_ns]
            told = {name: variables[name] for name in _VARIABLES if name in variables}
            return {"python": str(environment.python), "files": files, "variables": told, "names": NAMES}
    return None


def _ask(environment: Environment, variables: Mapping[str, str]) -> dict[str, str | None] | None:
    command = [str(environment.python), "-I", "-c", _ASK]
    try:
        run = subprocess.run(
            command,
            env=dict(variables),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
        answer = json.loads(run.stdout.strip().rpartition("\n")[2]) if run.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return answer if _is_answer(answer) else None


def _is_answer(answer: object) -> TypeGuard[dict[str, str | None]]:
    return isinstance(answer, dict) and all(
        value is None or isinstance(value, str) for value in answer.values()
    )
