import json
from io import StringIO

import pytest
from rich.console import Console

from object_discovery.benchmarks.report import BenchmarkReport, Measurement, Ratio
from object_discovery.benchmarks.timing import Timing


def test_ratio_is_met_from_the_target_on() -> None:
    assert Ratio("a", 10.0, 10).met is True
    assert Ratio("a", 9.99, 10).met is False
    assert Ratio("a", 1.0).met is None


def test_tables_and_json_contain_all_rows() -> None:
    report = BenchmarkReport("title", {"repeats": 2}, [Measurement("read [library]", "images/s", 1234.5, 12.345, 2000)])
    report.ratios += [Ratio("a / b", 12.5, 10), Ratio("a / c", 0.5, 10), Ratio("a / d", 0.25)]
    out = StringIO()
    report.show(Console(file=out, width=100))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["read", "[library]", "1,234", "12.35", "2,000", "images/s"] in lines
    for row in (
        ["a", "/", "b", "12.50", "10", "met"],
        ["a", "/", "c", "0.50", "10", "missed"],
        ["a", "/", "d", "0.25"],
    ):
        assert row in lines
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert values["measurements"][0]["median"] == 1234.5
    assert [ratio["met"] for ratio in values["ratios"]] == [True, False, None]
    assert values["settings"] == {"repeats": 2}
    assert values["machine"]["cores"] >= 1


def test_times_are_added_in_milliseconds() -> None:
    report = BenchmarkReport("title", {})
    report.add_times({"library": Timing([0.004, 0.002, 0.003])}, "ms a token", "step, ")
    [row] = report.measurements
    assert row[:2] == ("step, library", "ms a token")
    assert row[2:] == pytest.approx((3.0, 2.0, 4.0))


def test_rates_are_added_in_units_per_second() -> None:
    report = BenchmarkReport("title", {})
    report.add_rates({"library": Timing([0.5, 0.25, 0.1])})
    [row] = report.measurements
    assert row[:2] == ("library", "images/s")
    assert row[2:] == pytest.approx((4.0, 2.0, 10.0))
