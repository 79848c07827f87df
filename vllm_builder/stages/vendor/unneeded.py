"""Which folders of an external repository a build does not need. The facts are in ``unneeded.toml``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import Field

from vllm_builder.model import Model
from vllm_builder.stages.vendor.mirrors import repository_name

_TABLE: Final = Path(__file__).with_name("unneeded.toml")


class Unneeded(Model):
    """Of one repository."""

    repository: str
    never: tuple[str, ...] = ()
    unless_named: tuple[str, ...] = Field((), alias="unless-named")


class _Table(Model):
    unneeded: tuple[Unneeded, ...]


@cache
def table() -> tuple[Unneeded, ...]:
    return _Table.model_validate(tomllib.loads(_TABLE.read_text("utf-8"))).unneeded


def unneeded(url: str, mentions: Collection[str]) -> tuple[str, ...]:
    """Folders of a repository that are left out.

    Args:
        mentions: all words of the CMake code that may name one of them.
    """
    name = repository_name(url)
    found: set[str] = set()
    for one in table():
        if one.repository == name:
            found.update(one.never)
            found.update(folder for folder in one.unless_named if not _named(folder, mentions))
    return tuple(sorted(found))


def _named(folder: str, mentions: Collection[str]) -> bool:
    inside = re.compile(rf"(?:^|[/;\s]){re.escape(folder)}(?:[/;\s]|$)")
    return any(inside.search(text) for text in mentions)
