"""May the wheel carry the abi3 tag, and from which Python on? Read from CMake's files and setup.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_builder.stages.compile.model import Device
from vllm_builder.stages.compile.rust import rust_parts

_TARGET = re.compile(r"^(define_\w*extension_target|python_add_library)$")
_LOWEST = (3, 8)


@dataclass(frozen=True, slots=True)
class _Target:
    name: str
    sabi: tuple[int, int] | None
    where: str


def limited_api_for(survey: Path, device: Device, *, python_tag: str = "") -> tuple[str | None, str]:
    """The ``--py-limited-api`` under which one wheel serves every Python, and the reason.

    Args:
        survey: the release's small files: setup.py, CMakeLists.txt, cmake/, tools/build_rust.py.
        device: what is built.
        python_tag: the building Python, ``cp311``; ``cp313t`` has no stable ABI.

    Returns:
        ``("cp38", reason)``, or a later Python where a target asks for a newer stable ABI (CMake's
        ``USE_SABI 3.11`` makes ``cp311``); ``(None, reason)`` where a part is built for one Python only;
        ``(None, "")`` where nothing is compiled and the wheel is pure Python.
    """
    if python_tag.endswith("t"):
        return None, f"{python_tag} is free-threaded and has no stable ABI"
    rust = rust_parts(survey)
    for part in rust:
        if not part.executable and not part.stable_abi:
            return None, f"the Rust extension {part.target} is built for one Python only"
    if device == "empty":
        if not rust:
            return None, ""
        return _tag(_LOWEST), "no extension; the Rust part is a program or of the stable ABI"

    targets = list(_targets(survey, device))
    for target in targets:
        if target.sabi is None:
            return None, f"{target.name} ({target.where}) is built for one Python only"
    known = {t.name for t in targets}
    setup = _read(survey / "setup.py")
    for name in _extension_names(setup) - known if device == "cuda" else ():
        # Declared by an external project that CMake fetches, whose files are not here: setup.py itself lists
        # what an official wheel holds.
        if re.search(rf"\b{re.escape(name)}\.cpython", setup):
            return None, f"{name} is built for one Python only"
    if not targets:
        return None, "no extension target was found in the CMake files"
    sabi = max(t.sabi for t in targets if t.sabi is not None)
    lowest = max(sabi, _LOWEST)
    if match := re.fullmatch(r"cp(\d)(\d+)", python_tag):
        building = (int(match[1]), int(match[2]))
        if building < lowest:
            return None, f"an extension asks for the stable ABI of {lowest[0]}.{lowest[1]}"
    newest = next((t.name for t in targets if t.sabi == lowest), "")
    reason = "every extension is built for the stable ABI"
    if lowest > _LOWEST:
        reason += f", {newest} for that of Python {lowest[0]}.{lowest[1]}"
    return _tag(lowest), reason


def _tag(version: tuple[int, int]) -> str:
    return f"cp{version[0]}{version[1]}"


def _targets(survey: Path, device: Device) -> Iterator[_Target]:
    """Extension targets that are declared for a device.

    CMakeLists.txt includes cmake/cpu_extension.cmake and returns where the device is not a GPU: what stands
    before that belongs to both, what follows only to the GPU.
    """
    main = survey / "CMakeLists.txt"
    for name, words in _commands(main):
        if name == "include" and any("cpu_extension" in w for w in words):
            if device == "cpu":
                yield from _declared(survey / "cmake" / "cpu_extension.cmake", survey)
                return
            continue
        yield from _declaration(name, words, "CMakeLists.txt")
    if device == "cuda":
        for path in sorted((survey / "cmake" / "external_projects").glob("*.cmake")):
            yield from _declared(path, survey)


def _declared(path: Path, survey: Path) -> Iterator[_Target]:
    for name, words in _commands(path):
        yield from _declaration(name, words, str(path.relative_to(survey)))


def _declaration(name: str, words: list[str], where: str) -> Iterator[_Target]:
    if _TARGET.match(name) and words:
        sabi = None
        if "USE_SABI" in words[:-1]:
            match = re.fullmatch(r"3(?:\.(\d+))?", words[words.index("USE_SABI") + 1])
            # A bare 3 is Py_LIMITED_API=3: the first stable ABI, 3.2.
            sabi = (3, int(match[1] or 2)) if match else None
        yield _Target(words[0], sabi, where)
    elif name == "install" and any("cpython-" in w for w in words):
        component = words[words.index("COMPONENT") + 1] if "COMPONENT" in words[:-1] else "a module"
        yield _Target(component, None, where)


def _commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Commands of a CMake file outside of function and macro definitions: (lower-case name, arguments)."""
    try:
        source = path.read_bytes()
    except OSError:
        return
    import tree_sitter
    import tree_sitter_cmake

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_cmake.language()))
    stack = [parser.parse(source).root_node]
    while stack:
        node = stack.pop()
        if node.type in {"function_def", "macro_def"}:
            continue
        if node.type == "normal_command":
            name, words = "", []
            for child in node.named_children:
                if child.type == "identifier":
                    name = _text(child).lower()
                elif child.type == "argument_list":
                    words = [_text(a).strip('"') for a in child.named_children if a.type == "argument"]
            yield name, words
            continue
        stack.extend(reversed(node.named_children))


def _text(node: object) -> str:
    raw = getattr(node, "text", b"") or b""
    return str(raw.decode("utf-8", "replace"))


def _extension_names(setup: str) -> set[str]:
    """Last parts of the names in ``CMakeExtension(name="vllm._C")`` calls."""
    try:
        module = ast.parse(setup)
    except (SyntaxError, ValueError):
        return set()
    return {
        keyword.value.value.rsplit(".", 1)[-1]
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "CMakeExtension"
        for keyword in node.keywords
        if keyword.arg == "name"
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, str)
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
