"""What a cluster of several pods shows of itself: Qdrant's calls about clusters, and metrics."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from qdrant_client import QdrantClient, models
from qdrant_client.http.models import ClusterStatusOneOf, ClusterStatusOneOf1, CollectionClusterInfo

from tests.engine.distributed.pods import HEADERS, Pods
from tests.engine.fixtures import EngineProcess
from tests.promtool import check_metrics
from vectorizer_engine.api.distribution import peer_id

SHARDS = 6
POINTS = 60
PEERS = [peer_id(f"pod-{number}") for number in range(3)]
OUTCOMES = {"done", "moved", "refused", "unanswered", "unreachable"}


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    """Two members with a collection, and a third engine that is none yet."""
    pods = Pods(tmp_path_factory.mktemp("seen"), 3, covered=True)
    try:
        pods.launch()
        pods.publish(0, 1, to=(0, 1, 2))
        pods.wait_until_ready(0, 1)
        fill(pods[0].client())
        yield pods
    finally:
        pods.close()


def fill(client: QdrantClient) -> None:
    client.create_collection("docs", models.VectorParams(size=2, distance=models.Distance.DOT))
    client.upsert("docs", [models.PointStruct(id=each, vector=[each, 1]) for each in range(POINTS)])


def distribution(engine: EngineProcess) -> CollectionClusterInfo:
    client = engine.client()
    found = client.http.distributed_api.collection_cluster_info("docs").result
    assert found is not None
    return found


def metrics(engine: EngineProcess) -> dict[str, float]:
    """By name, or by name and value of the label `outcome`."""
    text = httpx.get(engine.url + "/metrics").text
    return {
        " ".join(
            (sample.name, *(value for label, value in sample.labels.items() if label == "outcome"))
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if set(sample.labels) <= {"outcome"}
    }


def test_qdrants_client_sees_the_members_as_peers(pods: Pods) -> None:
    for number in (0, 1):
        client = pods[number].client()
        status = client.http.distributed_api.cluster_status().result
        assert isinstance(status, ClusterStatusOneOf1)
        assert status.peer_id == PEERS[number]
        assert {peer: info.uri for peer, info in status.peers.items()} == {
            str(PEERS[each]): f"http://127.0.0.1:{pods[each].port}/" for each in (0, 1)
        }
        assert status.raft_info.commit == pods.known_to(number)


def test_the_members_names_and_shares_are_told_beside_what_qdrant_tells(pods: Pods) -> None:
    seen = [httpx.get(pods[number].url + "/cluster").json()["result"] for number in (0, 1)]
    assert {peer["name"] for each in seen for peer in each["peers"].values()} == {"pod-0", "pod-1"}
    assert [(each["shards"]["waiting"], each["shards"]["leaving"]) for each in seen] == [(0, 0), (0, 0)]
    assert sum(each["shards"]["served"] for each in seen) == SHARDS


def test_every_member_tells_the_same_of_where_the_shards_are(pods: Pods) -> None:
    views = [distribution(pods[number]) for number in (0, 1)]
    for number, view in enumerate(views):
        other = views[1 - number]
        assert (view.peer_id, view.shard_count, view.shard_transfers) == (PEERS[number], SHARDS, [])
        assert {each.peer_id for each in view.remote_shards} == {other.peer_id}
        assert [each.shard_id for each in view.remote_shards] == [
            each.shard_id for each in other.local_shards
        ]
        assert {each.state for each in (*view.local_shards, *view.remote_shards)} == {"Active"}
    local = [shard for view in views for shard in view.local_shards]
    assert sorted(each.shard_id for each in local) == list(range(SHARDS))
    assert sum(each.points_count for each in local) == POINTS


def test_an_engine_alone_is_one_peer_with_one_shard(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path)
    try:
        client = engine.start().client()
        fill(client)
        assert isinstance(client.http.distributed_api.cluster_status().result, ClusterStatusOneOf)
        assert distribution(engine) == CollectionClusterInfo(
            peer_id=0,
            shard_count=1,
            local_shards=[
                models.LocalShardInfo(shard_id=0, points_count=POINTS, state=models.ReplicaState.ACTIVE)
            ],
            remote_shards=[],
            shard_transfers=[],
        )
        assert not any("shards" in name or "topology" in name or "member" in name for name in metrics(engine))
    finally:
        engine.close()


def test_the_members_metrics_account_for_every_shard(pods: Pods) -> None:
    seen = [metrics(pods[number]) for number in (0, 1)]
    for number, each in enumerate(seen):
        assert each["vectorizer_cluster_topology_version"] == pods.known_to(number)
        assert each["vectorizer_cluster_members"] == 2
        assert (each["vectorizer_collections"], each["vectorizer_shards"]) == (1, SHARDS)
        assert each["vectorizer_shards_waiting"] == each["vectorizer_shards_leaving"] == 0
    assert sum(each["vectorizer_shards_served"] for each in seen) == SHARDS
    assert sum(each["vectorizer_points"] for each in seen) == POINTS


def test_requests_to_other_members_are_counted_by_what_became_of_them(pods: Pods) -> None:
    count = "vectorizer_member_request_duration_seconds_count"
    before = metrics(pods[0])
    pods[0].client().count("docs")
    after = metrics(pods[0])
    assert {name.split()[1] for name in after if name.startswith(count)} == OUTCOMES
    assert {name for name in after if name.startswith(count) and after[name] > before[name]} == {
        f"{count} done"
    }
    assert after[f"{count} done"] == before[f"{count} done"] + 1
    check_metrics(httpx.get(pods[0].url + "/metrics").text)


def test_what_a_frozen_member_has_is_dead_and_is_its_own_again_when_it_goes_on(pods: Pods) -> None:
    pods[1].signal(signal.SIGSTOP)
    try:
        frozen = distribution(pods[0])
    finally:
        pods[1].signal(signal.SIGCONT)
    assert {each.state for each in frozen.local_shards} == {"Active"}
    assert {(each.peer_id, each.state) for each in frozen.remote_shards} == {(PEERS[1], "Dead")}
    assert {each.state for each in distribution(pods[0]).remote_shards} == {"Active"}


def test_shards_that_move_are_seen_on_their_way(pods: Pods) -> None:
    """Their new owner is frozen, so they stay where they are until it goes on."""
    topology = pods.topology(2)
    pods[2].signal(signal.SIGSTOP)
    try:
        for number in (0, 1):
            pods.tell(number, topology).raise_for_status()
        moving = distribution(pods[0])
        left = [metrics(pods[number])["vectorizer_shards_leaving"] for number in (0, 1)]
    finally:
        pods[2].signal(signal.SIGCONT)
    states = {(each.peer_id, each.state) for each in moving.remote_shards}
    assert states == {(PEERS[1], "Active"), (PEERS[2], "Dead")}
    serving = {each.shard_id: each.peer_id for each in moving.remote_shards if each.peer_id == PEERS[1]}
    serving |= {each.shard_id: PEERS[0] for each in moving.local_shards}
    assert [(each.shard_id, each.from_, each.to) for each in moving.shard_transfers] == [
        (shard, serving[shard], PEERS[2]) for shard in range(SHARDS)
    ]
    assert sum(left) == SHARDS

    # It was no member when the collection was made, so it was not told of it, and looks into the catalog.
    pods.tell(2, topology).raise_for_status()
    pods.wait_until_moved(0, 1, 2)
    settled = distribution(pods[0])
    assert settled.local_shards == []
    assert {(each.peer_id, each.state) for each in settled.remote_shards} == {(PEERS[2], "Active")}
    assert sum(each.points_count for each in distribution(pods[2]).local_shards) == POINTS


def test_what_a_killed_member_had_is_dead_until_others_are_to_serve_it(pods: Pods) -> None:
    pods.publish(2, to=(0, 1, 2))
    pods.wait_until_moved(0, 1, 2)
    pods[2].kill()
    found = distribution(pods[0])
    assert [(each.shard_id, each.peer_id, each.state) for each in found.remote_shards] == [
        (shard, PEERS[2], "Dead") for shard in range(SHARDS)
    ]


def test_only_members_may_ask_for_shards_and_in_their_own_language(pods: Pods) -> None:
    url = pods[0].url + "/internal/shards"
    assert httpx.post(url, content=b"\xc1").status_code == 401
    refused = httpx.post(url, content=b"\xc1", headers=HEADERS)
    assert (refused.status_code, "not a request of a member" in refused.text) == (400, True)
