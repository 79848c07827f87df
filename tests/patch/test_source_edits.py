"""Operations on CUDA sources, on inserted CMake code, and on the list of extensions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from patch_helpers import contents, run, write

from vllm_builder.errors import PatchFailed, PatchMiss
from vllm_builder.resources import shipped
from vllm_builder.stages.patch import apply, load, select
from vllm_builder.stages.patch.python_edit import extensions

NAMES = {
    "action": "replace_cxx_names",
    "files": ["csrc/*.cu"],
    "names": {"cub::Sum": "::cuda::std::plus<>", "cub::Max": "::cuda::maximum<>"},
    "headers": ["cuda/functional"],
    "after": "cub/*",
}
LEAVE = {"action": "leave_out_extension", "name": "_fa3_C", "component": "_C"}

SETUP = """\
ext_modules = []
if _is_cuda():
    ext_modules.append(CMakeExtension(name="vllm.fa._fa2_C"))
    if get_nvcc_cuda_version() >= Version("12.3"):
        # FA3 requires CUDA 12.3
        ext_modules.append(
            CMakeExtension(name="vllm.fa._fa3_C"))
    ext_modules.append(CMakeExtension(name="vllm._mla_C", optional=True))
ext_modules.append(CMakeExtension("vllm._C"))  # positional
"""


def test_names_are_replaced_and_nothing_that_only_looks_like_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "csrc/a.cu": "#ifdef A\n  #include <cub/cub.cuh>\n#endif\n"
            "// cub::Sum in a comment\n/* cub::Max\n cub::Sum */\n"
            'auto s = "cub::Sum"; auto r = R"x(cub::Sum ")x"; int n = 1\'000;\n'
            "f(cub::Sum{}, ::cub::Max(), hipcub::Sum{}, x::cub::Sum{}, cub::Summary{}, cub::Sum::type);\n",
            "csrc/b.cu": "no names here\n",
        },
    )
    report = run(tmp_path, NAMES)
    assert [e.file for e in report.entries] == ["csrc/a.cu"]
    text = (tmp_path / "csrc/a.cu").read_text()
    assert text.startswith("#ifdef A\n  #include <cub/cub.cuh>\n  #include <cuda/functional>\n#endif\n")
    assert "// cub::Sum in a comment\n/* cub::Max\n cub::Sum */" in text
    assert 'auto s = "cub::Sum"; auto r = R"x(cub::Sum ")x";' in text
    assert (
        "f(::cuda::std::plus<>{}, ::cuda::maximum<>(), hipcub::Sum{}, x::cub::Sum{}, cub::Summary{}, cub::Sum::type);"
        in text
    )
    before = contents(tmp_path)
    assert not run(tmp_path, NAMES).changed
    assert contents(tmp_path) == before


def test_line_ends_and_present_headers_are_kept(tmp_path: Path) -> None:
    write(tmp_path, {"csrc/a.cu": b"#include <cub/cub.cuh>\r\nint a = cub::Sum{};\r\n"})
    run(tmp_path, NAMES)
    assert (tmp_path / "csrc/a.cu").read_bytes() == (
        b"#include <cub/cub.cuh>\r\n#include <cuda/functional>\r\nint a = ::cuda::std::plus<>{};\r\n"
    )
    write(tmp_path, {"csrc/b.cu": "#include <cuda/functional>\ncub::Sum s;\n"})
    run(tmp_path, NAMES | {"files": ["csrc/b.cu"]})
    assert (tmp_path / "csrc/b.cu").read_text().count("include") == 1


def test_without_the_named_include_the_headers_come_first(tmp_path: Path) -> None:
    write(tmp_path, {"csrc/a.cu": '#include "x.h"\ncub::Sum s;\n'})
    run(tmp_path, NAMES)
    assert (tmp_path / "csrc/a.cu").read_text().startswith('#include <cuda/functional>\n#include "x.h"\n')


def test_names_that_stand_nowhere_are_a_miss(tmp_path: Path) -> None:
    write(tmp_path, {"csrc/a.cu": "int a;\n"})
    with pytest.raises(PatchMiss, match="found nothing"):
        run(tmp_path, NAMES)


def test_cmake_code_is_inserted_once_behind_every_match(tmp_path: Path) -> None:
    operation = {
        "action": "insert_cmake_command",
        "files": ["CMakeLists.txt"],
        "command": "file",
        "arguments": ["GLOB", "K_*"],
        "code": "set_x(${K}\n  PROPERTIES a)\n",
    }
    write(tmp_path, {"CMakeLists.txt": "if(A)\n  file(GLOB K_1 x)\n  more()\nendif()\nFILE(GLOB K_2 y)\n"})
    run(tmp_path, operation)
    wanted = (
        "if(A)\n  file(GLOB K_1 x)\n  set_x(${K}\n    PROPERTIES a)\n  more()\nendif()\n"
        "FILE(GLOB K_2 y)\nset_x(${K}\n  PROPERTIES a)\n"
    )
    assert (tmp_path / "CMakeLists.txt").read_text() == wanted
    run(tmp_path, operation)
    assert (tmp_path / "CMakeLists.txt").read_text() == wanted
    with pytest.raises(PatchFailed):
        run(tmp_path, operation | {"code": "broken("})


def test_an_extension_is_left_out_and_its_other_files_stay(tmp_path: Path) -> None:
    cmake = (
        'install(DIRECTORY x/ DESTINATION y COMPONENT _fa2_C FILES_MATCHING PATTERN "*.py")\n'
        'install(DIRECTORY x/ DESTINATION y COMPONENT _fa3_C FILES_MATCHING PATTERN "*.py")\n'
    )
    write(tmp_path, {"setup.py": SETUP, "CMakeLists.txt": "project(x)\n", "cmake/external/fa.cmake": cmake})
    assert extensions(SETUP.encode()) == [
        ("_fa2_C", False),
        ("_fa3_C", False),
        ("_mla_C", True),
        ("_C", False),
    ]
    run(tmp_path, LEAVE)
    text = (tmp_path / "setup.py").read_text()
    assert (
        '        # FA3 requires CUDA 12.3\n        pass\n    ext_modules.append(CMakeExtension(name="vllm._mla'
        in text
    )
    assert [name for name, _ in extensions(text.encode())] == ["_fa2_C", "_mla_C", "_C"]
    assert (tmp_path / "cmake/external/fa.cmake").read_text() == cmake.replace("_fa3_C", "_C")
    before = contents(tmp_path)
    run(tmp_path, LEAVE)
    assert contents(tmp_path) == before


def test_components_in_a_loop_are_handed_over_once(tmp_path: Path) -> None:
    loop = "foreach(_c _fa2_C _fa3_C)\n  install(DIRECTORY x/ DESTINATION y COMPONENT ${_c})\nendforeach()\n"
    write(tmp_path, {"setup.py": SETUP, "CMakeLists.txt": loop})
    run(tmp_path, LEAVE)
    assert "foreach(_c _fa2_C _C)" in (tmp_path / "CMakeLists.txt").read_text()
    run(tmp_path, LEAVE | {"name": "_fa2_C"})
    assert "foreach(_c  _C)" in (tmp_path / "CMakeLists.txt").read_text()


def test_an_extension_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, {"setup.py": SETUP})
    with pytest.raises(PatchMiss) as caught:
        run(tmp_path, LEAVE | {"name": "_fa9_C"})
    assert "_fa9_C" in caught.value.why
    write(tmp_path, {"setup.py": "def broken(:\n"})
    with pytest.raises(PatchFailed, match="not valid Python"):
        run(tmp_path, LEAVE)


def test_a_block_never_becomes_empty_and_umlauts_do_not_shift(tmp_path: Path) -> None:
    source = 's = "ü"; ext_modules.append(CMakeExtension(name="vllm._fa3_C"))\nif x:\n    pass\n'
    write(tmp_path, {"setup.py": source})
    run(tmp_path, LEAVE)
    text = (tmp_path / "setup.py").read_text()
    assert text == 's = "ü"; pass\nif x:\n    pass\n'
    ast.parse(text)


@pytest.mark.parametrize(("cuda", "changed"), [("13.0", True), ("12.9", False)])
def test_the_cuda_13_set_is_for_cuda_13(tmp_path: Path, cuda: str, changed: bool) -> None:
    write(
        tmp_path,
        {
            "csrc/layernorm_kernels.cu": "#include <cub/cub.cuh>\nf(cub::Sum{});\n",
            "CMakeLists.txt": 'file(GLOB MARLIN_TEMPLATE_KERNEL_SRC "csrc/k_*.cu")\n',
        },
    )
    selection = select(
        {"cuda13": load((shipped("patches"),))["cuda13"]},
        release="0.9.2",
        device="cuda",
        facts={"cuda": cuda},
    )
    before = contents(tmp_path)
    report = apply(selection, tmp_path)
    assert bool(report.changed) is changed
    assert (contents(tmp_path) != before) is changed
    if changed:
        assert "::cuda::std::plus<>{}" in (tmp_path / "csrc/layernorm_kernels.cu").read_text()
        assert "-static-global-template-stub=false" in (tmp_path / "CMakeLists.txt").read_text()
