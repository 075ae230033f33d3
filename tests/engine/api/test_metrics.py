"""What Prometheus scrapes: well-formed, of one piece at every moment, and of a size that no client can change."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.fixtures import EngineProcess, running_engine
from tests.promtool import check_metrics
from vectorizer_engine.api.routes import ROUTES
from vectorizer_engine.cache.memory_manager import CacheType, EvictionReason, Watermark
from vectorizer_engine.storage.counted_store import CALLS

LIMIT = 4 * 1024**2
BATCH = 500

PATTERNS = {"other", *(route.pattern for route in ROUTES)}
METHODS = {"other", *(route.method for route in ROUTES)}
VIOLATIONS = {"ClusterConfigViolation", "FileWatcherNotAllowedInCluster"}

VALUES = {
    "call": set(CALLS),
    "direction": {"sent", "received"},
    "method": METHODS,
    "route": PATTERNS,
    "status": {
        str(code) for code in (200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503, 507)
    },
    "component": {"cache", "metadata", "mmap"},
    "reason": {
        *EvictionReason,
        *("bad_file", "bad_row", "collection_missing", "incomplete", "storage", "unexpected", "unreadable"),
    },
    "result": {"hit", "miss"},
    "type": {*CacheType, *VIOLATIONS},
    "watermark": set(Watermark),
}
"""By label, the values that it may have. Those of `le` are numbers, which the sources fix."""

Samples = dict[str, dict[tuple[str, ...], float]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine whose caches are so small that they are full at once."""
    config = {"cluster": {"enabled": True, "max_cache_memory_bytes": LIMIT}}
    with running_engine(tmp_path_factory.mktemp("scraped"), config) as process:
        with process.http() as http:
            vectors = {"size": 4, "distance": "Dot"}
            http.put("/collections/c", json={"vectors": vectors}).raise_for_status()
        yield process


def upsert(http: httpx.Client, start: int) -> None:
    ids = list(range(start, start + BATCH))
    batch = {"ids": ids, "vectors": [[point, 1, 2, 3] for point in ids]}
    http.put("/collections/c/points", json={"batch": batch}).raise_for_status()


def scrape(http: httpx.Client) -> Samples:
    """Every sample, by its name and the values of its labels."""
    samples: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            samples[sample.name][tuple(sample.labels.values())] = sample.value
    return samples


def test_promtool_finds_nothing_to_say(engine: EngineProcess) -> None:
    with engine.http() as http:
        upsert(http, 0)
        http.post("/collections/c/points/query", json={"query": [1, 2, 3, 4]}).raise_for_status()
        http.get("/unknown")
        refused = {"vectors": {"size": 4, "distance": "Dot", "on_disk": False}}
        assert http.put("/collections/refused", json=refused).status_code == 422
        check_metrics(http.get("/metrics").text)


def test_in_each_scrape_the_parts_of_the_ledger_fit_together_while_it_changes(engine: EngineProcess) -> None:
    stop = threading.Event()

    def work(worker: int) -> None:
        with engine.http() as http:
            for step in range(10_000):
                if stop.is_set():
                    return
                query = {"query": [worker, step, 1, 2], "limit": 400}
                http.post("/collections/c/points/query", json=query).raise_for_status()
                if step % 20 == 0:
                    upsert(http, 1000 * worker + step)

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    try:
        with engine.http() as http:
            evicted = 0.0
            seen = set()
            while evicted == 0 or len(seen) < 20:
                samples = scrape(http)
                by_cache = samples["vectorizer_cluster_cache_usage_bytes"]
                usage = samples["vectorizer_cluster_memory_usage_bytes"]
                limit = samples["vectorizer_cluster_cache_limit_bytes"][()]
                assert sum(by_cache.values()) == usage["cache",] + usage["metadata",] <= limit == LIMIT
                assert by_cache["metadata",] == usage["metadata",]
                seen.add(tuple(by_cache.values()))
                evicted = sum(samples["vectorizer_cluster_cache_evictions_total"].values())
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_each_append_to_the_log_is_counted_with_the_writes_that_shared_it(engine: EngineProcess) -> None:
    with engine.http() as http:
        before = scrape(http)
        for start in range(3):
            upsert(http, start)
        after = scrape(http)

    def more(name: str) -> float:
        return after[f"vectorizer_log_append_{name}"][()] - before[f"vectorizer_log_append_{name}"][()]

    assert more("writes_count") == more("writes_sum") == more("duration_seconds_count") == 3
    assert more("duration_seconds_sum") > 0


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
PATHS = st.one_of(
    st.lists(WORDS, max_size=4).map(lambda words: "/" + "/".join(words)),
    st.builds(
        lambda route, word: route.pattern.replace("{collection}", word).replace("{id}", word),
        st.sampled_from(ROUTES),
        WORDS,
    ),
)
REQUESTS = st.fixed_dictionaries(
    {
        "method": st.one_of(st.sampled_from(sorted(METHODS)), st.from_regex(r"[A-Z]{3,7}", fullmatch=True)),
        "url": PATHS,
        "params": st.dictionaries(WORDS, WORDS, max_size=2),
        "headers": st.dictionaries(WORDS.map(lambda word: f"x-{word}"), WORDS, max_size=2),
        "json": st.one_of(st.none(), st.dictionaries(WORDS, WORDS, max_size=3)),
    }
)


@settings(max_examples=8, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=20, max_size=20))
def test_whatever_clients_send_every_label_has_a_value_that_is_known_before(
    engine: EngineProcess, requests: list[dict[str, Any]]
) -> None:
    with engine.http() as http:
        for request in requests:
            http.request(**request)
        text = http.get("/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label == "le":
                    assert float(value) > 0
                else:
                    assert value in VALUES[label], (sample.name, label)
