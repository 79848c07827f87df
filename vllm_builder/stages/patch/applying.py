"""Apply a selection to a tree: all of it or nothing."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vllm_builder.errors import BuilderError, PatchFailed, PatchMiss
from vllm_builder.events import Emit, Note, StageFinished, StageStarted, ignore
from vllm_builder.model import digest
from vllm_builder.stages.patch import (
    cfg_edit,
    cmake_edit,
    cxx_edit,
    fetchcontent,
    journal,
    python_edit,
    requirement_files,
    script,
    text_edit,
    toml_edit,
    unified,
)
from vllm_builder.stages.patch.cmake import CMakeFile
from vllm_builder.stages.patch.lines import hunks, split, text_of
from vllm_builder.stages.patch.operations import PatchSelection, Step
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.report import Entry, PatchReport
from vllm_builder.stages.patch.tree import Overlay

_HANDLERS: dict[str, Callable[[Any, Overlay], Outcome]] = {
    "remove_requirements": lambda operation, overlay: requirement_files.remove(
        overlay, operation.files, operation.names
    ),
    "remove_toml_requirements": toml_edit.remove_requirements,
    "remove_toml_items": toml_edit.remove_items,
    "set_toml_key": toml_edit.set_key,
    "rename_toml_key": toml_edit.rename_key,
    "delete_toml_key": toml_edit.delete_key,
    "set_cfg_key": cfg_edit.set_key,
    "set_cmake_variable": cmake_edit.set_variable,
    "remove_cmake_argument": cmake_edit.remove_argument,
    "repoint_fetchcontent": fetchcontent.repoint,
    "insert_cmake_command": cmake_edit.insert_command,
    "replace_cxx_names": cxx_edit.replace_names,
    "leave_out_extension": python_edit.leave_out,
    "create_file": text_edit.create,
    "replace_text": text_edit.replace,
    "unified_diff": unified.apply,
    "run_script": script.run,
}
_RECORD = TypeAdapter(dict[str, tuple[Entry, ...]])


def apply(selection: PatchSelection, tree: Path, *, check: bool = False, emit: Emit = ignore) -> PatchReport:
    """Apply all operations in order.

    Nothing is written before every operation has succeeded and every changed TOML and CMake file has been
    parsed again; a write that fails undoes the ones before it, and so does the next call after a crash. What
    was applied is remembered in the tree (``.vllm-builder-patches.json``), so that a second application
    changes nothing.

    Args:
        selection: see :func:`vllm_builder.stages.patch.select`.
        tree: the root of a source tree.
        check: find out what would change; write nothing.
        emit: where events go.

    Raises:
        PatchMiss: a required operation found nothing to change.
        PatchFailed: a file cannot be read or parsed, leads out of the tree, or would be broken.
        NoSpace, NotWritable, BuilderError: writing failed.
    """
    started = time.monotonic()
    emit(StageStarted(stage="patch", title="Patch" if not check else "Patch (check only)"))
    root = _root(tree)
    if not check:
        journal.clean(root)
    unfinished = journal.pending(root)
    if unfinished is not None and not check:
        journal.roll_back(root, unfinished)
        emit(_note("An earlier application was broken off while writing; it was undone first.", warn=True))
    overlay = Overlay(root, unfinished if check else None)
    record = _read_record(overlay)
    entries: list[Entry] = []
    for step in selection.steps:
        key = digest(step.operation)
        found = _apply(step, overlay, record.get(key))
        entries.extend(found)
        if any(entry.status == "changed" for entry in found):
            record[key] = tuple(found)
        _tell(step, found, emit)
    changes = overlay.changes()
    for path, (before, after) in changes.items():
        _must_parse(path, before, after)
    if changes:
        recorded = {key: [entry.model_dump(mode="json") for entry in record[key]] for key in record}
        overlay.put(journal.RECORD, (json.dumps(recorded, indent=1, sort_keys=True) + "\n").encode())
        if not check:
            journal.commit(overlay.root, overlay.changes())
    report = PatchReport(entries=tuple(entries), rolled_back=unfinished is not None)
    report._files = changes
    summary = f"{len(changes)} files changed" if changes else "nothing to change"
    emit(StageFinished(stage="patch", seconds=time.monotonic() - started, summary=summary))
    return report


def _root(tree: Path) -> Path:
    if not tree.is_dir():
        raise PatchFailed(f"{tree} is not a folder.", next="Give the root of a vLLM source tree.")
    return tree.resolve()


def _apply(step: Step, overlay: Overlay, recorded: tuple[Entry, ...] | None) -> list[Entry]:
    operation = step.operation
    before = overlay.snapshot()

    def entry(status: str, file: str = "", **more: Any) -> Entry:
        return Entry.model_validate(
            {
                "set": step.set,
                "number": step.number,
                "action": operation.action,
                "file": file,
                "status": status,
            }
            | more
        )

    try:
        outcome = _HANDLERS[operation.action](operation, overlay)
    except Missed as miss:
        overlay.restore(before)
        if recorded is not None:
            return [old.model_copy(update={"status": "already"}) for old in recorded]
        if operation.miss == "optional":
            return [entry("skipped-optional", note=miss.reason)]
        if operation.miss == "already-done" and not miss.target:
            return [entry("already", note=miss.reason)]
        raise PatchMiss(
            f"Patch set {step.set}, operation {step.number} ({operation.action}), found nothing to change.",
            why=f"{miss.reason}. The tree was left as it was.",
            next='Correct the operation, limit it with releases = "...", or give it miss = "optional"; a set '
            "of the same name in a folder given with --patches takes the place of a shipped one, and "
            f"--without-patch {step.set} leaves it out.",
        ) from None
    except BuilderError as error:
        error.details = (
            *error.details,
            f"in patch set {step.set}, operation {step.number} ({operation.action})",
        )
        raise
    if not outcome.changed and recorded is not None:
        kept = {file: tuple(lines) for file, lines in outcome.put_back.items()}
        return [
            old.model_copy(update={"status": "already", "put_back": kept.get(old.file, old.put_back)})
            for old in recorded
        ]
    out = []
    for file in outcome.changed:
        was, now = split(before.get(file, overlay.original(file)) or b""), split(overlay.get(file) or b"")
        parts = hunks(was, now)
        out.append(
            entry(
                "changed",
                file,
                line=parts[0].start + 1 if parts else 0,
                before=tuple(text_of(line) for part in parts for line in was[part.start : part.stop]),
                after=tuple(text_of(line) for part in parts for line in now[part.new_start : part.new_stop]),
                put_back=tuple(outcome.put_back.get(file, ())),
                note=outcome.note,
            )
        )
    out.extend(
        entry("already", file, put_back=tuple(outcome.put_back.get(file, ())), note=outcome.note)
        for file in outcome.already
    )
    return out


def _read_record(overlay: Overlay) -> dict[str, tuple[Entry, ...]]:
    data = overlay.get(journal.RECORD)
    if data is None:
        return {}
    try:
        return _RECORD.validate_json(data)
    except ValidationError as error:
        raise PatchFailed(
            f"{journal.RECORD} in the tree cannot be read.",
            why=str(error).splitlines()[0],
            next="Take a fresh copy of the source, or remove that file if the tree was never patched.",
        ) from error


def _must_parse(path: str, before: bytes | None, after: bytes) -> None:
    name = PurePosixPath(path).name
    why: str | None = None
    if name.endswith(".toml"):
        try:
            tomllib.loads(after.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            why = str(error)
    elif name.endswith(".cmake") or name == "CMakeLists.txt":
        why = CMakeFile(after, path).error
        if why and before is not None and CMakeFile(before, path).error:
            why = None
    if why:
        raise PatchFailed(
            f"The patches would break {path}; the tree was left as it was.",
            why=why,
            next="Correct the operation that edits this file.",
        )


def _tell(step: Step, entries: list[Entry], emit: Emit) -> None:
    for entry in entries:
        if entry.put_back:
            count = len(entry.put_back)
            what = "line is" if count == 1 else "lines are"
            script_name = entry.note.removeprefix("ran ")
            emit(_note(f"{entry.file}: {count} {what} kept that {script_name} would have deleted."))
    if step.operation.note and any(entry.status == "changed" for entry in entries):
        emit(_note(step.operation.note, warn=True))


def _note(message: str, *, warn: bool = False) -> Note:
    return Note(stage="patch", message=message, level="warning" if warn else "info")
