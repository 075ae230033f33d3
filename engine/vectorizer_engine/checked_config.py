"""A configuration as it was read, held against the rules and the models: what start, `check-config` and reload share.

What follows from it (ending the process, printing, keeping the former one) is for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectorizer_engine.cluster.validator import ClusterConfigValidator, Violation
from vectorizer_engine.config import Config, ConfigError, UnreadableConfig, parse_config, read_config


@dataclass(frozen=True, slots=True)
class CheckedConfig:
    """`config` is None where it cannot be used; `raw` is what was written, `source` where."""

    source: str
    config: Config | None
    raw: Mapping[str, Any]
    violations: list[Violation]
    problems: list[str]
    warnings: list[str]

    @property
    def valid(self) -> bool:
        return self.config is not None and not self.violations

    @property
    def report(self) -> str:
        """Everything that is wrong or worth a warning, a line each."""
        lines = []
        if self.violations:
            lines.append(f"error: {self.source} breaks {len(self.violations)} cluster rule(s):")
            lines += [f"  {violation.message}" for violation in self.violations]
        if self.problems:
            lines.append(f"error: {self.source} has {len(self.problems)} wrong setting(s):")
            lines += [f"  {problem}" for problem in self.problems]
        lines += [f"warning: {warning}" for warning in self.warnings]
        if self.valid:
            lines.append(f"{self.source} is valid")
        return "\n".join(lines)


def check_config(path: Path | None, environ: Mapping[str, str]) -> CheckedConfig:
    """Read the file, if one is given, under the environment's overrides. Raises UnreadableConfig."""
    raw: Mapping[str, Any] = {}
    problems: list[str] = []
    config: Config | None = None
    try:
        raw = read_config(path, environ)
        config = parse_config(raw)
    except UnreadableConfig:
        raise
    except ConfigError as error:
        problems = error.problems
    validator = ClusterConfigValidator()
    violations = validator.violations(raw)
    broken = tuple(f"{violation.path}: " for violation in violations)
    return CheckedConfig(
        source=str(path) if path else "the environment's configuration",
        config=config,
        raw=raw,
        violations=violations,
        problems=[problem for problem in problems if not problem.startswith(broken)],
        warnings=validator.warnings(raw),
    )
