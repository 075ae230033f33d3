"""The soak test, which takes a minute and little of the machine, begins before all others."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "tests/soak/" not in item.nodeid)
