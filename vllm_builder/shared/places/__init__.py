"""Places where a shared cache can lie."""

from __future__ import annotations

from pathlib import Path

from vllm_builder.errors import SettingsError
from vllm_builder.shared.address import Address
from vllm_builder.shared.places.base import Place


def check_installed(address: Address) -> None:
    """
    Raises:
        SettingsError: the library that speaks to such a place is not installed.
    """
    import importlib.util

    needed, extra = {"redis": ("redis", "redis"), "objects": ("obstore", "objects")}.get(
        address.kind, ("requests", "")
    )
    if importlib.util.find_spec(needed) is None:
        raise SettingsError(
            f"The shared cache {address.shown} needs {needed}, which is not installed.",
            next=f"pip install 'vllm-builder[{extra}]'",
        )


def open_place(address: Address) -> Place:
    """Open a place; nothing is asked of it yet, but credentials may be looked up.

    Raises:
        Refused: there are no credentials for it, or its configuration cannot be used.
    """
    if address.kind == "folder":
        from vllm_builder.shared.places.folder import Folder

        return Folder(Path(address.url))
    if address.kind == "http":
        from vllm_builder.shared.places.web import Web

        return Web(address.url, address.username, address.password)
    if address.kind == "redis":
        from vllm_builder.shared.places.redisserver import Redis

        return Redis(address.url, address.username, address.password)
    from vllm_builder.shared.places.bucket import Bucket

    return Bucket(address.url)
