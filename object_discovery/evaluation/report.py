"""Report of an evaluation as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_report(result: Mapping[str, Any]) -> None:
    """Print the scores of a model, and of the baselines, if any.

    Args:
        result: The output of `object_discovery.evaluation.evaluate.evaluate`.
    """
    protocol, data = result["protocol"], result["dataset"]
    baselines: Mapping[str, Mapping[str, float | None]] = result.get("baselines", {})
    table = Table("score", result["model_type"] if baselines else "value", *baselines)
    for name in result["scores"]:
        columns = (result["scores"], *baselines.values())
        table.add_row(name, *(_format_score(name, scores) for scores in columns))
    print(f"{data['dataset']}, {result['split']} split: {result['num_scenes']:,} scenes")
    print(f"protocol {protocol['name']}: {protocol['description']}")
    Console().print(table)


def _format_score(name: str, scores: Mapping[str, float | None]) -> str:
    if name not in scores:
        return ""
    value = scores[name]
    return "none" if value is None else f"{value:.0f}" if name == "n_skipped" else f"{value:.4f}"
