"""The shipped patch set lean-headers in a small tree with a torch of a few lines: really built."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from compile_helpers import build_into

from vllm_builder.errors import CompileFailed, CompilerKilled
from vllm_builder.events import Event, Note
from vllm_builder.resources import shipped
from vllm_builder.stages.compile.configure import configure
from vllm_builder.stages.compile.leanheaders import include_option
from vllm_builder.stages.compile.model import Compiler, CompileResult, CompileSpec
from vllm_builder.stages.environment.model import Environment
from vllm_builder.stages.patch import apply, load, select
from vllm_builder.stages.patch.operations import paths_of

MakeTree = Callable[..., Path]
Wrapper = Callable[[str], Compiler]

TORCH = dict.fromkeys(
    # Torch's headers that the short ones name, with nothing in them but for these.
    re.findall(r"#include <((?:ATen|c10|torch)/.*)>", (shipped("patches") / "lean-headers.toml").read_text()),
    "#pragma once\n",
) | {
    "Python.h": "#pragma once\n",
    "torch/all.h": "#pragma once\n#include <torch/types.h>\n#include <torch/nn.h>\n",
    "torch/nn.h": "#pragma once\nnamespace nn { inline int layers() { return 4; } }\n",
    "torch/types.h": "#pragma once\n#include <ATen/ATen.h>\n#include <torch/library.h>\n"
    "namespace torch { using namespace at; }\n",
    "ATen/TensorIndexing.h": "#pragma once\nnamespace at { struct TensorIndex {}; }\n",
    "torch/library.h": "#pragma once\n#ifdef TORCH_TARGET_VERSION\n#error not here\n#endif\n"
    "#include <ATen/core/ivalue.h>\n#define TORCH_LIBRARY(N) int registered_##N()\n",
    "ATen/ATen.h": "#pragma once\n#include <ATen/DeviceGuard.h>\n#include <ATen/Functions.h>\n"
    "#include <ATen/core/ivalue.h>\n",
    "ATen/core/ATen_fwd.h": "#pragma once\nnamespace at { template <class> class IListRef; }\n",
    "ATen/core/Tensor.h": """#pragma once
#include <ATen/core/ATen_fwd.h>
#include <optional>
namespace at {
enum class ScalarType { one };
constexpr ScalarType kByte{}, kChar{}, kShort{}, kInt{}, kLong{}, kHalf{}, kFloat{}, kDouble{};
struct Device {};
struct Tensor {
  int size;
  bool defined() const { return true; }
  Device device() const { return {}; }
};
} // namespace at
""",
    "ATen/core/IListRef.h": """#pragma once
namespace at { template <class> class IListRef { public: int many = 1; }; }
#include <ATen/core/ivalue.h>
""",
    "ATen/core/ivalue.h": """#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/IListRef.h>
namespace c10 { struct IValue { at::IListRef<int> list; }; }
""",
    "ATen/DeviceGuard.h": """#pragma once
#include <ATen/core/IListRef.h>
namespace at {
inline std::optional<Device> device_of(const Tensor& tensor) {
  if (tensor.defined()) {
    return tensor.device();
  } else {
    return std::nullopt;
  }
}
inline std::optional<Device> device_of(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? device_of(tensor.value()) : std::nullopt;
}
inline std::optional<Device> device_of(IListRef<int>) { return std::nullopt; }
} // namespace at
""",
}
SOURCES = {
    "csrc/core/registration.h": "#pragma once\n\n#include <Python.h>\n\n#define REGISTER(N) TORCH_LIBRARY(N)\n",
    "csrc/ops.h": "#pragma once\n\n#include <torch/library.h>\n\nint op(torch::Tensor);\n",
    "csrc/core/scalar_type.hpp": "#pragma once\n\n#include <torch/library.h>\n",
}
PLAIN = "#include <torch/all.h>\nint {name}(torch::Tensor t) {{ return t.size; }}\n"
MORE = "#include <torch/all.h>\nint {name}(torch::Tensor t) {{ return t.size * nn::layers(); }}\n"


@pytest.fixture
def lean_tree(make_tree: MakeTree) -> MakeTree:
    """``lean_tree("a", unit_0=PLAIN)``: a tree whose units include torch's header, with the patch set or without."""

    def make(name: str = "tree", *, patched: bool = True, **sources: str) -> Path:
        tree = make_tree(name, units=0)
        for file, content in TORCH.items():
            (tree / "deps" / file).parent.mkdir(parents=True, exist_ok=True)
            (tree / "deps" / file).write_text(content)
        for file, content in SOURCES.items():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            (tree / file).write_text(content)
        for unit, source in sources.items():
            (tree / f"csrc/{unit}.cpp").write_text(source.format(name=unit))
        lists = tree / "CMakeLists.txt"
        text = lists.read_text().replace("project(fake ", "project(vllm_extensions ")
        lists.write_text(text + "target_include_directories(_C SYSTEM PRIVATE deps)\n")
        if patched:
            sets = {"lean-headers": load([shipped("patches")])["lean-headers"]}
            chosen = select(sets, release="0.9.2", device="cpu", facts={"torch": "2.9.1"})
            report = apply(chosen, tree)
            assert {entry.status for entry in report.entries} == {"changed"}
        return tree

    return make


def build(
    spec: CompileSpec, tree: Path, environment: Environment, events: list[Event] | None = None
) -> CompileResult:
    return build_into(tree.with_name(f"out {tree.name}"), spec, tree, environment, events)


def objects(tree: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tree / "build").rglob("*.cpp.o")}


def headers_of(tree: Path, unit: str, environment: Environment) -> str:
    """What ninja knows that the unit was compiled from."""
    folder = next((tree / "build").glob("temp*"))
    ninja = [str(environment.bin / "ninja"), "-t", "deps"]
    told = subprocess.run(ninja, cwd=folder, capture_output=True, text=True, check=True).stdout
    return next(part for part in told.split("\n\n") if f"{unit}." in part)


@pytest.mark.parametrize("name", ["tree", "a tree"])
def test_a_unit_that_needs_more_is_compiled_as_upstream_does_and_said(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment, name: str
) -> None:
    tree = lean_tree(name, unit_0=PLAIN, unit_1=MORE)
    events: list[Event] = []
    result = build(spec, tree, environment, events)
    assert list(result.full_headers) == ["csrc/unit_1.cpp"]
    assert "nn" in result.full_headers["csrc/unit_1.cpp"]
    warned = [e.message for e in events if isinstance(e, Note) and e.level == "warning"]
    assert any("torch's own headers" in line and "csrc/unit_1.cpp" in line for line in warned)
    ninja = next((tree / "build").glob("temp*/build.ninja")).read_text()
    assert "cmake/lean-headers/include" in ninja
    upstream = lean_tree(f"{name} upstream", patched=False, unit_0=PLAIN, unit_1=MORE)
    assert build(spec, upstream, environment).full_headers == {}
    assert objects(tree) == objects(upstream)


def test_only_what_needs_it_reads_torchs_own_header(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment
) -> None:
    tree = lean_tree(unit_0=PLAIN, unit_1=MORE)
    build(spec, tree, environment)
    unit_0, unit_1 = (headers_of(tree, f"unit_{n}", environment) for n in (0, 1))
    assert "lean-headers/include/torch/all.h" in unit_0
    assert "nn.h" not in unit_0
    assert "lean-headers/include/torch/all.h" not in unit_1
    assert "nn.h" in unit_1


REGISTERING = """#include <torch/all.h>
#include "ops.h"
#include "core/registration.h"
REGISTER(one) {{ return op(torch::Tensor{{}}); }}
int {name}(c10::IValue value) {{ return value.list.many; }}
"""
LISTING = "#include <torch/all.h>\nint {name}(const at::IListRef<int>& list) {{ return list.many; }}\n"
GUARDING = """#include <torch/all.h>
#include "ops.h"
bool {name}(torch::Tensor tensor, std::optional<torch::Tensor> other) {{
  return device_of(tensor).has_value() && device_of(other).has_value();
}}
"""


def test_lists_and_the_registration_of_operators_come_to_those_who_name_them(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment
) -> None:
    sources = {"unit_0": GUARDING, "unit_1": REGISTERING, "unit_2": LISTING}
    tree = lean_tree(**sources)
    result = build(spec, tree, environment)
    # A list that is only declared is an error, not another meaning.
    assert list(result.full_headers) == ["csrc/unit_2.cpp"]
    read = {n: headers_of(tree, f"unit_{n}", environment) for n in range(3)}
    assert [("deps/ATen/core/ivalue.h" in read[n], "deps/torch/nn.h" in read[n]) for n in range(3)] == [
        *((False, False), (True, False), (True, True))
    ]
    # Who has the values also has what tensor.index({i}) means: beside them a list would do for it.
    assert ["ATen/TensorIndexing.h" in read[n] for n in range(2)] == [False, True]
    upstream = lean_tree("upstream", patched=False, **sources)
    build(spec, upstream, environment)
    assert objects(tree) == objects(upstream)


def test_units_of_the_stable_abi_register_without_the_header_that_is_an_error_there(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment
) -> None:
    stable = '#define TORCH_TARGET_VERSION 1\n#include "core/registration.h"\nint {name}() {{ return 1; }}\n'
    tree = lean_tree(unit_0=stable)
    assert build(spec, tree, environment).full_headers == {}
    assert "torch/library.h" in (tree / "csrc/core/registration.h").read_text()
    assert "torch/library.h" not in headers_of(tree, "unit_0", environment)


def test_an_error_that_upstream_has_too_is_shown_as_upstream_shows_it(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment
) -> None:
    tree = lean_tree(unit_0="#include <torch/all.h>\nint f() {{ return nn::layers() + absent; }}\n")
    with pytest.raises(CompileFailed) as failed:
        build(spec, tree, environment)
    log = (tree.parent / "out tree/log").read_text()
    assert "absent" in f"{failed.value.what} {failed.value.why}"
    assert "csrc/unit_0.cpp" in f"{failed.value.what} {failed.value.why} {failed.value.details}"
    assert re.search(r"error: .*absent", log)
    # What only the lean way stumbled over is nobody's mistake.
    assert not re.search(r"error: .*\bnn\b", log)
    assert not list((tree / "build").rglob("lean-headers.tsv"))


def test_a_unit_that_was_mended_is_no_longer_named(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment
) -> None:
    tree = lean_tree(unit_0=MORE)
    assert build(spec, tree, environment).full_headers
    (tree / "csrc/unit_0.cpp").write_text(PLAIN.format(name="unit_0"))
    assert build(spec, tree, environment).full_headers == {}


def test_another_folder_takes_all_from_the_compiler_cache(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment, tmp_path: Path
) -> None:
    cached = spec.model_copy(
        update={"compiler_cache": "ccache", "compiler_cache_dir": str(tmp_path / "ccache")}
    )
    first = lean_tree("first", unit_0=PLAIN, unit_1=MORE)
    assert build(cached, first, environment).cache["misses"] == 2
    second = lean_tree("second", unit_0=PLAIN, unit_1=MORE)
    result = build(cached, second, environment)
    assert (result.cache["hits"], result.cache["misses"]) == (2, 0)
    assert list(result.full_headers) == ["csrc/unit_1.cpp"]
    assert objects(first) == objects(second)
    # And an edit of what only the full header brings is seen.
    (second / "deps/torch/nn.h").write_text(TORCH["torch/nn.h"].replace("4", "5"))
    assert build(cached, second, environment).cache["misses"] == 1
    assert objects(first)["unit_1.cpp.o"] != objects(second)["unit_1.cpp.o"]


def test_what_was_learned_of_a_unit_spares_the_next_build_the_attempt(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    counting = wrapper(f'[ -z "$unit" ] || echo "$unit" >> {calls}')
    learning = spec.model_copy(update={"compilers": (counting,), "learned_dir": str(tmp_path / "units")})

    def compiled(tree: Path) -> tuple[list[str], list[str]]:
        calls.unlink(missing_ok=True)
        result = build(learning, tree, environment)
        return list(result.full_headers), sorted(calls.read_text().split())

    sources = {"unit_0": PLAIN, "unit_1": MORE}
    both, named = ["unit_0.cpp", "unit_1.cpp"], ["csrc/unit_1.cpp"]
    assert compiled(lean_tree("first", **sources)) == (named, sorted([*both, "unit_1.cpp"]))
    assert compiled(lean_tree("second", **sources)) == (named, both)
    # Another content is tried again, and so is everything where the file is damaged.
    sources["unit_1"] = PLAIN
    assert compiled(lean_tree("third", **sources)) == ([], both)
    for file in (tmp_path / "units").glob("full-headers-*.json"):
        file.write_text('{"full_headers": {"csrc/unit_1.cpp": 3}}')
    sources["unit_1"] = MORE
    assert compiled(lean_tree("fourth", **sources)) == (named, sorted([*both, "unit_1.cpp"]))


def test_a_unit_that_the_patch_set_names_is_compiled_with_torchs_own_headers_at_once(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    counting = wrapper(f'[ -z "$unit" ] || echo "$unit" >> {calls}')
    tree = lean_tree(unit_0=PLAIN, unit_1=MORE)
    named = "csrc/unit_1.cpp\tlayers() is used\ncsrc/unit_10.cpp\tno such unit\n"
    (tree / "cmake/lean-headers/full-headers.tsv").write_text(named)
    result = build(spec.model_copy(update={"compilers": (counting,)}), tree, environment)
    assert result.full_headers == {"csrc/unit_1.cpp": "layers() is used"}
    assert sorted(calls.read_text().split()) == ["unit_0.cpp", "unit_1.cpp"]


def test_the_patch_set_names_units_by_release() -> None:
    sets = {"lean-headers": load([shipped("patches")])["lean-headers"]}

    def named(release: str) -> bool:
        steps = select(sets, release=release, device="cuda", facts={"torch": "2.9.1"}).steps
        return any(paths_of(step.operation) == ("cmake/lean-headers/full-headers.tsv",) for step in steps)

    assert [named(release) for release in ("0.10.2", "0.11.0", "0.14.1", "0.21.0", "0.22.0")] == [
        *(False, True, True, True, False)
    ]


def test_a_compiler_that_was_killed_is_not_taken_for_one_that_lacks_a_header(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment, wrapper: Wrapper, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    killer = wrapper(f'[ -z "$unit" ] || {{ echo x >> {calls}; kill -9 $$; }}')
    tree = lean_tree(unit_0=PLAIN)
    with pytest.raises(CompilerKilled):
        build(spec.model_copy(update={"compilers": (killer,), "jobs": 1}), tree, environment)
    assert calls.read_text() == "x\n"


def test_configuring_compiles_nothing_and_tells_every_command(
    spec: CompileSpec, lean_tree: MakeTree, environment: Environment
) -> None:
    tree = lean_tree(unit_0=PLAIN, unit_1=MORE)
    commands = configure(
        spec, tree=tree, environment=environment, log=tree.parent / "log", environ=os.environ
    )
    compiled = [entry for entry in commands if entry["file"].endswith(".cpp")]
    assert {Path(entry["file"]).name for entry in compiled} >= {"unit_0.cpp", "unit_1.cpp"}
    assert all(entry["command"].count(include_option(tree)) == 2 for entry in compiled)
    assert objects(tree) == {}
