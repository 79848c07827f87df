"""Toolkits that only say what they are."""

from __future__ import annotations

from pathlib import Path

TOOLKIT_PARTS = (
    *("include/cublas_v2.h", "include/cusparse.h", "include/cusolverDn.h", "include/nvrtc.h"),
    *("lib64/libnvrtc.so", "lib64/stubs/libcuda.so"),
)
"""What torch's CMake and headers want of a toolkit besides its core."""


def fake_toolkit(
    home: Path, version: str, *, without: tuple[str, ...] = (), archs: str = "", programs: bool = False
) -> Path:
    """A folder that looks like a CUDA toolkit; its nvcc is a script that prints a version.

    With ``programs`` it has those that nvcc runs, and nvcc says where it looks for them.
    """
    path = f"; echo '#$ PATH={home}/nvvm/bin:{home}/bin:/nonexistent' >&2" if programs else ""
    files = {
        "include/cuda.h": "",
        "include/cuda_runtime.h": "",
        "lib64/libcudart.so": "",
        **dict.fromkeys(TOOLKIT_PARTS, ""),
        "bin/nvcc": "#!/bin/sh\n"
        'case "$*" in\n'
        f'--version) echo "Cuda compilation tools, release {version}, V{version}.99";;\n'
        f'--list-gpu-arch) printf "{archs}"; test -n "{archs}";;\n'
        f"*--dryrun*) echo '#$ TOP={home}' >&2{path};;\n"
        "*) exit 1;;\nesac\n",
    }
    if programs:
        files |= dict.fromkeys(("nvvm/bin/cicc", "bin/cudafe++", "bin/ptxas", "bin/fatbinary"), "#!/bin/sh\n")
    for name, text in files.items():
        if name not in without:
            path_of = home / name
            path_of.parent.mkdir(parents=True, exist_ok=True)
            path_of.write_text(text)
            path_of.chmod(0o755)
    return home
