"""Quantities as bytes. That Kubernetes agrees is shown on a real API server in `tests/doors`."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer_engine.cluster.quantity import parse_quantity, quantity_value


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1Ki", 1024),
        ("1Gi", 1024**3),
        ("0.5Gi", 512 * 1024**2),
        ("512Mi", 512 * 1024**2),
        ("1k", 1000),
        ("1M", 1000**2),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("2e-3", 1),
        ("100m", 1),
        ("1n", 1),
        (".5", 1),
        ("5.", 5),
        ("+7", 7),
        ("-1", -1),
        ("-0.5", -1),
        ("-0", 0),
        ("007", 7),
        ("16Ei", 2**63 - 1),
        ("1e400", 2**63 - 1),
        ("1e-400", 1),
    ],
)
def test_a_quantity_is_its_bytes_rounded_up(text: str, size: int) -> None:
    assert parse_quantity(text) == size


@pytest.mark.parametrize(
    ("one", "other"), [("1000m", 1), ("0.5", "500m"), ("1Ki", 1024), ("1e3", "1k"), ("1Ei", 2**60), ("-0", 0)]
)
def test_a_quantity_has_one_value_however_it_is_written(one: str, other: object) -> None:
    assert quantity_value(one) == quantity_value(other)


@pytest.mark.parametrize(("one", "other"), [("100m", "1"), ("9007199254740993", "9007199254740992")])
def test_quantities_that_differ_by_little_are_told_apart(one: str, other: str) -> None:
    assert quantity_value(one) != quantity_value(other)


@pytest.mark.parametrize(
    "text", ["", " ", "lots", "1 Gi", "1Gi ", "1gi", "1KB", "1K", "Gi", ".", "1.2.3", "0x1", "1_0", "١"]
)
def test_other_texts_are_no_quantities(text: str) -> None:
    assert parse_quantity(text) is None
    assert quantity_value(text) is None


@pytest.mark.parametrize("value", [None, True, False, 1.5, [], {}, b"1"])
def test_other_types_are_no_quantities(value: Any) -> None:
    assert parse_quantity(value) is None


@given(st.integers())
def test_a_whole_number_is_itself_within_64_bits(number: int) -> None:
    assert parse_quantity(number) == max(-(2**63 - 1), min(number, 2**63 - 1))
    assert parse_quantity(str(number)) == parse_quantity(number)


@given(st.integers(0, 2**20), st.sampled_from(["Ki", "Mi", "Gi"]))
def test_a_binary_suffix_is_a_power_of_1024(number: int, suffix: str) -> None:
    assert parse_quantity(f"{number}{suffix}") == number * 1024 ** (["Ki", "Mi", "Gi"].index(suffix) + 1)
