"""The certificate's Secret and the API server's trust in it, on the real API server."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.kube.controlplane import ControlPlane
from tests.operator.connections import connect
from tests.operator.webhook.tls_handshake import handshake
from vectorizer_operator.kube.client import KubeClient, Object
from vectorizer_operator.kube.resources import SECRETS, WEBHOOK_CONFIGURATIONS
from vectorizer_operator.webhook import certificates, keeper
from vectorizer_operator.webhook.certificates import AUTHORITIES, CERTIFICATE, KEY
from vectorizer_operator.webhook.keeper import KeptSecret, MountedCertificate
from vectorizer_operator.webhook.tls import ServerCertificate

HOST = "webhook.example.svc"


def allowed() -> None:
    """A fence that lets everything through."""


class Fenced(Exception):
    """A write was tried that is not ours to make."""


def fenced() -> None:
    raise Fenced


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(await connect(control_plane)) as client:
        yield client


@pytest.fixture
def configuration(control_plane: ControlPlane, namespace: str) -> Iterator[str]:
    """The name of a webhook configuration, as the chart installs it: without any authority."""
    control_plane.kubectl(
        "apply", "--server-side", "-f", "-",
        stdin=f"""
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: {namespace}}}
webhooks:
  - name: clusters.example.com
    admissionReviewVersions: [v1]
    sideEffects: None
    rules: [{{apiGroups: [example.com], apiVersions: [v1], operations: [CREATE], resources: [clusters]}}]
    clientConfig: {{service: {{name: webhook, namespace: {namespace}, path: /validate}}}}
""",
    )  # fmt: skip
    yield namespace
    control_plane.kubectl("delete", "validatingwebhookconfiguration", namespace)


@pytest.fixture
def kept(client: KubeClient, namespace: str, configuration: str) -> KeptSecret:
    return KeptSecret(client, namespace=namespace, secret="own", configuration=configuration, hosts=[HOST])


async def secret_data(client: KubeClient, namespace: str) -> dict[str, bytes]:
    secret = await client.get(SECRETS, "own", namespace=namespace)
    return {key: base64.b64decode(value) for key, value in secret["data"].items()}


async def trusted(client: KubeClient, configuration: str) -> bytes:
    found = await client.get(WEBHOOK_CONFIGURATIONS, configuration)
    return base64.b64decode(found["webhooks"][0]["clientConfig"].get("caBundle", ""))


async def put(client: KubeClient, namespace: str, data: dict[str, bytes]) -> None:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    metadata = {"name": "own", "namespace": namespace}
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}
    await client.create(SECRETS, {**secret, "type": "kubernetes.io/tls"})


async def test_a_missing_certificate_is_made_and_trusted_and_then_left_alone(
    client: KubeClient, namespace: str, kept: KeptSecret, configuration: str
) -> None:
    assert await kept.read() is None
    await kept.ensure(allowed)
    data = await secret_data(client, namespace)
    assert certificates.why_renew(data, [HOST], now=datetime.now(UTC)) is None
    assert await trusted(client, configuration) == data[AUTHORITIES]
    assert await kept.read() == (data[CERTIFICATE], data[KEY])
    await kept.ensure(fenced)  # nothing to write


async def test_a_replica_that_lost_the_lease_writes_nothing(
    client: KubeClient, kept: KeptSecret, configuration: str
) -> None:
    with pytest.raises(Fenced):
        await kept.ensure(fenced)
    assert await kept.read() is None
    assert await trusted(client, configuration) == b""


async def test_an_expiring_certificate_is_renewed_while_the_old_one_stays_trusted(
    client: KubeClient, namespace: str, kept: KeptSecret, configuration: str
) -> None:
    made_long_ago = datetime.now(UTC) - certificates.LIFETIME + timedelta(days=1)
    old = certificates.make([HOST], now=made_long_ago)
    await put(client, namespace, old)
    await kept.ensure(allowed)
    new = await secret_data(client, namespace)
    assert new[CERTIFICATE] != old[CERTIFICATE]
    for shown in (old, new):
        certificate = ServerCertificate()
        await certificate.load(shown[CERTIFICATE], shown[KEY])
        await handshake(certificate.context, trusting=await trusted(client, configuration), host=HOST)


async def test_after_the_secret_is_deleted_what_replicas_still_show_stays_trusted(
    client: KubeClient, namespace: str, kept: KeptSecret, configuration: str
) -> None:
    await kept.ensure(allowed)
    old = await secret_data(client, namespace)
    await client.delete(SECRETS, "own", namespace=namespace)
    await kept.ensure(allowed)
    bundle = await trusted(client, configuration)
    assert old[AUTHORITIES] in bundle
    assert (await secret_data(client, namespace))[AUTHORITIES] in bundle


async def test_a_bundle_that_somebody_wiped_is_put_back(
    client: KubeClient, namespace: str, kept: KeptSecret, configuration: str, control_plane: ControlPlane
) -> None:
    await kept.ensure(allowed)
    wiped = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
    control_plane.kubectl(
        "patch",
        "validatingwebhookconfiguration",
        configuration,
        "--type=json",
        f"-p={wiped}".replace("'", '"'),
    )
    await kept.ensure(allowed)
    assert await trusted(client, configuration) == (await secret_data(client, namespace))[AUTHORITIES]


async def test_without_a_webhook_configuration_there_is_a_certificate_and_a_warning(
    client: KubeClient, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptSecret(client, namespace=namespace, secret="own", configuration="none", hosts=[HOST])
    await kept.ensure(allowed)
    assert await kept.read() is not None
    assert "no ValidatingWebhookConfiguration none" in caplog.text


async def test_a_secret_of_somebody_elses_is_not_shown(
    client: KubeClient, namespace: str, kept: KeptSecret
) -> None:
    await put(client, namespace, {CERTIFICATE: b"", KEY: b""})
    assert await kept.read() is None


async def test_the_holder_keeps_it_and_each_replica_shows_it_at_once(kept: KeptSecret) -> None:
    written = asyncio.Event()
    certificate = ServerCertificate()
    tasks = [
        asyncio.create_task(keeper.show(kept, certificate, written=written)),
        asyncio.create_task(keeper.keep(kept, fence=allowed, written=written)),
    ]
    async with asyncio.timeout(10):
        await certificate.loaded.wait()
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Answers:
    """A source whose answers are given one after the other, then the last one for ever."""

    def __init__(self, *answers: tuple[bytes, bytes] | None) -> None:
        self.answers = list(answers)

    async def read(self) -> tuple[bytes, bytes] | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_an_unusable_certificate_is_reported_and_the_last_good_one_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = certificates.make([HOST], now=datetime.now(UTC))
    other = certificates.make([HOST], now=datetime.now(UTC))
    source = Answers((good[CERTIFICATE], good[KEY]), (other[CERTIFICATE], good[KEY]))
    written = asyncio.Event()
    certificate = ServerCertificate()
    task = asyncio.create_task(keeper.show(source, certificate, written=written))
    async with asyncio.timeout(10):
        await certificate.loaded.wait()
        while "unusable" not in caplog.text:
            written.set()
            await asyncio.sleep(0.01)
    await handshake(certificate.context, trusting=good[AUTHORITIES], host=HOST)
    task.cancel()


async def test_a_mounted_certificate_is_read_whenever_it_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    source = MountedCertificate(tmp_path)
    assert await source.read() is None
    assert str(tmp_path) in caplog.text
    for name, content in ((CERTIFICATE, b"certificate"), (KEY, b"key")):
        (tmp_path / name).write_bytes(content)
    assert await source.read() == (b"certificate", b"key")
