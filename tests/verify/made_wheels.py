"""Tiny wheels with real libraries in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from binary_helpers import compile_c, container, entry
from wheel_helpers import METADATA, wheel_entries, zip_bytes

SUFFIX_A = 0x100011
"""Flags of code for sm_90a; 0x11 is what every entry has."""
MODULE = """
extern int aoti_torch_get_dim(void *, long *);
extern int torch_list_size(void *, long *);
void *PyInit__C(void) { long n; aoti_torch_get_dim(0, &n); torch_list_size(0, &n); return 0; }
"""
CXX_MODULE = """
extern void _ZN3c106detail14torchCheckFailEPKcS2_jS2_(void);
extern void _ZNK2at6Tensor3dimEv(void);
extern void __cudaRegisterFatBinary(void);
void *PyInit__D(void) { _ZN3c106detail14torchCheckFailEPKcS2_jS2_(); _ZNK2at6Tensor3dimEv(); return 0; }
void load(void) { __cudaRegisterFatBinary(); }
"""


def stub(folder: Path, soname: str) -> Path:
    """An empty library to be linked against."""
    return compile_c(folder, "", f"-Wl,-soname,{soname}", name=soname)


def module(
    folder: Path,
    source: str,
    *needed: str,
    gpu: bytes = b"",
    name: str = "lib.so",
    flags: tuple[str, ...] = (),
) -> bytes:
    """The bytes of a library that needs libraries of these sonames and has this GPU code."""
    stubs = [stub(folder, soname) for soname in needed]
    path = compile_c(folder, source, "-Wl,--no-as-needed", *map(str, stubs), *flags, name=name)
    if gpu:
        (folder / "section").write_bytes(gpu)
        section = f"--add-section=.nv_fatbin={folder / 'section'}"
        command = ["objcopy", section, "--set-section-flags=.nv_fatbin=alloc,readonly", path]
        subprocess.run(command, check=True, capture_output=True)
    return path.read_bytes()


def gpu_code() -> bytes:
    """Two units: SASS for 8.0 and 9.0a with PTX 8.0 of ISA 8.7, and SASS for 9.0a alone."""
    sass_80, sass_90a = entry(b"a" * 64, sm=80), entry(b"b" * 128, sm=90, flags=SUFFIX_A)
    ptx = entry(b".version 8.7\0" + b"c" * 19, kind=1, sm=80, version=(8, 7))
    return container(sass_80, sass_90a, ptx) + container(sass_90a)


def make(
    folder: Path,
    files: dict[str, bytes],
    *,
    name: str = "demo-1.0-cp38-abi3-linux_x86_64.whl",
    **options: object,
) -> Path:
    """Write a wheel with these files into ``folder``."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(zip_bytes(wheel_entries(files, **options)))  # type: ignore[arg-type]
    return path


def metadata(*requirements: str) -> str:
    lines = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
    return METADATA.replace("Requires-Dist: torch==2.7.0\n", lines)
