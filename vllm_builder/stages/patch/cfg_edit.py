"""Edits of INI-style files (setup.cfg)."""

from __future__ import annotations

from configparser import Error as ConfigError

from vllm_builder.errors import PatchFailed
from vllm_builder.stages.patch.lines import carry_over
from vllm_builder.stages.patch.operations import SetCfgKey
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.tree import Overlay


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
        document.set(section, key, operation.value)
        edited = str(document)
    except ConfigError as error:
        raise PatchFailed(f"{path} cannot be read.", why=str(error)) from error
    overlay.put(path, carry_over(original, edited))
    return Outcome(changed=[path])
