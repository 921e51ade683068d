import json
from pathlib import Path
from typing import Any

import pytest

from object_discovery import benchmark
from object_discovery.benchmark import BENCHMARKS, main
from object_discovery.benchmarks.data import DataBenchmarkParams
from object_discovery.benchmarks.report import BenchmarkReport, Measure, Ratio
from object_discovery.errors import UserError
from tests.data.tfrecord_writer import example, random_scene, write


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[DataBenchmarkParams]:
    """Replaces the measuring; collects the settings."""
    seen: list[DataBenchmarkParams] = []

    def run(params: DataBenchmarkParams) -> BenchmarkReport:
        seen.append(params)
        return BenchmarkReport(
            "title", {"repeats": params.repeats}, [Measure("a", "ms", 1, 1, 1)], [Ratio("a / b", 11, 10)]
        )

    entry = BENCHMARKS["data"]._replace(run=run)
    monkeypatch.setattr(benchmark, "BENCHMARKS", {"data": entry})
    return seen


def test_flags_reach_the_benchmark(quick: list[DataBenchmarkParams], capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "--num_scenes", "7", "--seconds=0.5"])
    assert quick == [DataBenchmarkParams(num_scenes=7, seconds=0.5)]
    printed = capsys.readouterr().out
    assert printed.startswith("title\n")
    assert "met" in printed


def test_the_result_is_written(quick: list[DataBenchmarkParams], tmp_path: Path) -> None:
    out = tmp_path / "new" / "result.json"
    main(["data", "--repeats", "3", "--out", str(out)])
    values: dict[str, Any] = json.loads(out.read_text())
    assert values["ratios"] == [{"name": "a / b", "ratio": 11, "at_least": 10, "met": True}]
    assert values["settings"] == {"repeats": 3}


def test_a_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.tfrecords", [example(random_scene("clevr_with_masks", 0))])
    out = tmp_path / "result.json"
    tiny = ["--num_written", "1", "--resolution", "16", "--batch_size", "1", "--seconds", "0", "--repeats", "1"]
    main(["data", "--source", str(source), *tiny, "--out", str(out)])
    values = json.loads(out.read_text())
    assert values["settings"]["source"] == str(source)
    printed = capsys.readouterr().out
    for row in [*values["measures"], *values["ratios"]]:
        assert row["name"] in printed


def test_help_names_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "data: Measure how fast scenes are read" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["data", "--help"])
    assert caught.value.code == 0
    assert "--num_scenes" in capsys.readouterr().out


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert f"one of {', '.join(BENCHMARKS)}, but got 'speed'" in fails(capsys, "speed")
    assert f"one of {', '.join(BENCHMARKS)}, but got ''" in fails(capsys, *[""])
    assert "repeats" in fails(capsys, "data", "--repeats", "0")
    assert "no_such_flag" in fails(capsys, "data", "--no_such_flag", "1")
    assert "No such file" in fails(capsys, "data", "--source", str(tmp_path / "none"))
    assert "is a folder" in fails(capsys, "data", "--out", str(tmp_path))
    (tmp_path / "file").touch()
    assert "is no folder" in fails(capsys, "data", "--out", str(tmp_path / "file" / "a.json"))


def test_what_the_user_can_mend_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(params: DataBenchmarkParams) -> BenchmarkReport:
        raise UserError("two\nlines")

    monkeypatch.setattr(benchmark, "BENCHMARKS", {"data": BENCHMARKS["data"]._replace(run=run)})
    assert fails(capsys, "data") == "error: two lines\n"
