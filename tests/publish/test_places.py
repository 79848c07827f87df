"""Where the pages of an upload server are looked for."""

from __future__ import annotations

import pytest
from pypi_simple import PYPI_SIMPLE_ENDPOINT
from twine.utils import DEFAULT_REPOSITORY, TEST_REPOSITORY

from vllm_builder.index.upload.simple import roots


def test_of_the_public_index() -> None:
    assert roots(DEFAULT_REPOSITORY) == (PYPI_SIMPLE_ENDPOINT,)
    assert roots(DEFAULT_REPOSITORY.rstrip("/")) == (PYPI_SIMPLE_ENDPOINT,)


def test_beside_the_address() -> None:
    assert TEST_REPOSITORY.replace("/legacy/", "/simple/") in roots(TEST_REPOSITORY)


@pytest.mark.parametrize("url", ["http://localhost:3141/team/dev", "http://localhost:3141/team/dev/"])
def test_below_the_address(url: str) -> None:
    assert roots(url) == ("http://localhost:3141/team/dev/+simple/", "http://localhost:3141/team/dev/simple/")


def test_what_is_said_counts() -> None:
    assert roots(DEFAULT_REPOSITORY, "http://localhost/simple") == ("http://localhost/simple/",)
