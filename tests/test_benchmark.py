import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from object_discovery.benchmark import BENCHMARKS, load_benchmark, main
from object_discovery.benchmarks.data import DataBenchmarkParams
from object_discovery.benchmarks.report import BenchmarkReport, Measurement, Ratio
from object_discovery.errors import UserError
from tests.data.tfrecord_writer import example, random_scene, write


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, which must fail with one line; return that line."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


@pytest.fixture
def recorded_params(monkeypatch: pytest.MonkeyPatch) -> list[DataBenchmarkParams]:
    """Replace the benchmark of data by one that only records its parameters."""
    recorded: list[DataBenchmarkParams] = []

    def run(params: DataBenchmarkParams) -> BenchmarkReport:
        recorded.append(params)
        measurements, ratios = [Measurement("a", "ms", 1, 1, 1)], [Ratio("a / b", 11, 10)]
        return BenchmarkReport("title", {"repeats": params.repeats}, measurements, ratios)

    monkeypatch.setattr("object_discovery.benchmarks.data.run", run)
    return recorded


def test_flags_are_passed_to_the_benchmark(
    recorded_params: list[DataBenchmarkParams], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["data", "--num_scenes", "7", "--seconds=0.5"])
    assert recorded_params == [DataBenchmarkParams(num_scenes=7, seconds=0.5)]
    printed = capsys.readouterr().out
    assert printed.startswith("title\n")
    assert "met" in printed


def test_report_is_written_as_json(recorded_params: list[DataBenchmarkParams], tmp_path: Path) -> None:
    out = tmp_path / "new" / "result.json"
    main(["data", "--repeats", "3", "--out", str(out)])
    values: dict[str, Any] = json.loads(out.read_text())
    assert values["ratios"] == [{"name": "a / b", "ratio": 11, "target": 10, "met": True}]
    assert values["settings"] == {"repeats": 3}


def test_all_rows_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.tfrecords", [example(random_scene("clevr_with_masks", 0))])
    out = tmp_path / "result.json"
    tiny = ["--num_written", "1", "--resolution", "16", "--batch_size", "1", "--seconds", "0", "--repeats", "1"]
    main(["data", "--source", str(source), *tiny, "--out", str(out)])
    values = json.loads(out.read_text())
    assert values["settings"]["source"] == str(source)
    printed = capsys.readouterr().out
    for row in [*values["measurements"], *values["ratios"]]:
        assert row["name"] in printed


def test_help_lists_benchmarks_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: object-discovery benchmark COMMAND ...")
    assert all(name in printed and entry.description in printed for name, entry in BENCHMARKS.items())
    with pytest.raises(SystemExit) as caught:
        main(["data", "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: object-discovery benchmark data ")
    assert "--num_scenes" in printed


def test_help_does_not_import_torch() -> None:
    program = (
        "import sys; from object_discovery.benchmark import main; main(['--help']); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_loaded(name: str) -> None:
    params_class, run = load_benchmark(name)
    assert params_class().out is None
    assert callable(run)


def test_mistakes_are_reported_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert f"one of {', '.join(BENCHMARKS)}, but got 'speed'" in error_of(capsys, "speed")
    assert f"one of {', '.join(BENCHMARKS)}, but got ''" in error_of(capsys, *[""])
    assert "repeats" in error_of(capsys, "data", "--repeats", "0")
    assert "no_such_flag" in error_of(capsys, "data", "--no_such_flag", "1")
    assert "No such file" in error_of(capsys, "data", "--source", str(tmp_path / "none"))
    assert "is a folder" in error_of(capsys, "data", "--out", str(tmp_path))
    (tmp_path / "file").touch()
    assert "is no folder" in error_of(capsys, "data", "--out", str(tmp_path / "file" / "a.json"))


def test_user_errors_of_a_benchmark_are_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(params: DataBenchmarkParams) -> BenchmarkReport:
        raise UserError("two\nlines")

    monkeypatch.setattr("object_discovery.benchmarks.data.run", run)
    assert error_of(capsys, "data") == "error: two lines\n"
