"""Command `object-discovery benchmark NAME`: measure the speed of the library on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from object_discovery.cli.flags import FlagParser, add_flags, build, fail, one_line_errors
from object_discovery.cli.subcommands import choose_subcommand
from object_discovery.files import atomic_write, check_writable

if TYPE_CHECKING:
    from object_discovery.benchmarks.report import BenchmarkReport

PROG = "object-discovery benchmark"
DESCRIPTION = "Measure the speed of the library on this machine, relative to reference implementations."


class Benchmark(NamedTuple):
    """A benchmark of the command, whose module `object_discovery.benchmarks.NAME` is imported when it is run."""

    params_class: str
    """Name of the dataclass of its settings, each of which is a flag; one of them is `out`."""
    description: str
    """What it measures, in a sentence."""


BENCHMARKS: dict[str, Benchmark] = {
    "data": Benchmark("DataBenchmarkParams", "Measure the speed of reading, writing and converting scenes."),
    "features": Benchmark("FeatureBenchmarkParams", "Measure training steps with and without cached features."),
    "dinosaur": Benchmark("DINOSAURBenchmarkParams", "Measure the cost of each part of a training step of DINOSAUR."),
    "gnm": Benchmark("GNMBenchmarkParams", "Measure the training speed of GNM."),
    "set_prediction": Benchmark(
        "SetPredictionBenchmarkParams", "Measure the cost of matching in a training step of set prediction."
    ),
    "slate": Benchmark("SLATEBenchmarkParams", "Measure the speed of training and generation with SLATE."),
}
"""Every benchmark by its name on the command line."""


def load_benchmark(name: str) -> tuple[type[Any], Callable[[Any], BenchmarkReport]]:
    """Import a benchmark.

    Args:
        name: A key of `BENCHMARKS`.

    Returns:
        The dataclass of its settings, and the function that runs it with these settings.

    Example:
        >>> load_benchmark("gnm")[0]().resolution
        128
    """
    module = import_module(f"object_discovery.benchmarks.{name}")
    return getattr(module, BENCHMARKS[name].params_class), module.run


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: The arguments. None: those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    name = choose_subcommand(PROG, DESCRIPTION, {key: entry.description for key, entry in BENCHMARKS.items()}, argv)
    if name is None:
        return
    with one_line_errors():
        params_class, run = load_benchmark(name)
        parser = FlagParser(f"{PROG} {name}", BENCHMARKS[name].description)
        add_flags(parser, params_class)
        params = build(params_class, vars(parser.parse_args(argv[1:])))
        if params.out is not None:
            check_writable(Path(params.out).parent, "out")
            if Path(params.out).is_dir():
                fail(f"Expected argument `out` to be a file, but {params.out} is a folder")
        report = run(params)
        report.show()
        if params.out is not None:
            with atomic_write(params.out) as temporary:
                temporary.write_text(json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
