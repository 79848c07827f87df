"""Versions and the abi3 tag, read from a tree's files."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version

from vllm_builder.errors import SourceError
from vllm_builder.stages.compile.limitedapi import limited_api_for
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.compile.rust import rust_left_out, rust_parts
from vllm_builder.stages.compile.setuppy import Unknown, computed_version
from vllm_builder.stages.compile.versions import missing_local, scm_version_for

LOGIC = """
MAIN_CUDA_VERSION = "12.8"

def _no_device(): return VLLM_TARGET_DEVICE == "empty"
def _is_cuda(): return VLLM_TARGET_DEVICE == "cuda"
def _is_cpu(): return VLLM_TARGET_DEVICE == "cpu"
def _is_tpu(): return False

def get_vllm_version() -> str:
    if env_version := os.getenv("VLLM_VERSION_OVERRIDE"):
        print(f"Overriding with {env_version}")
        os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"] = env_version
        return get_version(write_to="vllm/_version.py")
    try:
        version = get_version(write_to="vllm/_version.py")
    except LookupError:
        version = "0.0.0"
    sep = "+" if "+" not in version else "."
    if _no_device():
        if envs.VLLM_TARGET_DEVICE == "empty":
            version += f"{sep}empty"
    elif _is_cuda():
        if envs.VLLM_USE_PRECOMPILED and not envs.VLLM_SKIP:
            version += f"{sep}precompiled"
        else:
            cuda_version = str(get_nvcc_cuda_version())
            if cuda_version != %s:
                cuda_version_str = cuda_version.replace(".", "")[:3]
                if "sdist" not in sys.argv:
                    version += f"{sep}cu{cuda_version_str}"
    elif _is_cpu():
        pass
    else:
        raise RuntimeError("Unknown runtime environment")
    return version
"""

ENVS = """
environment_variables = {
    "VLLM_MAIN_CUDA_VERSION":
    lambda: os.getenv("VLLM_MAIN_CUDA_VERSION", "").lower() or "13.0",
    "VLLM_USE_PRECOMPILED": lambda: (
        os.environ.get("VLLM_USE_PRECOMPILED", "").strip().lower() in ("1", "true")
        or bool(os.environ.get("VLLM_PRECOMPILED_WHEEL_LOCATION"))
    ),
}
"""


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def tree(root: Path, main: str = "MAIN_CUDA_VERSION") -> Path:
    return write(root, setup_dot_py=LOGIC % main, vllm__envs_dot_py=ENVS)


def test_a_tree_that_adds_nothing_is_told_the_whole(tmp_path: Path) -> None:
    assert scm_version_for(tree(tmp_path), "1.2", "cpu", "cpu", None) == "1.2+cpu"


def test_a_tree_that_adds_its_device_is_told_the_release(tmp_path: Path) -> None:
    assert scm_version_for(tree(tmp_path), "1.2", "empty", "empty", None) == "1.2"


@pytest.mark.parametrize(
    ("main", "bare"), [("MAIN_CUDA_VERSION", "12.8"), ("envs.VLLM_MAIN_CUDA_VERSION", "13.0")]
)
def test_cuda_is_added_only_where_it_is_not_the_main_one(tmp_path: Path, main: str, bare: str) -> None:
    root = tree(tmp_path, main)
    assert scm_version_for(root, "1.2", "cuda", "cu118", "11.8") == "1.2"
    local = f"cu{bare.replace('.', '')}"
    assert scm_version_for(root, "1.2", "cuda", local, bare) == f"1.2+{local}"
    assert scm_version_for(root, "1.2", "cuda", local, f"{bare}.88") == f"1.2+{local}"


def test_a_constant_gets_its_local_part_from_elsewhere(tmp_path: Path) -> None:
    root = write(tmp_path, setup_dot_py='def get_vllm_version():\n    return "v1.2"\n')
    assert scm_version_for(root, "1.2", "cpu", "cpu", None) == "1.2"
    spec = CompileSpec(device="cpu", version="1.2+cpu", scm_version="1.2")
    assert missing_local(spec, root) == "+cpu"
    assert missing_local(spec.model_copy(update={"version": "1.3+cpu"}), root) == ""


def test_nothing_is_missing_where_setup_py_adds_it(tmp_path: Path) -> None:
    spec = CompileSpec(device="empty", version="1.2+empty", scm_version="1.2")
    assert missing_local(spec, tree(tmp_path)) == ""


def test_another_version_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, setup_dot_py='def get_vllm_version():\n    return "9.9"\n')
    with pytest.raises(SourceError, match=r"1\.2\+cpu") as caught:
        scm_version_for(root, "1.2", "cpu", "cpu", None)
    assert "9.9" in caught.value.why


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def get_vllm_version():\n    return open('x').read()",
        "def get_vllm_version():\n    while True: pass",
        "def get_vllm_version():\n    return __import__('os').system('true')",
        "def get_vllm_version():\n    return 1",
        "def get_vllm_version(:",
        "def get_vllm_version():\n    x = 'a'\n" + "    x += x\n" * 100_00 + "    return x",
    ],
    ids=["none", "open", "loop", "import", "number", "syntax", "long"],
)
def test_what_is_not_understood_is_said_and_never_run(tmp_path: Path, text: str) -> None:
    root = write(tmp_path, setup_dot_py=text)
    with pytest.raises((Unknown, SyntaxError)):
        computed_version(root, device="cpu", cuda=None, scm_version="1")
    with pytest.raises(SourceError):
        scm_version_for(root, "1", "cpu", "cpu", None)


CMAKE = """
function(define_extension_target NAME)
  Python_add_library(${NAME} MODULE WITH_SOABI "${SOURCES}")
endfunction()
define_extension_target(spin DESTINATION vllm SOURCES a.cpp USE_SABI %s WITH_SOABI)
if(NOT VLLM_TARGET_DEVICE STREQUAL "cuda")
  include(${CMAKE_CURRENT_LIST_DIR}/cmake/cpu_extension.cmake)
  return()
endif()
define_extension_target(_C DESTINATION vllm SOURCES a.cu USE_SABI 3 WITH_SOABI)
"""
CPU = "define_gpu_extension_target(\n  _C\n  SOURCES b.cpp\n  USE_SABI 3\n  WITH_SOABI)\n"


def cmake(root: Path, sabi: str = "3", **more: str) -> Path:
    return write(
        root,
        CMakeLists_dot_txt=CMAKE % sabi,
        cmake__cpu_extension_dot_cmake=CPU,
        setup_dot_py="",
        **more,
    )


@pytest.mark.parametrize(("sabi", "tag"), [("3", "cp38"), ("3.8", "cp38"), ("3.11", "cp311")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_highest_stable_abi_counts(tmp_path: Path, sabi: str, tag: str, device: str) -> None:
    assert limited_api_for(cmake(tmp_path, sabi), device)[0] == tag  # type: ignore[arg-type]


def test_a_python_older_than_the_stable_abi(tmp_path: Path) -> None:
    root = cmake(tmp_path, "3.11")
    assert limited_api_for(root, "cpu", python_tag="cp310")[0] is None
    assert limited_api_for(root, "cpu", python_tag="cp312")[0] == "cp311"
    assert limited_api_for(root, "cpu", python_tag="cp313t")[0] is None


@pytest.mark.parametrize(
    "declaration",
    [
        'Python_add_library(_deep MODULE WITH_SOABI "a.cpp")',
        'install(DIRECTORY "x/" DESTINATION y COMPONENT _deep FILES_MATCHING PATTERN "_C.cpython-*.so")',
    ],
)
def test_a_module_of_one_python_counts_for_its_device_only(tmp_path: Path, declaration: str) -> None:
    root = cmake(tmp_path, cmake__external_projects__deep_dot_cmake=f"if(ARCHS)\n{declaration}\nendif()\n")
    tag, reason = limited_api_for(root, "cuda")
    assert (tag, "_deep" in reason) == (None, True)
    assert limited_api_for(root, "cpu")[0] == "cp38"


def test_pure_python_says_nothing(tmp_path: Path) -> None:
    assert limited_api_for(cmake(tmp_path), "empty") == (None, "")


RUST = """
extensions = [
    RustExtension(target="vllm.vllm-rs", path="Cargo.toml", binding=Binding.Exec, optional=optional),
    %s
]
"""


@pytest.mark.parametrize(
    ("more", "tag"),
    [
        ("", "cp38"),
        ('RustExtension(target="vllm._x", features=["pyo3/abi3-py38"], binding=Binding.PyO3)', "cp38"),
        ('RustExtension(target="vllm._x", py_limited_api=True, binding=Binding.PyO3)', "cp38"),
        ('RustExtension(target="vllm._x", binding=Binding.PyO3)', None),
    ],
)
def test_rust_parts(tmp_path: Path, more: str, tag: str | None) -> None:
    root = cmake(tmp_path, tools__build_rust_dot_py=RUST % more)
    assert limited_api_for(root, "empty")[0] == tag
    assert limited_api_for(root, "cpu")[0] == tag
    assert rust_parts(root)[0].executable


def test_a_rust_part_that_is_not_in_the_wheel_is_reported(tmp_path: Path) -> None:
    write(tmp_path, setup_dot_py=RUST % 'RustExtension(target="vllm._x", binding=Binding.PyO3)')
    whole = frozenset({"vllm/vllm-rs", "vllm/_x.abi3.so"})
    assert rust_left_out(tmp_path, whole, ()) == ()
    said = (("Rust extensions", "no compiler", "warning"),)
    assert rust_left_out(tmp_path, frozenset(), said) == (
        ("vllm.vllm-rs", "no compiler", "warning"),
        ("vllm._x", "no compiler", "warning"),
    )
    named = (("vllm._x", "its Rust build failed", "warning"),)
    assert [p for p, _, _ in rust_left_out(tmp_path, frozenset({"vllm/vllm-rs"}), named)] == ["vllm._x"]


# Real releases: where the version logic or the modules differ.
SPREAD = [
    ("0.6.0", "0.6.0", "+cu130", "cp38", "cp38"),
    ("0.6.2", "0.6.2", "+cu130", "cp38", "cp38"),
    ("0.6.3", "0.6.3", "+cu130", "cp38", "cp38"),
    ("0.6.6.post1", "0.6.6.post1", "", "cp38", "cp38"),
    ("0.9.2", "0.9.2", "", "cp38", "cp38"),
    ("0.11.0", "0.11.0", "", "cp38", "cp38"),
    ("0.20.0", "0.20.0+cu130", "", "cp38", None),
    ("0.22.0", "0.22.0+cu130", "", "cp311", None),
    ("0.33.0", "0.33.0+cu130", "", "cp311", "cp311"),
]


def survey(archive: Path, root: Path) -> Path:
    wanted = ("setup.py", "CMakeLists.txt", "vllm/envs.py", "vllm/version.py", "tools/build_rust.py")
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if name in wanted or (name.startswith("cmake/") and name.endswith(".cmake")):
                file = tar.extractfile(member)
                assert file is not None
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(file.read())
    return root


@pytest.mark.corpus
@pytest.mark.parametrize(("release", "scm", "missing", "cpu", "cuda"), SPREAD)
def test_real_releases(
    release: str,
    scm: str,
    missing: str,
    cpu: str,
    cuda: str | None,
    sdist: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    root = survey(sdist(release), tmp_path)
    assert scm_version_for(root, release, "cuda", "cu130", "13.0") == scm
    spec = CompileSpec.model_validate(
        {
            "device": "cuda",
            "version": f"{release}+cu130",
            "scm_version": scm,
            "compilers": [
                {"language": "CUDA", "id": "NVIDIA", "version": "13.0.88", "target": "t", "path": "nvcc"}
            ],
        }
    )
    assert missing_local(spec, root) == missing
    for device in ("cpu", "empty"):
        chosen = scm_version_for(root, release, device, device, None)  # type: ignore[arg-type]
        arrived = computed_version(root, device=device, cuda=None, scm_version=chosen)  # type: ignore[arg-type]
        assert Version(arrived) in {Version(f"{release}+{device}"), Version(release)}
    assert limited_api_for(root, "cpu")[0] == cpu
    assert limited_api_for(root, "cuda")[0] == cuda


def test_the_rust_that_answers_is_named_and_a_missing_toolchain_is_none(tmp_path: Path) -> None:
    from vllm_builder.stages.compile.rust import rust_tools

    cargo = tmp_path / "cargo"
    cargo.write_text("#!/bin/sh\necho cargo 1.95.0\n")
    cargo.chmod(0o755)
    assert rust_tools(tmp_path, {"PATH": str(tmp_path)}) == "cargo 1.95.0"
    cargo.write_text("#!/bin/sh\necho no such toolchain >&2\nexit 1\n")
    assert rust_tools(tmp_path, {"PATH": f"{tmp_path}:/bin"}) is None
    assert rust_tools(tmp_path, {"PATH": "/nonexistent"}) is None
