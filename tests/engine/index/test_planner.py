"""Which layout a segment gets from its size and the memory there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer_engine.index.base import Distance
from vectorizer_engine.index.planner import WORTH_INDEXING, LayoutPlan, SegmentLayout, plan_layout

MIB = 1024**2


def plan(
    count: int,
    dimension: int = 384,
    distance: Distance = Distance.COSINE,
    *,
    limit: int = 1024 * MIB,
    available: int | None = None,
) -> LayoutPlan:
    return plan_layout(
        count,
        dimension,
        distance,
        limit=limit,
        available=limit if available is None else available,
        threads=2,
    )


def test_a_small_segment_is_scanned() -> None:
    chosen = plan(WORTH_INDEXING - 1)
    assert chosen.layout is SegmentLayout.EXACT
    assert "4095 vectors are scanned faster" in chosen.reason
    assert plan(WORTH_INDEXING).layout is SegmentLayout.HNSW_SQ8


def test_a_segment_that_fits_gets_the_graph() -> None:
    chosen = plan(68_431, limit=64 * MIB)
    assert chosen.layout is SegmentLayout.HNSW_SQ8
    assert chosen.build_bytes == pytest.approx(37 * MIB, rel=0.1)
    assert chosen.open_bytes < MIB


def test_a_distance_without_an_index_is_scanned() -> None:
    chosen = plan(1_000_000, distance=Distance.MANHATTAN)
    assert chosen.layout is SegmentLayout.EXACT
    assert "no index compares by Manhattan" in chosen.reason


def test_a_segment_whose_graph_cannot_be_built_under_the_limit_gets_lists() -> None:
    chosen = plan(1_000_000, limit=256 * MIB)
    assert chosen.layout is SegmentLayout.IVF_RABITQ
    assert "more than the cache limit of 268435456 bytes" in chosen.reason


def test_a_segment_whose_graph_cannot_be_built_now_gets_lists() -> None:
    chosen = plan(300_000, available=80 * MIB)
    assert chosen.layout is SegmentLayout.IVF_RABITQ
    assert "of which 83886080 are free now" in chosen.reason


def test_a_segment_for_which_nothing_can_be_built_is_scanned_and_says_why() -> None:
    chosen = plan(1_000_000, available=MIB)
    assert chosen.layout is SegmentLayout.EXACT
    assert "hnsw-sq8 needs" in chosen.reason
    assert "ivf-rabitq needs" in chosen.reason


def test_an_index_too_heavy_to_keep_open_is_not_chosen() -> None:
    chosen = plan(60_000, 16, limit=4 * MIB, available=10_000 * MIB)
    assert chosen.layout is SegmentLayout.EXACT
    assert "ivf-rabitq would hold" in chosen.reason
    assert "while open, more than an eighth" in chosen.reason


@given(
    count=st.integers(1, 10_000_000),
    dimension=st.integers(1, 4096),
    distance=st.sampled_from(Distance),
    limit=st.integers(1, 1024 * MIB),
    share=st.floats(0, 1),
)
def test_what_is_chosen_always_fits(
    count: int, dimension: int, distance: Distance, limit: int, share: float
) -> None:
    available = int(limit * share)
    chosen = plan(count, dimension, distance, limit=limit, available=available)
    assert chosen.build_bytes <= available
    assert chosen.open_bytes <= limit
    assert chosen.reason
