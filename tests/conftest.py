"""Fixtures that all tests may use, and the order of tests."""

import gc
import signal

import pytest

pytest_plugins = ["tests.kube.fixtures"]

# A job in the background of a shell ignores SIGINT, and so would every process that it starts: tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put half of the tests that need Kubernetes at the start, and half in the middle.

    Four processes that run tests begin with a quarter of the list each, and one that has done its own takes some from
    the end of another's. So two of them start a control plane, early, and not all four.
    """
    here: list[pytest.Item] = []
    elsewhere: list[pytest.Item] = []
    for item in items:
        needs = "control_plane" in getattr(item, "fixturenames", ())
        (here if needs else elsewhere).append(item)
    first = (len(here) + 1) // 2
    before = len(items) // 2 - first
    items[:] = here[:first] + elsewhere[:before] + here[first:] + elsewhere[before:]


def pytest_collection_finish() -> None:
    """Let no garbage collection look through what was collected and imported: 200 000 objects."""
    gc.freeze()
