"""Measure the library on this machine: `python -m object_discovery.benchmark NAME [--out FILE.json]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from object_discovery.benchmarks import data, dinosaur, features, gnm, set_prediction, slate
from object_discovery.benchmarks.report import BenchmarkReport
from object_discovery.cli.flags import FlagParser, add_flags, build, fail, one_line_errors
from object_discovery.files import atomic_write, check_writable


class Benchmark(NamedTuple):
    """One benchmark of the command."""

    params_class: type[Any]
    """Its settings, a flag each; one of them is `out`."""
    run: Callable[[Any], BenchmarkReport]
    """Measures with these settings."""
    description: str
    """What it measures, in a sentence."""


BENCHMARKS: dict[str, Benchmark] = {
    "data": Benchmark(data.DataBenchmarkParams, data.run, "Measure how fast scenes are read, written and converted."),
    "features": Benchmark(
        features.FeatureBenchmarkParams, features.run, "Measure training steps with and without cached features."
    ),
    "dinosaur": Benchmark(
        dinosaur.DINOSAURBenchmarkParams, dinosaur.run, "Measure what a training step of DINOSAUR is spent on."
    ),
    "gnm": Benchmark(gnm.GNMBenchmarkParams, gnm.run, "Measure how fast GNM trains."),
    "set_prediction": Benchmark(
        set_prediction.SetPredictionBenchmarkParams,
        set_prediction.run,
        "Measure what matching costs in a training step of set prediction.",
    ),
    "slate": Benchmark(slate.SLATEBenchmarkParams, slate.run, "Measure how fast SLATE trains and generates."),
}
"""Every benchmark by the name the command line knows it by."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
    """
    name, *flags = list(sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        print("usage: object-discovery benchmark NAME [--FLAG VALUE ...]\n")
        print("\n".join(f"{key}: {benchmark.description}" for key, benchmark in BENCHMARKS.items()))
        return
    if name not in BENCHMARKS:
        fail(f"Expected the name of a benchmark, one of {', '.join(BENCHMARKS)}, but got {name!r}")
    benchmark = BENCHMARKS[name]
    with one_line_errors():
        parser = FlagParser(f"object-discovery benchmark {name}", benchmark.description)
        add_flags(parser, benchmark.params_class)
        params = build(benchmark.params_class, vars(parser.parse_args(flags)))
        if params.out is not None:
            check_writable(Path(params.out).parent, "out")
            if Path(params.out).is_dir():
                fail(f"Expected argument `out` to be a file, but {params.out} is a folder")
        report = benchmark.run(params)
        report.show()
        if params.out is not None:
            with atomic_write(params.out) as beside:
                beside.write_text(json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
