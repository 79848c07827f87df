"""The container of a wheel: a zip file on disk or behind a URL, read without trusting it.

    with open_wheel("vllm-0.9.2-cp38-abi3-linux_x86_64.whl") as wheel:      # or an address
        wheel.members["vllm/_C.abi3.so"].size
        wheel.metadata.requires_dist
        with wheel.mapped("vllm/_C.abi3.so") as data: ...
        wheel.verify_record()                                               # [] where every hash is right

Whatever is truncated, encrypted, a bomb, a link, or two members of one name raises
:class:`~vllm_builder.errors.WheelError`.
"""

from typing import TYPE_CHECKING

from vllm_builder import lazy

if TYPE_CHECKING:
    from vllm_builder.wheelfile.directory import Member
    from vllm_builder.wheelfile.metadata import Metadata
    from vllm_builder.wheelfile.recordcheck import RecordProblem
    from vllm_builder.wheelfile.wheel import Wheel, open_wheel

__all__ = ["Member", "Metadata", "RecordProblem", "Wheel", "open_wheel"]

__getattr__ = lazy.exports(
    __name__,
    {
        "Member": "directory",
        "Metadata": "metadata",
        "RecordProblem": "recordcheck",
        "Wheel": "wheel",
        "open_wheel": "wheel",
    },
)
