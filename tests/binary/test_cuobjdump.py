"""Real wheels, library by library, against NVIDIA's cuobjdump."""

from __future__ import annotations

import pytest
from cuobjdump import Unreadable, cuobjdump, difference
from public_wheels import cache_folder, libraries

from vllm_builder.binary import is_elf, read_library

pytestmark = pytest.mark.corpus

REFUSED_BY_TOOL = {"libbitsandbytes_cuda121.so"}
"""cuobjdump 13.5 calls it an invalid ELF file; 12.8 does not, and agrees."""


@pytest.mark.parametrize(
    ("wheel", "with_code"),
    [("bitsandbytes==0.50.2", 7), ("xformers==0.0.30", 2), ("vllm==0.9.2", 5), ("vllm==0.33.0", 9)],
)
def test_architectures_agree(wheel: str, with_code: int) -> None:
    """Kind, architecture with suffix, version and compression of every piece of GPU code."""
    tool = cuobjdump()
    if not tool:
        pytest.skip("no cuobjdump: PyPI has it for Linux on x86_64 only")
    different, refused, found = {}, set(), 0
    for path in libraries(wheel, cache_folder()):
        data = path.read_bytes()
        assert is_elf(data)
        library = read_library(data, name=path.name)
        found += bool(library.units)
        try:
            if told := difference(tool, path, library):
                different[path.name] = told
        except Unreadable:
            refused.add(path.name)
    assert different == {}
    assert refused <= REFUSED_BY_TOOL
    assert found == with_code
