"""Each safety rule, in its own sentence."""

from typing import Any

import pytest

from tests.operator.plan.world import NAME, World, copied
from vectorizer_operator.plan import Apply, Delete, ExpandVolume
from vectorizer_operator.plan.pods import Pod
from vectorizer_operator.plan.predicates import one_pod_at_a_time, stuck_pod_is_replaced


@pytest.fixture
def world() -> World:
    world = World(image="engine:1", storage={"size": "10Gi"})
    world.settle()
    return world


def children_of(world: World) -> Any:
    return copied((world.children, world.pods, world.pvcs))


def test_a_ready_cluster_needs_nothing_and_says_nothing_new(world: World) -> None:
    planned = world.look()
    assert planned.actions == ()
    assert planned.status == world.cluster["status"]
    assert world.condition("Ready")["status"] == "True"
    assert planned.requeue_after is None


def test_rules_honoured_a_cluster_that_breaks_a_rule_is_not_rolled_out(world: World) -> None:
    before = children_of(world)
    world.edit(cluster={"maxCacheMemory": "2Gi"}, storage={"type": "memory"}, image="engine:2")
    world.settle()
    assert children_of(world) == before
    for kind, status in (("Ready", "False"), ("Stalled", "True"), ("RulesHonoured", "False")):
        condition = world.condition(kind)
        assert (condition["status"], condition["reason"]) == (status, "MmapStorageRequired")
        assert "set spec.storage.type to mmap" in condition["message"]
        assert "CLUSTER_003: spec.cluster.maxCacheMemory" in condition["message"]
    assert world.condition("MemoryBudgetHonoured")["status"] == "Unknown"


def test_rules_honoured_a_repaired_cluster_goes_on(world: World) -> None:
    world.edit(storage={"type": "memory"})
    world.settle()
    world.edit(storage={"size": "10Gi"})
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("RulesHonoured")["status"] == "True"


def test_spec_is_readable_a_spec_that_fits_no_model_is_not_rolled_out(world: World) -> None:
    before = children_of(world)
    world.edit(image="engine:2", sotrage={"size": "20Gi"})
    world.settle()
    assert children_of(world) == before
    assert world.condition("Stalled")["reason"] == "SpecNotReadable"
    assert "spec.sotrage: unknown field; did you mean storage?" in world.condition("Ready")["message"]


def test_paused_changes_nothing_and_says_what_is_to_be_done(world: World) -> None:
    before = children_of(world)
    world.edit(image="engine:2", paused=True)
    world.settle()
    assert children_of(world) == before
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Paused")
    assert "apply StatefulSet demo" in ready["message"]
    assert world.condition("Reconciling")["status"] == "False"
    assert world.condition("Stalled")["status"] == "True"
    world.edit(paused=False)
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Stalled")["status"] == "False"
    assert world.pods["demo-0"]["spec"]["containers"][0]["image"] == "engine:2"


def test_paused_with_nothing_to_be_done_is_ready(world: World) -> None:
    world.edit(paused=True)
    world.settle()
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("True", "Paused")


def test_paused_is_not_ready_while_its_pod_is_down(world: World) -> None:
    world.edit(paused=True)
    world.settle()
    world.broken_images.add("engine:1")
    world.settle()
    assert world.condition("Ready")["status"] == "False"


def test_foreign_object_not_adopted_it_is_left_alone_and_named() -> None:
    world = World()
    foreign = {"kind": "Service", "metadata": {"name": NAME, "uid": "theirs", "labels": {"app": "web"}}}
    world.children["Service", NAME] = foreign
    assert world.settle().requeue_after == 15  # no watch tells when it goes
    assert list(world.children) == [("Service", NAME)]
    stalled = world.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "ForeignObjectNotAdopted")
    assert "Service demo exists and belongs to no VectorizerCluster" in stalled["message"]
    del world.children["Service", NAME]
    world.settle()
    assert world.condition("Ready")["status"] == "True"


def test_foreign_object_not_adopted_names_its_owner() -> None:
    world = World()
    owner = {"kind": "Deployment", "name": "web", "uid": "x", "controller": True}
    world.children["ConfigMap", "demo-config"] = {
        "kind": "ConfigMap",
        "metadata": {"name": "demo-config", "uid": "theirs", "ownerReferences": [owner]},
    }
    world.settle()
    assert (
        "ConfigMap demo-config exists and belongs to Deployment web" in world.condition("Stalled")["message"]
    )


def test_what_a_deleted_cluster_of_the_same_name_left_is_waited_for(world: World) -> None:
    world.cluster["metadata"]["uid"] = "a new one"
    world.operate()
    reconciling = world.condition("Reconciling")
    assert (reconciling["status"], reconciling["reason"]) == ("True", "PreviousClusterIsGone")
    assert world.condition("Stalled")["status"] == "False"


def test_children_restored_from_a_backup_without_owner_are_taken_back(world: World) -> None:
    for child in world.children.values():
        child["metadata"]["ownerReferences"] = []
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert all(child["metadata"]["ownerReferences"] for child in world.children.values())


def test_never_shrink_storage_a_smaller_size_is_not_rolled_out(world: World) -> None:
    before = children_of(world)
    world.edit(storage={"size": "5Gi"}, image="engine:2")
    world.settle()
    assert children_of(world) == before
    stalled = world.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "NeverShrinkStorage")
    assert stalled["message"].endswith("set spec.storage.size to 10Gi or more")


@pytest.mark.parametrize("wanted", ["fast", None])
def test_storage_class_never_changes_data_stays_where_it_is(wanted: str | None) -> None:
    world = World(storage={"storageClassName": "slow"})
    world.settle()
    before = children_of(world)
    world.edit(storage={"storageClassName": wanted} if wanted else {})
    world.settle()
    assert children_of(world) == before
    assert world.condition("Stalled")["reason"] == "StorageClassNeverChanges"
    assert "set it to slow, or make a new cluster" in world.condition("Stalled")["message"]


def test_storage_class_never_changes_not_even_from_the_default(world: World) -> None:
    world.edit(storage={"size": "10Gi", "storageClassName": "fast"})
    world.settle()
    assert "unset it, or make a new cluster" in world.condition("Stalled")["message"]


@pytest.mark.parametrize(
    ("before", "after", "advice"),
    [
        ("s3://vectors/a", "s3://vectors/b", "in s3://vectors/a: set it to that, or make a new cluster"),
        ("s3://vectors/a", None, "is unset, but the collections are in s3://vectors/a: set it to that"),
        (None, "s3://vectors/a", "are on the volumes: take spec.storage.objectStore out, or make a new"),
    ],
)
def test_object_store_never_changes_collections_stay_where_they_are(
    before: str | None, after: str | None, advice: str
) -> None:
    def storage(url: str | None) -> dict[str, Any]:
        return {"objectStore": {"url": url}} if url else {}

    world = World(storage=storage(before))
    world.settle()
    children = children_of(world)
    world.edit(storage=storage(after))
    world.settle()
    assert children_of(world) == children
    assert world.condition("Stalled")["reason"] == "ObjectStoreNeverChanges"
    assert advice in world.condition("Ready")["message"]
    world.edit(storage=storage(before))
    world.settle()
    assert world.condition("Ready")["status"] == "True"


def test_object_store_never_changes_but_its_address_and_credentials_may() -> None:
    world = World(storage={"objectStore": {"url": "s3://vectors/a", "secretRef": {"name": "old"}}})
    world.settle()
    pod = world.pods["demo-0"]["metadata"]["uid"]
    store = {"url": "s3://vectors/a", "endpoint": "https://minio:9000", "secretRef": {"name": "new"}}
    world.edit(storage={"objectStore": store})
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.pods["demo-0"]["metadata"]["uid"] != pod


def test_a_bigger_volume_restarts_no_pod(world: World) -> None:
    pod = world.pods["demo-0"]["metadata"]["uid"]
    world.edit(storage={"size": "20Gi"})
    actions = world.look().actions
    assert [type(action) for action in actions] == [ExpandVolume, Delete]
    assert isinstance(actions[1], Delete)
    assert actions[1].propagation == "Orphan"
    world.settle()
    assert world.pods["demo-0"]["metadata"]["uid"] == pod
    assert world.pvcs["data-demo-0"]["spec"]["resources"]["requests"]["storage"] == "20Gi"
    assert world.stateful_set is not None
    claim = world.stateful_set["spec"]["volumeClaimTemplates"][0]
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    assert world.condition("Ready")["status"] == "True"


def test_a_claim_of_the_right_name_and_another_kind_of_number_is_left_alone(world: World) -> None:
    spec = copied(world.pvcs["data-demo-0"]["spec"])
    world.pvcs["data-demo-backup"] = {"metadata": {"name": "data-demo-backup"}, "spec": spec}
    going = copied(world.pvcs["data-demo-0"])
    going["metadata"] |= {"name": "data-demo-7", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    world.pvcs["data-demo-7"] = going
    world.edit(storage={"size": "20Gi"})
    expanded = [action.name for action in world.look().actions if isinstance(action, ExpandVolume)]
    assert expanded == ["data-demo-0"]


def test_a_fixed_spec_gets_through_to_a_pod_that_can_never_become_ready() -> None:
    world = World(image="engine:typo")
    world.broken_images.add("engine:typo")
    world.settle()
    assert "ImagePullBackOff: no such image" in world.condition("Ready")["message"]
    world.edit(image="engine:1")
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.cluster["status"]["currentVersion"] == "engine:1"


def pods(*states: tuple[str, bool]) -> list[Pod]:
    """Pods demo-0, demo-1, … with a revision and whether they answer."""
    return [
        Pod(
            {
                "metadata": {
                    "name": f"demo-{ordinal}",
                    "uid": f"u{ordinal}",
                    "labels": {"controller-revision-hash": revision},
                },
                "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
            }
        )
        for ordinal, (revision, ready) in enumerate(states)
    ]


def test_one_pod_at_a_time_the_highest_first_while_all_answer() -> None:
    chosen = one_pod_at_a_time(pods(("old", True), ("old", True), ("new", True)), "new", replicas=3)
    assert chosen is not None
    assert chosen.name == "demo-1"


def test_one_pod_at_a_time_none_while_another_does_not_answer() -> None:
    assert one_pod_at_a_time(pods(("old", True), ("new", False), ("new", True)), "new", replicas=3) is None


def test_one_pod_at_a_time_none_while_another_is_missing() -> None:
    assert one_pod_at_a_time(pods(("old", True), ("old", True)), "new", replicas=3) is None


def test_one_pod_at_a_time_none_while_a_surplus_pod_is_stopping() -> None:
    three = pods(("old", True), ("old", True), ("old", True))
    three[2] = Pod(
        {**three[2].object, "metadata": {**three[2].object["metadata"], "deletionTimestamp": "now"}}
    )
    assert one_pod_at_a_time(three, "new", replicas=2) is None


def test_stuck_pod_is_replaced_even_while_others_are_down() -> None:
    chosen = stuck_pod_is_replaced(pods(("old", False), ("new", False), ("old", True)), "new")
    assert chosen is not None
    assert chosen.name == "demo-0"


def test_stuck_pod_is_replaced_only_if_its_template_is_old() -> None:
    assert stuck_pod_is_replaced(pods(("new", False), ("old", True)), "new") is None


def test_no_pod_is_replaced_before_the_controller_has_caught_up(world: World) -> None:
    world.edit(image="engine:2")
    world.operate()
    assert world.look().actions == ()
    assert "has not seen the newest StatefulSet" in world.look().status["conditions"][0]["message"]
    world.control()
    assert [
        (type(action), action.name) for action in world.look().actions if not isinstance(action, Apply)
    ] == [(Delete, "demo-0")]
