"""Fixtures that all tests may use, and the order of tests."""

import gc
import signal
from itertools import islice

import pytest

pytest_plugins = ["tests.kube.fixtures"]

# A job in the background of a shell ignores SIGINT, and so would every process that it starts: tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

_LASTING = tuple(
    f"tests/{part}/"
    for part in ("soak", "crash", "engine/distributed", "engine/migration", "engine/watcher", "local")
)
"""What has tests of several processes, which last long and mostly wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have those that take long come first in each quarter of the list, and those that need Kubernetes in two of them.

    Four processes that run tests begin with a quarter of the list each, and one that has done its own takes some from
    the end of another's. So two of them start a control plane, early, and not all four; and in the end there is nothing
    left that all would wait for.
    """
    on_kubernetes: list[pytest.Item] = []
    lasting: list[pytest.Item] = []
    brief: list[pytest.Item] = []
    for item in items:
        if "control_plane" in getattr(item, "fixturenames", ()):
            on_kubernetes.append(item)
        else:
            (lasting if item.nodeid.startswith(_LASTING) else brief).append(item)
    lasting.sort(key=lambda item: "tests/soak/" not in item.nodeid)  # a minute for one
    left, quarter = iter(brief), -(-len(items) // 4)
    items.clear()
    for half in (0, 1):
        for group in (on_kubernetes, lasting):
            middle = len(group) // 2
            head = group[middle:] if half else group[:middle]
            items += [*head, *islice(left, max(0, quarter - len(head)))]
    items += left


def pytest_collection_finish() -> None:
    """Let no garbage collection look through what was collected and imported: 200 000 objects."""
    gc.freeze()
