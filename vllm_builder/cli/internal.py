"""A fault of this program itself: what is said of it, and the report for whoever is to mend it."""

from __future__ import annotations

import os
import platform
import re
import tempfile
import traceback
from collections.abc import Sequence

from vllm_builder import __version__
from vllm_builder.errors import InternalError

TRACEBACK = "VLLM_BUILDER_TRACEBACK"
"""Set to anything but 0, it shows the traceback as well."""


def internal_error(error: BaseException, arguments: Sequence[str]) -> InternalError:
    """Write the report, and say where it is."""
    lines = traceback.format_exception(error)
    report = _without_secrets(
        f"vllm-builder {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"command: {' '.join(arguments)}\n\n{''.join(lines)}"
    )
    shown = os.environ.get(TRACEBACK, "0") != "0" or bool({"-v", "--verbose"} & set(arguments))
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({os.path.basename(last[0].filename)}:{last[0].lineno})" if last else ""  # noqa: PTH119
    try:
        handle, path = tempfile.mkstemp(prefix="vllm-builder-internal-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(report)
        kept = f"The report is in {path}."
    except OSError as problem:
        shown, kept = True, f"The report could not be written ({problem.strerror or problem})."
    what = _without_secrets(" ".join(str(error).split())[:300])
    return InternalError(
        "Internal error: vllm-builder did not expect this.",
        why=f"{type(error).__name__}: {what}{where}",
        next=f"{kept} Please report it with the command and, if you may, the source that it was about; a "
        f"different VERSION, recipe or option may do meanwhile. -v or {TRACEBACK}=1 shows the traceback.",
        details=report.splitlines() if shown else (),
    )


def _without_secrets(text: str) -> str:
    return re.sub(r"(\w://)[^/@\s'\"]+@", r"\1", text)
