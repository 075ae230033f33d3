"""The variables that pods get are those that the engine's library of stores reads: asked of a server that writes down
who calls. S3's are shown by the clusters over a real S3 server."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vectorizer_engine.errors import StoreUnsuitable
from vectorizer_engine.storage.object_store import CloudStore, ObjectMissing
from vectorizer_operator.api.object_store import CREDENTIALS

KEY = "a2V5"


@dataclass
class Recorder:
    """Has nothing, and remembers what it was asked: path, query, authorization and body."""

    url: str = ""
    asked: list[str] = field(default_factory=list)

    def asked_by_azure(self) -> str:
        with suppress(ObjectMissing, OSError):
            CloudStore("az://vectors", {"endpoint": self.url}, request_seconds=5).read("object")
        return "\n".join(self.asked)


@pytest.fixture
def server() -> Iterator[Recorder]:
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            recorder.asked.append(f"{self.path} {self.headers.get('authorization')} {body}")
            self.send_response(404)
            self.send_header("content-length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        recorder.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield recorder
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables in CREDENTIALS.values():
        for variable in variables:
            monkeypatch.delenv(variable, raising=False)


def test_google_takes_the_text_of_the_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "no JSON")
    with pytest.raises(StoreUnsuitable, match="Unable to decode service account"):
        CloudStore("gs://vectors", {})


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"AZURE_STORAGE_ACCOUNT_KEY": KEY}, "SharedKey someone:"),
        ({"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=signature"}, "sig=signature"),
        (
            {"AZURE_TENANT_ID": "a-tenant", "AZURE_CLIENT_ID": "a-client", "AZURE_CLIENT_SECRET": "a-secret"},
            "/a-tenant/oauth2/v2.0/token None client_id=a-client",
        ),
    ],
)
def test_azure_takes_each_kind_of_credential(
    server: Recorder, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], shown: str
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "someone")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", server.url)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert variables.keys() <= CREDENTIALS["az"].keys()
    assert shown in server.asked_by_azure()
