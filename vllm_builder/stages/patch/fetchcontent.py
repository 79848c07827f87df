"""FetchContent_Declare and FetchContent_Populate: their keywords, and pointing them at a folder of the tree.

A call that has SOURCE_DIR and no download method takes an existing folder as it is, in both commands, and
ends with an error where the folder is missing or empty. So it configures without a network and needs no
variable. What else a call says (BINARY_DIR, SOURCE_SUBDIR, CONFIGURE_COMMAND, ...) keeps its meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Final

from vllm_builder.stages.patch.cmake import Argument, CMakeFile, Command, Edit, spell
from vllm_builder.stages.patch.cmake_edit import blanks_before, files_of
from vllm_builder.stages.patch.operations import RepointFetchcontent
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.tree import Overlay

KEYWORDS: Final = frozenset(
    ("SOURCE_DIR", "BINARY_DIR", "SUBBUILD_DIR", "SOURCE_SUBDIR", "PREFIX", "TMP_DIR", "STAMP_DIR", "LOG_DIR",
     "DOWNLOAD_DIR", "URL", "URL_HASH", "URL_MD5", "DOWNLOAD_COMMAND", "DOWNLOAD_NAME", "DOWNLOAD_EXTRACT_TIMESTAMP",
     "DOWNLOAD_NO_EXTRACT", "DOWNLOAD_NO_PROGRESS", "GIT_REPOSITORY", "GIT_TAG", "GIT_REMOTE_NAME",
     "GIT_SUBMODULES", "GIT_SUBMODULES_RECURSE", "GIT_SHALLOW", "GIT_PROGRESS", "GIT_CONFIG",
     "GIT_REMOTE_UPDATE_STRATEGY", "SVN_REPOSITORY", "SVN_REVISION", "HG_REPOSITORY", "HG_TAG", "CVS_REPOSITORY",
     "CVS_MODULE", "CVS_TAG", "UPDATE_COMMAND", "UPDATE_DISCONNECTED", "PATCH_COMMAND", "CONFIGURE_COMMAND",
     "BUILD_COMMAND", "INSTALL_COMMAND", "TEST_COMMAND", "CMAKE_ARGS", "EXCLUDE_FROM_ALL", "SYSTEM", "QUIET",
     "OVERRIDE_FIND_PACKAGE", "FIND_PACKAGE_ARGS", "LOG_DOWNLOAD", "USES_TERMINAL_DOWNLOAD", "TIMEOUT",
     "INACTIVITY_TIMEOUT", "TLS_VERIFY", "HTTP_HEADER")
)  # fmt: skip
"""The keywords of FetchContent_Declare and ExternalProject_Add that can stand in these calls."""
_DOWNLOADS: Final = ("GIT_", "URL", "SVN_", "HG_", "CVS_", "DOWNLOAD_COMMAND")


def keyword_groups(arguments: Sequence[Argument]) -> dict[str, range]:
    """Which arguments make a keyword and its values: ``NAME GIT_TAG v1`` -> ``{"GIT_TAG": range(1, 3)}``."""
    starts = [
        place
        for place, argument in enumerate(arguments)
        if place and not argument.quoted and argument.value in KEYWORDS
    ]
    return {arguments[start].value: range(start, stop) for start, stop in pairwise([*starts, len(arguments)])}


def downloads(keyword: str) -> bool:
    """Whether a keyword belongs to a download."""
    return keyword.startswith(_DOWNLOADS)


def local_folder(command: Command) -> str | None:
    """The variable that a declaration takes a local folder from, where it downloads nothing."""
    groups = keyword_groups(command.arguments)
    folder = groups.get("SOURCE_DIR", range(0))
    if len(folder) < 2 or any(map(downloads, groups)):
        return None
    names = re.findall(r"\$(?:ENV)?\{(\w+)\}", command.arguments[folder[1]].value)
    return names[0] if names else None


def repoint(operation: RepointFetchcontent, overlay: Overlay) -> Outcome:
    """Replace what the calls download by a folder of the tree."""
    outcome = Outcome()
    for path, file in files_of(overlay, operation.files):
        edits: list[Edit] = []
        found = False
        for command in _calls(file):
            name = command.arguments[0].value
            if not fnmatchcase(name.lower(), operation.name.lower()):
                continue
            folder = spell(operation.source_dir.replace("{name}", name))
            groups = keyword_groups(command.arguments)
            if any(map(downloads, groups)):
                if operation.revision is None or operation.revision == _revision(command):
                    edits.extend(_edits(file.data, command, groups, folder))
            else:
                given = command.keyword("SOURCE_DIR")
                found = found or (given is not None and given.value == folder.strip('"'))
        if edits:
            overlay.put(path, file.edited(edits).data)
            outcome.changed.append(path)
        elif found:
            outcome.already.append(path)
    if not outcome.changed and not outcome.already:
        revision = f" at {operation.revision}" if operation.revision else ""
        raise Missed(f"no file in {', '.join(operation.files)} fetches {operation.name}{revision}")
    return outcome


def _calls(file: CMakeFile) -> Iterator[Command]:
    for name in ("FetchContent_Declare", "FetchContent_Populate"):
        yield from (command for command in file.commands(name) if len(command.arguments) > 1)


def _revision(command: Command) -> str | None:
    tag = command.keyword("GIT_TAG")
    return tag.value if tag else None


def _edits(data: bytes, command: Command, groups: dict[str, range], folder: str) -> Iterator[Edit]:
    """The call with a folder in place of everything that downloads."""
    arguments = command.arguments
    placed = "SOURCE_DIR" in groups
    if placed:
        group = groups["SOURCE_DIR"]
        yield Edit(arguments[group[0]].start, arguments[group[-1]].stop, f"SOURCE_DIR {folder}")
    for keyword, group in groups.items():
        if not downloads(keyword):
            continue
        start, stop = arguments[group[0]].start, arguments[group[-1]].stop
        if placed:
            yield Edit(*_whole_lines(data, start, stop), "")
        else:
            yield Edit(start, stop, f"SOURCE_DIR {folder}")
            placed = True


def _whole_lines(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """The lines that hold nothing else, or the range with the blanks before it."""
    first = data.rfind(b"\n", 0, start) + 1
    end = data.find(b"\n", stop)
    if end >= 0 and not data[first:start].strip() and not data[stop:end].strip():
        return first, end + 1
    return blanks_before(data, start), stop
