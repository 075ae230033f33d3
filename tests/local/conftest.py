"""A state folder that is empty at first, and has nothing running in it at the end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.processes import mentioning
from vectorizer_operator.local import control
from vectorizer_operator.local.state import StateFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    state = StateFolder(tmp_path / "state")
    yield state
    if state.path.is_dir():
        control.take_down(state, list(state.desired()))
    assert mentioning(state.path) == []
