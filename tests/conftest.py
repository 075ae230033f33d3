"""Fixtures that all tests may use."""

import signal

import pytest

pytest_plugins = ["tests.kube.fixtures"]

# A job in the background of a shell ignores SIGINT, and so would every process that it starts: tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what is shared made once: the tests of a file run in one process, and so do all that share a control plane,
    which takes a tenth of a core while it runs."""
    for item in items:
        shares = isinstance(item, pytest.Function) and "control_plane" in item.fixturenames
        item.add_marker(pytest.mark.xdist_group("control plane" if shares else item.location[0]))
