"""Keeping and dropping parts of payloads, held against Qdrant's own Python client."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from qdrant_client.local.payload_value_extractor import exclude_payload, include_payload

from tests.engine.collection.test_filters import PATHS, PAYLOADS
from vectorizer_engine.collection.payload_path import excluding, including


@given(payload=PAYLOADS, paths=st.lists(PATHS, max_size=3))
def test_paths_select_the_parts_that_qdrants_own_client_selects(
    payload: dict[str, Any], paths: list[str]
) -> None:
    assert including(paths)(payload) == include_payload(payload, paths)
    assert excluding(paths)(payload) == exclude_payload(payload, paths)
