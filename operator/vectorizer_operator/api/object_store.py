"""`spec.storage.objectStore`: the store in which a cluster's collections live, and what makes such a wish well-formed.

What the engine does with it is told by docs/specs/SHARED_STORE.md; how it reaches the pods by `manifests`.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from vectorizer_operator.api.check import Check, Transition, cel_list
from vectorizer_operator.api.rules import value_at
from vectorizer_operator.api.types import Model, ShortText

CREDENTIALS: Mapping[str, Mapping[str, bool]] = {
    "s3": {"AWS_ACCESS_KEY_ID": True, "AWS_SECRET_ACCESS_KEY": True, "AWS_SESSION_TOKEN": False},
    "gs": {"GOOGLE_SERVICE_ACCOUNT_KEY": True},
    "az": {
        "AZURE_STORAGE_ACCOUNT_NAME": True,
        "AZURE_STORAGE_ACCOUNT_KEY": False,
        "AZURE_STORAGE_SAS_TOKEN": False,
        "AZURE_TENANT_ID": False,
        "AZURE_CLIENT_ID": False,
        "AZURE_CLIENT_SECRET": False,
    },
}
"""The environment variables that the engine is given from keys of the same names, and whether a key has to be there.

Listed, and not whatever the Secret holds: VECTORIZER__… in it would pass by the cluster rules.
"""


class SecretRef(Model):
    name: ShortText = Field(min_length=1, description="Name of a Secret in the cluster's namespace.")


class ObjectStoreSection(Model):
    url: ShortText = Field(
        description="Where the collections live: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or "
        "file:///FOLDER on a volume of podTemplate that outlives the pods. Every cluster needs one of its own. Cannot "
        "change after creation.",
    )
    endpoint: ShortText | None = Field(
        None,
        description="Address of an S3 or Azure store that is not the cloud's own, such as "
        "http://minio.storage.svc:9000. It may change if the same objects are found there, which restarts the pods.",
    )
    region: ShortText | None = Field(
        None,
        min_length=1,
        description="Region of an S3 bucket. Unset: us-east-1. A change restarts the pods.",
    )
    secret_ref: SecretRef | None = Field(
        None,
        description="Secret with the credentials, under the names that the clouds' own tools take from the "
        "environment. S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN if there is one. GCS: "
        "GOOGLE_SERVICE_ACCOUNT_KEY, the JSON text. Azure: AZURE_STORAGE_ACCOUNT_NAME, and "
        "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or AZURE_TENANT_ID, AZURE_CLIENT_ID and "
        "AZURE_CLIENT_SECRET. Unset: the identity that the cloud gives the pods. Pods read it when they start: after "
        "changing the Secret, delete the pods.",
    )

    @property
    def scheme(self) -> str:
        """s3, gs, az or file."""
        return urlsplit(self.url).scheme

    @property
    def port(self) -> int:
        """Of the store, over TCP."""
        parts = urlsplit(self.endpoint or "https://")
        return parts.port or (80 if parts.scheme == "http" else 443)


_SEGMENT = "/[A-Za-z0-9_=-][A-Za-z0-9._=-]*"
_URL = f"^((s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*({_SEGMENT})*|file://({_SEGMENT})+)$"
_PORT = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_ENDPOINT = f"^https?://[A-Za-z0-9][A-Za-z0-9.-]*(:({_PORT}))?(/[A-Za-z0-9._~-]+)*/?$"
_PATH = ("spec", "storage", "objectStore")
_VARIABLES = sorted({variable for variables in CREDENTIALS.values() for variable in variables})


def _for_schemes(field: str, schemes: tuple[str, ...], stores: str) -> Check:
    """That *field* is set only with a URL of *schemes*."""
    starts = tuple(f"{scheme}://" for scheme in schemes)
    fits = " || ".join(f"self.url.startsWith('{start}')" for start in starts)
    return Check(
        _PATH,
        f"!has(self.{field}) || {fits}",
        lambda store: store.get(field) is None or store["url"].startswith(starts),
        f"{field} is for {stores}: remove it, or correct the url",
        lambda store: store["url"],
    )


def _url(spec: Mapping[str, Any]) -> str:
    return value_at(spec, ("storage", "objectStore", "url")) or ""


def _is_on_a_volume(spec: Mapping[str, Any]) -> bool:
    mounts = value_at(spec, ("podTemplate", "volumeMounts")) or []
    folder = f"{_url(spec)}/"
    return not folder.startswith("file://") or any(
        folder.startswith(f"file://{mount['mountPath']}/") for mount in mounts
    )


def _set_twice(spec: Mapping[str, Any]) -> list[str]:
    if value_at(spec, ("storage", "objectStore", "secretRef")) is None:
        return []
    env = value_at(spec, ("podTemplate", "env")) or []
    return [each["name"] for each in env if each["name"] in _VARIABLES]


CHECKS = (
    Check(
        (*_PATH, "url"),
        f"self.matches('{_URL}')",
        lambda url: re.fullmatch(_URL, url) is not None,
        "expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER, of letters, digits "
        "and ._=-, without a slash at the end",
    ),
    Check(
        (*_PATH, "endpoint"),
        f"self.matches('{_ENDPOINT}')",
        lambda endpoint: re.fullmatch(_ENDPOINT, endpoint) is not None,
        "expected http://HOST:PORT or https://HOST:PORT; credentials belong into the Secret of secretRef",
    ),
    _for_schemes("endpoint", ("s3", "az"), "s3:// and az://, whose stores need not be the cloud's own"),
    _for_schemes("region", ("s3",), "s3://"),
    _for_schemes("secretRef", ("s3", "gs", "az"), "s3://, gs:// and az://"),
    Check(
        ("spec",),
        "!has(self.storage.objectStore) || !self.storage.objectStore.url.startsWith('file://') || "
        "(has(self.podTemplate) && has(self.podTemplate.volumeMounts) && self.podTemplate.volumeMounts.exists(mount, "
        "(self.storage.objectStore.url + '/').startsWith('file://' + mount.mountPath + '/')))",
        _is_on_a_volume,
        "spec.storage.objectStore.url has to be below a mountPath of spec.podTemplate.volumeMounts, with a volume that "
        "outlives the pods, or the data would end with the pod: mount one there",
        _url,
    ),
    Check(
        ("spec",),
        "!has(self.storage.objectStore) || !has(self.storage.objectStore.secretRef) || "
        "!has(self.podTemplate) || !has(self.podTemplate.env) || "
        f"!self.podTemplate.env.exists(variable, variable.name in {cel_list(_VARIABLES)})",
        lambda spec: not _set_twice(spec),
        "spec.podTemplate.env sets what spec.storage.objectStore.secretRef sets: remove one of the two",
        lambda spec: ", ".join(_set_twice(spec)),
    ),
)

URL_STAYS = Transition(
    ("spec", "storage"),
    "self.?objectStore.url == oldSelf.?objectStore.url",
    "spec.storage.objectStore.url cannot change, as the collections stay where they are: set it to what it was, or "
    "make a new cluster",
)
