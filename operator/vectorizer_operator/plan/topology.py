"""Which pods of a cluster serve shards, and when a pod may go: for clusters whose pods share a store.

What the engines say they know is the only memory: nobody has to keep the version. The engines remember the newest
topology and pass it on, so everything goes on without the operator; its part is to take notice of pods that come and
go. That no write is lost does not hang on any of this (docs/specs/SHARED_STORE.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from vectorizer_operator.plan.model import Engine, Member, Observed, PublishTopology
from vectorizer_operator.plan.pods import Pod

LOST_AFTER = timedelta(seconds=3)
"""An engine that neither answers us nor is ready for so long is no member any more. A container that is only started
again is back sooner, and then nothing moves."""

LOOK_AGAIN, LOOK_AGAIN_LATER = 0.5, 5.0
"""Seconds between looks at engines that have yet to learn of a topology, or to open shards: no watch tells of that.
Later where no pod has changed for `LONG_QUIET`."""

LONG_QUIET = timedelta(minutes=1)


def known_topology(observed: Observed) -> Engine | None:
    """What the best informed engine says. None where none answers."""
    answers = [engine for engine in (observed.engines or {}).values() if engine is not None]
    return max(answers, key=lambda engine: engine.version, default=None)


def topology_changes(
    observed: Observed, pods: Sequence[Pod], leaving: Sequence[str], *, now: datetime
) -> Iterator[PublishTopology]:
    """Tell the engines who the members are, where they do not know it. Pods that are *leaving* are none."""
    engines = observed.engines or {}
    known = known_topology(observed)
    answering = [pod for pod in pods if engines.get(pod.name) is not None]
    if known is None:
        return
    wanted = tuple(_wanted_members(pods, engines, known, leaving, now=now))
    if wanted and wanted != known.members:
        yield PublishTopology(
            known.version + 1,
            wanted,
            known.members,
            tuple(Member(pod.name, pod.address) for pod in answering),
            _why(known.members, wanted),
        )
        return
    behind = [pod for pod in answering if (engines[pod.name] or known).version < known.version]
    if behind:
        yield PublishTopology(
            known.version,
            known.members,
            known.previous,
            tuple(Member(pod.name, pod.address) for pod in behind),
            f"{_listed(pod.name for pod in behind)} know an older one",
        )


def drained_before_removed(observed: Observed, name: str) -> bool:
    """A pod goes only when the others serve what it served: all members know that it is none, and have opened all
    their shards, and none is left to it. A cluster's only pod has nobody to give them to."""
    engines = observed.engines or {}
    known = known_topology(observed)
    if known is None:
        return False
    members = [member.name for member in known.members]
    if name in members:
        return members == [name]
    own = engines.get(name)
    return (own is None or own.leaving == 0) and all(
        (engine := engines.get(member)) is not None
        and engine.version == known.version
        and engine.waiting == 0
        for member in members
    )


def all_shards_served(observed: Observed, pods: Sequence[Pod], leaving: Sequence[str] = ()) -> Iterator[str]:
    """What is missing until every shard is served by the member that it belongs to, in words. Pods that are *leaving*
    are to be no members."""
    if observed.engines is None or not pods:
        return
    engines = observed.engines
    known = known_topology(observed)
    if known is None:
        yield "no engine answers"
        return
    for member in known.members:
        engine = engines.get(member.name)
        if engine is None:
            yield f"engine {member.name} does not answer"
        elif engine.version < known.version:
            yield f"engine {member.name} knows topology {engine.version}, the newest is {known.version}"
        elif engine.waiting:
            yield f"engine {member.name} opens shards"
    for name, engine in engines.items():  # also of those that are no members any more
        if engine is not None and engine.leaving:
            yield f"engine {name} still serves shards of others"
    are_members = {member.name for member in known.members}
    for pod in pods:
        if pod.running and not pod.terminating and pod.name not in {*are_members, *leaving}:
            yield f"engine {pod.name} is no member yet"


def look_again(pods: Sequence[Pod], *, now: datetime) -> Iterator[float]:
    """After how many seconds engines are to be looked at again, if any runs."""
    running = [pod for pod in pods if pod.running]
    if running:
        yield LOOK_AGAIN if any(now - pod.changed < LONG_QUIET for pod in running) else LOOK_AGAIN_LATER


def leaves_by_scaling(pods: Sequence[Pod], replicas: int) -> list[str]:
    """The pods that a smaller number of replicas takes away, if any are to be left."""
    if replicas == 0:
        return []
    return [pod.name for pod in pods if pod.ordinal >= replicas]


def _wanted_members(
    pods: Sequence[Pod],
    engines: Mapping[str, Engine | None],
    known: Engine,
    leaving: Sequence[str],
    *,
    now: datetime,
) -> Iterator[Member]:
    are_members = {member.name for member in known.members}
    for pod in pods:
        if pod.terminating or pod.name in leaving or pod.ip is None:
            continue
        may_be_back = pod.name in are_members and now - pod.changed < LOST_AFTER
        if engines.get(pod.name) is not None or pod.ready or may_be_back:
            yield Member(pod.name, pod.address)


def _why(before: Sequence[Member], after: Sequence[Member]) -> str:
    old, new = {member.name for member in before}, {member.name for member in after}
    words = [
        f"{_listed(names)} {verb}"
        for names, verb in (
            (sorted(new - old), "come"),
            (sorted(old - new), "go"),
            (sorted({each.name for each in set(after) - set(before)} & old), "have another address"),
        )
        if names
    ]
    return "; ".join(words) or "their order is another one"


def _listed(names: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(names)
