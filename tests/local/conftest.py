"""State folders that are empty at first, and have nothing running in them at the end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.s3 import s3
from tests.local.commands import Local
from tests.local.processes import mentioning
from vectorizer_operator.local import control
from vectorizer_operator.local.state import StateFolder

__all__ = ["s3"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    state = StateFolder(tmp_path / "state")
    yield state
    if state.path.is_dir():
        control.take_down(state, list(state.desired()))
    assert mentioning(state.path) == []


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    local = Local(tmp_path / "state")
    yield local
    if local.folder.exists():
        local.do("down")
    assert mentioning(local.folder) == []
