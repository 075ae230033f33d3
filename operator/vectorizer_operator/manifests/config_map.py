"""The engine's `config.yml`, in a ConfigMap."""

import yaml

from vectorizer_engine.cluster.quantity import parse_quantity
from vectorizer_engine.cluster.validator import MAX_CACHE_MEMORY_BYTES
from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import PORT
from vectorizer_operator.manifests.common import Manifest, child, config_name

CONFIG_KEY = "config.yml"
CONFIG_FOLDER = "/etc/vectorizer"
DATA_FOLDER = "/var/lib/vectorizer"


def config_yaml(cluster: VectorizerCluster) -> str:
    """The configuration of the engine's pods.

    What breaks a rule is passed on as it was written: the engine refuses it at start, as the last of the doors.
    """
    spec = cluster.spec
    written = spec.cluster.max_cache_memory
    limit = parse_quantity(written)
    allowed = limit is not None and 0 < limit <= MAX_CACHE_MEMORY_BYTES
    config = {
        "server": {"host": "0.0.0.0", "port": PORT},
        "storage": {"path": DATA_FOLDER, "type": spec.storage.type},
        "cluster": {
            "enabled": True,
            # In bytes, so that 1Gi and 1024Mi are the same configuration and restart nothing.
            "max_cache_memory_bytes": limit if allowed else written,
            "enforce_mmap_storage": spec.cluster.enforce_mmap_storage,
            "disable_file_watcher": spec.cluster.disable_file_watcher,
            "cache_warning_threshold": spec.cluster.cache_warning_threshold_percent,
        },
        "file_watcher": {"enabled": spec.file_watcher.enabled},
    }
    return yaml.safe_dump(config, sort_keys=False)


def config_map(cluster: VectorizerCluster, config: str) -> Manifest:
    """*config* is what `config_yaml` made of *cluster*: written once, as it costs more than all the rest."""
    return child(
        cluster,
        api_version="v1",
        kind="ConfigMap",
        name=config_name(cluster.metadata.name),
        data={CONFIG_KEY: config},
    )
