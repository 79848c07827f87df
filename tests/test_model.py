"""The digest covers what it should and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllm_builder.model import Free, Model, canonical_json, digest


class Inner(Model):
    name: str
    path: Free[str] = ""


class Outer(Model):
    inner: Inner
    flags: dict[str, str] = {}
    jobs: Free[int] = 1


def test_free_fields_are_outside_the_digest_at_every_depth() -> None:
    a = Outer(inner=Inner(name="x", path="/a"), jobs=1)
    b = Outer(inner=Inner(name="x", path="/b"), jobs=64)
    assert digest(a) == digest(b)


def test_every_other_field_is_inside() -> None:
    a = Outer(inner=Inner(name="x"))
    assert digest(a) != digest(Outer(inner=Inner(name="y")))
    assert digest(a) != digest(Outer(inner=Inner(name="x"), flags={"A": ""}))


@given(st.dictionaries(st.text(), st.text()))
def test_the_order_of_a_mapping_does_not_matter(flags: dict[str, str]) -> None:
    turned = dict(reversed(flags.items()))
    assert digest(Outer(inner=Inner(name="x"), flags=flags)) == digest(
        Outer(inner=Inner(name="x"), flags=turned)
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_canonical_json_round_trips(value: object) -> None:
    import json

    assert json.loads(canonical_json(value)) == value
