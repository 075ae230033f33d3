"""The names that everything which talks about a VectorizerCluster has to agree on."""

GROUP = "vectorizer.io"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "VectorizerCluster"
SINGULAR = "vectorizercluster"
PLURAL = "vectorizerclusters"
SHORT_NAME = "vzc"

FIELD_MANAGER = "vectorizer-operator"
"""Who owns the fields that the operator sets, by server-side apply."""

CLUSTER_LABEL = f"{GROUP}/cluster"
"""On every child, pod and volume claim: the name of its cluster. Watches select by it."""

METRICS_LABEL = f"{GROUP}/metrics"
"""On the client Service, for a ServiceMonitor to select by: `open` where everybody may read /metrics, `key` where that
takes the API key. Not on the headless Service, or each pod would be scraped twice."""

CONFIG_HASH_ANNOTATION = f"{GROUP}/config-hash"
"""On the pod template: a changed configuration changes it, and so rolls the pods."""

RENDERED_HASH_ANNOTATION = f"{GROUP}/rendered-hash"
"""On every child: what the operator last rendered. It tells a changed wish from a value that the server set."""

DEFAULT_IMAGE_ANNOTATION = f"{GROUP}/default-image"
"""On the StatefulSet of a cluster without spec.image: the image it was created with, which an operator upgrade
must not change."""

OBJECT_STORE_ANNOTATION = f"{GROUP}/object-store"
"""On the StatefulSet of a cluster with an object store: its URL, which cannot become another one."""

INTERNAL_KEY = "key"
"""Of the Secret with the key that the engines of one cluster show each other, and that the operator shows them."""

PORT = 6333
PORT_NAME = "http"
CONTAINER = "engine"

MAX_NAME_LENGTH = 52
"""Of a cluster: its StatefulSet's revisions are named `<name>-<10 characters>`, which is the value of a label on
each pod, and a label's value holds 63."""

NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""Of a cluster: its Services are DNS labels (RFC 1035)."""
