"""How requests are signed, for the ways in which a kubeconfig may say who somebody is."""

import base64
from collections.abc import AsyncIterator
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
