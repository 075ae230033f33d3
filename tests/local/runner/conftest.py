"""A runner whose pods end with the test."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.local.runner.pods import Runner


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[Runner]:
    async with AsyncExitStack() as stack:
        yield Runner(tmp_path, stack)
