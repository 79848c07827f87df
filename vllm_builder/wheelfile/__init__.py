"""The container of a wheel: a zip file on disk or behind a URL, read without trusting it.

    with open_wheel("vllm-0.9.2-cp38-abi3-linux_x86_64.whl") as wheel:      # or an address
        wheel.members["vllm/_C.abi3.so"].size
        wheel.metadata["Requires-Dist"]
        with wheel.mapped("vllm/_C.abi3.so") as data: ...

Whatever is truncated, encrypted, a bomb, a link, or two members of one name raises
:class:`~vllm_builder.errors.WheelError`.
"""
