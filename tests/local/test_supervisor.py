"""The supervisor and the commands' side of it: pods come, go, are replaced and come back; two sides never fight."""

import os
import shutil
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.kube.eventually import eventually
from tests.local.light import free_port, wish
from tests.local.processes import mentioning, parent
from vectorizer_operator.local import control
from vectorizer_operator.local.control import LocalError, Wish
from vectorizer_operator.local.state import ClusterStatus, StateFolder
from vectorizer_operator.local.worker import address


def up(folder: StateFolder, *wishes: Wish, timeout: float = 30) -> list[ClusterStatus]:
    generations = control.bring_up(folder, wishes)
    return control.wait_until_ready(folder, generations, timeout=timeout, progress=lambda _: None)


def only(folder: StateFolder) -> ClusterStatus:
    (cluster,) = control.clusters(folder)
    return cluster


def restarted(folder: StateFolder) -> bool:
    cluster = only(folder)
    return cluster.ready and cluster.pods[0].restarts == 1


def test_a_killed_pod_is_started_again_with_its_claim(folder: StateFolder) -> None:
    port = free_port()
    (cluster,) = up(folder, wish("web", port=port))
    killed = cluster.pods[0].pid
    assert killed
    assert cluster.endpoint == f"http://{address(folder.desired()['web'].number, 0)}:{port}"
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: restarted(folder))
    assert (folder.data("web") / "data-web-0" / "starts").read_text().split() == [
        str(killed),
        str(only(folder).pods[0].pid),
    ]


def test_an_unchanged_wish_changes_nothing(folder: StateFolder) -> None:
    port = free_port()
    before = up(folder, wish("web", port=port))
    assert up(folder, wish("web", port=port)) == before


def test_a_changed_template_replaces_the_pod_once(folder: StateFolder) -> None:
    port = free_port()
    (before,) = up(folder, wish("web", port=port))
    (after,) = up(folder, wish("web", port=port, workingDir="/data"))
    assert after.endpoint == before.endpoint
    assert after.pods[0].restarts == 0
    starts = (folder.data("web") / "data-web-0" / "starts").read_text().split()
    assert starts == [str(before.pods[0].pid), str(after.pods[0].pid)]


def test_a_changed_secret_replaces_the_pod(folder: StateFolder) -> None:
    port = free_port()
    key = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "api"}}}
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}

    def keyed(value: str) -> Wish:
        plain = wish("web", port=port, env=[address, key])
        return Wish(name=plain.name, objects=plain.objects, secrets={"keys": {"api": value}})

    (before,) = up(folder, keyed("one"))
    (after,) = up(folder, keyed("two"))
    assert after.pods[0].pid != before.pods[0].pid


def test_a_pod_that_misses_something_says_what_and_starts_once_it_is_there(folder: StateFolder) -> None:
    port = free_port()
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    key = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "api"}}}
    plain = wish("web", port=port, env=[address, key])
    with pytest.raises(LocalError, match="needs key 'api' of the secret 'keys': not found"):
        up(folder, plain)
    assert not only(folder).ready
    (cluster,) = up(folder, Wish(name="web", objects=plain.objects, secrets={"keys": {"api": "x"}}))
    assert cluster.ready


def test_a_pod_that_makes_no_sense_fails_alone(folder: StateFolder) -> None:
    up(folder, wish("good", port=free_port()))
    with pytest.raises(LocalError, match="pod bad-0 cannot be understood: KeyError: 'name'"):
        up(folder, wish("bad", port=free_port(), env=[{"nam": "X"}]))
    assert [cluster.ready for cluster in control.clusters(folder)] == [False, True]


def test_a_pod_that_ends_again_and_again_shows_its_log(folder: StateFolder) -> None:
    crashing = wish(
        "web", port=free_port(), command=["python", "-c"], args=["raise SystemExit('no disk in here')"]
    )
    with pytest.raises(LocalError, match=r"web-0 ends again and again. Its log:\n  no disk in here"):
        up(folder, crashing)


def test_a_rollout_that_cannot_finish_gives_way_to_a_mended_wish(folder: StateFolder) -> None:
    port = free_port()
    up(folder, wish("web", port=port))
    never = {"httpGet": {"path": "/never", "port": "http"}, "periodSeconds": 1}
    (folder.data("web") / "data-web-0" / "never").write_text("503")
    with pytest.raises(LocalError, match="web: not ready after 1 s; it goes on starting in the background"):
        up(folder, wish("web", port=port, readinessProbe=never), timeout=1)
    (cluster,) = up(folder, wish("web", port=port, workingDir="/data"))
    assert cluster.ready


@pytest.mark.parametrize(("policy", "kept"), [("Retain", True), ("Delete", False)])
def test_scaling_in_keeps_or_deletes_the_claim_as_the_policy_says(
    folder: StateFolder, policy: str, kept: bool
) -> None:
    port = free_port()
    up(folder, wish("web", port=port, when_scaled=policy))
    (cluster,) = up(folder, wish("web", port=port, when_scaled=policy, replicas=0))
    assert (cluster.ready, cluster.pods, cluster.endpoint) == (True, [], None)
    assert (folder.data("web") / "data-web-0").exists() == kept
    assert (folder.data("web") / "shared").exists(), "only claims of the pod's own are deleted with it"


def test_several_pods_are_replaced_from_the_highest_one_at_a_time(folder: StateFolder) -> None:
    port = free_port()
    (before,) = up(folder, wish("web", port=port, replicas=2))
    number = folder.desired()["web"].number
    assert [pod.address for pod in before.pods] == [f"{address(number, each)}:{port}" for each in (0, 1)]
    (after,) = up(folder, wish("web", port=port, replicas=2, workingDir="/data"))

    def second_start(pod: str) -> int:
        return (folder.data("web") / f"data-{pod}" / "starts").stat().st_mtime_ns

    assert {pod.pid for pod in before.pods}.isdisjoint({pod.pid for pod in after.pods})
    assert second_start("web-1") < second_start("web-0")


def test_commands_at_the_same_time_share_one_supervisor(folder: StateFolder) -> None:
    wishes = [wish(f"web{number}", port=free_port()) for number in range(4)]
    threads = [threading.Thread(target=up, args=(folder, each)) for each in wishes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clusters = control.clusters(folder)
    assert [cluster.ready for cluster in clusters] == [True] * 4
    assert len({parent(pod.pid or 0) for cluster in clusters for pod in cluster.pods}) == 1
    assert len({cluster.endpoint for cluster in clusters}) == 4


def test_taking_one_cluster_down_leaves_the_others_alone(folder: StateFolder) -> None:
    up(folder, wish("one", port=free_port()), wish("two", port=free_port()))
    control.take_down(folder, ["one"])
    assert [cluster.name for cluster in control.clusters(folder)] == ["two"]
    assert only(folder).ready


def test_the_last_cluster_takes_the_supervisor_along(folder: StateFolder) -> None:
    up(folder, wish("web", port=free_port()))
    control.take_down(folder, ["web"])
    assert not folder.supervised()
    assert control.clusters(folder) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_supervisor_that_ended_is_noticed_and_everything_comes_back(
    folder: StateFolder, number: signal.Signals
) -> None:
    first, second = wish("one", port=free_port()), wish("two", port=free_port())
    clusters = up(folder, first, second)
    pids = [pod.pid or 0 for cluster in clusters for pod in cluster.pods]
    os.kill(parent(pids[0]), number)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    eventually(lambda: not folder.supervised())
    assert [(cluster.ready, cluster.pods) for cluster in control.clusters(folder)] == [(False, [])] * 2
    up(folder, first)
    eventually(lambda: all(cluster.ready for cluster in control.clusters(folder)))


def test_deleting_the_state_folder_ends_what_ran_in_it(folder: StateFolder) -> None:
    (cluster,) = up(folder, wish("web", port=free_port()))
    shutil.rmtree(folder.path)
    os.kill(cluster.pods[0].pid or 0, signal.SIGKILL)  # the supervisor sees it when there is something to say
    eventually(lambda: mentioning(folder.path) == [])


def test_a_status_that_cannot_be_written_for_a_moment_is_written_later(folder: StateFolder) -> None:
    (cluster,) = up(folder, wish("web", port=free_port()))
    status = folder.path / "status.json"
    status.unlink()
    status.mkdir()  # in the way
    os.kill(cluster.pods[0].pid or 0, signal.SIGKILL)
    eventually(lambda: "cannot write the status" in folder.supervisor_log.read_text())
    status.rmdir()
    eventually(lambda: status.is_file() and restarted(folder))


def test_a_cluster_whose_supervisor_died_can_be_taken_down(folder: StateFolder) -> None:
    (cluster,) = up(folder, wish("web", port=free_port()))
    os.kill(parent(cluster.pods[0].pid or 0), signal.SIGKILL)
    eventually(lambda: not folder.supervised())
    control.take_down(folder, ["web"])
    assert control.clusters(folder) == []
    eventually(lambda: not mentioning(folder.path))  # the kernel ends the pods of a supervisor that is killed


def test_whoever_waits_hears_that_the_cluster_was_taken_down(folder: StateFolder) -> None:
    never = {"httpGet": {"path": "/never", "port": "http"}, "periodSeconds": 1}
    (folder.data("web") / "data-web-0").mkdir(parents=True)
    (folder.data("web") / "data-web-0" / "never").write_text("503")
    generations = control.bring_up(folder, [wish("web", port=free_port(), readinessProbe=never)])
    heard: list[str] = []

    def wait() -> None:
        try:
            control.wait_until_ready(folder, generations, timeout=30, progress=lambda _: None)
        except LocalError as error:
            heard.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    control.take_down(folder, ["web"])
    thread.join()
    assert heard == ["web: taken down while it was starting"]


def test_a_supervisor_that_cannot_work_leaves_its_reason(folder: StateFolder) -> None:
    folder.create()
    folder.wake_pipe.mkdir()  # in the way of the pipe
    with pytest.raises(LocalError, match=r"the supervisor has ended: (.|\n)*wake"):
        up(folder, wish("web", port=free_port()))


def test_a_down_cluster_keeps_its_address_and_data_until_they_are_deleted(folder: StateFolder) -> None:
    port = free_port()
    other, before = up(folder, wish("other", port=port), wish("web", port=port))
    control.take_down(folder, ["web"])
    (cluster,) = up(folder, wish("web", port=port))
    assert cluster.endpoint == before.endpoint != other.endpoint
    assert len((folder.data("web") / "data-web-0" / "starts").read_text().split()) == 2
    control.take_down(folder, ["web"])
    control.delete_data(folder, "web")
    assert not folder.cluster("web").exists()


def test_data_of_a_cluster_that_is_up_again_is_not_deleted(folder: StateFolder) -> None:
    up(folder, wish("web", port=free_port()))
    with pytest.raises(LocalError, match="brought up again"):
        control.delete_data(folder, "web")
    assert (folder.data("web") / "data-web-0").exists()


def test_a_port_that_is_taken_is_replaced_by_the_next_free_one(folder: StateFolder) -> None:
    port = free_port()
    up(folder, wish("web", port=port))
    control.take_down(folder, ["web"])
    host = address(folder.desired()["web"].number, 0)
    with socket.create_server((host, port)):
        control.bring_up(folder, [wish("web", port=port)])
        eventually(lambda: only(folder).endpoint)
        assert only(folder).endpoint != f"http://{host}:{port}"


def test_a_state_folder_is_its_owners_alone(folder: StateFolder) -> None:
    up(folder, wish("web", port=free_port()))
    assert folder.path.stat().st_mode & 0o077 == 0
    assert (folder.cluster("web") / "desired.json").stat().st_mode & 0o077 == 0
