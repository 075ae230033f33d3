"""Tenants in a data folder: whose a collection is, is durable, shown, and cannot be changed by moving files."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.engine.collection.model import everything, open_store, params, vectors_of
from vectorizer_engine.cli import main
from vectorizer_engine.collection.check_data import check_data
from vectorizer_engine.errors import CollectionExists, CollectionNotFound, StorageFailure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A collection "docs" of two tenants and of nobody, each with one point."""
    store = open_store(tmp_path)
    for number, tenant in enumerate(("", "a", "b")):
        collection = store.create_collection("docs", params(), tenant=tenant)
        collection.upsert([number], vectors_of([number]), [None])
    store.close()
    return tmp_path


def folder_of(folder: Path, tenant: str) -> Path:
    (found,) = (folder / "collections").glob(f"{tenant}.docs.*")
    return found


def test_each_has_its_own_collection_of_a_name_after_a_restart_too(folder: Path) -> None:
    store = open_store(folder)
    for number, tenant in enumerate(("", "a", "b")):
        assert everything(store.collection("docs", tenant=tenant)).keys() == {number}
        assert [each.name for each in store.collections_of(tenant)] == ["docs"]
        with pytest.raises(CollectionExists):
            store.create_collection("docs", params(), tenant=tenant)
    assert store.delete_collection("docs", tenant="a")
    assert not store.delete_collection("docs", tenant="a")
    with pytest.raises(CollectionNotFound):
        store.collection("docs", tenant="a")
    assert {each.tenant for each in store.collections()} == {"", "b"}
    store.close()


def test_without_tenants_nothing_of_them_is_written(folder: Path) -> None:
    (nobodys,) = (each for each in (folder / "collections").iterdir() if each.name.count(".") == 1)
    assert "tenant" not in (nobodys / "collection.json").read_text()
    assert '"tenant":"a"' in (folder_of(folder, "a") / "collection.json").read_text()


def test_a_folder_that_was_moved_to_another_tenant_is_set_apart(folder: Path) -> None:
    moved = folder_of(folder, "a")
    moved.rename(moved.with_name(moved.name.replace("a.docs", "c.docs")))
    (problem,) = check_data(folder)
    assert "is of tenant 'a', its folder's name says 'c'" in problem.message
    store = open_store(folder)
    assert store.damaged.keys() == {"c/docs"}
    for tenant in ("a", "c"):
        with pytest.raises((CollectionNotFound, StorageFailure)):
            store.collection("docs", tenant=tenant)
    assert everything(store.collection("docs", tenant="b")).keys() == {2}
    store.close()


def test_a_damaged_collection_stays_its_tenants(folder: Path) -> None:
    (folder_of(folder, "a") / "shard-0" / "MANIFEST").write_bytes(b"")
    result = CliRunner().invoke(main, ["check-data", str(folder)])
    assert "a/docs: dimension 4" in result.output and "b/docs: dimension 4" in result.output
    assert f"a/docs: {folder_of(folder, 'a')}/shard-0/MANIFEST fails its checksum" in result.output
    store = open_store(folder)
    assert store.damaged.keys() == {"a/docs"}
    with pytest.raises(StorageFailure, match="'docs' cannot be served"):
        store.collection("docs", tenant="a")
    assert store.delete_collection("docs", tenant="a")
    assert everything(store.collection("docs")).keys() == {0}
    store.close()
    assert check_data(folder) == []
