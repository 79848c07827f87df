"""Everything that can stop a run, in one place.

Each class is one kind of failure and has an exit code of its own, so that a script can tell a
missing compiler from a missing release. Each error carries three sentences: *what* happened, *why*,
and what to type *next*. The command line prints them; nothing else in the package prints.

The tens digit of a code follows the pipeline: 1x settings and plan, 2x source, 3x patch, 4x environment,
5x compile, 6x store, 7x the machine, 8x what a finished wheel is found to be, 9x publish.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class BuilderError(Exception):
    """Base of all expected failures.

    Args:
        what: one sentence that says what happened.
        why: the reason, where it is known.
        next: what the person can do or type now.
        details: further lines to show below (a compiler's output, the list of what is missing).
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", next: str = "", details: Iterable[str] = ()) -> None:  # noqa: A002
        super().__init__(what)
        self.what = what
        self.why = why
        self.next = next
        self.details = tuple(details)
        self.report = ""
        """The page about the build that it ended; empty where there is none."""

    def as_dict(self) -> dict[str, object]:
        report = {"report": self.report} if self.report else {}
        return report | {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "what": self.what,
            "why": self.why,
            "next": self.next,
            "details": list(self.details),
        }


def did_you_mean(word: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return ``" (did you mean a, b?)"`` for the nearest known words, or an empty string."""
    near = get_close_matches(word, list(known), n=most, cutoff=0.6)
    return f" (did you mean {', '.join(near)}?)" if near else ""


# 1x: settings, recipes and the plan ------------------------------------------------------------
class SettingsError(BuilderError):
    """An option, a variable or a key of a settings file has a name or a value that cannot be used."""

    exit_code = 10


class RecipeError(BuilderError):
    """A recipe does not exist or holds a key or value that cannot be used."""

    exit_code = 11


class ReleaseNotFound(BuilderError):
    """The release, tag, branch or commit does not exist where it was looked for."""

    exit_code = 12


class ArchError(BuilderError):
    """A GPU architecture is misspelt, unknown, or cannot be built for."""

    exit_code = 13


class ContradictionError(BuilderError):
    """Two choices exclude each other; ``why`` shows the chain."""

    exit_code = 14


# 2x: source -------------------------------------------------------------------------------------
class SourceError(BuilderError):
    """The source could not be obtained or is not a vLLM tree."""

    exit_code = 20


class HashMismatch(BuilderError):
    """A downloaded file is not the file that its index or lock names."""

    exit_code = 21


class HostileArchive(BuilderError):
    """An archive holds a member that would leave its folder, a device, or an absurd size."""

    exit_code = 22


class OfflineMissing(BuilderError):
    """``--offline`` was asked for and something is in no cache; ``details`` names every such thing."""

    exit_code = 23


class VendorError(BuilderError):
    """An external source of a release cannot be found, fetched or placed, or is in no lock."""

    exit_code = 24


class TreeChanged(BuilderError):
    """A tree in the workspace is no longer the one that was made for its plan; ``details`` names the files."""

    exit_code = 25


class BundleError(BuilderError):
    """A bundle is damaged, of an unknown format, or gives another plan on this machine."""

    exit_code = 26


# 3x: patch --------------------------------------------------------------------------------------
class PatchSetError(BuilderError):
    """A patch set file has an unknown key or action, or a value that cannot be used."""

    exit_code = 30


class PatchMiss(BuilderError):
    """A required operation found nothing to change; the tree was left as it was."""

    exit_code = 31


class PatchFailed(BuilderError):
    """A file of the tree could not be read or parsed, or an operation would break it."""

    exit_code = 32


# 4x: environment --------------------------------------------------------------------------------
class PythonNotFound(BuilderError):
    """No interpreter of the wanted version, or the given path is none."""

    exit_code = 40


class TorchMissing(BuilderError):
    """``--torch existing`` was asked for and that Python has no torch."""

    exit_code = 41


class ResolutionError(BuilderError):
    """The build requirements cannot be resolved against the configured indexes."""

    exit_code = 42


class InstallError(BuilderError):
    """The build environment could not be installed or is not what the plan names."""

    exit_code = 43


# 5x: compile ------------------------------------------------------------------------------------
class CompilerMissing(BuilderError):
    """No C++ compiler (or no nvcc) was found."""

    exit_code = 50


class CompilerTooOld(BuilderError):
    """The compiler is older than the release requires."""

    exit_code = 51


class ConfigureFailed(BuilderError):
    """CMake's configure step failed."""

    exit_code = 52


class CompileFailed(BuilderError):
    """A translation unit or a link step failed; ``details`` shows the first real error."""

    exit_code = 53


class CompilerKilled(BuilderError):
    """A compiler was killed from outside, in all likelihood for memory."""

    exit_code = 54


class WheelMismatch(BuilderError):
    """The wheel that came out is not the one that the plan describes."""

    exit_code = 55


# 6x: store --------------------------------------------------------------------------------------
class StoreError(BuilderError):
    """An entry of the store is damaged or does not exist."""

    exit_code = 60


class ReportMissing(BuilderError):
    """There is no build of that name that a report could be made of."""

    exit_code = 61


# 7x: the machine --------------------------------------------------------------------------------
class NoSpace(BuilderError):
    """The disk is full, or too full to begin."""

    exit_code = 70


class NotWritable(BuilderError):
    """A folder that has to be written to cannot be."""

    exit_code = 71


class Busy(BuilderError):
    """Another process holds the lock for longer than was allowed."""

    exit_code = 72


class IsolationRefused(BuilderError):
    """``--isolate`` was asked for, and the kernel does not allow a build without any network."""

    exit_code = 73


# 8x: proof --------------------------------------------------------------------------------------
class WheelError(BuilderError):
    """A wheel cannot be read: truncated, encrypted, hostile, or no wheel at all."""

    exit_code = 80

    def __init__(self, what: str, *, why: str = "", next: str = "", details: Iterable[str] = ()) -> None:  # noqa: A002
        again = "Fetch or build the wheel again; do not install this one."
        super().__init__(what, why=why, next=next or again, details=details)


class VerifyFailed(BuilderError):
    """A wheel is not what was asked for; ``details`` names each finding."""

    exit_code = 81


class VerifyWarned(BuilderError):
    """With ``--strict``: the wheel does what was asked for, with warnings."""

    exit_code = 82


class SmokeFailed(BuilderError):
    """A wheel that could be installed does not import, compute or serve."""

    exit_code = 83


# 9x: publish ------------------------------------------------------------------------------------
class IndexDamaged(BuilderError):
    """The manifest of an index is missing, damaged, or a newer vllm-builder wrote it."""

    exit_code = 90


class PublishRefused(BuilderError):
    """A wheel may not be published: it is not good, not what its name says, or another one has its name."""

    exit_code = 91


class StorageFailed(BuilderError):
    """The place of an index (a folder, an object store, a server) refuses or cannot be reached."""

    exit_code = 92


class NotInIndex(BuilderError):
    """No file of the index is the one that was named."""

    exit_code = 93


class CheckFailed(BuilderError):
    """``index check`` found something wrong."""

    exit_code = 94


class ProvenanceError(BuilderError):
    """A provenance statement or its signature is missing, wrong, or of another wheel; or a key cannot be used."""

    exit_code = 95


class InternalError(BuilderError):
    """A fault of vllm-builder itself; the report that it wrote says where."""

    exit_code = 99


class Interrupted(BuilderError):
    """The person pressed Ctrl-C or the process was told to end."""

    exit_code = 130


def from_os_error(error: OSError, doing: str) -> BuilderError:
    """Turn an operating-system error into the error class that names its cure.

    Args:
        error: what was raised.
        doing: what was being done, e.g. ``"writing the wheel to /x"``.
    """
    import errno
    import os

    where = f" ({error.filename})" if error.filename else ""
    if isinstance(error.filename, bytes):
        where = f" ({os.fsdecode(error.filename)})"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpace(
            f"No space left while {doing}{where}.",
            why=error.strerror or str(error),
            next="Free some space or point --workspace (or --cache-dir) at a larger disk, then run the same "
            "command again: finished work is kept.",
        )
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return NotWritable(
            f"Not allowed to write while {doing}{where}.",
            why=error.strerror or str(error),
            next="Choose a place that can be written to, with --workspace, --out or --cache-dir, or as the file that you "
            "name.",
        )
    return BuilderError(
        f"{error.strerror or error} while {doing}{where}.",
        why=str(error),
        next="Put that right or choose another place, then run the same command again.",
    )
