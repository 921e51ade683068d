"""Report of a benchmark: measurements, and ratios with their targets; as tables and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from object_discovery.benchmarks.timing import Timing


class Measurement(NamedTuple):
    """A quantity measured in several repetitions."""

    name: str
    """What was measured."""
    unit: str
    """Its unit."""
    median: float
    """Median of the repetitions."""
    minimum: float
    """Smallest of them."""
    maximum: float
    """Largest of them."""


class Ratio(NamedTuple):
    """A ratio of two measurements, with a target."""

    name: str
    """What is compared."""
    ratio: float
    """The ratio; larger is better where there is a target."""
    target: float | None = None
    """Smallest ratio that is acceptable. None: no target."""

    @property
    def met(self) -> bool | None:
        """Whether the ratio reaches its target; None if it has none."""
        return None if self.target is None else self.ratio >= self.target


@dataclass
class BenchmarkReport:
    """Result of a benchmark."""

    title: str
    """What was measured, on which data and hardware."""
    settings: dict[str, Any]
    """The benchmark's parameters."""
    measurements: list[Measurement] = field(default_factory=list)
    """Measured quantities."""
    ratios: list[Ratio] = field(default_factory=list)
    """Ratios of them."""

    def add_value(self, name: str, unit: str, value: float) -> None:
        """Add a quantity that was measured once, or computed."""
        self.measurements.append(Measurement(name, unit, value, value, value))

    def add_times(self, timings: Mapping[str, Timing], unit: str = "ms an image", prefix: str = "") -> None:
        """Add milliseconds per unit of work of each workload, whose name is appended to `prefix`."""
        for name, timing in timings.items():
            times = (timing.median, min(timing.seconds), max(timing.seconds))
            self.measurements.append(Measurement(prefix + name, unit, *(1e3 * seconds for seconds in times)))

    def add_rates(self, timings: Mapping[str, Timing], unit: str = "images/s") -> None:
        """Add units of work per second of each workload."""
        for name, timing in timings.items():
            times = (timing.median, max(timing.seconds), min(timing.seconds))
            self.measurements.append(Measurement(name, unit, *(1 / seconds for seconds in times)))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file, with a description of the machine.

        Example:
            >>> BenchmarkReport("title", {}, ratios=[Ratio("a / b", 2.0, 1.5)]).as_dict()["ratios"]
            [{'name': 'a / b', 'ratio': 2.0, 'target': 1.5, 'met': True}]
        """
        return {
            **asdict(self),
            "measurements": [measurement._asdict() for measurement in self.measurements],
            "ratios": [{**ratio._asdict(), "met": ratio.met} for ratio in self.ratios],
            "machine": {
                "system": platform.platform(),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "cores": os.cpu_count(),
                "load": list(os.getloadavg()),
            },
        }

    def show(self, console: Console | None = None) -> None:
        """Print the tables.

        Args:
            console: Console to print to. None: standard output.
        """
        console = console or Console(highlight=False)
        console.print(self.title, soft_wrap=True, markup=False)
        console.print(self._measurement_table())
        console.print(self._ratio_table())

    def _measurement_table(self) -> Table:
        table = _table("measurement", "median", "minimum", "maximum")
        table.add_column("unit")
        for name, unit, *values in self.measurements:
            formatted = (f"{value:,.2f}" if value < 100 else f"{value:,.0f}" for value in values)
            table.add_row(escape(name), *formatted, unit)
        return table

    def _ratio_table(self) -> Table:
        table = _table("ratio", "measured", "target")
        table.add_column("")
        for ratio in self.ratios:
            target = "" if ratio.target is None else f"{ratio.target:g}"
            verdict = {True: "met", False: "missed", None: ""}[ratio.met]
            table.add_row(escape(ratio.name), f"{ratio.ratio:.2f}", target, verdict)
        return table


def _table(name: str, *numeric: str) -> Table:
    """Build a table with a column of names and right-aligned columns of numbers."""
    table = Table(name, box=box.SIMPLE)
    for column in numeric:
        table.add_column(column, justify="right")
    return table
