"""The dashboard over a running engine. The operator's panels are held against a running one in `tests/e2e`."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.api.test_tenants import as_caller, with_tenants
from tests.engine.distributed.pods import KEY
from tests.engine.fixtures import EngineProcess
from tests.monitoring.panels import DASHBOARD, TARGET, check_answered, queries
from tests.promtool import PromtoolError


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[str]:
    """The metrics of an engine with tenants that was written to, searched, and asked for what there is not.

    It is a member of a cluster, and so has all metrics that there are.
    """
    config = with_tenants(tmp_path / "keys") | {
        "cluster": {"enabled": True, "pod_name": "pod-0", "internal_key": KEY},
        "storage": {"object_store": {"url": f"file://{tmp_path}/store"}},
    }
    engine = EngineProcess(tmp_path / "engine", config)
    topology = {"version": 1, "members": [{"name": "pod-0", "address": f"127.0.0.1:{engine.port}"}]}
    try:
        engine.launch()
        engine.wait_until(lambda: engine.answers("/livez"), "alive")
        with as_caller(engine, KEY) as member:
            engine.wait_until(
                lambda: member.put("/internal/topology", json=topology).status_code == 200, "a member"
            )
        engine.wait_until(lambda: engine.answers("/readyz"), "ready")
        with as_caller(engine, "admin-key") as http:
            collection = {"vectors": {"size": 2, "distance": "Dot"}}
            http.put("/collections/c", json=collection).raise_for_status()
            points = [{"id": 1, "vector": [1.0, 2.0]}]
            http.put("/collections/c/points", json={"points": points}).raise_for_status()
            http.post("/collections/c/points/query", json={"query": [1.0, 2.0]}).raise_for_status()
            assert http.get("/collections/unknown").status_code == 404
            yield http.get("/metrics").text
    finally:
        engine.close()


def test_every_panel_shows_something_of_an_engine_that_is_used(scraped: str, tmp_path: Path) -> None:
    check_answered(queries(operator=False), scraped, tmp_path)


def test_a_query_over_what_nobody_exports_is_found_out(tmp_path: Path) -> None:
    scraped = "vectorizer_points 3\n"
    check_answered(["sum by (pod) (vectorizer_points)"], scraped, tmp_path)
    for wrong in ("vectorizer_point", 'vectorizer_points{pod="other"}', "sum(vectorizer_points"):
        with pytest.raises(PromtoolError):
            check_answered([wrong], scraped, tmp_path)


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    panels = DASHBOARD["panels"]
    assert DASHBOARD["schemaVersion"] >= 38
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "cluster", "pod"]
    for label in TARGET:
        assert any(each.get("query", "").endswith(f", {label})") for each in variables.values())
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["title"] and panel["description"]
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {"${datasource}"}


def test_no_panel_lies_over_another_or_beyond_the_edge() -> None:
    cells: Counter[tuple[int, int]] = Counter()
    for place in (panel["gridPos"] for panel in DASHBOARD["panels"]):
        for x in range(place["x"], place["x"] + place["w"]):
            cells.update((x, y) for y in range(place["y"], place["y"] + place["h"]))
    assert set(cells.values()) == {1}
    assert max(x for x, _ in cells) == 23
