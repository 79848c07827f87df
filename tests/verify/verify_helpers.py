"""Wheels of vLLM in small: real ELF libraries of gcc, fatbin containers written by hand, a made-up torch."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from binary_helpers import container, entry

from vllm_builder.cli import main
from vllm_builder.stages.verify.expectations import Expectations, from_release
from vllm_builder.wheelfile.record import BUILD_RECORD, BuildRecord

VERSION = "0.9.2+cu130"
INFO = f"vllm-{VERSION}.dist-info"
REQUIREMENTS = ("regex", "numpy", "outlines==0.1.11", "torch==2.7.0", "xformers==0.0.30")
NAME = f"vllm-{VERSION}-cp38-abi3-linux_x86_64.whl"

CHECK_FAIL = "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
OLD_CHECK_FAIL = "_ZN3c106detail14torchCheckFailEPKcS2_jRKSs"
OTHER_CHECK_FAIL = (
    "_ZN3c106detail14torchCheckFailEPKcS2_mRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
)
GONE = "_ZN2at6native11long_forgotEv"
_SUFFIX = {"": 0, "a": 0x100000, "f": 0x200000}
PTX = b".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry kernel() { ret; }\n\0"


def code(arch: str) -> bytes:
    """GPU code of an architecture: ``9.0a`` binary code, ``8.0+PTX`` PTX alone, with ``name`` as its kernel."""
    base, plus, _ = arch.partition("+")
    number = int(base.rstrip("af").replace(".", ""))
    flags = 0x11 | _SUFFIX[base.lstrip("0123456789.")]
    if plus:
        return entry(PTX, kind=1, sm=number, flags=flags, version=(8, 0))
    return entry(b"\x7fELF not a cubin that can be read", kind=2, sm=number, flags=flags)


def fatbin(*units: str) -> bytes:
    """One container for each unit; a unit is ``"9.0a 10.0f 8.0+PTX"``."""
    return b"".join(container(*(code(arch) for arch in unit.split())) for unit in units)


def library(
    folder: Path,
    name: str,
    *,
    wants: tuple[str, ...] = (),
    defines: tuple[str, ...] = (),
    needed: tuple[Path, ...] = (),
    gpu: bytes = b"",
    flags: tuple[str, ...] = (),
    soname: str = "",
    debug: int = 0,
    text: str = "",
) -> Path:
    """A shared library that calls ``wants`` and defines ``defines``, by the linker's names.

    Args:
        needed: libraries that are linked, each becoming a NEEDED.
        gpu: what .nv_fatbin holds.
        debug: bytes of debug info.
        text: a string in its read-only data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'void w{n}(void) __asm__("{symbol}");' for n, symbol in enumerate(wants)]
    lines += [
        f'void d{n}(void) __asm__("{symbol}"); void d{n}(void) {{}}' for n, symbol in enumerate(defines)
    ]
    calls = " ".join(f"w{n}();" for n in range(len(wants)))
    lines.append(f"void *called_{name.partition('.')[0]}(void) {{ {calls} return 0; }}")
    if text:
        lines.append(f'const char *told_{name.partition(".")[0]} = "{text}";')
    for section, data in ((".nv_fatbin", gpu), (".debug_info", b"\0" * debug)):
        if data:
            blob = folder / f"{name}{section}"
            blob.write_bytes(data)
            kind = '\\"a\\",@progbits' if section == ".nv_fatbin" else '\\"\\",@progbits'
            lines.append(
                f'__asm__(".section {section},{kind}\\n.balign 8\\n.incbin \\"{blob}\\"\\n.previous");'
            )
    source = folder / f"{name}.c"
    source.write_text("\n".join(lines) + "\n")
    target = folder / name
    soname = soname or (name if name.startswith("lib") else "")
    command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(target), str(source)]
    command += [f"-Wl,-soname,{soname}"] if soname else []
    command += ["-Wl,--no-as-needed", *map(str, needed), "-Wl,-z,undefs", *flags]
    subprocess.run(command, check=True, capture_output=True)
    return target


@dataclass(frozen=True)
class Machine:
    """What wheels are linked against, and a torch in an environment."""

    folder: Path
    torch: Path
    """Folder of the package torch."""
    libtorch: Path
    libc10: Path
    cuda: Path
    """A driver's library that defines functions."""
    empty_cuda: Path
    """An empty one of the same name."""
    cudart: Path
    program: Path


def machine(folder: Path) -> Machine:
    lib = folder / "env" / "lib" / "python3.11" / "site-packages" / "torch" / "lib"
    libc10 = library(lib, "libc10.so", defines=(CHECK_FAIL, "_ZNK3c105Error4whatEv"))
    libtorch = library(
        lib, "libtorch.so", defines=("_ZN2at4_ops5empty4callEv", "aoti_torch_zero_"), needed=(libc10,)
    )
    (lib.parent / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\n"
    )
    (folder / "hello.c").write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-o", folder / "hello", folder / "hello.c"], check=True)
    return Machine(
        folder=folder,
        torch=lib.parent,
        libtorch=libtorch,
        libc10=libc10,
        cuda=library(folder / "driver", "libcuda.so.1", defines=("cuMemCreate", "cuMemMap")),
        empty_cuda=library(folder / "stub", "libcuda.so.1"),
        cudart=library(
            folder / "toolkit", "libcudart.so.13", defines=("cudaMalloc", "__cudaRegisterFatBinary")
        ),
        program=folder / "hello",
    )


@dataclass(frozen=True)
class Sketch:
    """A wheel before it is written. Sound as it is; tests change one thing."""

    members: Mapping[str, bytes]
    requirements: tuple[str, ...] = ("regex", "numpy", "outlines==0.1.11")
    tag: str = "cp38-abi3-linux_x86_64"
    archs: tuple[str, ...] = ("10.0",)
    modes: Mapping[str, int] = field(default_factory=dict)
    record: bool = True
    lists: tuple[str, ...] = ("8.0;8.6;8.9", "8.0+PTX", "10.0a")
    requires_python: str = ">=3.9"
    pinned: str = ""
    """The requirement on torch that the build wrote, by its record."""

    def having(self, **changes: object) -> Sketch:
        return replace(self, **changes)  # type: ignore[arg-type]

    def put(self, name: str, data: bytes | Path) -> Sketch:
        content = data.read_bytes() if isinstance(data, Path) else data
        return replace(self, members={**self.members, name: content})

    def without(self, name: str) -> Sketch:
        return replace(self, members={k: v for k, v in self.members.items() if k != name})

    def write(self, folder: Path, *, name: str = NAME, false_hash: str = "") -> Path:
        """Write the wheel, under a name that need not fit its tag; of ``false_hash`` RECORD has another hash."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["Metadata-Version: 2.4", "Name: vllm", f"Version: {VERSION}"]
        lines += [f"Requires-Python: {self.requires_python}"]
        lines += [f"Requires-Dist: {one}" for one in self.requirements]
        files = {
            **self.members,
            f"{INFO}/METADATA": ("\n".join(lines) + "\n").encode(),
            f"{INFO}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {self.tag}\n".encode(),
        }
        if self.record:
            files[f"{INFO}/{BUILD_RECORD}"] = (
                build_record(self.archs, self.lists, self.pinned).to_json().encode()
            )
        rows = []
        for path, data in files.items():
            content = data + b"x" if path == false_hash else data
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(data)}")
        files[f"{INFO}/RECORD"] = ("\n".join([*rows, f"{INFO}/RECORD,,"]) + "\n").encode()
        target = folder / name
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files.items():
                info = zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0))
                info.external_attr = (0o100000 | self.modes.get(path, 0o644)) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, data)
        return target


def build_record(archs: tuple[str, ...], lists: tuple[str, ...], pinned: str = "") -> BuildRecord:
    expected = from_release(
        "0.9.2", "cuda", archs, cuda="13.0", left_out={"_vllm_fa3_C": "has no code for 10.0"}
    )
    expected = expected.model_copy(
        update={
            "version": VERSION,
            "torch": "2.11.0+cu130",
            "requirements": REQUIREMENTS,
            "lists": lists,
            "limited_api": "cp38",
        }
    )
    return BuildRecord(
        builder="vllm-builder 0.1.0",
        digest="0" * 64,
        release="0.9.2",
        version=VERSION,
        device="cuda",
        archs=archs,
        torch="2.11.0+cu130",
        toolkit="13.0",
        left_out={"_vllm_fa3_C": "has no code for 10.0"},
        inputs={"finish": {"torch": pinned}},
        expectations=expected.model_dump(mode="json"),
    )


def module(at: Machine, name: str, **changes: object) -> Path:
    """One of vLLM's modules as it should be, apart from the changes."""
    folder = at.folder / "modules" / str(abs(hash((name, repr(sorted(changes.items()))))))
    keywords: dict[str, object] = {
        "wants": (CHECK_FAIL, "cudaMalloc", "PyModule_Create2"),
        "defines": (f"PyInit_{name}",),
        "needed": (at.libtorch, at.libc10, at.cudart),
    }
    return library(folder, f"{name}.abi3.so", **{**keywords, **changes})  # type: ignore[arg-type]


def sound(at: Machine) -> Sketch:
    """A whole wheel of 0.9.2 for one B200, with nothing to complain of."""
    members = {
        "vllm/__init__.py": b"__version__ = '0.9.2'\n",
        "vllm/_C.abi3.so": module(at, "_C", gpu=fatbin("10.0", "10.0a", "9.0a", "8.0 8.9")).read_bytes(),
        "vllm/_moe_C.abi3.so": module(at, "_moe_C", gpu=fatbin("9.0 10.0")).read_bytes(),
        "vllm/cumem_allocator.abi3.so": module(
            at,
            "cumem_allocator",
            wants=("cuMemCreate", "PyArg_ParseTuple"),
            needed=(at.cuda,),
        ).read_bytes(),
        "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so": module(
            at, "_vllm_fa2_C", gpu=fatbin("8.0 8.0+PTX")
        ).read_bytes(),
        "vllm/vllm-rs": at.program.read_bytes(),
    }
    return Sketch(members, modes={"vllm/vllm-rs": 0o755})


@dataclass(frozen=True)
class Outcome:
    status: int
    report: dict[str, object]

    def found(self, severity: str) -> set[str]:
        return {f["check"] for f in self.findings(severity)}

    def findings(self, severity: str = "", check: str = "") -> list[dict[str, str]]:
        every: list[dict[str, str]] = self.report["findings"]  # type: ignore[assignment]
        return [
            f
            for f in every
            if (not severity or f["severity"] == severity) and (not check or f["check"] == check)
        ]


Verify = Callable[..., Outcome]
"""The fixture that judges a wheel by the command line."""


def run(capsys: object, wheel: Path, *options: str) -> Outcome:
    """The command, as a person types it, with --json."""
    status = 0
    try:
        main(["verify", str(wheel), "--offline", "--json", *options])
    except SystemExit as end:
        status = int(end.code or 0)
    out = capsys.readouterr().out  # type: ignore[attr-defined]
    return Outcome(status, json.loads(out))


__all__ = ["Expectations", "Machine", "Sketch", "machine", "module", "run", "sound"]
