"""The client on the real API server: what each call does, and which error each refusal is."""

from collections.abc import AsyncIterator

import pytest

from tests.e2e.harness import CRD
from tests.kube.controlplane import ControlPlane
from tests.operator.connections import connect
from vectorizer_operator.kube.act import act, write_status
from vectorizer_operator.kube.client import KubeClient, Object
from vectorizer_operator.kube.concurrently import concurrently
from vectorizer_operator.kube.connection import Connection, NoConnectionConfigured
from vectorizer_operator.kube.errors import ApiError, Conflict, NotFound, Unreachable
from vectorizer_operator.kube.resources import CLAIMS, CLUSTERS, CONFIG_MAPS
from vectorizer_operator.plan import Apply, Delete, ExpandVolume


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(await connect(control_plane)) as client:
        yield client


def config_map(namespace: str, **data: str) -> Object:
    metadata = {"name": "settings", "namespace": namespace, "labels": {"app": "x"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def allowed() -> None:
    """A fence that lets everything through."""


async def test_apply_makes_changes_and_takes_over_a_field(client: KubeClient, namespace: str) -> None:
    made = await client.apply(CONFIG_MAPS, config_map(namespace, key="ours"))
    await client.replace(CONFIG_MAPS, {**made, "data": {"key": "theirs"}})
    applied = await client.apply(CONFIG_MAPS, config_map(namespace, key="ours again"))
    assert applied["data"] == {"key": "ours again"}


async def test_a_repeated_apply_changes_nothing(client: KubeClient, namespace: str) -> None:
    first = await client.apply(CONFIG_MAPS, config_map(namespace, key="same"))
    second = await client.apply(CONFIG_MAPS, config_map(namespace, key="same"))
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_a_list_is_chosen_by_label_and_says_of_which_kind_its_items_are(
    client: KubeClient, namespace: str
) -> None:
    await client.apply(CONFIG_MAPS, config_map(namespace))
    found = await client.list(CONFIG_MAPS, namespace=namespace, label_selector="app=x")
    assert [(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in found] == [
        ("v1", "ConfigMap", "settings")
    ]
    assert await client.list(CONFIG_MAPS, namespace=namespace, label_selector="app=y") == []


async def test_what_is_not_there_is_not_found(client: KubeClient, namespace: str) -> None:
    with pytest.raises(NotFound, match=f"GET /api/v1/namespaces/{namespace}/configmaps/none: 404 NotFound"):
        await client.get(CONFIG_MAPS, "none", namespace=namespace)


async def test_a_stale_replace_is_a_conflict(client: KubeClient, namespace: str) -> None:
    made = await client.create(CONFIG_MAPS, config_map(namespace))
    await client.replace(CONFIG_MAPS, {**made, "data": {"key": "newer"}})
    with pytest.raises(Conflict):
        await client.replace(CONFIG_MAPS, {**made, "data": {"key": "stale"}})


async def test_a_delete_never_hits_a_successor_of_the_same_name(client: KubeClient, namespace: str) -> None:
    old = await client.create(CONFIG_MAPS, config_map(namespace))
    await client.delete(CONFIG_MAPS, "settings", namespace=namespace)
    await client.create(CONFIG_MAPS, config_map(namespace))
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAPS, "settings", namespace=namespace, uid=old["metadata"]["uid"])
    assert await client.get(CONFIG_MAPS, "settings", namespace=namespace)


async def test_an_invalid_object_is_refused_for_good(client: KubeClient, namespace: str) -> None:
    with pytest.raises(ApiError, match="422 Invalid") as refused:
        await client.create(CONFIG_MAPS, config_map(namespace) | {"data": {"no/slash": "x"}})
    assert refused.value.is_final


async def test_nobody_at_the_address_is_unreachable(client: KubeClient) -> None:
    client._server = "https://127.0.0.1:1"
    with pytest.raises(Unreachable, match="no answer"):
        await client.list(CONFIG_MAPS)


async def test_no_kubeconfig_and_no_service_account_is_said_with_what_was_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    with pytest.raises(NoConnectionConfigured, match=r"looked at \$KUBECONFIG"):
        await Connection.load(user_agent="tests")


async def test_actions_are_executed_in_their_order(client: KubeClient, namespace: str) -> None:
    await act(client, [Apply(config_map(namespace, key="a"), "")], namespace=namespace, fence=allowed)
    made = await client.get(CONFIG_MAPS, "settings", namespace=namespace)
    remove = Delete("v1", "ConfigMap", "settings", made["metadata"]["uid"], "")
    again = Apply(config_map(namespace, key="b"), "")
    await act(client, [remove, again], namespace=namespace, fence=allowed)
    remade = await client.get(CONFIG_MAPS, "settings", namespace=namespace)
    assert (remade["data"], remade["metadata"]["uid"] != made["metadata"]["uid"]) == ({"key": "b"}, True)


async def test_deleting_what_is_gone_is_done_already(client: KubeClient, namespace: str) -> None:
    await act(client, [Delete("v1", "ConfigMap", "none", "uid", "")], namespace=namespace, fence=allowed)


async def test_a_volume_claim_asks_for_more(
    client: KubeClient, namespace: str, control_plane: ControlPlane
) -> None:
    control_plane.kubectl(
        "apply", "-f", "-", stdin=f"""
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: {namespace}}}
provisioner: example.com/none
allowVolumeExpansion: true
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data, namespace: {namespace}}}
spec:
  storageClassName: {namespace}
  volumeName: {namespace}
  accessModes: [ReadWriteOnce]
  resources: {{requests: {{storage: 1Gi}}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {namespace}}}
spec:
  storageClassName: {namespace}
  claimRef: {{name: data, namespace: {namespace}}}
  accessModes: [ReadWriteOnce]
  capacity: {{storage: 1Gi}}
  hostPath: {{path: /nonexistent}}
""",
    )  # fmt: skip
    control_plane.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "pvc/data", f"-n{namespace}")
    await act(client, [ExpandVolume("data", "2Gi", "")], namespace=namespace, fence=allowed)
    claim = await client.get(CLAIMS, "data", namespace=namespace)
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    control_plane.kubectl("delete", "storageclass", namespace)


async def test_a_fence_that_is_down_stops_every_write(client: KubeClient, namespace: str) -> None:
    class Fenced(Exception):
        pass

    def fence() -> None:
        raise Fenced

    with pytest.raises(Fenced):
        await act(client, [Apply(config_map(namespace), "")], namespace=namespace, fence=fence)
    assert await client.list(CONFIG_MAPS, namespace=namespace, label_selector="app=x") == []


async def test_the_first_of_several_requests_to_fail_is_what_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("first")

    async def succeed() -> int:
        return 1

    assert await concurrently([succeed(), succeed()]) == [1, 1]
    with pytest.raises(ValueError, match="first"):
        await concurrently([succeed(), fail()])


async def test_a_status_never_lands_on_a_successor_of_the_same_name(
    client: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl("apply", "--server-side", "-f", str(CRD))
    control_plane.kubectl("wait", "--for=condition=Established", f"crd/{CLUSTERS.plural}.vectorizer.io")
    cluster = {
        "apiVersion": CLUSTERS.api_version,
        "kind": CLUSTERS.kind,
        "metadata": {"name": "again", "namespace": namespace},
        "spec": {},
    }
    old = await client.create(CLUSTERS, cluster)
    await write_status(client, old, {"observedGeneration": 1})
    old = await client.get(CLUSTERS, "again", namespace=namespace)
    assert old["status"]["observedGeneration"] == 1
    await client.delete(CLUSTERS, "again", namespace=namespace)
    with pytest.raises(ApiError):
        await write_status(client, old, {"observedGeneration": 1})
    await client.create(CLUSTERS, cluster)
    with pytest.raises(Conflict):
        await write_status(client, old, {"observedGeneration": 1})
    assert (await client.get(CLUSTERS, "again", namespace=namespace))["status"]["observedGeneration"] == -1
