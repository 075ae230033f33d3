"""How requests are signed, for the ways in which a kubeconfig may say who somebody is."""

import base64
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import load_kube_config

from tests.kube.controlplane import ControlPlane
from vectorizer_operator.kube.connection import Connection


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """The URL of a server that answers with the credentials and the program that it was asked with."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.headers.get('Authorization')} {request.headers['User-Agent']}")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield "http://{}:{}".format(*runner.addresses[0])
    await runner.cleanup()


async def ask(configuration: Configuration) -> str:
    connection = Connection(configuration, user_agent="tests/1")
    async with connection.session() as session, session.get(connection.server) as answer:
        return await answer.text()


async def test_a_token_is_sent_as_it_is_at_that_moment(echo: str) -> None:
    configuration = Configuration(host=f"{echo}/")
    tokens = iter(["first", "second"])

    def refresh(configuration: Configuration) -> None:
        configuration.api_key["BearerToken"] = f"Bearer {next(tokens)}"

    configuration.refresh_api_key_hook = refresh
    connection = Connection(configuration, user_agent="tests/1")
    assert connection.server == echo
    async with connection.session() as session:
        for expected in ("Bearer first tests/1", "Bearer second tests/1"):
            async with session.get(connection.server) as answer:
                assert await answer.text() == expected


async def test_a_name_and_password_are_sent(echo: str) -> None:
    expected = base64.b64encode(b"name:password").decode()
    assert (
        await ask(Configuration(host=echo, username="name", password="password"))
        == f"Basic {expected} tests/1"
    )


async def test_without_credentials_none_are_sent(echo: str) -> None:
    assert await ask(Configuration(host=echo)) == "None tests/1"


async def test_the_configuration_named_by_the_environment_is_used(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(control_plane.kubeconfig)
    )
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    connection = await Connection.load(user_agent="tests/1")
    async with connection.session() as session, session.get(f"{connection.server}/readyz") as answer:
        assert await answer.text() == "ok"


async def test_a_server_whose_certificate_is_not_to_be_checked_is_not_checked(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    configuration = Configuration()
    await load_kube_config(config_file=str(control_plane.kubeconfig), client_configuration=configuration)
    configuration.ssl_ca_cert, configuration.verify_ssl = None, False
    connection = Connection(configuration, user_agent="tests/1")
    async with connection.session() as session, session.get(f"{connection.server}/readyz") as answer:
        assert answer.status == 200


@pytest.fixture
def mounted(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a ServiceAccount, as the kubelet mounts it into a pod."""
    token = control_plane.kubectl("create", "token", "default", "--duration=1h").strip()
    (tmp_path / "token").write_text(token)
    (tmp_path / "ca.crt").write_bytes(control_plane.ca)
    loader = "kubernetes.aio.config.incluster_config"
    monkeypatch.setattr(f"{loader}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{loader}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("vectorizer_operator.kube.connection.SERVICE_ACCOUNT_TOKEN", tmp_path / "token")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", control_plane.address)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    return tmp_path


async def test_in_a_pod_the_mounted_service_account_signs_in(mounted: Path) -> None:
    connection = await Connection.load(user_agent="tests/1")
    url = f"{connection.server}/apis/authentication.k8s.io/v1/selfsubjectreviews"
    async with connection.session() as session, session.post(url, json={}) as answer:
        review = await answer.json()
    assert review["status"]["userInfo"]["username"] == "system:serviceaccount:default:default"


async def test_a_mounted_token_that_the_kubelet_has_replaced_is_read_again(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await Connection.load(user_agent="tests/1")
    (mounted / "token").write_text("another")

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now() + timedelta(minutes=2)

    monkeypatch.setattr("kubernetes.aio.config.incluster_config.datetime.datetime", Later)
    async with connection.session() as session, session.get(f"{connection.server}/version") as answer:
        assert answer.request_info.headers["Authorization"] == "bearer another"
        assert answer.status == 401
