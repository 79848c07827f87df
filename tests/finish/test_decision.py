"""What the plan tells the finish stage."""

from __future__ import annotations

import pytest

from vllm_builder.errors import SettingsError
from vllm_builder.settings.model import Device, PinTorch
from vllm_builder.stages.environment.model import Torch
from vllm_builder.stages.finish.model import EPOCH
from vllm_builder.stages.plan.finish import finish_spec


@pytest.mark.parametrize(
    ("choice", "device", "torch", "requirement"),
    [
        ("minor", "cpu", "2.9.1", "torch~=2.9.1"),
        ("minor", "cuda", "2.9.1+cu130", "torch~=2.9.1"),
        ("minor", "cpu", "2.13.0+cpu", "torch~=2.13.0"),
        ("exact", "cuda", "2.9.1+cu130", "torch==2.9.1"),
        ("none", "cuda", "2.9.1", ""),
        # The next of them may have another ABI.
        ("minor", "cuda", "2.14.0.dev20261101+cu130", "torch==2.14.0.dev20261101"),
        ("minor", "cpu", "2.10.0rc2", "torch==2.10.0rc2"),
        ("exact", "cpu", "2.10.0a0+gitdeadbee", "torch==2.10.0a0"),
        ("exact", "empty", "2.9.1", ""),
        ("minor", "empty", "2.9.1", ""),
    ],
)
def test_which_torch_is_required(choice: PinTorch, device: Device, torch: str, requirement: str) -> None:
    spec, _, why = finish_spec(choice, device, Torch(version=torch), {})
    assert spec.torch == requirement
    assert why


@pytest.mark.parametrize(
    ("text", "epoch"), [("1700000000", 1700000000), ("0", EPOCH), ("1", EPOCH), (None, EPOCH)]
)
def test_the_time_of_the_members(text: str | None, epoch: int) -> None:
    variables = {} if text is None else {"SOURCE_DATE_EPOCH": text}
    assert finish_spec("minor", "cpu", Torch(version="2.9.1"), variables)[0].epoch == epoch


@pytest.mark.parametrize("text", ["", "now", "-1", "1.5", "٣", "99999999999999999999"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        finish_spec("minor", "cpu", Torch(version="2.9.1"), {"SOURCE_DATE_EPOCH": text})
