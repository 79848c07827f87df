"""The rules of the page are those of the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from browser_helpers import Opener
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.version import Version

from vllm_builder.architectures import can_run, runs_binary
from vllm_builder.index.landing import data

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def rules(opened: Opener, url: str) -> Page:
    return opened(url)


def test_the_same_code_runs_on_the_same_gpu(rules: Page) -> None:
    numbers = ["7.0", "7.5", "8.0", "8.6", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"]
    codes = [n + suffix + ptx for n in numbers for suffix in ("", "a", "f") for ptx in ("", "+PTX")]
    gpus = [one["capability"] for one in data.gpus()]
    found = rules.evaluate(
        "([codes, gpus]) => codes.map(code => gpus.map(gpu => vllmIndex.rules.answer([code], gpu)))",
        [codes, gpus],
    )
    for code, answers in zip(codes, found, strict=True):
        for gpu, answer in zip(gpus, answers, strict=True):
            native = runs_binary(code.partition("+")[0], gpu)
            assert answer == ("native" if native else "jit" if can_run(code, gpu) else "dead"), (code, gpu)


numbers = st.integers(0, 10**14) | st.integers(0, 3)
versions = st.builds(
    lambda epoch, release, pre, post, dev, local: (
        f"{epoch}" + ".".join(map(str, release)) + pre + post + dev + local
    ),
    st.sampled_from(["", "1!"]),
    st.lists(numbers, min_size=1, max_size=4),
    st.one_of(st.just(""), st.builds("{}{}".format, st.sampled_from(["a", "b", "rc"]), numbers)),
    st.one_of(st.just(""), st.builds(".post{}".format, numbers)),
    st.one_of(st.just(""), st.builds(".dev{}".format, numbers)),
    st.one_of(st.just(""), st.builds("+{}".format, st.lists(st.sampled_from(["cu130", "cu9", "g1", "1", "12", "a", "ab"]),
                                                           min_size=1, max_size=3).map(".".join))),
).map(lambda text: str(Version(text)))  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(versions, min_size=20, max_size=60))
def test_the_same_version_is_the_newer_one(rules: Page, given_versions: list[str]) -> None:
    keys = rules.evaluate("all => all.map(vllmIndex.rules.sortKey)", given_versions)
    by_key = [v for _, v in sorted(zip(keys, given_versions, strict=True), key=lambda pair: pair[0])]
    assert [Version(v) for v in by_key] == sorted(map(Version, given_versions))
