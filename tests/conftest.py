"""Fixtures that all tests may use."""

import signal

import pytest

pytest_plugins = ["tests.kube.fixtures"]

# A job in the background of a shell ignores SIGINT, and so would every process that it starts: tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests that share a control plane run in one process: each that runs takes a tenth of a core."""
    for item in items:
        if isinstance(item, pytest.Function) and "control_plane" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("control plane"))
