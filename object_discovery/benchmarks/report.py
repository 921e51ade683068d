"""What a benchmark found: measures, and ratios with what they should be; as tables and as JSON."""

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


class Measure(NamedTuple):
    """Something measured several times in one run."""

    name: str
    """What was measured."""
    unit: str
    """Its unit."""
    median: float
    """Median of the repetitions."""
    low: float
    """Smallest of them."""
    high: float
    """Largest of them."""


class Ratio(NamedTuple):
    """A ratio of two measures of one run, and what it should be at least."""

    name: str
    """What is compared."""
    ratio: float
    """The ratio; the larger the better, if there is a ratio."""
    at_least: float | None = None
    """The ratio. None: there is none."""

    @property
    def met(self) -> bool | None:
        """Whether the ratio reaches its target; None if there is no ratio."""
        return None if self.at_least is None else self.ratio >= self.at_least


@dataclass
class BenchmarkReport:
    """The result of a benchmark."""

    title: str
    """What was measured, and on what data."""
    settings: dict[str, Any]
    """The settings of the run."""
    measures: list[Measure] = field(default_factory=list)
    """What was measured."""
    ratios: list[Ratio] = field(default_factory=list)
    """What was compared."""

    def add_times(self, timings: Mapping[str, Timing], unit: str = "ms an image", prefix: str = "") -> None:
        """Add how many milliseconds each way took for a unit of work; names are put after `prefix`."""
        for name, timing in timings.items():
            times = (timing.median, min(timing.seconds), max(timing.seconds))
            self.measures.append(Measure(prefix + name, unit, *(1e3 * seconds for seconds in times)))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file, with what tells the machine.

        Example:
            >>> BenchmarkReport("nothing", {}, ratios=[Ratio("a / b", 2.0, 1.5)]).as_dict()["ratios"]
            [{'name': 'a / b', 'ratio': 2.0, 'at_least': 1.5, 'met': True}]
        """
        return {
            **asdict(self),
            "measures": [measure._asdict() for measure in self.measures],
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
            console: Where to print. None: standard output.
        """
        console = console or Console(highlight=False)
        measures = Table("measure", box=box.SIMPLE)
        for column in ("median", "lowest", "highest"):
            measures.add_column(column, justify="right")
        measures.add_column("unit")
        for name, unit, *values in self.measures:
            measures.add_row(
                escape(name), *(f"{value:,.2f}" if value < 100 else f"{value:,.0f}" for value in values), unit
            )
        table = Table("ratio", box=box.SIMPLE)
        for column in ("measured", "at least"):
            table.add_column(column, justify="right")
        table.add_column("")
        for ratio in self.ratios:
            needed = "" if ratio.at_least is None else f"{ratio.at_least:g}"
            table.add_row(
                escape(ratio.name), f"{ratio.ratio:.2f}", needed, {True: "met", False: "missed", None: ""}[ratio.met]
            )
        console.print(self.title, soft_wrap=True, markup=False)
        console.print(measures)
        console.print(table)
