"""Leader election on the real API server, with short times; and by a clock that the test turns."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from tests.kube.controlplane import ControlPlane
from tests.operator.connections import connect
from vectorizer_operator.controller.lease import Lease, LeaseTimes, NotLeading
from vectorizer_operator.kube.client import KubeClient, Object
from vectorizer_operator.kube.resources import LEASES

TIMES = LeaseTimes(duration=3, renew_every=0.3, renew_deadline=1.5, retry_every=0.1)


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(await connect(control_plane)) as client:
        yield client


class Candidate:
    """A replica: its part in the election, and whether its work runs."""

    def __init__(self, client: KubeClient, namespace: str, name: str) -> None:
        self.lease = Lease(client, namespace=namespace, name="leader", identity=name, times=TIMES)
        self.works = asyncio.Event()
        self.rests = asyncio.Event()
        self.rests.set()

    async def work(self) -> None:
        self.works.set()
        self.rests.clear()
        try:
            await asyncio.Event().wait()
        finally:
            self.works.clear()
            self.rests.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.lease.lead(self.work))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def soon(event: asyncio.Event, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        await event.wait()


async def record(client: KubeClient, namespace: str) -> Object:
    return await client.get(LEASES, "leader", namespace=namespace)


async def until(condition: Callable[[Object], bool], client: KubeClient, namespace: str) -> Object:
    async with asyncio.timeout(10):
        while not condition(lease := await record(client, namespace)):
            await asyncio.sleep(0.02)
    return lease


async def test_the_first_one_leads_renews_and_says_so(client: KubeClient, namespace: str) -> None:
    first = Candidate(client, namespace, "first")
    async with first.running():
        await soon(first.works)
        assert first.lease.still_held
        taken = await record(client, namespace)
        assert taken["spec"]["holderIdentity"] == "first"
        assert taken["spec"]["leaseDurationSeconds"] == TIMES.duration
        assert taken["spec"]["leaseTransitions"] == 0
        renewed = await until(
            lambda lease: lease["spec"]["renewTime"] > taken["spec"]["renewTime"], client, namespace
        )
        assert renewed["spec"]["acquireTime"] == taken["spec"]["acquireTime"]


async def test_a_clean_stop_ends_the_work_and_hands_over_at_once(client: KubeClient, namespace: str) -> None:
    first, second = (Candidate(client, namespace, name) for name in ("first", "second"))
    async with first.running():
        await soon(first.works)
    assert first.rests.is_set()
    assert (await record(client, namespace))["spec"]["holderIdentity"] == ""
    async with second.running():
        await soon(second.works, seconds=1)
        assert (await record(client, namespace))["spec"]["leaseTransitions"] == 1


async def test_while_one_renews_no_other_leads(client: KubeClient, namespace: str) -> None:
    first, second = (Candidate(client, namespace, name) for name in ("first", "second"))
    async with first.running():
        await soon(first.works)
        async with second.running():
            with pytest.raises(TimeoutError):
                await soon(second.works, seconds=1.5 * TIMES.duration)
            assert first.works.is_set()


async def test_a_lease_that_nobody_renews_is_taken_over_after_its_time(
    client: KubeClient, namespace: str
) -> None:
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2099-01-01T00:00:00.000000Z"}
    metadata = {"name": "leader", "namespace": namespace}
    dead = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": metadata, "spec": spec}
    await client.create(LEASES, dead)
    second = Candidate(client, namespace, "second")
    started = asyncio.get_running_loop().time()
    async with second.running():
        await soon(second.works)
        assert asyncio.get_running_loop().time() - started >= 1  # by our own clock, not by the record's


async def test_a_lease_that_somebody_took_away_ends_the_work(client: KubeClient, namespace: str) -> None:
    first = Candidate(client, namespace, "first")
    async with first.running():
        await soon(first.works)
        await client.merge(LEASES, "leader", {"spec": {"holderIdentity": "thief"}}, namespace=namespace)
        await soon(first.rests)
        assert not first.lease.still_held
        with pytest.raises(NotLeading, match=f"first does not hold the Lease {namespace}/leader"):
            first.lease.fence()


async def test_a_lease_that_was_only_labelled_stays_held(client: KubeClient, namespace: str) -> None:
    first = Candidate(client, namespace, "first")
    async with first.running():
        await soon(first.works)
        before = await client.merge(
            LEASES, "leader", {"metadata": {"labels": {"a": "b"}}}, namespace=namespace
        )
        await until(lambda lease: lease["spec"]["renewTime"] > before["spec"]["renewTime"], client, namespace)
        assert first.works.is_set()


async def test_a_deleted_lease_is_made_again(client: KubeClient, namespace: str) -> None:
    first = Candidate(client, namespace, "first")
    async with first.running():
        await soon(first.works)
        await client.delete(LEASES, "leader", namespace=namespace)
        await soon(first.rests)
        await soon(first.works)
        assert (await record(client, namespace))["spec"]["holderIdentity"] == "first"


async def test_an_unreachable_api_server_ends_the_work_before_the_lease_runs_out(
    namespace: str, control_plane: ControlPlane
) -> None:
    connection = await connect(control_plane)
    async with KubeClient(connection) as client:
        first = Candidate(client, namespace, "first")
        async with first.running():
            await soon(first.works)
            client._server = "https://127.0.0.1:1"
            await soon(first.rests, seconds=TIMES.duration)
            assert not first.lease.still_held
            client._server = connection.server
            await soon(first.works)


async def test_work_that_fails_ends_the_election_with_its_error(client: KubeClient, namespace: str) -> None:
    lease = Lease(client, namespace=namespace, name="leader", identity="first", times=TIMES)

    async def fail() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await lease.lead(fail)
    assert (await record(client, namespace))["spec"]["holderIdentity"] == ""


async def test_a_process_that_was_frozen_may_not_write_when_it_wakes_up(
    client: KubeClient, namespace: str
) -> None:
    now = 0.0
    lease = Lease(
        client, namespace=namespace, name="leader", identity="frozen", times=TIMES, clock=lambda: now
    )
    leading = asyncio.Event()

    async def work() -> None:
        leading.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(lease.lead(work))
    await soon(leading)
    lease.fence()
    now += TIMES.renew_deadline  # nothing else has run since
    with pytest.raises(NotLeading):
        lease.fence()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
