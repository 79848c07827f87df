"""What a release's setup.py computes, read from its syntax; nothing of it is executed.

Only so much of Python is understood as the 64 setup.py files from 0.6.0 to 0.33.0 use in their version
logic; anything else is said to be unknown, and never guessed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vllm_builder.stages.compile.model import Device

_STEPS = 10_000
_LONGEST = 1000


class Unknown(Exception):
    """The syntax holds something that is not understood."""


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Envs:
    """The module ``vllm.envs`` as an empty environment gives it."""

    def __init__(self, path: Path, known: Mapping[str, Any]) -> None:
        self._path = path
        self._known = dict(known)

    def value(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = _envs_default(self._path, name)
        return self._known[name]


class _Opaque:
    """A module such as os or sys, known only by its dotted name."""

    def __init__(self, name: str) -> None:
        self.name = name


def computed_version(
    tree: Path, *, device: Device, cuda: str | None, scm_version: str, declared: str | None = None
) -> str:
    """The version that setup.py gives its wheel.

    Args:
        tree: folder with setup.py and vllm/envs.py; vllm/version.py where it is there.
        device: VLLM_TARGET_DEVICE.
        cuda: nvcc's version, ``13.0``; only for cuda.
        scm_version: what setuptools-scm will report (SETUPTOOLS_SCM_PRETEND_VERSION).
        declared: ``__version__`` in vllm/version.py, for trees of before setuptools-scm whose version.py is
            not at hand.

    Raises:
        Unknown: the version logic holds something that is not understood.
        OSError, SyntaxError: setup.py cannot be read.
    """
    module = ast.parse((tree / "setup.py").read_text(encoding="utf-8"))
    functions = {n.name: n for n in module.body if isinstance(n, ast.FunctionDef)}
    if "get_vllm_version" not in functions:
        raise Unknown("setup.py has no get_vllm_version")
    names: dict[str, Any] = {"VLLM_TARGET_DEVICE": device}
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names.update({t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)})
    names["envs"] = _Envs(tree / "vllm" / "envs.py", {"VLLM_TARGET_DEVICE": device})
    # Whether upstream's own binary wheel is unpacked instead of compiling: never here.
    names["USE_PRECOMPILED_EXTENSIONS"] = False

    def declared_version(*_: Any) -> str:
        try:
            text = (tree / "vllm" / "version.py").read_text(encoding="utf-8")
        except OSError:
            text = ""
        match = re.search(r"^__version__ = ['\"]([^'\"]*)['\"]", text, re.MULTILINE)
        found = match[1] if match else declared
        if found is None:
            raise Unknown("vllm/version.py is not there")
        return found

    calls: dict[str, Callable[..., Any]] = {
        "_no_device": lambda: device == "empty",
        "_is_cuda": lambda: device == "cuda",
        "_is_cpu": lambda: device == "cpu",
        "get_version": lambda *_, **__: scm_version,
        "find_version": declared_version,
        "get_path": lambda *parts: "/".join(parts),
        "get_nvcc_cuda_version": lambda: ".".join((cuda or "").split(".")[:2]),
        "str": str,
        "print": lambda *_: None,
        "bool": bool,
    }
    for name in functions:
        if name.startswith("_is_"):
            calls.setdefault(name, lambda: False)
    evaluator = _Evaluator(names, calls)
    value = evaluator.call(functions["get_vllm_version"])
    if not isinstance(value, str):
        raise Unknown(f"get_vllm_version gives {value!r}")
    return value


def _envs_default(path: Path, name: str) -> Any:
    """What vllm/envs.py gives for a name when no variable is set: its table maps names to lambdas."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    # The file has thousands of lines; only the one entry is worth parsing.
    start = text.find(f'"{name}": lambda')
    if start < 0:
        match = re.search(rf'"{re.escape(name)}":\s*lambda', text)
        if match is None:
            return None
        start = match.start()
    start = text.index("lambda", start)
    for end in re.finditer(r",[ \t]*(?:#[^\n]*)?\n", text[start : start + 4000]):
        try:
            node = ast.parse(f"({text[start : start + end.start()]})", mode="eval").body
        except SyntaxError:
            continue
        if isinstance(node, ast.Lambda):
            return _Evaluator({}, {"bool": bool, "int": int, "str": str}).value(node.body)
    raise Unknown(f"the default of {name} in {path.name}")


class _Evaluator:
    """Straight-line Python over strings, numbers and truth values."""

    def __init__(self, names: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]]) -> None:
        self._names = dict(names)
        self._calls = calls
        self._left = _STEPS

    def call(self, function: ast.FunctionDef) -> Any:
        try:
            self._run(function.body)
        except _Return as result:
            return result.value
        return None

    def _run(self, body: list[ast.stmt]) -> None:
        for node in body:
            self._step()
            match node:
                case ast.Return(value=value):
                    raise _Return(None if value is None else self.value(value))
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self._names[name] = self.value(value)
                case ast.Assign(targets=[ast.Subscript(value=holder)]) if _dotted(holder) == "os.environ":
                    # It sets what setuptools-scm reads next.
                    self.value(node.value)
                case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
                    self._names[name] = self._add(self._name(name), self.value(value))
                case ast.If(test=test, body=then, orelse=other):
                    self._run(then if self.value(test) else other)
                case ast.Try(body=then):
                    self._run(then)
                case ast.Expr(value=value):
                    self.value(value)
                case ast.Pass():
                    pass
                case _:
                    raise Unknown(f"line {node.lineno}: {type(node).__name__}")

    def value(self, node: ast.expr) -> Any:
        """The value of an expression.

        Raises:
            Unknown: it holds something that is not understood.
        """
        self._step()
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self._name(name)
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                self._names[name] = self.value(value)
                return self._names[name]
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return tuple(self.value(p) for p in parts)
            case ast.JoinedStr(values=parts):
                return "".join(str(self.value(p)) for p in parts)
            case ast.FormattedValue(value=value, format_spec=None):
                return self.value(value)
            case ast.BoolOp(op=op, values=values):
                result = None
                for part in values:
                    result = self.value(part)
                    if bool(result) is isinstance(op, ast.Or):
                        break
                return result
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.value(operand)
            case ast.IfExp(test=test, body=then, orelse=other):
                return self.value(then if self.value(test) else other)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._add(self.value(left), self.value(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._compare(op, self.value(left), self.value(right))
            case ast.Subscript(value=holder, slice=ast.Slice(lower=lower, upper=upper, step=None)):
                text = self._text(self.value(holder))
                low, high = (None if end is None else self.value(end) for end in (lower, upper))
                return text[low:high]
            case ast.Attribute(value=holder, attr=name):
                owner = self.value(holder)
                if isinstance(owner, _Envs):
                    return owner.value(name)
                if isinstance(owner, _Opaque):
                    return (
                        ["setup.py", "bdist_wheel"]
                        if (owner.name, name) == ("sys", "argv")
                        else _Opaque(f"{owner.name}.{name}")
                    )
            case ast.Call():
                return self._called(node)
            case _:
                pass
        raise Unknown(f"line {node.lineno}: {ast.unparse(node)[:60]}")

    def _called(self, node: ast.Call) -> Any:
        dotted = _dotted(node.func)
        if dotted in {"os.getenv", "os.environ.get"}:
            # No variable that setup.py reads for its version is ever set for it.
            return self.value(node.args[1]) if len(node.args) > 1 else None
        if isinstance(node.func, ast.Name):
            known = self._calls.get(node.func.id)
            if known is None:
                raise Unknown(f"line {node.lineno}: {node.func.id}()")
            if node.func.id in {"get_version"}:
                return known()
            return known(*(self.value(a) for a in node.args))
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"replace", "lower", "strip", "upper"}:
            text = self._text(self.value(node.func.value))
            return getattr(text, node.func.attr)(*(self._text(self.value(a)) for a in node.args))
        raise Unknown(f"line {node.lineno}: {ast.unparse(node.func)[:60]}()")

    def _name(self, name: str) -> Any:
        if name in self._names:
            return self._names[name]
        if name in {"os", "sys", "torch"}:
            return _Opaque(name)
        raise Unknown(f"the name {name}")

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Unknown("more steps than a version can need")

    @staticmethod
    def _compare(op: ast.cmpop, left: Any, right: Any) -> bool:
        match op:
            case ast.Eq() | ast.Is():
                return bool(left == right)
            case ast.NotEq() | ast.IsNot():
                return bool(left != right)
            case ast.In() if isinstance(right, str | list | tuple):
                return left in right
            case ast.NotIn() if isinstance(right, str | list | tuple):
                return left not in right
        raise Unknown(f"a comparison with {type(op).__name__}")

    @staticmethod
    def _text(value: Any) -> str:
        if not isinstance(value, str):
            raise Unknown(f"{value!r} where a text is expected")
        return value

    def _add(self, left: Any, right: Any) -> str:
        if len(self._text(left)) + len(self._text(right)) > _LONGEST:
            raise Unknown("a text longer than a version can be")
        return str(left + right)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""
