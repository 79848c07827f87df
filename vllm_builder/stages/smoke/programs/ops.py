"""Compute with the wheel's ops on CPU tensors and hold the results against torch's own.

    python -I ops.py RESULT WITHOUT LIBRARY...

``RESULT`` gets JSON lines, each written out before the next op begins, so that a crash leaves the name of the op that
crashed. ``WITHOUT``: names that are not tried, separated by commas.

Which ops there are is read from torch's registry of schemas: those that appeared when the libraries were loaded. One is
tried if its schema is the known one and it has a kernel for CPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TOLERANCES = {
    torch.float32: (1e-5, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-2),
    torch.float16: (2e-3, 2e-3),
}
"""Type -> relative and absolute. torch.testing's relative ones; the absolute ones leave room for intermediate results
that are rounded to the type. A wrong kernel is wrong by something of the size of the values, about 1."""

_TOKENS, _WIDTH, _HEADS, _HEAD = 7, 192, 3, 64
_EPSILON = 1e-6

Case = tuple[tuple[Any, ...], list[Tensor], list[Tensor]]
"""Arguments, those of them that hold the results afterwards, and what they should be (float32)."""


def _random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, dtype=torch.float32).to(dtype)


def _gated(activation: Callable[[Tensor], Tensor]) -> Callable[[torch.dtype], Case]:
    def case(dtype: torch.dtype) -> Case:
        x = _random(_TOKENS, 2 * _WIDTH, dtype=dtype)
        out = torch.full((_TOKENS, _WIDTH), float("nan"), dtype=dtype)
        gate, up = x.float().chunk(2, dim=-1)
        return (out, x), [out], [activation(gate) * up]

    return case


def _plain(activation: Callable[[Tensor], Tensor]) -> Callable[[torch.dtype], Case]:
    def case(dtype: torch.dtype) -> Case:
        x = _random(_TOKENS, _WIDTH, dtype=dtype)
        out = torch.full_like(x, float("nan"))
        return (out, x), [out], [activation(x.float())]

    return case


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + _EPSILON) * weight.float()


def _rms_norm(dtype: torch.dtype) -> Case:
    x, weight = _random(_TOKENS, _WIDTH, dtype=dtype), _random(_WIDTH, dtype=dtype)
    out = torch.full_like(x, float("nan"))
    return (out, x, weight, _EPSILON), [out], [_norm(x.float(), weight)]


def _fused_add_rms_norm(dtype: torch.dtype) -> Case:
    x, residual = _random(_TOKENS, _WIDTH, dtype=dtype), _random(_TOKENS, _WIDTH, dtype=dtype)
    weight = _random(_WIDTH, dtype=dtype)
    total = x.float() + residual.float()
    return (x, residual, weight, _EPSILON), [x, residual], [_norm(total, weight), total]


def _rotary(neox: bool) -> Callable[[torch.dtype], Case]:
    def case(dtype: torch.dtype) -> Case:
        positions = torch.randint(0, 50, (_TOKENS,), dtype=torch.int64)
        query, key = (_random(_TOKENS, _HEADS * _HEAD, dtype=dtype) for _ in range(2))
        frequencies = 1.0 / 10000 ** (torch.arange(0, _HEAD, 2).float() / _HEAD)
        angles = torch.arange(50).float()[:, None] * frequencies
        cache = torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype)
        expected = [_rotated(x, cache[positions].float(), neox) for x in (query, key)]
        return (positions, query, key, _HEAD, cache, neox), [query, key], expected

    return case


def _rotated(x: Tensor, cos_sin: Tensor, neox: bool) -> Tensor:
    cos, sin = (part[:, None, :] for part in cos_sin.chunk(2, dim=-1))
    heads = x.float().view(_TOKENS, _HEADS, _HEAD)
    # GPT-NeoX turns the halves of a head against each other, GPT-J its even and odd elements.
    a, b = heads.chunk(2, dim=-1) if neox else (heads[..., ::2], heads[..., 1::2])
    turned = (a * cos - b * sin, b * cos + a * sin)
    out = torch.cat(turned, dim=-1) if neox else torch.stack(turned, dim=-1).flatten(-2)
    return out.reshape(_TOKENS, _HEADS * _HEAD)


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


_TWO = ("Tensor", "Tensor")
KNOWN: dict[str, tuple[tuple[str, ...], list[Callable[[torch.dtype], Case]]]] = {
    "silu_and_mul": (_TWO, [_gated(functional.silu)]),
    "gelu_and_mul": (_TWO, [_gated(functional.gelu)]),
    "gelu_tanh_and_mul": (_TWO, [_gated(_gelu_tanh)]),
    # https://github.com/huggingface/transformers, activations.py: NewGELU and FastGELU are both the tanh form.
    "gelu_new": (_TWO, [_plain(_gelu_tanh)]),
    "gelu_fast": (_TWO, [_plain(_gelu_tanh)]),
    "gelu_quick": (_TWO, [_plain(lambda x: x * torch.sigmoid(1.702 * x))]),
    "rms_norm": (("Tensor", "Tensor", "Tensor", "float"), [_rms_norm]),
    "fused_add_rms_norm": (("Tensor", "Tensor", "Tensor", "float"), [_fused_add_rms_norm]),
    "rotary_embedding": (
        ("Tensor", "Tensor", "Optional[Tensor]", "int", "Tensor", "bool"),
        [_rotary(True), _rotary(False)],
    ),
}


def schemas() -> dict[str, Any]:
    return {schema.name: schema for schema in torch._C._jit_get_all_schemas()}


def has_cpu_kernel(name: str) -> bool:
    ask = torch._C._dispatch_has_kernel_for_dispatch_key
    return bool(ask(name, "CPU") or ask(name, "CompositeImplicitAutograd"))


def compare(op: Callable[..., object], case: Case, dtype: torch.dtype) -> tuple[float, bool]:
    """The largest difference, and whether all are within the type's tolerance."""
    arguments, results, expected = case
    op(*arguments)
    relative, absolute = TOLERANCES[dtype]
    worst, within = 0.0, True
    for result, wanted in zip(results, expected, strict=True):
        difference = (result.float() - wanted).abs()
        # A NaN is within nothing.
        within = within and bool((difference <= absolute + relative * wanted.abs()).all())
        worst = max(worst, float(difference.nan_to_num(nan=float("inf")).max()))
    return worst, within


def main(result: str, without: str, *libraries: str) -> None:
    before = set(schemas())
    for library in libraries:
        torch.ops.load_library(library)
    found = {name: schema for name, schema in schemas().items() if name not in before}
    skipped = set(without.split(",")) - {""}
    with open(result, "a", encoding="utf-8") as file:  # noqa: PTH123

        def say(**values: object) -> None:
            file.write(json.dumps(values) + "\n")
            file.flush()

        unknown, without_kernel = [], []
        for name, schema in sorted(found.items()):
            bare = name.partition("::")[2]
            types = tuple(str(argument.type) for argument in schema.arguments)
            if not has_cpu_kernel(name):
                without_kernel.append(name)
            elif bare not in KNOWN:
                unknown.append(name)
            elif types != KNOWN[bare][0]:
                say(op=name, skipped=f"its schema is not the one that is known: {schema}")
            elif name not in skipped:
                _try(name, KNOWN[bare][1], say)
        say(end=True, unknown=unknown, without_kernel=without_kernel)


def _try(name: str, cases: list[Callable[[torch.dtype], Case]], say: Callable[..., None]) -> None:
    namespace, _, bare = name.partition("::")
    op = getattr(getattr(torch.ops, namespace), bare)
    for dtype in TOLERANCES:
        said = str(dtype).removeprefix("torch.")
        say(begin=name, dtype=said)
        torch.manual_seed(0)
        try:
            pairs = [compare(op, case(dtype), dtype) for case in cases]
        except (RuntimeError, NotImplementedError) as error:
            text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if "not implemented for" in text:
                say(op=name, dtype=said, skipped=text)
            else:
                say(op=name, dtype=said, error=text)
            continue
        say(op=name, dtype=said, difference=max(p[0] for p in pairs), within=all(p[1] for p in pairs))


if __name__ == "__main__":
    main(*sys.argv[1:])
