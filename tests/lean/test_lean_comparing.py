"""Units compiled both ways by the real compiler, against a torch of a few lines.

Each test of a silent change compiles without a word both ways; only comparing can tell.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from binary_helpers import nvcc

from vllm_builder.errors import BuilderError
from vllm_builder.lean import code, text
from vllm_builder.lean.comparing import prove_unit
from vllm_builder.lean.model import LeanProof, UnitProof
from vllm_builder.lean.names import module_id
from vllm_builder.lean.units import Unit, units

Prove = Callable[..., UnitProof]
TENSOR = """
#pragma once
#include <memory>
#include <string>
namespace at {
struct Tensor { std::shared_ptr<std::string> data; int size; };
inline int numel(const Tensor& t) { return t.data ? t.size * 3 : 0; }
struct E { int b; };
template <class T> struct Name { static const char* get() { return "unknown"; } };
}
"""
USUAL = "#include <torch/all.h>\nint count(at::Tensor t) { return at::numel(t) + 1; }\n"


@pytest.fixture
def prove(tmp_path: Path) -> Prove:
    """``prove(source, rest)``: a unit, and what torch's own header declares beyond the lean one."""
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler

    def run(
        source: str,
        rest: str = "",
        *,
        lean: str = "#include <ATen/ATen.h>\n",
        files: Mapping[str, str] = MappingProxyType({}),
    ) -> UnitProof:
        tree = tmp_path / "tree"
        for name, content in {
            "torch/ATen/ATen.h": TENSOR,
            "torch/torch/rest.h": "#pragma once\n" + rest,
            "torch/torch/all.h": "#pragma once\n#include <torch/rest.h>\n#include <ATen/ATen.h>\n",
            "lean/torch/all.h": "#pragma once\n" + lean,
            "csrc/unit.cpp": source,
            **files,
        }.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(content)
        include = f"-I{tree}/lean"
        command = (compiler, include, "-isystem", f"{tree}/torch", "-O2", "-fPIC", f"{tree}/csrc/unit.cpp")
        unit = Unit("csrc/unit.cpp", tree / "csrc/unit.cpp", tree, command, include)
        return prove_unit(unit, tmp_path / "room", os.environ)

    return run


def test_a_header_that_nothing_uses_changes_nothing(prove: Prove) -> None:
    proof = prove(
        USUAL,
        "#include <iostream>\n#include <map>\nnamespace nn { static std::map<int, int> known{{1, 2}}; "
        "inline int f() { return known[1]; } }",
    )
    assert (proof.verdict, proof.differences) == ("same", ())
    assert proof.functions > 0
    assert proof.full is not None
    assert proof.lean is not None
    assert proof.full.cpu > 0


def test_a_unit_without_the_header_is_untouched(prove: Prove) -> None:
    assert prove("int one() { return 1; }\n").verdict == "untouched"


def test_a_unit_that_needs_more_falls_back_and_one_that_is_wrong_fails(prove: Prove) -> None:
    needs = "#include <torch/all.h>\nint f() { return nn::layers(); }\n"
    proof = prove(needs, "namespace nn { inline int layers() { return 4; } }")
    assert proof.verdict == "falls back"
    assert "nn" in proof.error
    wrong = prove("#include <torch/all.h>\nint f() { return nn::layers(); }\n")
    assert wrong.verdict == "failed"
    assert "error" in wrong.error


SILENT = {
    "a macro that only a left-out header sets": (
        "#include <torch/all.h>\nint f() {\n#ifdef WITH_OPENMP\n  return 1;\n#else\n  return 2;\n#endif\n}\n",
        "#define WITH_OPENMP 1\n",
    ),
    "a version that counts as 0": (
        "#include <torch/all.h>\n#if TORCH_MAJOR >= 2\nint f(int a) { return a; }\n"
        "#else\nint f(int a) { return -a; }\n#endif\n",
        "#define TORCH_MAJOR 2\n",
    ),
    "a macro that torch's own header asks for": (
        "#include <torch/all.h>\nint f(at::Tensor t) { return at::numel(t); }\n",
        "#define numel(t) numel(t)\n",
    ),
    "a better overload": (
        "#include <torch/all.h>\nint g(double);\nint f() { return g(1); }\n",
        "int g(int);\n",
    ),
    "a function of an inner namespace that hides an outer one": (
        "#include <torch/all.h>\nint empty(int);\nnamespace torch { int f() { return empty(1); } }\n",
        "namespace torch { int empty(int); }\n",
    ),
    "a specialisation": (
        "#include <torch/all.h>\nconst char* f() { return at::Name<int>::get(); }\n",
        "#include <ATen/ATen.h>\nnamespace at { template <> struct Name<int> { "
        'static const char* get() { return "int"; } }; }\n',
    ),
    "a conversion found by its argument": (
        "#include <torch/all.h>\nint size(...);\nint f(at::Tensor t) { return size(&t); }\n",
        "#include <ATen/ATen.h>\nnamespace at { int size(Tensor*); }\n",
    ),
    "a wider constant": (
        "#include <torch/all.h>\nnamespace outer { constexpr int kind = 1; }\n"
        "namespace outer::torch { int f() { return kind; } }\n",
        "namespace outer::torch { constexpr int kind = 7; }\n",
    ),
    "another type that is caught": (
        "#include <torch/all.h>\nvoid g();\nstruct E { int a; };\nnamespace torch {\n"
        "int f() { try { g(); } catch (E&) { return 1; } return 0; }\n"
        "int h() { try { g(); } catch (at::E&) { return 1; } catch (::E&) { return 2; } return 0; }\n}\n",
        "#include <ATen/ATen.h>\nnamespace torch { using at::E; }\n",
    ),
    "a function that may throw": (
        "#include <torch/all.h>\nvoid g();\nbool quiet(...) noexcept;\n"
        "int other() noexcept { g(); return 2; }\nint f() noexcept(noexcept(quiet(1))) { g(); return 1; }\n",
        "bool quiet(int);\n",
    ),
    "a number while the library is loaded": (
        "#include <torch/all.h>\nint g(int);\nnamespace outer { constexpr int kind = 1; }\n"
        "namespace outer::torch { int value = g(kind); }\n",
        "namespace outer::torch { constexpr int kind = 7; }\n",
    ),
    "another function that is inlined while the library is loaded": (
        "#include <torch/all.h>\nvoid g(int);\nnamespace outer { inline void make(int a) { g(a); } }\n"
        "namespace outer::torch { struct Q { Q() { make(4); } } q; }\n",
        "extern void g(int); namespace outer::torch { inline void make(int a) { g(a + 1); } }\n",
    ),
    "a registration that is lost": (
        "#include <torch/all.h>\nnamespace outer { struct R {}; }\n"
        "namespace outer::torch { static R r; R* use() { return &r; } }\n",
        "void reg(int); namespace outer::torch { struct R { R() { reg(1); } }; }\n",
    ),
    "arithmetic by a pragma": (
        "#include <torch/all.h>\nfloat f(float* a) { float s = 0; for (int i = 0; i < 64; i++) s += a[i]; return s; }\n",
        '#pragma GCC optimize("fast-math")\n',
    ),
    "visibility by a pragma": (
        "#include <torch/all.h>\nint f() { return 1; }\n",
        "#pragma GCC visibility push(hidden)\n",
    ),
    "the visibility of a function": (
        "#include <torch/all.h>\nint f() { return 1; }\n",
        '__attribute__((visibility("hidden"))) int f();\n',
    ),
    "a function that may be missing": (
        "#include <torch/all.h>\nextern int g();\nint f() { return g(); }\n",
        "extern int g() __attribute__((weak));\n",
    ),
    "an alignment": (
        "#include <torch/all.h>\nnamespace outer { constexpr int kind = 16; }\n"
        "namespace outer::torch { alignas(kind) char buffer[128]; char* f() { return buffer; } }\n",
        "namespace outer::torch { constexpr int kind = 64; }\n",
    ),
    "an inline definition that only the left-out header holds": (
        "#include <torch/all.h>\nint late(int);\nint f() { return late(2); }\n",
        "inline int late(int a) { return a * 5; }\n",
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_what_a_missing_header_changes_without_a_word_is_found(prove: Prove, case: str) -> None:
    source, rest = SILENT[case]
    proof = prove(source, rest)
    assert proof.verdict == "different", proof
    assert proof.differences


def test_a_lean_header_may_not_say_anything_itself(prove: Prove) -> None:
    proof = prove(USUAL, lean="#include <ATen/ATen.h>\ninline int extra() { return 1; }\n")
    assert proof.verdict == "different"
    assert any("lean header" in line for line in proof.differences)


def test_of_two_copies_of_a_header_the_first_one_counts(prove: Prove) -> None:
    """As torch 2.11 has python_stub.h twice: a compiler reads one of the copies, whichever it meets first."""
    stub = "#pragma once\nstruct object;\n"
    proof = prove(
        USUAL,
        "#include <torch/stub.h>\n#include <ATen/stub.h>\n",
        lean="#include <ATen/stub.h>\n#include <ATen/ATen.h>\n",
        files={"torch/torch/stub.h": stub, "torch/ATen/stub.h": stub},
    )
    assert (proof.verdict, proof.differences) == ("same", ())


def test_what_other_objects_ask_for_must_stay(prove: Prove) -> None:
    proof = prove(USUAL, "int offered() { return 3; }\n")
    assert proof.verdict == "different"
    assert any("_Z7offeredv is missing" in line for line in proof.differences)


def test_another_choice_of_what_to_inline_is_told_apart_from_another_meaning(prove: Prove) -> None:
    """A static helper that a left-out header calls too is inlined in one unit and called in the other."""
    work = "".join(f"  x = x * {i} + (x >> {i % 7}) ^ {i * 31};\n" for i in range(1, 60))
    base = f"#pragma once\n#include <ATen/ATen.h>\nstatic int helper(int x) {{\n{work}  return x;\n}}\n"
    rest = (
        "#include <ATen/helper.h>\n__attribute__((used)) static int other(int x) { return helper(x + 1); }\n"
    )
    source = "#include <torch/all.h>\n#include <ATen/helper.h>\nint f(int x) { return helper(x); }\n"
    # Inlined into the only caller, called where there are two.
    proof = prove(source, rest, files={"torch/ATen/helper.h": base})
    assert (proof.verdict, proof.differences) == ("same", ())
    assert "_Z1fi" in proof.inlined_otherwise


def test_code_that_only_the_lean_object_holds() -> None:
    def of(*defined: str, strong: str = "", undefined: str = "") -> code.Code:
        return code.Code({name: ["1"] for name in defined}, {strong} - {""}, {undefined} - {""})

    # Nothing of the full object mentions it, so nothing that is the same in both refers to it.
    assert code.differences(of("f", "g"), of("f", "h")) == []
    assert code.differences(of("f", "g", strong="g"), of("f")) == [
        *("g is only in the lean object", "g became visible")
    ]
    assert code.differences(of("f", "g"), of("f", undefined="g")) == ["g is only in the lean object"]
    assert code.differences(of("f", undefined="g"), of("f", "g")) == ["g is wanted from elsewhere"]


def test_what_runs_when_the_library_is_loaded_may_only_become_less(prove: Prove) -> None:
    runs = "extern int seen;\n__attribute__((constructor)) static void early() { seen = 1; }\n"
    assert prove(USUAL, runs).verdict == "same"
    proof = prove(USUAL, lean="#include <ATen/ATen.h>\n" + runs)
    assert any("when the library is loaded" in line for line in proof.differences)


@pytest.mark.parametrize(
    ("lines", "lasting"),
    [
        (["#pragma GCC push_options", '#pragma GCC target("avx2")', "#pragma GCC pop_options"], []),
        (['#pragma GCC target("avx2")', "#pragma GCC pop_options"], [0, 1]),
        (["#pragma GCC push_options", '#pragma GCC optimize("O3")'], [0]),
        (["#pragma GCC visibility push(default)", "int f();", "#pragma GCC visibility pop"], []),
        (["#pragma GCC visibility push(hidden)"], [0]),
        (["#pragma pack(push, 8)", "#pragma pack(pop)"], []),
        (["#pragma pack(1)"], [0]),
        (["#pragma STDC FP_CONTRACT ON"], [0]),
        (["#pragma GCC diagnostic ignored", "#pragma once", "#pragma unroll"], []),
    ],
)
def test_pragmas_that_hold_beyond_their_file(lines: list[str], lasting: list[int]) -> None:
    assert sorted(text.lasting_pragmas(lines)) == sorted(lines[i] for i in lasting)


def test_files_are_told_apart_in_preprocessed_text() -> None:
    full = ['# 1 "a.cpp"', "int a;", '# 1 "/t/b.h" 1', "int b;", "", '# 3 "a.cpp" 2', "int c;"]
    assert text.by_file(full) == {"a.cpp": ["int a;", "int c;"], "/t/b.h": ["int b;"]}
    lean = ['# 1 "a.cpp"', "int a;", '# 3 "a.cpp"', " int c;"]
    assert text.differences(lean, full, stands_in="/l") == []
    assert text.differences(full, lean, stands_in="/l") == ["/t/b.h is not included by the full unit"]
    other = ['# 1 "a.cpp"', "int a;", "int d;"]
    assert text.differences(other, full, stands_in="/l") == ["a.cpp reads otherwise: int d;"]


def test_a_lean_header_may_only_declare_what_the_header_of_its_name_declares() -> None:
    full = ['# 1 "/t/torch/b.h"', "namespace at {", "int b;", "int c() {", "return 1;", "}", "}"]
    lean = ['# 1 "/l/b.h"', "namespace at {", "int c() { return 1; }", "}"]
    assert text.differences(lean, full, stands_in="/l") == []
    other = [line.replace("return 1", "return 2") for line in lean]
    assert text.differences(other, full, stands_in="/l") == [
        "/l/b.h (a lean header) declares what /t/torch/b.h does not: namespace at { int c ( ) { return 2 ; }"
    ]
    elsewhere = ['# 1 "/l/torch/other.h"', *lean[1:]]
    assert "is not included by the full unit" in text.differences(elsewhere, full, stands_in="/l")[0]


def test_a_type_that_another_header_of_the_systems_declares_first() -> None:
    guarded = "typedef int pid_t;"
    full = ['# 1 "/usr/include/sched.h"', "int a;", '# 1 "/usr/include/types.h"', guarded, "int b;"]
    lean = ['# 1 "/usr/include/types.h"', "int b;", '# 1 "/usr/include/sched.h"', guarded, "int a;"]
    assert text.differences(lean, full, stands_in="/l") == []
    # Not where it is lost, another one, or in a header that is not the system's.
    lost = [line for line in lean if line != guarded]
    other = [line.replace("int pid_t", "long pid_t") for line in lean]
    assert text.differences(lost, full, stands_in="/l")
    assert text.differences(other, full, stands_in="/l")
    torch = [[line.replace("/usr/", "/torch/") for line in way] for way in (lean, full)]
    assert len(text.differences(*torch, stands_in="/l")) == 2


def test_an_object_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "unit.o").write_bytes(b"\x7fELF nothing")
    with pytest.raises(BuilderError, match=r"unit\.o cannot be read"):
        code.read(tmp_path / "unit.o")


def test_units_are_read_from_what_ninja_would_run(tmp_path: Path) -> None:
    include = f"-I{tmp_path}/lean"
    cuda = (
        f"sh x/compile.sh {include} notes.tsv ccache /n/nvcc {include} -O3 -x cu "
        f"-MD -MT a.o -MF a.d -c {tmp_path}/csrc/a.cu -o a.o"
    )
    plain = f"/usr/bin/c++ {include} -O2 -o b.o -c ../csrc/b.cpp"
    foreign = "/usr/bin/c++ -O2 -o c.o -c ../csrc/c.cpp"
    entries = [
        {"directory": f"{tmp_path}/build", "command": line, "file": file}
        for line, file in (
            (cuda, f"{tmp_path}/csrc/a.cu"), (plain, "../csrc/b.cpp"), (foreign, "../csrc/c.cpp"),
            (f"link {include}", "a.o"),
        )
    ]  # fmt: skip
    found = units(entries, tmp_path, include)
    assert [unit.name for unit in found] == ["csrc/a.cu", "csrc/b.cpp"]
    assert found[0].command[0] == "/n/nvcc"
    assert found[0].arguments(lean=False) == ["/n/nvcc", "-O3", "-x", "cu", f"{tmp_path}/csrc/a.cu"]
    assert found[0].arguments(lean=True)[1] == include
    assert found[1].command[0] == "/usr/bin/c++"


def test_a_proof_is_good_only_where_something_was_compared() -> None:
    def of(*verdicts: str) -> bool:
        proofs = tuple(UnitProof.model_validate({"unit": "a.cu", "verdict": one}) for one in verdicts)
        return LeanProof(version="1", device="cpu", total=3, units=proofs).good

    assert of("same", "untouched", "falls back")
    assert not of("untouched", "falls back")
    assert not of("same", "different")
    assert not of("same", "failed")


def test_the_table_names_every_unit_and_what_speaks_against_it(capsys: pytest.CaptureFixture[str]) -> None:
    from vllm_builder.cli.provelean import show

    way = {"seconds": 9.0, "cpu": 8.0}
    fast = {"seconds": 5.0, "cpu": 4.0}
    proofs = [
        {"unit": "csrc/a.cu", "verdict": "same", "full": way, "lean": fast, "functions": 7,
         "device_code": {"a.ptx": "1"}, "inlined_otherwise": ["f"]},
        {"unit": "csrc/b.cu", "verdict": "different", "full": way, "lean": fast, "differences": ["b.ptx differs"]},
        {"unit": "csrc/c.cu", "verdict": "falls back", "full": way, "lean": fast, "error": "no member nn"},
        {"unit": "csrc/d.cpp", "verdict": "untouched"},
    ]  # fmt: skip
    show(
        LeanProof.model_validate(
            {"version": "0.9.2+cu130", "device": "cuda", "torch": "2.11.0", "total": 90, "units": proofs}
        )
    )
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "csrc/a.cu" in line).split()
    assert row == ["csrc/a.cu", "8.0", "4.0", "2.00", "1", "6", "of", "7", "same"]
    assert "csrc/b.cu: b.ptx differs" in said
    assert "csrc/c.cu: no member nn" in said
    assert "min 2.00, median 2.00, max 2.00" in said
    assert "4 of 90 units: 1 same, 1 untouched, 1 falls back, 1 different" in said
    assert "Nothing is proven" not in said


def test_a_table_without_any_comparison_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from vllm_builder.cli.provelean import show

    proofs = [{"unit": "csrc/d.cpp", "verdict": "untouched"}, {"unit": "csrc/e.cpp", "verdict": "falls back"}]
    show(LeanProof.model_validate({"version": "0.9.2+cpu", "device": "cpu", "total": 9, "units": proofs}))
    assert "Nothing is proven" in capsys.readouterr().out


KERNELS = """#include <torch/all.h>
namespace {
__device__ int table[4];
__global__ void scaled(int* p) { p[0] = table[1] * 3; }
template <class T> struct Launch { static void run(T* p) { scaled<<<1, 1>>>(p); } };
}
template <class T> void launch(T* p) { Launch<T>::run(p); }
template void launch<int>(int*);
"""


def test_a_unit_whose_names_hold_the_number_of_the_compilers_process(tmp_path: Path) -> None:
    """nvcc puts it there where a unit defines nothing that others see except instantiations."""
    tree = tmp_path / "tree"
    for name, content in {
        "torch/torch/all.h": "#pragma once\n#include <vector>\n",
        "lean/torch/all.h": "#pragma once\n",
        "csrc/unit.cu": KERNELS,
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    include = f"-I{tree}/lean"
    command = (nvcc(), include, "-isystem", f"{tree}/torch", "-arch=sm_100", f"{tree}/csrc/unit.cu")
    unit = Unit("csrc/unit.cu", tree / "csrc/unit.cu", tree, command, include)
    room = tmp_path / "room"
    proof = prove_unit(unit, room, os.environ)
    assert (proof.verdict, proof.differences) == ("same", ())
    assert set(proof.device_code) == {"unit.ptx"}
    ids = [module_id(room / way) for way in ("lean", "full")]
    assert ids[0] != ids[1]
    assert all(
        one in (room / way / "unit.ptx").read_text() for one, way in zip(ids, ("lean", "full"), strict=True)
    )
    # Where more than that differs, it still counts.
    unit.source.write_text(KERNELS.replace("* 3", "* FACTOR"))
    (tree / "torch/torch/all.h").write_text("#pragma once\n#define FACTOR 5\n")
    (tree / "lean/torch/all.h").write_text("#pragma once\n#define FACTOR 7\n")
    assert "unit.ptx differs" in prove_unit(unit, room, os.environ).differences
