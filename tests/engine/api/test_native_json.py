"""What reads vectors out of JSON and writes hits into it agrees with the libraries that read and write the rest."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vectorizer_engine._native import lift_vectors, read_vector

floats = st.floats(allow_nan=False, allow_infinity=False)
small = st.floats(-2, 2)
spellings = st.sampled_from(["{!r}", "{:.3f}", "{:e}", "{:.17e}", "{:.0f}", "{:E}", "{:.9g}", "{:.25f}"])
numbers = st.builds(lambda spelling, value: spelling.format(value), spellings, small | floats) | st.integers(
    -(10**25), 10**25
).map(str)


def read(text: str, dimension: int) -> Any:
    out = np.full(dimension, np.nan, np.float32)
    return out if read_vector(text.encode(), out) else None


@settings(max_examples=1000)
@given(values=st.lists(numbers, min_size=1, max_size=5), space=st.sampled_from(["", " ", "\n\t "]))
@example(values=["0.1", "1e22", "-0.0", "16777217", "0.50000002980232238769531250", "1e-44"], space="")
def test_a_vector_is_read_as_through_a_double_or_left_to_others(values: list[str], space: str) -> None:
    text = f"[{space}{f'{space},{space}'.join(values)}{space}]{space}"
    with np.errstate(over="ignore"):
        expected = np.array(msgspec.json.decode(text, type=list[float]), np.float32)
    found = read(text, len(values))
    if found is not None:
        assert found.tobytes() == expected.tobytes() or (found == expected).all()


def test_what_clients_send_is_not_left_to_others() -> None:
    random = np.random.default_rng(0)
    for scale in (1e-6, 0.05, 1, 1000):
        vector = (random.standard_normal(1000) * scale).astype(np.float32)
        for text in (
            json.dumps(vector.tolist()),
            json.dumps(vector.astype(float).tolist(), separators=(",", ":")),
            "[" + ",".join(str(value) for value in vector) + "]",
            "[" + ",".join(f"{value:.6f}" for value in vector) + "]",
        ):
            found = read(text, 1000)
            assert found is not None
            assert (found == np.array(json.loads(text), np.float32)).all()


@pytest.mark.parametrize(
    "text",
    ["", "[", "[1", "[1,", "[1,2", "[1,2,3]", "[1]", "[1,2]x", "[1 2]", "[,1]", "[1,]", "{}", "1", "[01,2]", "[1.,2]",
     "[.5,2]", "[1e,2]", "[-,2]", "[+1,2]", "[NaN,2]", "[null,2]", '["1",2]', "[[1,2]]", "[1,2", "[1e400,2]", "[0x1,2]",
     "[1e+,2]", "[- 1,2]", "[Infinity,1]", "[true,1]", "[1,2]]"],
)  # fmt: skip
def test_what_is_no_list_of_so_many_numbers_is_left_to_others(text: str) -> None:
    assert read(text, 2) is None


vectors = st.lists(st.integers(-99, 99).map(lambda n: n / 8), min_size=3, max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
searches = st.fixed_dictionaries(
    {"query": vectors | st.integers(0, 9) | st.fixed_dictionaries({"nearest": vectors})},
    optional={"limit": st.integers(1, 9), "filter": values, "using": st.text(max_size=5), "vector": vectors},
)


@given(
    body=searches | st.fixed_dictionaries({"searches": st.lists(searches, max_size=4)}),
    indent=st.none() | st.just(1),
)
def test_a_request_is_the_same_when_its_vectors_are_put_back(body: Any, indent: int | None) -> None:
    lifted = lift_vectors(json.dumps(body, indent=indent, ensure_ascii=False).encode(), 3)
    assert lifted is not None
    rest, rows = json.loads(lifted[0]), np.frombuffer(lifted[1], np.float32).reshape(-1, 3).tolist()

    def put_back(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: v if k == "filter" else put_back(v, k) for k, v in value.items()}
        if isinstance(value, list) and key in ("query", "vector", "nearest"):
            [number] = value
            return rows[number]
        return [put_back(each) for each in value] if isinstance(value, list) else value

    assert put_back(rest) == body


@pytest.mark.parametrize(
    "body",
    ['{"query":[0]}', '{"query":[1,2]}', '{"query":[1,2,3,4]}', '{"query":[[1,2,3]]}', '{"query":[1,2,null]}',
     '{"qu\\u0065ry":[0]}', '{"query":[1,2,3', '{"query":[1,2,3],"vector":[0]}', '{"query', '{"filter":{"a":"'],
)  # fmt: skip
def test_a_request_with_anything_else_where_a_vector_belongs_is_left_to_others(body: str) -> None:
    assert lift_vectors(body.encode(), 3) is None


@given(body=st.binary(max_size=60) | st.text('{}[]",:\\qury 123.e-filtervecto', max_size=80).map(str.encode))
def test_no_bytes_are_too_odd(body: bytes) -> None:
    lifted = lift_vectors(body, 2)
    out = np.empty(2, np.float32)
    assert read_vector(body, out) in (True, False)
    assert lifted is None or len(lifted[1]) % 8 == 0


def test_arguments_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="dimension 0"):
        lift_vectors(b"{}", 0)
    with pytest.raises(TypeError, match="2 arguments"):
        lift_vectors(b"{}")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="2 arguments"):
        read_vector(b"{}")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        read_vector("text", np.empty(2, np.float32))
