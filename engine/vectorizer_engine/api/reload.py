"""Another configuration for a running engine: read again on SIGHUP, and applied as far as that needs no restart.

One that breaks a rule or cannot be read changes nothing: it is refused with the report that a start would give, and
counted. --skip-cluster-validation is for the start only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from vectorizer_engine.api.call import Engine
from vectorizer_engine.checked_config import CheckedConfig
from vectorizer_engine.config import Config, UnreadableConfig

logger = logging.getLogger(__name__)

LIVE = frozenset({"cluster.max_cache_memory_bytes", "cluster.cache_warning_threshold"})
"""The settings that change in a running engine. All others need a restart."""


class Reloading:
    """Reads the configuration of *engine* again, one call at a time."""

    def __init__(self, engine: Engine, reread: Callable[[], CheckedConfig]) -> None:
        """*reread* raises UnreadableConfig."""
        self._engine = engine
        self._reread = reread
        self._lock = threading.Lock()

    def reload(self) -> None:
        """Takes a moment where a lower limit evicts much: not for the event loop."""
        with self._lock:
            try:
                checked = self._reread()
            except UnreadableConfig as error:
                self._refuse([f"error: {problem}" for problem in error.problems], ["UnreadableConfig"])
                return
            if checked.config is None or checked.violations:
                broken = [violation.error_type for violation in checked.violations]
                self._refuse(checked.report.splitlines(), broken or ["ConfigError"])
                return
            for warning in checked.warnings:
                logger.warning("%s", warning)
            self._apply(checked.config)

    def _refuse(self, report: list[str], error_types: list[str]) -> None:
        for error_type in error_types:
            self._engine.metrics.violations.labels(error_type).inc()
        for line in report:
            logger.error("%s", line)
        logger.error("the configuration was not reloaded: the former one stays in force")

    def _apply(self, wanted: Config) -> None:
        config = self._engine.config
        changed = config.differences(wanted)
        live = [setting for setting in changed if setting in LIVE]
        before, after = dict(config.settings()), dict(wanted.settings())
        if live:
            cluster = config.cluster.model_copy(
                update={
                    name: getattr(wanted.cluster, name)
                    for _, _, name in (each.partition(".") for each in live)
                }
            )
            self._engine.config = config.model_copy(update={"cluster": cluster})
            self._engine.memory.set_limit(cluster.max_cache_memory_bytes, cluster.cache_warning_threshold)
        logger.info(
            "the configuration was reloaded: %s",
            ", ".join(f"{each} from {before[each]} to {after[each]}" for each in live) or "nothing to change",
        )
        if waiting := [setting for setting in changed if setting not in LIVE]:
            logger.warning("not applied until the engine is restarted: %s", ", ".join(waiting))
