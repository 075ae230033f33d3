"""What is said of a wish for an object store that cannot be granted. `tests/doors` asks a real API server the same."""

from typing import Any

import pytest

from vectorizer_operator.api.object_store import CREDENTIALS, ObjectStoreSection
from vectorizer_operator.api.problems import structural_problems


def problems(store: dict[str, Any], **spec: Any) -> list[str]:
    raw = {
        "apiVersion": "vectorizer.io/v1",
        "kind": "VectorizerCluster",
        "metadata": {"name": "demo"},
        "spec": {"storage": {"objectStore": store}, **spec},
    }
    return [str(problem) for problem in structural_problems(raw)]


def mount(path: str) -> dict[str, Any]:
    return {"volumeMounts": [{"name": "objects", "mountPath": path}]}


@pytest.mark.parametrize(
    "store",
    [
        {"url": "s3://vectors"},
        {"url": "s3://vectors/a_b/c-d/e=f.g", "region": "eu-central-1", "secretRef": {"name": "key"}},
        {"url": "s3://vectors", "endpoint": "http://minio.storage.svc:9000"},
        {"url": "gs://vectors/search", "secretRef": {"name": "key"}},
        {"url": "az://vectors/search", "endpoint": "https://account.blob.example.com"},
    ],
)
def test_a_store_of_each_kind_has_no_problem(store: dict[str, Any]) -> None:
    assert problems(store) == []


@pytest.mark.parametrize(
    "url",
    [
        *("", "vectors", "S3://vectors", "http://vectors", "s3:/vectors", "s3://", "s3:///search"),
        *("s3://vectors/", "s3://vectors//search", "s3://vectors/../search", "s3://vectors/search\n"),
        *("s3://key:secret@vectors", "s3://vectors?region=x", "s3://vectors/a b", "file://", "file:///"),
        *("file://objects", "file:///objects/.hidden", "file:///a%20b"),
    ],
)
def test_a_url_has_one_spelling_and_nothing_but_bucket_and_prefix(url: str) -> None:
    [problem] = problems({"url": url}, podTemplate=mount("/objects"))[:1]
    assert problem.startswith(
        "spec.storage.objectStore.url: expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,"
    )
    assert problem.endswith(f'found "{url}"')


@pytest.mark.parametrize(
    "endpoint",
    [
        "minio:9000",
        "ftp://minio",
        "http://",
        "http://minio:0",
        "http://minio:65536",
        "http://key:secret@minio",
    ],
)
def test_an_endpoint_is_an_address_without_credentials(endpoint: str) -> None:
    [problem] = problems({"url": "s3://vectors", "endpoint": endpoint})
    assert problem.startswith(
        "spec.storage.objectStore.endpoint: expected http://HOST:PORT or https://HOST:PORT"
    )


@pytest.mark.parametrize(
    ("store", "field"),
    [
        ({"url": "gs://vectors", "endpoint": "http://fake:4443"}, "endpoint"),
        ({"url": "gs://vectors", "region": "europe-west1"}, "region"),
        ({"url": "az://vectors", "region": "westeurope"}, "region"),
        ({"url": "file:///objects/a", "secretRef": {"name": "key"}}, "secretRef"),
    ],
)
def test_a_setting_that_the_store_does_not_have_is_refused(store: dict[str, Any], field: str) -> None:
    [problem] = problems(store, podTemplate=mount("/objects"))
    assert problem.startswith(f"spec.storage.objectStore: {field} is for s3://")
    assert problem.endswith(f'found "{store["url"]}"')


@pytest.mark.parametrize("path", ["/objects", "/objects/demo"])
def test_a_folder_on_a_volume_of_the_pod_template_is_a_store(path: str) -> None:
    assert problems({"url": "file:///objects/demo"}, podTemplate=mount(path)) == []


@pytest.mark.parametrize("template", [{}, mount("/other"), mount("/obj"), mount("/objects/demo/below")])
def test_a_folder_that_would_end_with_the_pod_is_refused(template: dict[str, Any]) -> None:
    [problem] = problems({"url": "file:///objects/demo"}, podTemplate=template)
    assert problem.startswith("spec: spec.storage.objectStore.url has to be below a mountPath")
    assert problem.endswith('found "file:///objects/demo"')


def test_credentials_come_from_one_place() -> None:
    env = {"env": [{"name": "AWS_ACCESS_KEY_ID", "value": "x"}]}
    assert problems({"url": "s3://vectors"}, podTemplate=env) == []
    [problem] = problems({"url": "s3://vectors", "secretRef": {"name": "key"}}, podTemplate=env)
    assert problem.endswith('remove one of the two, found "AWS_ACCESS_KEY_ID"')


def test_a_store_without_url_and_one_with_unknown_fields_are_refused() -> None:
    assert problems({"region": "x"}) == ["spec.storage.objectStore.url: required and not set"]
    [problem] = problems({"url": "s3://vectors", "bucket": "b"})
    assert problem.startswith("spec.storage.objectStore.bucket: unknown field")


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [(None, 443), ("http://minio:9000", 9000), ("http://minio", 80), ("https://minio/path", 443)],
)
def test_the_port_is_the_endpoints_or_that_of_the_protocol(endpoint: str | None, port: int) -> None:
    assert ObjectStoreSection(url="s3://vectors", endpoint=endpoint).port == port


def test_no_credential_could_set_the_engines_own_settings() -> None:
    names = [name for variables in CREDENTIALS.values() for name in variables]
    assert all(name.startswith(("AWS_", "GOOGLE_", "AZURE_")) for name in names)
