"""From a VectorizerCluster to the Kubernetes objects that are its children. Pure: the same cluster gives the same
objects, byte for byte, in this release and the next ones (a changed pod template restarts every pod)."""

from vectorizer_operator.manifests.common import ChildRef, Manifest, internal_secret_name, selector
from vectorizer_operator.manifests.config_map import config_yaml
from vectorizer_operator.manifests.internal_secret import internal_secret
from vectorizer_operator.manifests.render import child_refs, render
from vectorizer_operator.manifests.stateful_set import needed_memory_bytes
from vectorizer_operator.manifests.text import as_yaml

__all__ = [
    "ChildRef",
    "Manifest",
    "as_yaml",
    "child_refs",
    "config_yaml",
    "internal_secret",
    "internal_secret_name",
    "needed_memory_bytes",
    "render",
    "selector",
]
