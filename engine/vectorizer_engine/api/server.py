"""Running the engine: listen, recover, serve, and stop without losing a request.

On SIGTERM the engine first stops being ready and goes on serving for a moment, so that whoever balances load
stops choosing it, and as a member of a cluster until others have its shards; then it accepts nothing new, finishes
what is in flight, and closes the store. A second signal skips the moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from vectorizer_engine.api.app import READERS, Application
from vectorizer_engine.api.bodies import RequestBudget
from vectorizer_engine.api.call import Engine, Store
from vectorizer_engine.api.connection import Connection
from vectorizer_engine.api.member_metrics import request_observer
from vectorizer_engine.api.reload import Reloading
from vectorizer_engine.api.service import EngineCollector
from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.heap import keep_little_freed_memory
from vectorizer_engine.cache.keeper import CacheKeeper
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.checked_config import CheckedConfig
from vectorizer_engine.cluster.validator import Violation
from vectorizer_engine.collection.batch import end_helpers
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.config import Config
from vectorizer_engine.distributed.store import DistributedStore
from vectorizer_engine.errors import EngineError, FileWatcherNotAllowedInCluster
from vectorizer_engine.metrics import Metrics
from vectorizer_engine.tenants import NO_TENANT

if TYPE_CHECKING:
    from vectorizer_engine.watcher import FileWatcher

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05

UNREADY_SECONDS = 1.0
"""How long a stopping engine goes on serving after it stopped being ready."""

FINISH_SECONDS = 6
"""How long requests in flight may take to finish. With closing the store it stays under ten seconds."""

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections, so that it is the client who closes them."""

WARNING_SECONDS = 60.0
"""How often an engine that skipped the validation says so."""


def serve(
    config: Config,
    listener: socket.socket,
    *,
    reread: Callable[[], CheckedConfig],
    skipped_violations: list[Violation] | None,
) -> int:
    """Serve until a signal. Returns the process's exit status.

    *reread* is called on SIGHUP and raises UnreadableConfig; *skipped_violations* is None unless
    --skip-cluster-validation was given.
    """
    keep_little_freed_memory()
    allow_many_files()
    status = uvloop.run(_serve(config, listener, reread, skipped_violations))
    end_helpers()
    end_threads(status)
    return status


def allow_many_files() -> None:
    """As many open files as the system lets this process have: segments and connections each take some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # macOS refuses what its kernel cannot do
        logger.warning("the limit of open files stays %d of %d: %s", soft, hard, error)


async def _serve(
    config: Config,
    listener: socket.socket,
    reread: Callable[[], CheckedConfig],
    skipped: list[Violation] | None,
) -> int:
    quotas = {tenant.name: tenant.memory_quota_bytes for tenant in config.active_tenants}
    memory = CacheMemoryManager(
        config.cluster.max_cache_memory_bytes, config.cluster.cache_warning_threshold, quotas=quotas
    )
    tenants = (NO_TENANT, *quotas)
    engine = Engine(
        config=config,
        memory=memory,
        results={tenant: AdvancedCache(memory.account(tenant)) for tenant in tenants}
        if config.cache.query_results
        else {},
        metrics=Metrics(),
        request_memory=RequestBudget(config.server.request_memory_bytes),
        member_memory=RequestBudget(config.server.request_memory_bytes),
    )
    engine.metrics.registry.register(EngineCollector(engine))
    application = Application(engine)
    server = _Server(engine, application, Reloading(engine, reread))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    warning = asyncio.create_task(warn_of_skipped_validation(engine.metrics, skipped))
    keeper = CacheKeeper(memory)
    keeper.start()
    watcher: FileWatcher | None = None
    try:
        opening = asyncio.to_thread(_open_store, engine, mmap_only=config.cluster.enabled and skipped is None)
        if not await _recover(engine, opening):
            serving.cancel()  # nothing was served, so nothing has to be finished
            return 1
        watcher = _start_file_watcher(engine)
        host, port = listener.getsockname()[:2]
        logger.info("ready on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        await serving
        return 0
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        warning.cancel()
        keeper.close()
        application.close()
        if watcher is not None:
            await asyncio.to_thread(watcher.stop)
        if engine.recovered is not None:
            await asyncio.to_thread(engine.recovered.close)
            logger.info("stopped: everything written is on disk")


def _open_store(engine: Engine, *, mmap_only: bool) -> Store:
    """Raises EngineError."""
    config = engine.config
    cluster = config.cluster
    if cluster.pod_name is None:
        return VectorStore.open(
            config.storage.path,
            memory=engine.memory,
            results=engine.results,
            mmap_only=mmap_only,
            observe_append=engine.metrics.observe_append,
            observe_store=engine.metrics.observe_store,
            object_store=config.storage.object_store,
        )
    assert cluster.internal_key is not None, "the configuration was checked"
    return DistributedStore.open(
        config.storage.path,
        name=cluster.pod_name,
        key=cluster.internal_key.get_secret_value(),
        readers=READERS,
        memory=engine.memory,
        results=engine.results,
        mmap_only=mmap_only,
        observe_append=engine.metrics.observe_append,
        observe_request=request_observer(engine.metrics.registry),
        observe_store=engine.metrics.observe_store,
        object_store=config.storage.object_store,
    )


async def _recover(engine: Engine, opening: Awaitable[Store]) -> bool:
    began = time.perf_counter()
    try:
        engine.recovered = await opening
    except EngineError as error:
        logger.error("%s", error)
        return False
    logger.info(
        "recovered %d collections in %.3f s",
        len(engine.recovered.collections()),
        time.perf_counter() - began,
    )
    warn_of_unreachable_collections(engine.recovered, engine.config)
    return True


def warn_of_unreachable_collections(store: Store, config: Config) -> None:
    """Name the tenants whose data is here and who are not configured: it is kept, and no key reaches it."""
    known = {NO_TENANT, *(tenant.name for tenant in config.active_tenants)}
    unreachable = Counter(
        collection.tenant for collection in store.collections() if collection.tenant not in known
    )
    for tenant, count in sorted(unreachable.items()):
        logger.warning(
            "%d collection(s) of tenant '%s' are kept and cannot be reached: no such tenant is enabled; to use or "
            "delete them, add it to tenants.members",
            count,
            tenant,
        )


def _start_file_watcher(engine: Engine) -> FileWatcher | None:
    """Start it if the configuration asks for it, and, in cluster mode, say that it is not started."""
    if not engine.config.file_watcher.enabled:
        return None
    store = engine.store
    if isinstance(store, DistributedStore):  # the rules were skipped at start
        logger.warning("the file watcher is not started: it works only in an engine that serves alone")
        return None
    from vectorizer_engine.watcher import FileWatcher  # what a cluster never runs is not loaded there

    watcher = FileWatcher(engine.config, store, engine.metrics)
    try:
        watcher.start()
    except FileWatcherNotAllowedInCluster as error:  # the rules were skipped at start
        logger.warning("the file watcher is not started: %s", error)
        return None
    return watcher


class _Server(uvicorn.Server):
    """uvicorn's server with this engine's way of stopping."""

    def __init__(self, engine: Engine, application: Application, reloading: Reloading) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=FINISH_SECONDS,
            )
        )
        self._engine = engine
        self._reloading = reloading

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        # One may have come while the engine started.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        yield

    def _reload(self) -> None:
        threading.Thread(target=self._reloading.reload, name="reload", daemon=True).start()

    def _stop(self, number: signal.Signals) -> None:
        if self._engine.stopping or number == signal.SIGINT:
            self.should_exit = True
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(UNREADY_SECONDS, self._exit_when_replaced, loop.time())
        self._engine.stopping = True
        logger.info("%s: stopping, no longer ready", number.name)

    def _exit_when_replaced(self, stopping_since: float) -> None:
        loop = asyncio.get_running_loop()
        store = self._engine.recovered
        if isinstance(store, DistributedStore) and store.is_needed(stopping_for=loop.time() - stopping_since):
            loop.call_later(_LOOK_SECONDS, self._exit_when_replaced, stopping_since)
        else:
            self.should_exit = True


async def warn_of_skipped_validation(
    metrics: Metrics, skipped: list[Violation] | None, *, interval: float = WARNING_SECONDS
) -> None:
    """Say again and again that the cluster rules are not held, and show it in the metrics."""
    metrics.validation_skipped.set(skipped is not None)
    for violation in skipped or []:
        metrics.violations.labels(violation.error_type).inc()
    while skipped is not None:
        logger.warning(
            "UNSAFE: started with --skip-cluster-validation; broken rules: %s",
            "; ".join(violation.message for violation in skipped) or "none",
        )
        await asyncio.sleep(interval)


def end_threads(status: int) -> None:
    """Leave even where a thread hangs, on a dead disk for example: what was acknowledged is on disk.

    Daemon threads too: the interpreter, ending, unwinds the stack of each that comes back to it, and faiss, which asks
    it now and then for signals while it builds an index, then aborts the process.
    """
    deadline = time.monotonic() + 1.0
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning("thread %s does not end: leaving it", thread.name)
                logging.shutdown()
                os._exit(status)
