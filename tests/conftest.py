"""Fixtures that all tests may use."""

import signal

pytest_plugins = ["tests.kube.fixtures"]

# A job in the background of a shell ignores SIGINT, and so would every process that it starts: tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
