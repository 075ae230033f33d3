"""`vectorizer --migrate-to-cluster` as its user sees it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.engine.collection.model import assert_same, everything, vectors_of
from tests.engine.fixtures import running_engine
from tests.engine.migration.standalone import Standalone, fill, open_store
from vectorizer_engine.cli import main
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.data_folder import take_lock
from vectorizer_engine.collection.types import CollectionParams, Distance, StorageType
from vectorizer_engine.config import parse_config, read_config
from vectorizer_engine.errors import StoreLocked
from vectorizer_engine.migration import command, verify
from vectorizer_engine.migration.image import OnBytes

MAPPED = dict.fromkeys(("large", "small", "mapped"), StorageType.MMAP)


@pytest.fixture(scope="module")
def filled_once(tmp_path_factory: pytest.TempPathFactory) -> Standalone:
    standalone = Standalone(tmp_path_factory.mktemp("filled"))
    fill(standalone)
    return standalone


@pytest.fixture
def standalone(filled_once: Standalone, tmp_path: Path) -> Standalone:
    copy = Standalone(tmp_path / "standalone")
    shutil.copytree(filled_once.folder, copy.folder)
    text = filled_once.config.read_text().replace(str(filled_once.data), str(copy.data))
    copy.config.write_text(text)
    return copy


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(standalone: Standalone) -> None:
    before, times = standalone.content(), standalone.times()
    status, plan = standalone.dry_run()
    assert status == 0
    assert plan["settings"] == [
        {"path": "cluster.enabled", "from": None, "to": True},
        {"path": "storage.type", "from": "memory", "to": "mmap"},
    ]
    assert [(each["name"], each["from"], each["to"]) for each in plan["collections"]] == [
        ("large", "memory", "mmap"),
        ("mapped", "mmap", "mmap"),
        ("small", "memory", "mmap"),
    ]
    large = plan["collections"][0]
    assert 200 < large["points"] <= 300
    assert large["vector_bytes"] == 16 * large["points"]
    assert large["disk_bytes"] > large["log_bytes"] > 0
    assert plan["backup"]["kept"]
    assert plan["backup"]["shared_bytes"] > large["vector_bytes"]
    assert 0 < plan["backup"]["copied_bytes"] <= plan["disk_needed_bytes"] <= plan["disk_free_bytes"]
    assert plan["memory_needed_bytes"] > large["vector_bytes"]
    assert 0 < plan["expected_seconds"] < 60
    assert plan["obstacles"] == []
    words = standalone.migrate("--dry-run")
    assert words.exit_code == 0
    assert "  large: memory -> mmap; " in words.stdout
    assert "  mapped: mmap, stays; " in words.stdout
    assert '  storage.type: "memory" -> "mmap"' in words.stdout
    assert "no vector is rewritten" in words.stdout
    assert standalone.content() == before
    assert standalone.times() == times


def test_a_migrated_folder_is_served_in_cluster_mode_with_the_same_points(standalone: Standalone) -> None:
    store = open_store(Path(shutil.copytree(standalone.data, standalone.folder.with_name("copy"))))
    before = {each.name: everything(each) for each in store.collections()}
    store.close()

    done = standalone.migrate()

    assert done.exit_code == 0, done.output
    assert "large: in mmap storage; 297 points with checksum" in done.stdout
    assert "storage.type: changed" in done.stdout
    assert standalone.storages() == MAPPED
    assert standalone.config.read_text() == (
        f"# ours\nstorage:\n  path: {standalone.data}  # the big disk\n  type: mmap  # fast\n"
        "server:\n  port: 7000    # not 6333\ncluster:\n  enabled: true\n"
    )
    assert parse_config(read_config(standalone.config, {})).cluster.enabled
    store = open_store(standalone.data, mmap_only=True)
    for name, points in before.items():
        assert_same(everything(store.collection(name)), points)
    store.close()
    again = standalone.migrate()
    assert (again.exit_code, again.stdout) == (
        0,
        "nothing to do: the configuration and the data are a cluster's\n",
    )


def test_a_rollback_gives_back_every_byte(standalone: Standalone) -> None:
    before, modes = standalone.content(), standalone.config.stat().st_mode
    assert standalone.migrate("-o", "json").exit_code == 0
    assert standalone.content() != before

    undone = standalone.migrate("--rollback")

    assert undone.exit_code == 0, undone.output
    assert "as before the migration: the data folder" in undone.stdout
    assert standalone.content() == before
    assert standalone.config.stat().st_mode == modes
    nothing = standalone.migrate("--rollback")
    assert (nothing.exit_code, "there is nothing to roll back" in nothing.stderr) == (1, True)
    assert standalone.migrate().exit_code == 0


def test_a_configuration_with_the_line_ends_of_windows_keeps_them_there_and_back(
    standalone: Standalone,
) -> None:
    before = standalone.config.read_bytes().replace(b"\n", b"\r\n")
    standalone.config.write_bytes(before)
    assert standalone.migrate().exit_code == 0
    assert standalone.config.read_bytes().replace(b"mmap", b"memory").startswith(before)
    result = standalone.migrate("--rollback")
    assert (result.exit_code, result.stderr) == (0, "")
    assert standalone.config.read_bytes() == before


def test_what_the_cluster_does_with_its_files_does_not_reach_the_backup(standalone: Standalone) -> None:
    before = standalone.content()
    assert standalone.migrate().exit_code == 0
    store = open_store(standalone.data, mmap_only=True)
    large = store.collection("large")
    large.upsert([1, 1000], vectors_of([7, 8]), [None, None])
    store.create_collection("new", CollectionParams(4, Distance.DOT))
    store.delete_collection("small")
    store.close()
    standalone.config.write_text(standalone.config.read_text() + "# edited\n")
    written = standalone.content()

    refused = standalone.migrate("--rollback")

    assert refused.exit_code == 1
    for reason in (
        "1 writes to large.",
        "new.",
        "was created",
        "small.",
        "was deleted",
        "config.yml was edited",
    ):
        assert reason in refused.stderr
    assert standalone.content() == written
    undone = standalone.migrate("--rollback", "--discard-writes")
    assert undone.exit_code == 0, undone.output
    assert standalone.content() == before


def test_without_a_backup_nothing_is_kept_and_nothing_can_be_undone(standalone: Standalone) -> None:
    status, plan = standalone.dry_run("--no-backup")
    assert (status, plan["backup"]["kept"], plan["backup"]["copied_bytes"]) == (0, False, 0)
    done = standalone.migrate("--no-backup", "-o", "json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["backup"] == ""
    assert [each["collection"] for each in report["converted"]] == ["large", "small"]
    assert standalone.storages() == MAPPED
    assert not (standalone.data / "migration").exists()
    assert standalone.migrate("--rollback").exit_code == 1


def test_a_kept_backup_is_removed_on_demand(standalone: Standalone) -> None:
    assert standalone.migrate().exit_code == 0
    assert (standalone.data / "migration").exists()
    assert standalone.migrate("--no-backup").exit_code == 0
    assert not (standalone.data / "migration").exists()
    assert standalone.migrate("--no-backup").stdout.startswith("nothing to do")


def test_a_configuration_that_is_a_clusters_already_is_not_touched(standalone: Standalone) -> None:
    standalone.config.write_text(f"cluster: {{enabled: true}}\nstorage: {{path: {standalone.data}}}\n")
    before = standalone.config.stat()
    done = standalone.migrate()
    assert done.exit_code == 0, done.output
    assert standalone.storages() == MAPPED
    assert (standalone.config.stat().st_ino, standalone.config.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    assert standalone.migrate("--rollback").exit_code == 0
    assert standalone.storages()["large"] is StorageType.MEMORY


def test_a_folder_that_an_engine_serves_is_left_alone(standalone: Standalone) -> None:
    with running_engine(standalone.folder, {"storage": {"type": "memory"}}) as engine:
        before = standalone.content()
        for options in ([], ["--dry-run"], ["--rollback"]):
            refused = standalone.migrate(*options)
            assert refused.exit_code == 1
            assert "in use by another process" in refused.stderr
        assert standalone.content() == before
        with engine.http() as http:
            assert http.get("/collections/large").json()["result"]["points_count"] == 297
    assert standalone.migrate().exit_code == 0


def test_a_watcher_and_a_large_cache_are_settings_of_standalone_mode(standalone: Standalone) -> None:
    with standalone.config.open("a") as config:
        config.write("file_watcher: {enabled: true, paths: [/in]}\ncluster: {max_cache_memory_bytes: 2Gi}\n")
    _, plan = standalone.dry_run()
    assert {(each["path"], each["to"]) for each in plan["settings"]} == {
        ("cluster.enabled", True),
        ("storage.type", "mmap"),
        ("file_watcher.enabled", False),
        ("cluster.max_cache_memory_bytes", "1Gi"),
    }
    assert any("files in /in are no longer loaded" in note for note in plan["notes"])
    assert standalone.migrate().exit_code == 0
    config = parse_config(read_config(standalone.config, {}))
    assert (config.file_watcher.enabled, config.cluster.max_cache_memory_bytes) == (False, 1024**3)


def obstacles(standalone: Standalone) -> str:
    """What stands in the way of a migration that changes nothing then."""
    before = standalone.content()
    refused = standalone.migrate()
    assert refused.exit_code == 1
    assert standalone.content() == before
    found = [line for line in refused.stdout.splitlines() if line.startswith("obstacle: ")]
    assert found, refused.output
    return "\n".join(found)


def test_an_environment_that_overrides_the_file_is_an_obstacle(
    standalone: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTORIZER__STORAGE__TYPE", "memory")
    monkeypatch.setenv("VECTORIZER__CLUSTER__ENABLED", "false")
    found = obstacles(standalone)
    assert "unset VECTORIZER__CLUSTER__ENABLED, VECTORIZER__STORAGE__TYPE" in found


def test_a_path_without_data_is_an_obstacle(standalone: Standalone) -> None:
    standalone.config.write_text("storage: {path: elsewhere}\n")
    assert "elsewhere holds no data of an engine: check the path" in obstacles(standalone)
    (standalone.data / "FORMAT").write_text("vectorizer-storage 99\n")
    standalone.config.write_text(f"storage: {{path: {standalone.data}}}\n")
    assert "run the version that wrote it" in obstacles(standalone)


def test_an_object_store_is_an_obstacle(standalone: Standalone, tmp_path: Path) -> None:
    text = standalone.config.read_text().replace(
        "storage:\n", f"storage:\n  object_store: {{url: '{(tmp_path / 'objects').as_uri()}'}}\n"
    )
    standalone.config.write_text(text)
    assert "storage.object_store.url is set" in obstacles(standalone)


def test_too_little_memory_or_disk_is_an_obstacle(
    standalone: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("vectorizer_engine.migration.plan.available_memory", lambda: 1)
        assert "memory: checking needs " in obstacles(standalone)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    assert "bytes are needed in" in obstacles(standalone)


def test_a_configuration_that_cannot_be_written_is_an_obstacle(
    standalone: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    assert "cannot be written (a mounted ConfigMap never can)" in obstacles(standalone)


@pytest.mark.parametrize("name", ["MANIFEST", "collection.json"])
def test_damage_that_shows_at_once_is_an_obstacle(standalone: Standalone, name: str) -> None:
    (path,) = standalone.data.glob(f"collections/large.*/**/{name}")
    path.write_bytes(b"?")
    assert "vectorizer check-data says what is damaged" in obstacles(standalone)


def test_damage_that_shows_in_the_check_leaves_the_collection_as_it_was(standalone: Standalone) -> None:
    (path, *_) = sorted(standalone.data.glob("collections/large.*/**/vectors.f32"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    before = standalone.content()
    failed = standalone.migrate()
    assert failed.exit_code == 1
    assert "fails its checksum" in failed.stderr
    assert standalone.storages()["large"] is StorageType.MEMORY
    assert standalone.migrate("--rollback").exit_code == 0
    assert standalone.content() == before


@pytest.mark.parametrize(
    ("another", "named"),
    [
        ({"points": 296}, "points"),
        ({"checksum": "another"}, "checksum over all points"),
        ({"answers": [[(1, 0.5)]]}, "nearest 10 of 100 stored vectors"),
    ],
    ids=["count", "checksum", "nearest"],
)
def test_a_collection_that_gives_something_else_is_not_converted(
    standalone: Standalone, monkeypatch: pytest.MonkeyPatch, another: dict[str, Any], named: str
) -> None:
    read = verify._read

    def reads(collection: Collection, on_bytes: OnBytes) -> Any:
        contents = read(collection, on_bytes)
        from_files = collection.params.storage is StorageType.MMAP
        return msgspec.structs.replace(contents, **another) if from_files else contents

    monkeypatch.setattr(verify, "_read", reads)
    failed = standalone.migrate()
    assert failed.exit_code == 1
    assert f"'large': its {named} differ between memory and mmap storage" in failed.stderr
    assert standalone.storages()["large"] is StorageType.MEMORY


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dry-run"], "--dry-run belongs to --migrate-to-cluster"),
        (
            ["--config", "c", "serve"],
            "--config belongs to --migrate-to-cluster, or behind the command's name",
        ),
        (["--migrate-to-cluster"], "needs --config FILE"),
        (["--migrate-to-cluster", "--config", "c", "serve"], "goes without a command, found serve"),
        (
            ["--migrate-to-cluster", "--config", "c", "--rollback", "--dry-run"],
            "--rollback goes with neither",
        ),
        (["--migrate-to-cluster", "--config", "c", "--discard-writes"], "belongs to --rollback"),
        (["--migrate-to-cluster", "--config", "none.yml"], "none.yml: cannot be read"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, says in result.stderr) == (2, True), result.output


def test_a_wrong_setting_is_told_before_anything_is_looked_at(standalone: Standalone) -> None:
    standalone.config.write_text("storage: {typ: memory}\n")
    result = standalone.migrate()
    assert (result.exit_code, "did you mean storage.type?" in result.stderr) == (1, True)


def test_the_rollback_of_another_configuration_is_refused(standalone: Standalone) -> None:
    assert standalone.migrate().exit_code == 0
    other = Standalone(standalone.folder).folder / "other.yml"
    other.write_text(standalone.config.read_text())
    refused = CliRunner().invoke(main, ["--migrate-to-cluster", "--config", str(other), "--rollback"])
    assert (refused.exit_code, f"that of {standalone.config}" in refused.stderr) == (1, True)


@pytest.mark.parametrize("options", [[], ["--rollback"]])
def test_a_folder_that_was_copied_without_its_lock_is_locked_all_the_same(
    standalone: Standalone, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    if options:
        assert standalone.migrate().exit_code == 0
    lock = standalone.data / "LOCK"
    lock.unlink(missing_ok=True)
    assert standalone.dry_run()[0] == 0
    assert not lock.exists()
    works = command.roll_back if options else command.migrate

    def work(*arguments: Any, **named: Any) -> Any:
        with pytest.raises(StoreLocked):
            take_lock(standalone.data)
        return works(*arguments, **named)

    monkeypatch.setattr(command, works.__name__, work)
    done = standalone.migrate(*options)
    assert done.exit_code == 0, done.output
