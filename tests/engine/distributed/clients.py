"""Threads that stand for clients: they begin with a block, and end with it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class Clients(ABC):
    """*count* threads, each in `_run` with its number, which returns soon after `_stop` is set."""

    def __init__(self, count: int) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]

    @abstractmethod
    def _run(self, number: int) -> None: ...

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
