"""A store, wheels to put into it, and a process without the superuser's powers."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from store_helpers import NAME, digest_of, make_record, make_wheel

from vllm_builder.stages.store import Entry, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache" / "store")


@pytest.fixture
def put(store: Store, tmp_path: Path) -> Callable[..., Entry]:
    """``put("a", b"content")``: add a wheel under the digest of a label."""

    def put(label: str, content: bytes = b"wheel", *, name: str = NAME, force: bool = False) -> Entry:
        wheel = make_wheel(tmp_path / "dist" / label, content, name)
        digest = digest_of(label)
        return store.add(digest, wheel, make_record(digest, wheel), force=force)

    return put


@pytest.fixture
def powerless() -> Callable[[], AbstractContextManager[None]]:
    """``with powerless():`` permission bits count for this thread, even where tests run as root."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    class Data(ctypes.Structure):
        _fields_ = (
            ("effective", ctypes.c_uint32),
            ("permitted", ctypes.c_uint32),
            ("inheritable", ctypes.c_uint32),
        )

    @contextmanager
    def without() -> Iterator[None]:
        if os.geteuid() != 0 or sys.platform != "linux":
            yield
            return
        libc = ctypes.CDLL(None, use_errno=True)
        header = Header(0x20080522, 0)  # version 3: two words of capabilities
        before, after = (Data * 2)(), (Data * 2)()
        assert libc.capget(ctypes.byref(header), before) == 0
        ctypes.memmove(after, before, ctypes.sizeof(before))
        override = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        after[0].effective &= ~override
        assert libc.capset(ctypes.byref(header), after) == 0
        try:
            yield
        finally:
            assert libc.capset(ctypes.byref(header), before) == 0

    return without
