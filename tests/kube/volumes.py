"""The storage of the test node: a folder for each PersistentVolumeClaim, made, resized and removed on demand.

It acts as an external provisioner and resizer do: the real volume controller does the binding. Its StorageClass
`folders` is the default one; a test may make others with the same provisioner, for example one that does not
expand. Sizes are kept in the API only: a folder has no limit.
"""

import asyncio
import logging
import shutil
from pathlib import Path

from tests.kube.api import Api, ApiError, Mirror, Object

PROVISIONER = "vectorizer.io/test-folders"
STORAGE_CLASS = "folders"

_CLAIMED_FOR = "volume.kubernetes.io/storage-provisioner"

logger = logging.getLogger(__name__)


class Volumes:
    """Provisions what claims ask for; `run` until cancelled."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api = api
        self._folder = folder
        self._claims = Mirror(api, "/api/v1/persistentvolumeclaims", self._changed)
        self._queue: asyncio.Queue[tuple[Object | None, Object | None]] = asyncio.Queue()

    def folder_of(self, namespace: str, claim: str) -> Path | None:
        """The folder of a bound claim; None while it is not bound."""
        found = self._claims.objects.get((namespace, claim))
        if found is None or (found.get("status") or {}).get("phase") != "Bound":
            return None
        return self._folder / str(found["spec"]["volumeName"])

    async def run(self) -> None:
        await self._api.create("/apis/storage.k8s.io/v1/storageclasses", _storage_class())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claims.follow())
            while True:
                new, old = await self._queue.get()
                try:
                    await self._settle(new, old)
                except ApiError as error:  # somebody was quicker; what they did brings the next event
                    logger.info("claim not settled: %s", error)

    def _changed(self, new: Object | None, old: Object | None) -> None:
        claim = new or old or {}
        if (claim["metadata"].get("annotations") or {}).get(_CLAIMED_FOR) == PROVISIONER:
            self._queue.put_nowait((new, old))

    async def _settle(self, new: Object | None, old: Object | None) -> None:
        claim = new or old or {}
        volume = f"pvc-{claim['metadata']['uid']}"
        path = f"/api/v1/persistentvolumes/{volume}"
        if new is None:
            await self._api.delete(path)
            shutil.rmtree(self._folder / volume, ignore_errors=True)
        elif not new["spec"].get("volumeName"):
            await self._provision(new, volume)
        elif new["status"].get("phase") == "Bound":
            wanted = new["spec"]["resources"]["requests"]["storage"]
            if new["status"].get("capacity", {}).get("storage") != wanted:
                capacity = {"capacity": {"storage": wanted}}
                await self._api.patch(path, {"spec": capacity})
                await self._api.patch(f"{_path(new)}/status", {"status": capacity})

    async def _provision(self, claim: Object, volume: str) -> None:
        folder = self._folder / volume
        folder.mkdir(parents=True, exist_ok=True)
        metadata, spec = claim["metadata"], claim["spec"]
        await self._api.create(
            "/api/v1/persistentvolumes",
            {
                "metadata": {"name": volume, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
                "spec": {
                    "storageClassName": spec["storageClassName"],
                    "accessModes": spec["accessModes"],
                    "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                    "persistentVolumeReclaimPolicy": "Delete",
                    "hostPath": {"path": str(folder)},
                    "claimRef": {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        **{key: metadata[key] for key in ("namespace", "name", "uid")},
                    },
                },
            },
        )


def _path(claim: Object) -> str:
    metadata = claim["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/persistentvolumeclaims/{metadata['name']}"


def _storage_class() -> Object:
    return {
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": True,
    }
