"""Run a script of the tree where it can do no harm, and take over only what it may do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from vllm_builder.errors import PatchFailed
from vllm_builder.fs import os_errors
from vllm_builder.stages.patch import toml_edit
from vllm_builder.stages.patch.lines import content, hunks, split, text_of
from vllm_builder.stages.patch.operations import RunScript, Script
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.requirement_files import parse, requirement_name
from vllm_builder.stages.patch.toml_keys import split_key
from vllm_builder.stages.patch.tree import Overlay


def run(operation: RunScript, overlay: Overlay) -> Outcome:
    """Run the first script that exists in a copy of the files that it may touch, and compare.

    The edit is then made anew on the original bytes: only whole requirements with an allowed name that the
    script deleted (or began to delete) are removed. Nothing that the script wrote is copied back.
    """
    script = next((script for script in operation.scripts if overlay.exists(script.path)), None)
    if script is None:
        raise Missed(f"there is no {' and no '.join(item.path for item in operation.scripts)}", target=True)
    files = {name: overlay.get(name) or b"" for name in overlay.glob(operation.files)}
    results = _run(script, overlay.get(script.path) or b"", files, operation.timeout)

    outcome = Outcome(note=f"ran {' '.join((script.path, *script.arguments))}")
    added = 0
    for name, original in files.items():
        lines = split(original)
        found = hunks([content(line) for line in lines], [content(line) for line in split(results[name])])
        deleted = {index for hunk in found for index in range(hunk.start, hunk.stop)}
        added += sum(hunk.new_stop - hunk.new_start for hunk in found)
        if not deleted:
            continue
        if name.endswith(".toml"):
            _take_over_toml(operation, overlay, name, [lines[index] for index in deleted])
        else:
            _take_over_requirements(operation, overlay, name, deleted)
        now = overlay.get(name) or b""
        removed = {index for hunk in hunks(lines, split(now)) for index in range(hunk.start, hunk.stop)}
        if kept := [text_of(lines[index]) for index in sorted(deleted - removed) if lines[index].strip()]:
            outcome.put_back[name] = kept
        (outcome.changed if now != original else outcome.already).append(name)
    if not outcome.changed and not outcome.already:
        outcome.already.append(script.path)
    if added:
        outcome.note += f"; {added} lines that it wrote were not taken over"
    return outcome


def _take_over_requirements(operation: RunScript, overlay: Overlay, name: str, deleted: set[int]) -> None:
    parsed = parse(overlay.get(name) or b"", name)
    overlay.put(
        name,
        parsed.without(
            lambda entry: (
                entry.name in operation.names
                and any(index in deleted for index in range(entry.start, entry.stop))
            )
        ),
    )


def _take_over_toml(operation: RunScript, overlay: Overlay, name: str, deleted: list[bytes]) -> None:
    _, plain = toml_edit.read(overlay, name)
    text = b"".join(deleted).decode("utf-8", "surrogateescape")
    for key in operation.toml_keys:
        items = toml_edit.look_up(plain, split_key(key))
        gone = {
            requirement
            for item in (items if isinstance(items, list) else [])
            if isinstance(item, str)
            and item in text
            and (requirement := requirement_name(item)) in operation.names
        }
        if gone:
            toml_edit.remove_named(overlay, name, [key], {item for item in gone if item})


def _run(script: Script, source: bytes, files: dict[str, bytes], timeout: float) -> dict[str, bytes]:
    with (
        os_errors("running a script of the tree in a scratch folder"),
        tempfile.TemporaryDirectory(prefix="vllm-builder-script-") as folder,
    ):
        root = Path(folder)
        for name, data in {**files, script.path: source}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        # -I -S: neither the person's environment variables nor any site-packages reach the script.
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", script.path, *script.arguments]
        try:
            done = subprocess.run(
                command,
                cwd=root,
                env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PatchFailed(f"{script.path} did not end within {timeout:g} seconds.") from error
        if done.returncode != 0:
            raise PatchFailed(
                f"{script.path} failed with exit code {done.returncode}.",
                details=done.stderr.decode(errors="replace").splitlines()[-10:],
            )
        return {name: (root / name).read_bytes() if (root / name).is_file() else b"" for name in files}
