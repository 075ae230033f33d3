"""Several requests at once, failing as one would."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def concurrently(calls: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The results of *calls*, in order. The first one to fail cancels the others, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
