"""A table at the end of a benchmark: each goal, what was measured, and whether it was met."""

from __future__ import annotations


class Goals:
    """The goals in the order in which they come. What could not be measured is neither met nor missed."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, str]] = []

    def at_least(self, what: str, least: float, measured: float, unit: str = "") -> None:
        self._judge(what, f"≥ {_figure(least, unit)}", _figure(measured, unit), met=measured >= least)

    def at_most(self, what: str, most: float, measured: float, unit: str = "") -> None:
        self._judge(what, f"≤ {_figure(most, unit)}", _figure(measured, unit), met=measured <= most)

    def unmeasured(self, what: str, why: str) -> None:
        self._rows.append((what, "", "", f"not measured: {why}"))

    def show(self) -> None:
        print(f"\n{'goals':62}{'goal':>12}{'measured':>13}")
        for what, goal, measured, verdict in self._rows:
            print(f"{what:62}{goal:>12}{measured:>13}  {verdict}")

    def _judge(self, what: str, goal: str, measured: str, *, met: bool) -> None:
        self._rows.append((what, goal, measured, "met" if met else "MISSED"))


def _figure(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".rstrip()
