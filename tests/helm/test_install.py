"""The chart on a real API server: the test node runs the operator that helm installs, under the chart's own rights.

In a control plane of its own, since a chart's definition and webhook are the whole cluster's affair. What is installed
first is an older chart, with a cluster: everything else happens after the upgrade to this one.
"""

import base64
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from click.testing import CliRunner
from qdrant_client import QdrantClient

from tests.engine.s3 import S3Server
from tests.helm.chart import CHART, NAMESPACE, RELEASE, ROOT, Object
from tests.helm.test_monitoring import EVERYTHING
from tests.kube.controlplane import CommandError, ControlPlane
from tests.kube.eventually import eventually
from tests.kube.foreign_kinds import CERT_MANAGER, PROMETHEUS, make_known
from tests.kube.kubelet import Kubelet
from tests.monitoring.test_alerts import RULES
from tests.promtool import promtool
from vectorizer_engine.cluster import validator
from vectorizer_operator.api.constants import RENDERED_HASH_ANNOTATION
from vectorizer_operator.cli import ctl_main
from vectorizer_operator.webhook import certificates

OLDER = "0.0.9"
QUICKSTART = ROOT / "examples" / "quickstart.yaml"
PRODUCTION = ROOT / "examples" / "production.yaml"
MONITOR_WITH_KEY = ROOT / "examples" / "monitoring" / "cluster-with-key.yaml"
DEFINITION = "vectorizerclusters.vectorizer.io"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane and a node; both namespaces let restricted pods in only."""
    with (
        ControlPlane(tmp_path_factory.mktemp("control-plane")) as control_plane,
        Kubelet(control_plane, tmp_path_factory.mktemp("node")),
    ):
        control_plane.kubectl("create", "namespace", NAMESPACE)
        control_plane.kubectl("label", "namespace", NAMESPACE, "default", RESTRICTED)
        yield control_plane


def older_chart(folder: Path) -> Path:
    """The chart of an older version, whose definition does not have spec.paused yet."""
    chart = Path(shutil.copytree(CHART, folder / CHART.name))
    for name, change in (("Chart.yaml", older_version), ("templates/crds.yaml", without_paused)):
        changed = yaml.safe_load((chart / name).read_text())
        change(changed)
        (chart / name).write_text(yaml.safe_dump(changed))
    return chart


def older_version(chart: Object) -> None:
    chart |= {"version": OLDER, "appVersion": OLDER}


def without_paused(definition: Object) -> None:
    del spec_fields(definition)["paused"]


def spec_fields(definition: Object) -> Object:
    (version,) = definition["spec"]["versions"]
    fields: Object = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return fields


@pytest.fixture(scope="module")
def older_pod(kubernetes: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Object:
    """The pod of the quickstart, Ready under a chart of an older version."""
    chart = older_chart(tmp_path_factory.mktemp("older"))
    notes = helm(kubernetes, "install", RELEASE, str(chart), "--wait", "--timeout", "60s")
    assert "kubectl apply -f -" in notes
    assert "paused" not in spec_fields(get(kubernetes, "crd", DEFINITION))
    kubernetes.kubectl("apply", "-f", str(QUICKSTART))
    kubernetes.kubectl("wait", "--for=condition=Ready", "vectorizercluster/quickstart", "--timeout=60s")
    return get(kubernetes, "pod", "quickstart-0")


@pytest.fixture(scope="module")
def release(kubernetes: ControlPlane, older_pod: Object) -> ControlPlane:
    """The control plane with this chart's pods ready."""
    helm(kubernetes, "upgrade", RELEASE, str(CHART), "--wait", "--timeout", "60s")
    return kubernetes


@pytest.fixture(scope="module")
def quickstart(release: ControlPlane) -> ControlPlane:
    """The control plane with the operator and a cluster that is Ready, which was made by an older one."""
    release.kubectl("wait", "--for=condition=Ready", "vectorizercluster/quickstart", "--timeout=60s")
    return release


def helm(control_plane: ControlPlane, command: str, *arguments: str) -> str:
    return control_plane.run("helm", command, "--namespace", NAMESPACE, *arguments)


def get(control_plane: ControlPlane, *what: str) -> Object:
    found: Object = json.loads(control_plane.kubectl("get", *what, "-o", "json"))
    return found


def names(control_plane: ControlPlane, *what: str) -> list[str]:
    return [each["metadata"]["name"] for each in get(control_plane, *what)["items"]]


def ca_bundle(control_plane: ControlPlane) -> str | None:
    configuration = get(control_plane, "validatingwebhookconfiguration", f"{RELEASE}-{NAMESPACE}")
    bundle: str | None = configuration["webhooks"][0]["clientConfig"].get("caBundle")
    return bundle


def test_both_operator_pods_are_ready_under_restricted_pod_security(release: ControlPlane) -> None:
    deployment = get(release, "deployment", RELEASE, "-n", NAMESPACE)
    assert deployment["status"]["readyReplicas"] == 2
    assert "caBundle" not in json.dumps(
        json.loads(helm(release, "get", "values", RELEASE, "-a", "-o", "json"))
    )
    assert ca_bundle(release)


def test_the_quickstart_becomes_a_cluster_that_answers_at_its_service(quickstart: ControlPlane) -> None:
    address = get(quickstart, "service", "quickstart")["spec"]["clusterIP"]
    client = QdrantClient(f"http://{address}:6333")
    assert client.get_collections().collections == []


def image_of(pod: Object) -> str:
    image: str = pod["spec"]["containers"][0]["image"]
    return image


def test_an_upgrade_from_an_older_chart_restarts_no_engine_and_brings_the_new_definition(
    quickstart: ControlPlane, older_pod: Object
) -> None:
    operator = get(quickstart, "deployment", RELEASE, "-n", NAMESPACE)
    assert image_of(operator["spec"]["template"]) == "vectorizer-operator:0.1.0"
    assert "paused" in spec_fields(get(quickstart, "crd", DEFINITION))
    pod = get(quickstart, "pod", "quickstart-0")
    assert pod["metadata"]["uid"] == older_pod["metadata"]["uid"]
    assert image_of(pod) == image_of(older_pod) == f"vectorizer:{OLDER}"


def test_a_cluster_without_an_image_gets_the_engine_of_the_charts_version(release: ControlPlane) -> None:
    stopped = {**yaml.safe_load(QUICKSTART.read_text()), "metadata": {"name": "stopped"}}
    stopped["spec"]["replicas"] = 0
    release.kubectl("create", "-f", "-", stdin=json.dumps(stopped))
    release.kubectl("wait", "--for=condition=Ready", "vectorizercluster/stopped", "--timeout=60s")
    stateful_set = get(release, "statefulset", "stopped")
    assert image_of(stateful_set["spec"]["template"]) == "vectorizer:0.1.0"


def test_the_webhook_is_reached_through_its_service(release: ControlPlane) -> None:
    """CEL answers before the webhook does, so the rules are taken out of the definition for this moment."""
    definition = get(release, "crd", DEFINITION)
    del definition["status"], definition["metadata"]["resourceVersion"]
    original = json.dumps(definition)
    refused = (ROOT / "examples" / "refused.yaml").read_text()

    def refusal() -> str:
        with pytest.raises(CommandError) as error:
            release.kubectl("create", "--dry-run=server", "-f", "-", stdin=refused)
        return str(error.value)

    release.kubectl("replace", "-f", "-", stdin=json.dumps(without_cel(json.loads(original))))
    try:
        eventually(lambda: "admission webhook" in refusal())
        message = refusal()
        assert 'admission webhook "vectorizerclusters.vectorizer.io" denied the request' in message
        assert all(rule.code in message for rule in validator.RULES)
        assert "set spec.storage.type to mmap" in message
    finally:
        release.kubectl("replace", "-f", "-", stdin=original)
        eventually(lambda: "admission webhook" not in refusal())


def without_cel(node: object) -> object:
    if isinstance(node, dict):
        return {key: without_cel(value) for key, value in node.items() if key != "x-kubernetes-validations"}
    return [without_cel(each) for each in node] if isinstance(node, list) else node


@pytest.mark.parametrize(
    ("server_side", "seconds"), [("true", 6), ("false", 7)], ids=["server-side apply", "three-way merge"]
)
def test_an_upgrade_keeps_the_certificate_authority_and_the_engine_pods(
    quickstart: ControlPlane, server_side: str, seconds: int
) -> None:
    before = ca_bundle(quickstart)
    pod = get(quickstart, "pod", "quickstart-0")["metadata"]["uid"]
    helm(
        quickstart,
        *("upgrade", RELEASE, str(CHART), f"--server-side={server_side}", "--wait", "--timeout", "90s"),
        *("--set", "logLevel=debug", "--set", f"webhook.timeoutSeconds={seconds}"),
    )
    configuration = get(quickstart, "validatingwebhookconfiguration", f"{RELEASE}-{NAMESPACE}")
    assert configuration["webhooks"][0]["timeoutSeconds"] == seconds
    assert ca_bundle(quickstart) == before
    touched = f"touched={seconds}"  # a change, about which the webhook is asked
    quickstart.kubectl("label", "--overwrite", "vectorizercluster/quickstart", touched)
    quickstart.kubectl("wait", "--for=condition=Ready", "vectorizercluster/quickstart", "--timeout=60s")
    assert get(quickstart, "pod", "quickstart-0")["metadata"]["uid"] == pod


def test_a_replaced_operator_pod_leaves_the_clusters_alone(quickstart: ControlPlane) -> None:
    pod = get(quickstart, "pod", "quickstart-0")
    quickstart.kubectl("delete", "pod", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=vectorizer-operator")
    quickstart.kubectl("rollout", "status", "-n", NAMESPACE, f"deployment/{RELEASE}", "--timeout=60s")
    assert get(quickstart, "pod", "quickstart-0")["metadata"]["uid"] == pod["metadata"]["uid"]


def test_named_namespaces_are_looked_after_with_rights_there_only(quickstart: ControlPlane) -> None:
    quickstart.kubectl("create", "namespace", "elsewhere")
    quickstart.kubectl("wait", "--for=condition=Ready", "vectorizercluster/quickstart", "--timeout=60s")
    pod = get(quickstart, "pod", "quickstart-0")["metadata"]["uid"]
    helm(
        quickstart,
        *("upgrade", RELEASE, str(CHART), "--wait", "--timeout", "90s"),
        *("--set", "watchNamespaces={default}", "--set", "networkPolicy.enabled=true"),
    )
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    assert not may(quickstart, account, "list", "vectorizerclusters", "elsewhere")
    assert may(quickstart, account, "list", "vectorizerclusters", "default")
    quickstart.kubectl("apply", "-n", "elsewhere", "-f", str(QUICKSTART))
    quickstart.kubectl(
        *("patch", "vectorizercluster/quickstart", "--type=merge"),
        *("-p", '{"spec": {"service": {"annotations": {"a.example/b": "c"}}}}'),
    )
    eventually(lambda: "annotations" in get(quickstart, "service", "quickstart")["metadata"])
    quickstart.kubectl("wait", "--for=condition=Ready", "vectorizercluster/quickstart", "--timeout=60s")
    assert get(quickstart, "pod", "quickstart-0")["metadata"]["uid"] == pod
    untouched = get(quickstart, "vectorizercluster", "quickstart", "-n", "elsewhere")
    assert untouched["status"] == {"observedGeneration": -1}


def may(control_plane: ControlPlane, account: str, verb: str, resource: str, namespace: str) -> bool:
    try:
        return (
            control_plane.kubectl("auth", "can-i", verb, resource, "-n", namespace, f"--as={account}")
            == "yes\n"
        )
    except CommandError as error:
        if error.status == 1:  # kubectl's "no"
            return False
        raise


def test_a_certificate_from_cert_manager_is_shown_and_trusted(quickstart: ControlPlane) -> None:
    """What cert-manager does is done here: it writes the Secret, and its injector the authority."""
    make_known(quickstart, CERT_MANAGER)
    helm(quickstart, "upgrade", RELEASE, str(CHART), "--set", "webhook.certManager.enabled=true")
    issued = get(quickstart, "certificate", f"{RELEASE}-webhook", "-n", NAMESPACE)["spec"]
    made = certificates.make(issued["dnsNames"], now=datetime.now(UTC))
    data = {key: base64.b64encode(value).decode() for key, value in made.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": issued["secretName"]}, "data": data}
    quickstart.kubectl("create", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(secret))
    bundle = data[certificates.AUTHORITIES]
    quickstart.kubectl("rollout", "status", "-n", NAMESPACE, f"deployment/{RELEASE}", "--timeout=60s")
    inject = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
    configuration = f"validatingwebhookconfiguration/{RELEASE}-{NAMESPACE}"
    quickstart.kubectl("patch", configuration, "--type=json", "-p", json.dumps(inject))
    quickstart.kubectl(
        "label", "vectorizercluster/quickstart", "asked=webhook"
    )  # refused, were it not trusted
    assert ca_bundle(quickstart) == bundle
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    assert not may(quickstart, account, "update", "secrets", NAMESPACE)


MONITORED = ("upgrade", RELEASE, str(CHART), "--reset-then-reuse-values", *EVERYTHING)


def monitored(control_plane: ControlPlane) -> str:
    """Install the kinds of the Prometheus operator, and upgrade the release to all that it has for them; its notes."""
    make_known(control_plane, PROMETHEUS)
    return helm(control_plane, *MONITORED, "--wait", "--timeout", "60s")


def test_what_prometheus_reads_is_made_as_soon_as_its_kinds_are_there(quickstart: ControlPlane) -> None:
    assert "Left out" in helm(quickstart, *MONITORED, "--dry-run=server")
    assert "Left out" not in monitored(quickstart)
    service = get(quickstart, "service", f"{RELEASE}-metrics", "-n", NAMESPACE)["spec"]
    for pod in get(quickstart, "pods", "-n", NAMESPACE, "-l", selected(service["selector"]))["items"]:
        metrics = f"http://{pod['status']['podIP']}:{service['ports'][0]['port']}/metrics"
        assert "vectorizer_operator_leader" in urlopen(metrics, timeout=10).read().decode()
    monitor = get(quickstart, "servicemonitor", f"{RELEASE}-clusters", "-n", NAMESPACE)["spec"]
    assert names(quickstart, "service", "-l", selected(monitor["selector"]["matchLabels"])) == names(
        quickstart, "vectorizercluster"
    )


@pytest.mark.timeout(400)
def test_the_production_example_becomes_all_that_is_rendered_with_its_alerts_and_the_dashboard(
    release: ControlPlane, s3: S3Server, tmp_path: Path
) -> None:
    monitored(release)
    release.kubectl("create", "namespace", "search")
    release.kubectl("label", "namespace", "search", RESTRICTED)
    secrets = {
        "search-api-key": {"api-key": "all", "read-only-api-key": "reads"},
        "search-object-store": {
            "AWS_ACCESS_KEY_ID": s3.settings["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": s3.settings["secret_access_key"],
        },
    }
    for name, values in secrets.items():
        literals = [f"--from-literal={key}={value}" for key, value in values.items()]
        release.kubectl("create", "secret", "generic", name, *literals, "-n", "search")
    cluster, ingress = yaml.safe_load_all(PRODUCTION.read_text())
    cluster["metadata"]["namespace"] = ingress["metadata"]["namespace"] = "search"
    store = cluster["spec"]["storage"]["objectStore"]
    store |= {"url": f"{s3.url}/production", **{key: s3.settings[key] for key in ("endpoint", "region")}}
    file = tmp_path / "production.yaml"
    file.write_text(yaml.safe_dump_all([cluster, ingress]))

    release.kubectl("apply", "-f", str(file))
    release.kubectl(
        "wait", "-n", "search", "--for=condition=Ready", "vectorizercluster/search", "--timeout=90s"
    )

    done = CliRunner().invoke(ctl_main, ["render", "-f", str(file), "--image", "vectorizer:0.1.0"])
    assert done.exit_code == 0, done.output
    rendered = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    kinds = ",".join(sorted({kind for kind, _ in rendered}))
    found = get(release, kinds, "-n", "search", "-l", "vectorizer.io/cluster=search")["items"]
    live = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert set(live) == set(rendered)
    assert [each for child in rendered for each in missing(rendered[child], live[child], child[0])] == []

    rule = get(release, "prometheusrule", RELEASE, "-n", NAMESPACE)
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rule["spec"]))
    promtool("check", "rules", "--lint-fatal", str(tmp_path / "alerts.yaml"))
    dashboard = get(release, "configmap", f"{RELEASE}-dashboard", "-n", NAMESPACE)
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    shipped = {each.name: each.read_text() for each in (ROOT / "dashboards").glob("*.json")}
    assert dashboard["data"] == shipped
    release.kubectl("create", "--validate=strict", "-f", str(MONITOR_WITH_KEY))
    monitor = get(release, "servicemonitor", "search", "-n", "search")["spec"]
    services = get(release, "service", "-n", "search", "-l", selected(monitor["selector"]["matchLabels"]))
    assert [each["metadata"]["name"] for each in services["items"]] == ["search"]


def missing(wanted: Any, live: Any, path: str) -> Iterator[str]:
    """What of *wanted* the API server does not hold. It may hold more, and another hash of what was rendered: that is
    over the owner references as well, which no file has."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        for key, value in wanted.items():
            if key != RENDERED_HASH_ANNOTATION:
                yield from missing(value, live.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        for index, (one, other) in enumerate(zip(wanted, live, strict=True)):
            yield from missing(one, other, f"{path}[{index}]")
    elif wanted != live:
        yield f"{path} is {live}, rendered was {wanted}"


def selected(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


def test_uninstalling_keeps_definition_clusters_pods_and_data_and_installing_again_takes_them_over(
    quickstart: ControlPlane,
) -> None:
    def kept() -> list[str]:
        objects = ("vectorizercluster/quickstart", "pod/quickstart-0", "pvc/data-quickstart-0")
        return [get(quickstart, each)["metadata"]["uid"] for each in objects]

    before = kept()
    helm(quickstart, "uninstall", RELEASE, "--wait", "--timeout", "60s")
    assert kept() == before
    left = quickstart.kubectl(
        "get", "deploy,svc,sa,role,rolebinding,validatingwebhookconfiguration,clusterrole,clusterrolebinding",
        *("-A", "-o", "name", "-l", f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/managed-by=Helm"),
    )  # fmt: skip
    assert left.split() == []
    helm(quickstart, "install", RELEASE, str(CHART), "--wait", "--timeout", "60s")
    quickstart.kubectl("wait", "--for=condition=Ready", "vectorizercluster/quickstart", "--timeout=60s")
    assert kept() == before
