"""What the finish stage is told: torch among the requirements, and the time of the wheel's members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from packaging.version import Version

from vllm_builder.errors import SettingsError
from vllm_builder.settings.model import Device, PinTorch
from vllm_builder.stages.environment.model import Torch
from vllm_builder.stages.finish.model import EPOCH, FinishSpec

_LATEST: Final = 4354819198
"""2107-12-31 23:59:58, the last time that a zip archive can hold."""


def finish_spec(
    choice: PinTorch, device: Device, torch: Torch, variables: Mapping[str, str]
) -> tuple[FinishSpec, str, str]:
    """Decide, and say for a person what about torch and why.

    Raises:
        SettingsError: SOURCE_DATE_EPOCH is no time that a wheel can carry.
    """
    requirement, why = _requirement(choice, device, torch)
    spec = FinishSpec(torch=requirement, epoch=_epoch(variables.get("SOURCE_DATE_EPOCH")))
    return spec, requirement or "left as the release has it", why


def _requirement(choice: PinTorch, device: Device, torch: Torch) -> tuple[str, str]:
    if device == "empty":
        return "", "a wheel without compiled code fits every torch"
    if choice == "none":
        return "", "--pin-torch none"
    # A build tag is left out: an index gives the same torch with one or without, and `==` takes it literally.
    version = Version(torch.version)
    public = version.public
    if choice == "exact":
        return f"torch=={public}", "--pin-torch exact"
    if version.is_prerelease:
        return f"torch=={public}", f"{public} is no final release, and the next one may have another ABI"
    if len(version.release) < 2:
        return f"torch=={public}", f"{public} has no minor version"
    return f"torch~={public}", "the minor release of torch that it is compiled against"


def _epoch(text: str | None) -> int:
    if text is None:
        return EPOCH
    if not (text.isascii() and text.isdigit()) or int(text) > _LATEST:
        raise SettingsError(
            f"SOURCE_DATE_EPOCH is {text!r}, which is no time for a wheel.",
            why=f"It counts seconds since 1970, as a whole number up to {_LATEST} (a zip archive ends in 2107).",
            next="Unset it, or give for example `git log -1 --format=%ct`.",
        )
    return max(int(text), EPOCH)
