"""Toolkits that only say what they are."""

from __future__ import annotations

from pathlib import Path


def fake_toolkit(home: Path, version: str, *, without: tuple[str, ...] = (), archs: str = "") -> Path:
    """A folder that looks like a CUDA toolkit; its nvcc is a script that prints a version."""
    files = {
        "include/cuda.h": "",
        "include/cuda_runtime.h": "",
        "lib64/libcudart.so": "",
        "bin/nvcc": "#!/bin/sh\n"
        'case "$*" in\n'
        f'--version) echo "Cuda compilation tools, release {version}, V{version}.99";;\n'
        f'--list-gpu-arch) printf "{archs}"; test -n "{archs}";;\n'
        f"*--dryrun*) echo '#$ TOP={home}' >&2;;\n"
        "*) exit 1;;\nesac\n",
    }
    for name, text in files.items():
        if name not in without:
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
    return home
