"""Edits of INI-style files (setup.cfg)."""

from __future__ import annotations

from collections.abc import Sequence
from configparser import Error as ConfigError
from typing import TYPE_CHECKING

from vllm_builder.errors import PatchFailed
from vllm_builder.stages.patch.lines import carry_over
from vllm_builder.stages.patch.operations import SetCfgKey
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.tree import Overlay

if TYPE_CHECKING:
    from configupdater import ConfigUpdater


def set_key(operation: SetCfgKey, overlay: Overlay) -> Outcome:
    """Set a key; section and file are made where they are missing and ``create`` allows it."""
    from configupdater import ConfigUpdater

    path, section, key = operation.file, operation.section, operation.key
    data = overlay.get(path)
    if data is None and not operation.create:
        raise Missed(f"there is no {path}", target=True)
    original = data or b""
    text = original.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    document = ConfigUpdater()
    try:
        document.read_string(text)
        there = document.has_option(section, key)
        if there and document.get(section, key).value == operation.value:
            return Outcome(already=[path])
        if not there and not operation.create:
            raise Missed(f"{path} has no {key} in [{section}]")
        if text and not text.endswith("\n"):
            # ConfigUpdater would write a new key or section behind the last line instead of below it.
            document = ConfigUpdater()
            document.read_string(text + "\n")
        if not document.has_section(section):
            document.add_section(section)
        edited = _with_value(document, operation) if there else _with_new_key(document, operation)
    except ConfigError as error:
        raise PatchFailed(f"{path} cannot be read.", why=str(error)) from error
    overlay.put(path, carry_over(original, edited))
    return Outcome(changed=[path])


def _with_new_key(document: ConfigUpdater, operation: SetCfgKey) -> str:
    document.set(operation.section, operation.key, operation.value)
    return str(document)


def _with_value(document: ConfigUpdater, operation: SetCfgKey) -> str:
    """The text with another value for a key that is there.

    ConfigUpdater takes indented comments below a key for a part of its value and would drop them.
    """
    section = document[operation.section]
    old = str(section[operation.key])
    comments = [line for line in old.splitlines(keepends=True)[1:] if line.lstrip()[:1] in ("#", ";")]
    document.set(operation.section, operation.key, operation.value)
    new = str(section[operation.key])
    text = str(document)
    place = sum(len(str(block)) for block in _before(document, operation.section)) + str(section).index(
        f"\n{new}"
    )
    return f"{text[: place + 1]}{new}{''.join(comments)}{text[place + 1 + len(new) :]}"


def _before(document: ConfigUpdater, name: str) -> Sequence[object]:
    """The blocks before a section."""
    blocks = list(document.iter_blocks())
    return blocks[: next(i for i, block in enumerate(blocks) if getattr(block, "name", None) == name)]
