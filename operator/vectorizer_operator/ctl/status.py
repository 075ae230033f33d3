"""`vectorizerctl status`: a cluster at a glance: its conditions, its pods, and what each engine says of itself.

An engine is asked through the API server (pods/proxy), which reaches pods wherever kubectl reaches it, and past the
cluster's NetworkPolicy. What cannot be had (a right, a pod that does not answer) is said in its place.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import click

from vectorizer_operator.api import CLUSTER_LABEL
from vectorizer_operator.api.constants import PORT
from vectorizer_operator.ctl.live import ask, asks_kubernetes
from vectorizer_operator.kube.client import KubeClient, Object
from vectorizer_operator.kube.errors import ApiError, NotFound
from vectorizer_operator.kube.resources import CLUSTERS, PODS, SECRETS
from vectorizer_operator.plan.pods import Pod

MOST_COLLECTIONS = 50
"""So many are asked about their points; a cluster may have thousands."""


@click.command("status")
@click.argument("name")
@asks_kubernetes
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status_command(name: str, namespace: str | None, context: str | None, output: str) -> None:
    """Show the cluster NAME: conditions, pods, memory by component, collections.

    Needs the rights to get vectorizerclusters and list pods; for memory and collections, to get pods/proxy, and where
    an API key is set, the Secret with it. Exit status: 0 it was shown, 2 it could not be.
    """
    found = ask(lambda client, default: _look(client, name, namespace=namespace or default), context=context)
    click.echo(json.dumps(found, indent=2) if output == "json" else "\n".join(_lines(found)))


async def _look(client: KubeClient, name: str, *, namespace: str) -> Object:
    cluster, pods = await asyncio.gather(
        client.get(CLUSTERS, name, namespace=namespace),
        client.list(PODS, namespace=namespace, label_selector=f"{CLUSTER_LABEL}={name}"),
    )
    status = cluster.get("status") or {}
    headers = await _key(client, cluster["spec"], namespace=namespace)
    ordered = sorted(map(Pod, pods), key=lambda pod: pod.name)
    first = next((pod for pod in ordered if pod.ready), None)
    engines = await asyncio.gather(
        *(_engine(client, pod, headers, answers_for_all=pod is first) for pod in ordered)
    )
    return {
        "namespace": namespace,
        "name": name,
        "upToDate": status.get("observedGeneration") == cluster["metadata"]["generation"],
        "endpoint": status.get("endpoint"),
        "currentVersion": status.get("currentVersion"),
        "conditions": status.get("conditions") or [],
        "pods": engines,
    }


async def _key(client: KubeClient, spec: Mapping[str, Any], *, namespace: str) -> Mapping[str, str] | str:
    """The header with the cluster's API key, or why there is none to be had."""
    reference = (spec.get("auth") or {}).get("apiKeySecretRef")
    if not reference:
        return {}
    try:
        secret = await client.get(SECRETS, reference["name"], namespace=namespace)
        key = base64.b64decode(secret["data"][reference["key"]]).decode()
    except (ApiError, KeyError, ValueError) as error:
        said = error.message if isinstance(error, ApiError) else f"it has no key {reference['key']}"
        return f"the API key is not to be had from Secret {reference['name']}: {said}"
    return {"api-key": key}


async def _engine(
    client: KubeClient, pod: Pod, headers: Mapping[str, str] | str, *, answers_for_all: bool
) -> Object:
    """What one engine says. Where several serve together, one of them is asked for the collections of all."""
    found: Object = {"name": pod.name, "ready": pod.ready, "image": pod.image}
    if not pod.ready:
        found["trouble"] = pod.trouble()
        return found
    if isinstance(headers, str):
        found["trouble"] = headers
        return found
    try:
        found["memory"], topology = await asyncio.gather(
            _ask(client, pod, "/cluster/memory", headers), _topology(client, pod, headers)
        )
        if topology is not None:
            found["topology"] = topology
        if topology is None or answers_for_all:
            found["collections"] = await _collections(client, pod, headers)
    except ApiError as error:
        found["trouble"] = f"the engine was not to be asked: {error.message or error}"
    return found


async def _topology(client: KubeClient, pod: Pod, headers: Mapping[str, str]) -> Object | None:
    """Who serves together, as an engine knows it, and its own share. None where it serves alone or cannot tell yet."""
    with suppress(NotFound):
        about = await _ask(client, pod, "/cluster", headers)
        if about["status"] == "enabled":
            members = sorted(peer["name"] for peer in about["peers"].values())
            return {
                "version": about["raft_info"]["commit"],
                "members": members,
                "shards": about["shards"],
            }
    return None


async def _collections(client: KubeClient, pod: Pod, headers: Mapping[str, str]) -> Object:
    answer = await _ask(client, pod, "/collections", headers)
    names = sorted(each["name"] for each in answer["collections"])
    about = await asyncio.gather(
        *(_collection(client, pod, name, headers) for name in names[:MOST_COLLECTIONS])
    )
    shown = {name: each for name, each in zip(names, about, strict=False) if each}
    return {"count": len(names), "shown": shown}


async def _collection(client: KubeClient, pod: Pod, name: str, headers: Mapping[str, str]) -> Object | None:
    """What there is to say of one; None where it was deleted since."""
    with suppress(NotFound):
        about = await _ask(client, pod, f"/collections/{quote(name)}", headers)
        return {key: about.get(key) for key in ("status", "points_count", "segments_count")}
    return None


async def _ask(client: KubeClient, pod: Pod, path: str, headers: Mapping[str, str]) -> Object:
    metadata = pod.object["metadata"]
    answer = await client.ask_pod(
        pod.name, path, namespace=metadata["namespace"], port=pod.port or PORT, headers=headers
    )
    result: Object = answer["result"]
    return result


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['namespace']}/{found['name']}  {found['endpoint'] or ''}".rstrip()
    if not found["upToDate"]:
        yield "  the operator has not looked at the newest spec yet; what follows is about an older one"
    for condition in found["conditions"]:
        yield f"  {condition['type']:<20} {condition['status']:<7} {condition['reason']}: {condition['message']}"
    topologies = [pod["topology"] for pod in found["pods"] if "topology" in pod]
    newest: Mapping[str, Any] = max(topologies, key=lambda topology: int(topology["version"]), default={})
    if newest:
        yield f"  served together by {', '.join(newest['members']) or 'nobody'} (topology {newest['version']})"
    for pod in found["pods"]:
        yield f"  pod {pod['name']}: {'ready' if pod['ready'] else 'not ready'}, {pod['image']}"
        if "trouble" in pod:
            yield f"    {pod['trouble']}"
        if "memory" in pod:
            yield from _memory(pod["memory"])
        if "topology" in pod:
            yield _shards(pod["topology"], newest=newest)
        if "collections" in pod:
            yield from _collection_lines(pod["collections"], of_all="topology" in pod)


def _memory(memory: Mapping[str, Any]) -> Iterator[str]:
    ledger = memory["ledger"]
    used, limit = ledger["used_bytes"], ledger["limit_bytes"]
    by_cache = ", ".join(f"{cache} {_size(used)}" for cache, used in sorted(ledger["by_cache"].items()))
    yield f"    caches {_size(used)} of {_size(limit)} ({used / limit:.0%}): {by_cache}"
    own, mapped = memory.get("anonymous_rss_bytes"), memory.get("reclaimable_mapped_bytes")
    if own is not None and mapped is not None:
        yield f"    process {_size(own)} of its own, {_size(mapped)} mapped and reclaimable"
    for layout, found in memory.get("layouts", {}).items():
        for largest in found["largest"][:1]:
            yield (
                f"    {layout}: {found['segments']} segments with {found['points']} points; the largest has "
                f"{largest['points']} of {largest['collection']}: {largest['reason']}"
            )


def _shards(topology: Mapping[str, Any], *, newest: Mapping[str, Any]) -> str:
    shards = topology["shards"]
    behind = (
        "" if topology["version"] == newest["version"] else f"; knows topology {topology['version']} only"
    )
    return f"    shards: {shards['served']} served, {shards['waiting']} waited for, {shards['leaving']} leaving{behind}"


def _collection_lines(collections: Mapping[str, Any], *, of_all: bool) -> Iterator[str]:
    shown = collections["shown"]
    yield f"    collections{' of all pods' if of_all else ''}: {collections['count']}"
    for name, each in shown.items():
        yield f"      {name}: {each['status']}, {each['points_count']} points, {each['segments_count']} segments"
    if collections["count"] > MOST_COLLECTIONS:
        yield f"      and {collections['count'] - MOST_COLLECTIONS} more"


def _size(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
