"""Declarations of preprocessed C++, and whether one file's are another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.lean.declarations import declarations, first_foreign

FULL = """
namespace at {
inline int one(const T& t) {
  if (t) { return 1; } else { return f("}", '}'); }
}
template <class T> struct S { int a; void m() { g(); } };
constexpr int A = 1, B[] = {1, 2};
}
extern "C" {
void c(int (*f)(int));
}
namespace { namespace b::c {
using namespace at;
int two(int n = (1 + 2)) noexcept(noexcept(f())) { return n; }
} }
""".splitlines()


def test_declarations_are_told_with_the_namespaces_around_them() -> None:
    at, c, inner = ("namespace at",), ('extern "C"',), ("namespace", "namespace b::c")
    assert list(declarations(FULL)) == [
        ((), "namespace at"),
        (
            at,
            "inline int one ( const T& t ) { if ( t ) { return 1 ; } else { return f ( \"}\" , '}' ) ; } }",
        ),
        (at, "template <class T> struct S { int a ; void m ( ) { g ( ) ; } } ;"),
        (at, "constexpr int A = 1 , B[] = { 1 , 2 } ;"),
        ((), 'extern "C"'),
        (c, "void c ( int ( *f ) ( int ) ) ;"),
        ((), "namespace"),
        (inner[:1], "namespace b::c"),
        (inner, "using namespace at ;"),
        (inner, "int two ( int n = ( 1 + 2 ) ) noexcept ( noexcept ( f ( ) ) ) { return n ; }"),
    ]


PACKED = (
    "#pragma pack(push, 1)\nstruct A { char a; int b; };\n#pragma pack(pop)\nstruct B { char a; int b; };"
)


@pytest.mark.parametrize(
    ("some", "all_"),
    [
        ("struct A { char a; int b; };", PACKED.partition("struct B")[0]),
        (PACKED.partition("\n")[2], PACKED),
        ("struct A { int a; };", "struct A { int a; } __attribute__((packed));\nstruct B {};"),
        ("inline A::A() : x{1} {}", "inline A::A() : x{1}, y{2} {}"),
        ("constexpr auto v = S{1};", "constexpr auto v = S{1} + 1;\nstruct B {};"),
        ("constexpr auto v = S(1){};", "constexpr auto v = S(1){} + 1;\nstruct B {};"),
        ('extern "C" inline void f() {}', "inline void f() {}"),
        ("namespacex f() {}", "x f() {}"),
        ("namespace at {}", "int a;"),
        ("constexpr int a =\n1;", "constexpr int a =\n#pragma one\n1;"),
        ("constexpr int a =\n#pragma one\n1;\nint b;", "constexpr int a =\n#pragma one\n2;\nint b;"),
        ("auto f() { return [] { return 1; }; }", "auto f() { return [] { return 2; }; }"),
    ],
)
def test_a_declaration_that_goes_on_is_not_taken_for_a_shorter_one(some: str, all_: str) -> None:
    assert first_foreign(some.splitlines(), all_.splitlines()) != ""
    assert first_foreign(all_.splitlines(), all_.splitlines()) == ""


def test_a_part_of_the_declarations_is_not_foreign_however_it_is_laid_out() -> None:
    part = 'namespace at { constexpr int A=1 ; } extern "C" { void c(int (*f)(int)); }'
    assert first_foreign(part.replace("A=1", "A = 1, B[] = {1, 2}").splitlines(), FULL) == ""
    assert first_foreign(FULL, FULL) == ""
    assert first_foreign([], FULL) == ""


def test_a_declaration_that_is_changed_moved_or_cut_is_foreign() -> None:
    text = "\n".join(FULL)
    for other in (
        text.replace("return 1;", "return 2;"),
        text.replace("return 1;", ""),
        text.replace("namespace b::c", "namespace b"),
        text.replace("inline int one", "int one"),
        text.replace("const T& t", "T t"),
        text.replace("int a;", ""),
        text.replace("using namespace at;", "").replace(
            "namespace at {", "namespace at {\nusing namespace at;"
        ),
        text + "int more",
        "void c(int (*f)(int));",
        "#pragma weak one\n" + text,
    ):
        assert first_foreign(other.splitlines(), FULL) != ""


def test_the_order_counts() -> None:
    assert first_foreign(["int b;", "int a;"], ["int a;", "int b;"]) == "int a ;"


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8")), max_size=8))
def test_any_text_is_its_own(lines: list[str]) -> None:
    assert first_foreign(lines, lines) == ""


DECLARED = st.sampled_from(
    [
        "int {0};",
        "void {0}(int a) {{ if (a) {{ g(); }} }}",
        "struct {0} {{ char c = ';'; }};",
        "using {0} = int;",
    ]
)


@given(st.lists(st.tuples(DECLARED, st.sampled_from(["", "a", "b::c"])), min_size=1, max_size=8), st.data())
def test_leaving_declarations_out_is_allowed_and_nothing_else(
    made: list[tuple[str, str]], data: st.DataObject
) -> None:
    lines = [
        f"namespace {space} {{ {form.format(f'n{i}')} }}" if space else form.format(f"n{i}")
        for i, (form, space) in enumerate(made)
    ]
    kept = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    some = [line for line, keep in zip(lines, kept, strict=True) if keep]
    assert first_foreign(some, lines) == ""
    at = data.draw(st.integers(0, len(lines) - 1))
    renamed = [line.replace(f"n{at}", "other") if i == at else line for i, line in enumerate(lines)]
    assert "other" in first_foreign(renamed, lines)
