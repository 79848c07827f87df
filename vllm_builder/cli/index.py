"""``vllm-builder index``: a wheel index that pip and uv resolve from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vllm_builder.cli.groups import LazyGroup

if TYPE_CHECKING:
    from vllm_builder.index.storage.base import Storage

F = TypeVar("F", bound=Callable[..., Any])

_LAZY = {
    "publish": ("vllm_builder.cli.index_publish", "publish"),
    "list": ("vllm_builder.cli.index_list", "list_"),
    "yank": ("vllm_builder.cli.index_change", "yank"),
    "unyank": ("vllm_builder.cli.index_change", "unyank"),
    "promote": ("vllm_builder.cli.index_change", "promote"),
    "prune": ("vllm_builder.cli.index_prune", "prune"),
    "check": ("vllm_builder.cli.index_check", "check"),
    "rebuild": ("vllm_builder.cli.index_check", "rebuild"),
    "serve": ("vllm_builder.cli.index_serve", "serve"),
}

to_option = click.option(
    "--to",
    required=True,
    metavar="FOLDER|s3://BUCKET/PREFIX",
    help="Where the index lies",
)


@click.group(cls=LazyGroup, lazy=_LAZY)
def index() -> None:
    """Publish wheels to an index that pip and uv resolve from, and keep it in order."""


def opened(to: str, *, create: bool = False) -> Storage:
    """See :func:`vllm_builder.index.opening.open_index`."""
    from vllm_builder.index.opening import open_index

    return open_index(to, create=create)
