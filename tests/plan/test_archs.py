"""Architectures as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.errors import ArchError
from vllm_builder.stages.plan.archs import parse_arch, parse_archs
from vllm_builder.stages.plan.compatibility import compatibility


@pytest.mark.parametrize(
    ("text", "arch"),
    [
        ("sm_100", "10.0"),
        ("sm100", "10.0"),
        ("100", "10.0"),
        ("10.0", "10.0"),
        ("sm_100a", "10.0a"),
        ("10.0F", "10.0f"),
        ("SM_90A", "9.0a"),
        ("compute_70", "7.0"),
        ("70", "7.0"),
        ("12.1", "12.1"),
    ],
)
def test_spellings(text: str, arch: str) -> None:
    assert parse_arch(text) == arch


@pytest.mark.parametrize(
    "text", ["", "sm_", "b200", "sm_1000", "10", "5.5", "sm_100b", "10.0.0", "-1", "\uff19\uff10"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ArchError) as caught:
        parse_arch(text)
    assert "10.0" in caught.value.next + caught.value.why


@pytest.mark.parametrize("text", ["9.0+PTX", "sm_90+ptx", "9.0a+PTX"])
def test_ptx_is_refused_and_not_lost(text: str) -> None:
    with pytest.raises(ArchError, match="PTX") as caught:
        parse_arch(text)
    assert text.partition("+")[0] in caught.value.next


@pytest.mark.parametrize("text", ["sm_100,sm_90a", "10.0;9.0a", "9.0a 10.0", " sm_100, 90a ,"])
def test_several_in_one(text: str) -> None:
    assert parse_archs([text, "8.0"], {}) == ("8.0", "9.0a", "10.0")


@pytest.mark.parametrize("text", ["", " ", ",", "sm_100,b200"])
def test_several_of_which_one_is_none(text: str) -> None:
    with pytest.raises(ArchError):
        parse_archs([text], {})


@given(st.text(max_size=12))
def test_any_text_is_an_arch_or_a_clear_error(text: str) -> None:
    try:
        arch = parse_arch(text)
    except ArchError:
        return
    assert arch.rstrip("af") in compatibility().architectures


@given(st.lists(st.sampled_from(["7.0", "sm_80", "9.0a", "10.0f", "120"]), min_size=1))
def test_sorted_without_duplicates_and_stable(texts: list[str]) -> None:
    once = parse_archs(texts, {})
    assert parse_archs(reversed(texts), {}) == once
    assert len(set(once)) == len(once)
    assert parse_archs(once, {}) == once


def test_order_is_numeric() -> None:
    assert parse_archs(["12.0", "9.0", "10.0"], {}) == ("9.0", "10.0", "12.0")


def test_a_base_and_its_suffixed_form_exclude_each_other() -> None:
    with pytest.raises(ArchError, match=r"10\.0 and 10\.0a"):
        parse_archs(["sm_100", "sm_100a"], {})


def test_native_without_a_driver() -> None:
    with pytest.raises(ArchError, match="nvidia-smi"):
        parse_archs(["native"], {"PATH": "/nonexistent"})


@pytest.mark.parametrize("word", ["sm_80a", "7.5a", "90f", "8.9f"])
def test_a_suffix_that_nvcc_does_not_know_is_refused(word: str) -> None:
    with pytest.raises(ArchError, match="no GPU architecture") as caught:
        parse_arch(word)
    assert "suffix" in caught.value.why


def test_two_suffixed_forms_of_one_architecture_exclude_each_other() -> None:
    with pytest.raises(ArchError, match="exclude each other"):
        parse_archs(("10.0a", "sm_100f"), {})
    assert parse_archs(("10.0a", "12.0f"), {}) == ("10.0a", "12.0f")
