"""The doors of a real Kubernetes: the API server's CEL rules, the webhook behind it, the running operator's guard."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.doors.table import BAD_SPECS, GOOD_SPECS, BadSpec, good_cluster
from tests.e2e.harness import CRD, Installation, Operator, condition_of, without_rules
from tests.kube.controlplane import CommandError, ControlPlane
from tests.kube.eventually import eventually
from vectorizer_engine.cluster.quantity import parse_quantity
from vectorizer_operator.api.crd import crd
from vectorizer_operator.api.problems import structural_problems
from vectorizer_operator.api.rules import violations

bad = pytest.mark.parametrize("case", BAD_SPECS, ids=lambda case: case.name)
_MESSAGE = re.compile(r"CLUSTER_\d{3}: .*$", re.MULTILINE)


def create(
    control_plane: ControlPlane, namespace: str, *objects: dict[str, Any], dry_run: bool = False
) -> None:
    """`kubectl create`: what the API server says of *objects*."""
    options = ["--dry-run=server"] if dry_run else []
    # As JSON: in YAML kubectl reads some texts, such as 1e3, as numbers, and PyYAML does not quote them.
    # A List, though, is validated by kubectl itself and in other words.
    whole = objects[0] if len(objects) == 1 else {"apiVersion": "v1", "kind": "List", "items": objects}
    control_plane.kubectl("create", f"--namespace={namespace}", *options, "-f", "-", stdin=json.dumps(whole))


def refusal(control_plane: ControlPlane, namespace: str, *objects: dict[str, Any]) -> list[str]:
    """The messages of rules with which the API server refuses *objects*."""
    with pytest.raises(CommandError) as refused:
        create(control_plane, namespace, *objects)
    return sorted(_MESSAGE.findall(str(refused.value)))


@pytest.fixture(scope="module")
def definition(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows VectorizerClusters, and nobody who looks after them."""
    control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(crd())
    )
    control_plane.kubectl("wait", "--for=condition=Established", "crd/vectorizerclusters.vectorizer.io")
    return control_plane


class TestCelByItself:
    """With no webhook at all."""

    @bad
    def test_the_api_server_refuses_each(
        self, definition: ControlPlane, namespace: str, case: BadSpec
    ) -> None:
        assert refusal(definition, namespace, case.cluster()) == case.messages()
        assert definition.kubectl("get", "vectorizerclusters", f"--namespace={namespace}", "-o", "name") == ""

    @pytest.mark.parametrize("name", GOOD_SPECS)
    def test_the_api_server_takes_good_ones(
        self, definition: ControlPlane, namespace: str, name: str
    ) -> None:
        create(definition, namespace, good_cluster(name), dry_run=True)

    def test_kubectl_scale_cannot_make_two_pods_without_a_shared_store(
        self, definition: ControlPlane, namespace: str
    ) -> None:
        create(definition, namespace, good_cluster("empty"))
        with pytest.raises(CommandError, match=r"CLUSTER_004: spec\.replicas is 2") as refused:
            definition.kubectl("scale", f"--namespace={namespace}", "vzc/empty", "--replicas=2")
        assert _MESSAGE.findall(str(refused.value)) == next(
            case.messages() for case in BAD_SPECS if case.name == "two-replicas"
        )
        definition.kubectl("scale", f"--namespace={namespace}", "vzc/empty", "--replicas=0")

    @pytest.mark.parametrize(
        "spec",
        [
            {"storage": {"size": "lots"}},
            {"storage": {"size": 0}},
            {"resources": {"limits": {"memory": "much"}}},
            {"resources": {"requests": {"memory": "-1"}}},
            {"podTemplate": {"labels": {"vectorizer.io/cluster": "other"}}},
            {"podTemplate": {"annotations": {"app.kubernetes.io/name": "other"}}},
            {"podTemplate": {"env": [{"name": "VECTORIZER__CLUSTER__ENABLED", "value": "false"}]}},
            {"podTemplate": {"volumes": [{"name": "config", "emptyDir": {}}]}},
            {"podTemplate": {"volumeMounts": [{"name": "x", "mountPath": "/etc/vectorizer/config.yml"}]}},
            {"podTemplate": {"volumeMounts": [{"name": "x", "mountPath": "/etc//vectorizer"}]}},
            {"storage": {"objectStore": {"url": "s3://vectors/"}}},
            {"storage": {"objectStore": {"url": "s3://key:secret@vectors"}}},
            {"storage": {"objectStore": {"url": "s3://vectors", "endpoint": "http://minio:65536"}}},
            {"storage": {"objectStore": {"url": "gs://vectors", "endpoint": "http://fake:4443"}}},
            {"storage": {"objectStore": {"url": "az://vectors", "region": "westeurope"}}},
            {"storage": {"objectStore": {"url": "file:///objects"}}},
            {
                "storage": {"objectStore": {"url": "file:///objects/demo"}},
                "podTemplate": {"volumeMounts": [{"name": "x", "mountPath": "/obj"}]},
            },
            {
                "storage": {"objectStore": {"url": "s3://vectors", "secretRef": {"name": "key"}}},
                "podTemplate": {"env": [{"name": "AWS_ACCESS_KEY_ID", "value": "x"}]},
            },
        ],
        ids=lambda spec: json.dumps(spec)[:60],
    )
    def test_what_validate_finds_the_api_server_finds_too(
        self, definition: ControlPlane, namespace: str, spec: dict[str, Any]
    ) -> None:
        raw = BadSpec("demo", spec, ()).cluster()
        [problem] = structural_problems(raw)
        with pytest.raises(CommandError) as refused:
            create(definition, namespace, raw)
        assert problem.path in str(refused.value)
        assert problem.message.rpartition(", found ")[0] in str(refused.value)

    @pytest.mark.parametrize(
        ("spec", "path"),
        [
            ({"storage": {"sise": "1Gi"}}, "spec.storage.sise"),
            ({"replicas": "two"}, "spec.replicas"),
            ({"replicas": -1}, "spec.replicas"),
            ({"paused": "no"}, "spec.paused"),
            ({"storage": {"size": 1.5}}, "spec.storage.size"),
            ({"service": {"type": "Ingress"}}, "spec.service.type"),
        ],
    )
    def test_a_wrong_shape_is_refused_by_both_with_the_path(
        self, definition: ControlPlane, namespace: str, spec: dict[str, Any], path: str
    ) -> None:
        raw = BadSpec("demo", spec, ()).cluster()
        assert [problem.path for problem in structural_problems(raw)] == [path]
        with pytest.raises(CommandError, match=re.escape(path)):
            create(definition, namespace, raw)

    @pytest.mark.parametrize("name", ["1st", "demo.search", "a" * 53])
    def test_a_name_that_children_cannot_have_is_refused(
        self, definition: ControlPlane, namespace: str, name: str
    ) -> None:
        with pytest.raises(CommandError, match=r"metadata\.name.*becomes the name of pods and Services"):
            create(definition, namespace, BadSpec(name, {}, ()).cluster())

    def test_the_longest_name_is_taken(self, definition: ControlPlane, namespace: str) -> None:
        create(definition, namespace, BadSpec("a" * 52, {}, ()).cluster(), dry_run=True)

    @pytest.mark.parametrize(
        ("storage", "message"),
        [
            ({"size": "1Gi"}, "volumes cannot shrink"),
            ({"size": 1024}, "volumes cannot shrink"),
            ({"size": "3Gi", "storageClassName": "fast"}, "spec.storage.storageClassName cannot change"),
        ],
    )
    def test_an_update_cannot_shrink_or_move_volumes(
        self, definition: ControlPlane, namespace: str, storage: dict[str, Any], message: str
    ) -> None:
        create(definition, namespace, BadSpec("demo", {"storage": {"size": "2Gi"}}, ()).cluster())
        with pytest.raises(CommandError, match=message):
            patch(definition, namespace, "demo", {"spec": {"storage": storage}})
        patch(definition, namespace, "demo", {"spec": {"storage": {"size": "2.5Gi"}}})

    @pytest.mark.parametrize("url", [None, "s3://vectors/b"])
    def test_an_update_cannot_move_collections_to_another_store(
        self, definition: ControlPlane, namespace: str, url: str | None
    ) -> None:
        store = {"url": "s3://vectors/a", "region": "eu-central-1"}
        create(definition, namespace, BadSpec("demo", {"storage": {"objectStore": store}}, ()).cluster())
        change = None if url is None else {"url": url}
        with pytest.raises(CommandError, match=r"objectStore\.url cannot change, as the collections stay"):
            patch(definition, namespace, "demo", {"spec": {"storage": {"objectStore": change}}})
        patch(definition, namespace, "demo", {"spec": {"storage": {"objectStore": {"region": "eu-west-1"}}}})

    def test_an_update_cannot_move_collections_from_volumes_to_a_store(
        self, definition: ControlPlane, namespace: str
    ) -> None:
        create(definition, namespace, good_cluster("empty"))
        with pytest.raises(CommandError, match=r"objectStore\.url cannot change"):
            patch(definition, namespace, "empty", {"spec": {"storage": {"objectStore": {"url": "s3://b"}}}})

    def test_a_fresh_object_was_observed_at_no_generation_and_has_every_default(
        self, definition: ControlPlane, namespace: str
    ) -> None:
        create(definition, namespace, good_cluster("empty"))
        live = json.loads(definition.kubectl("get", f"--namespace={namespace}", "vzc/empty", "-o", "json"))
        assert live["status"] == {"observedGeneration": -1}
        assert live["spec"]["cluster"]["maxCacheMemory"] == "1Gi"
        assert live["spec"]["storage"]["retention"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}

    def test_applying_the_same_again_changes_nothing(self, definition: ControlPlane, namespace: str) -> None:
        manifest = yaml.safe_dump(good_cluster("written-out"))
        for _ in range(2):
            definition.kubectl(
                "apply", "--server-side", f"--namespace={namespace}", "-f", "-", stdin=manifest
            )
        live = json.loads(
            definition.kubectl("get", f"--namespace={namespace}", "vzc/written-out", "-o", "json")
        )
        assert live["metadata"]["generation"] == 1
        assert definition.kubectl("diff", f"--namespace={namespace}", "-f", "-", stdin=manifest) == ""


def patch(control_plane: ControlPlane, namespace: str, name: str, change: dict[str, Any]) -> None:
    control_plane.kubectl(
        "patch", f"--namespace={namespace}", f"vzc/{name}", "--type=merge", "--patch", json.dumps(change)
    )


_number = st.one_of(
    st.integers(-3, 2**31).map(str),
    st.decimals(-2, 2000, places=3, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
    st.sampled_from([".5", "5.", "+7", "007", "1e3", "1E3", "1e-3", "12e30", "0x10", "1_000", "١"]),
)
_suffix = st.sampled_from(
    ["", "n", "u", "m", "k", "K", "M", "G", "Ki", "Mi", "Gi", "Ti", "Ei", "E", "ki", "B", " ", "\n"]
)
_texts = st.one_of(st.builds("{}{}".format, _number, _suffix), st.text("0123456789.eEkKMGimn+- ", max_size=8))


@given(values=st.lists(_texts, min_size=40, max_size=40, unique=True))
@example(
    values=[
        "1Gi",
        "1073741824",
        "1073741825",
        "1Gi ",
        "",
        "+1Gi",
        "1024Mi",
        "0.5",
        "-0",
        "1e9",
        "1.1e9",
        "1E",
        "1Ei",
        "1KI",
        "0x1",
    ]
)
@settings(
    max_examples=5,
    deadline=None,
    phases=[
        Phase.explicit,
        Phase.generate,
    ],  # each attempt to shrink asks the API server, and the set says enough
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_api_server_and_the_validator_agree_on_every_quantity(
    definition: ControlPlane, values: list[str]
) -> None:
    clusters = [
        BadSpec(f"q{number}", {"cluster": {"maxCacheMemory": value}}, ()).cluster()
        for number, value in enumerate(values)
    ]
    try:
        create(definition, "default", *clusters, dry_run=True)
        said = ""
    except CommandError as refused:
        said = str(refused)
    names = set(re.findall(r'"(q\d+)" is invalid', said))
    here = {cluster["metadata"]["name"] for cluster in clusters if violations(cluster)}
    differing = names ^ here
    assert not differing, {v: parse_quantity(v) for n, v in enumerate(values) if f"q{n}" in differing}


@pytest.fixture
def without_cel(definition: ControlPlane) -> Iterator[ControlPlane]:
    """An API server whose definition has no rules: what is left is the webhook and the operator."""
    bare = yaml.safe_dump(without_rules(yaml.safe_load(CRD.read_text())))
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    definition.kubectl(*apply, stdin=bare)
    yield definition
    definition.kubectl(*apply, stdin=yaml.safe_dump(crd()))
    eventually(lambda: is_refused(definition, BAD_SPECS[0].cluster()))  # as the next test expects it


def is_refused(control_plane: ControlPlane, cluster: dict[str, Any]) -> bool:
    try:
        create(control_plane, "default", cluster, dry_run=True)
    except CommandError:
        return True
    return False


class TestWithoutCel:
    """What CEL would have refused, to see the doors behind it."""

    def test_the_webhook_refuses_each_over_tls(
        self, operator: Operator, installation: Installation, without_cel: ControlPlane
    ) -> None:
        namespace = installation.namespace

        def answers() -> bool:
            """Whether the API server has noticed that the definition has no rules, and asks the webhook."""
            with pytest.raises(CommandError) as refused:
                create(without_cel, namespace, BAD_SPECS[0].cluster())
            return "denied the request" in str(refused.value)

        eventually(answers)
        for case in BAD_SPECS:
            assert refusal(without_cel, namespace, case.cluster()) == case.messages()
        assert without_cel.kubectl("get", "vzc", f"--namespace={namespace}", "-o", "name") == ""
        for name in GOOD_SPECS:
            create(without_cel, namespace, good_cluster(name), dry_run=True)

    def test_the_operator_rolls_none_out_that_got_in_anyway(
        self, operator: Operator, installation: Installation, without_cel: ControlPlane
    ) -> None:
        installation.webhook_down()
        namespace = installation.namespace

        def let_in() -> bool:
            try:
                create(without_cel, namespace, BAD_SPECS[0].cluster())
            except CommandError as error:
                assert "CLUSTER_" in str(error)
                return False
            return True

        eventually(let_in)
        create(without_cel, namespace, *(case.cluster() for case in BAD_SPECS[1:]))
        for case in BAD_SPECS:
            reported = eventually(lambda name=case.name: stalled(installation, name))
            for kind in ("Ready", "RulesHonoured"):
                condition = condition_of(reported, kind)
                assert (condition["status"], condition["reason"]) == ("False", case.broken[0].rule)
                assert sorted(condition["message"].split("; ")) == case.messages()
        kinds = "statefulsets,configmaps,services,networkpolicies,poddisruptionbudgets"
        made = installation.kubectl("get", kinds, "-l", "vectorizer.io/cluster", "-o", "name")
        assert made == ""


def stalled(installation: Installation, name: str) -> dict[str, Any] | None:
    cluster = installation.get("vzc", name)
    return cluster if condition_of(cluster, "Stalled").get("status") == "True" else None
