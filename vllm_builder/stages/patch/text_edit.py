"""Edits of plain text: exact replacement, new files."""

from __future__ import annotations

from vllm_builder.errors import PatchFailed
from vllm_builder.stages.patch.operations import CreateFile, ReplaceText
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.tree import Overlay


def create(operation: CreateFile, overlay: Overlay) -> Outcome:
    wanted = operation.content.encode()
    present = overlay.get(operation.file)
    if present == wanted:
        return Outcome(already=[operation.file])
    if present is not None and not operation.overwrite:
        raise PatchFailed(
            f"{operation.file} exists with another content.",
            why="create_file does not overwrite.",
            next="Set overwrite = true in the operation, or edit the file with another action.",
        )
    overlay.put(operation.file, wanted)
    return Outcome(changed=[operation.file])


def replace(operation: ReplaceText, overlay: Overlay) -> Outcome:
    """Replace an exact text. In a file with CRLF ends, the ends of both texts are read as CRLF."""
    data = overlay.get(operation.file)
    if data is None:
        raise Missed(f"there is no {operation.file}", target=True)
    find, new = operation.find.encode(), operation.replace.encode()
    if b"\r\n" in data and b"\n" not in data.replace(b"\r\n", b""):
        find, new = find.replace(b"\n", b"\r\n"), new.replace(b"\n", b"\r\n")
    # Where the new text contains the old one, an occurrence inside the new text is done already.
    pieces = data.split(new) if find in new else [data]
    left = sum(piece.count(find) for piece in pieces)
    if left == operation.count:
        overlay.put(operation.file, new.join(piece.replace(find, new) for piece in pieces))
        return Outcome(changed=[operation.file])
    if left == 0 and len(pieces) - 1 == operation.count:
        return Outcome(already=[operation.file])
    raise Missed(f"the text stands {left} times in {operation.file} instead of {operation.count}")
