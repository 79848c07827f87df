"""Places in objects of the real assembler and compiler: the same thing elsewhere is the same, another one is not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_builder.errors import BuilderError
from vllm_builder.lean import code

Compile = Callable[..., code.Code]

BEFORE = ".type more,@object\n.size more,1\nmore: .byte 1\n.balign 8\n"
"""A variable that a left-out header would bring."""


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler

    def run(source: str, *options: str, kind: str = "assembler") -> code.Code:
        made = tmp_path / "unit.o"
        command = [compiler, "-x", kind, "-c", "-fPIC", *options, "-", "-o", str(made)]
        subprocess.run(command, input=source, text=True, check=True)
        return code.read(made)

    return run


def unit(*data: str, code_: str) -> str:
    return (
        f".section .rodata\n.balign 8\n{''.join(data)}.text\n.globl f\n.type f,@function\nf:\n{code_}\n"
        "ret\n.size f,.-f\n"
    )


WAYS = {
    "its address": "leaq .LC0(%rip),%rax",
    "a comparison with a byte": "cmpb $5,.LC0(%rip)",
    "a comparison with a word": "cmpw $500,.LC0(%rip)",
    "a comparison with a long": "cmpl $70000,.LC0(%rip)",
    "a vector": "vpshufd $3,.LC0(%rip),%xmm0",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_constant_without_a_name_is_what_it_holds_wherever_it_lies(compiled: Compile, way: str) -> None:
    one, other = ".LC0: .quad 0x1122334455, 7\n", ".LC0: .quad 0x1122334456, 7\n"
    after = ".LC1: .quad 9\n"
    uses = WAYS[way] + "\nleaq .LC1(%rip),%rcx"
    here = compiled(unit(one, after, code_=uses))
    assert code.differences(compiled(unit(BEFORE, one, after, code_=uses)), here) == []
    assert code.differences(compiled(unit(BEFORE, other, after, code_=uses)), here) == ["f differs"]
    # At the same distance from the same name.
    there = compiled(unit(BEFORE, one, after, code_=uses))
    assert code.differences(compiled(unit(BEFORE, other, after, code_=uses)), there) == ["f differs"]
    # The other one of two that change places.
    swapped = uses.replace(".LC0", ".LC").replace(".LC1", ".LC0").replace(".LC(", ".LC1(")
    assert code.differences(compiled(unit(one, after, code_=swapped)), here) == ["f differs"]


@pytest.mark.parametrize("way", WAYS)
def test_a_local_variable_is_its_name(compiled: Compile, way: str) -> None:
    mine = ".type mine,@object\n.size mine,16\nmine: .quad 1, 2\n"
    uses = WAYS[way].replace(".LC0", "mine")
    here = compiled(unit(mine, code_=uses))
    assert code.differences(compiled(unit(BEFORE, mine, code_=uses)), here) == []
    assert code.differences(compiled(unit(BEFORE, mine, code_=uses.replace("mine", "mine+8"))), here) == [
        "f differs"
    ]


def test_an_instruction_is_as_long_as_the_assembler_made_it(compiled: Compile) -> None:
    """Also of extensions that few programs know: what follows is still found."""
    mine, other = (f".type {n},@object\n.size {n},4\n{n}: .long 1\n" for n in ("mine", "other"))
    for special in ("tilerelease", "vcvtneps2bf16 %zmm1,%ymm3", "vpdpbusd %ymm1,%ymm2,%ymm3"):
        uses = f"{special}\ncmpb $5,{{}}(%rip)"
        here = compiled(unit(mine, other, code_=uses.format("mine")))
        assert code.differences(compiled(unit(BEFORE, mine, other, code_=uses.format("mine"))), here) == []
        there = compiled(unit(BEFORE, mine, other, code_=uses.format("other")))
        assert code.differences(there, here) == ["f differs"]


def test_a_place_outside_of_everything_keeps_its_distance(compiled: Compile) -> None:
    mine = ".type mine,@object\n.size mine,16\nmine: .quad 1, 2\n"
    here = compiled(unit(mine, code_="leaq 32+mine(%rip),%rax"))
    assert code.differences(compiled(unit(mine, code_="leaq 400+mine(%rip),%rax")), here) == ["f differs"]


def test_more_or_fewer_zeros_are_another_constant(compiled: Compile) -> None:
    here = compiled(unit(".LC0: .quad 1, 0, 0\n", code_="leaq .LC0(%rip),%rax"))
    assert code.differences(compiled(unit(".LC0: .quad 1\n", code_="leaq .LC0(%rip),%rax")), here) == [
        "f differs"
    ]


def test_what_holds_no_code_is_refused(compiled: Compile) -> None:
    with pytest.raises(BuilderError, match="cannot be read") as caught:
        compiled("int f() { return 1; }", "-flto", kind="c++")
    assert "-flto" in caught.value.why


def test_without_binutils_it_says_what_to_install(compiled: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(unit(code_="nop"))
    monkeypatch.setattr("vllm_builder.lean.instructions.OBJDUMP", "no-such-objdump")
    with pytest.raises(BuilderError, match="objdump") as caught:
        compiled(unit(".LC0: .quad 1\n", code_="leaq .LC0(%rip),%rax"))
    assert "binutils" in caught.value.next


SWITCH = """
extern int a(); extern int b(); extern int c(); extern int d(); extern int e(); extern int g();
{before}
int f(int n) {{
  switch (n) {{
    {cases}
  }}
  return 1;
}}
"""
CASES = [f"case {i}: return {name}();" for i, name in enumerate("abcdeg")]
ANOTHER = "static int h(int n) {{ {} }} auto use = h;".format(
    SWITCH[SWITCH.index("switch") : SWITCH.index("return 1")].format(cases=" ".join(CASES[::-1]))
    + "return 2;"
)


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_a_table_of_jumps_is_where_it_leads(compiled: Compile, level: str) -> None:
    def of(cases: list[str], before: str = "") -> code.Code:
        return compiled(SWITCH.format(before=before, cases="\n".join(cases)), level, kind="c++")

    here = of(CASES)
    assert "_Z1fi" in here.defined
    assert code.differences(of(CASES), here) == []
    found = code.differences(here, of(CASES, ANOTHER))
    assert found == ["use is missing"]
    # The same code, to which other numbers lead.
    other = [case.replace(f"case {i}:", f"case {(i + 1) % 6}:") for i, case in enumerate(CASES)]
    assert code.differences(of(other), here) == ["_Z1fi differs"]
