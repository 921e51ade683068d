import json
from pathlib import Path

import pytest
import torch

from object_discovery.benchmark import main
from object_discovery.benchmarks.set_prediction import SetPredictionBenchmarkParams, random_objects, run
from object_discovery.models.set_prediction import match_objects


def test_random_objects_have_the_layout_of_the_datasets() -> None:
    rows = random_objects(4, 6)
    assert rows.shape == (4, 6, 19)
    for one_hot in torch.split(rows[..., 3:18], [2, 2, 3, 8], dim=-1):
        assert torch.equal(one_hot.sort(-1, descending=True).values, torch.eye(one_hot.shape[-1])[0].expand_as(one_hot))
    assert (rows[..., -1] == 1).all()
    assert ((rows[..., :3] >= 0) & (rows[..., :3] <= 1)).all()


def test_matching_of_the_training_step_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def record_and_match(pred: torch.Tensor, target: torch.Tensor, *options: object) -> torch.Tensor:
        shapes.append((*pred.shape, *target.shape))
        assert options == (20.0, "cross_entropy")
        return match_objects(pred, target, *options)  # type: ignore[arg-type]

    monkeypatch.setattr("object_discovery.benchmarks.set_prediction.match_objects", record_and_match)
    report = run(SetPredictionBenchmarkParams(batch_size=2, num_objects=3, num_steps=2, repeats=2))
    assert shapes == [(2, 10, 19, 2, 3, 19)] * 5  # a warm-up, then two repetitions of two
    step, matching = report.measurements
    assert step.median > matching.median > 0
    assert [(ratio.name, ratio.target) for ratio in report.ratios] == [("training step / matching", 20.0)]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [("--num_objects=0", "at least 1"), ("--precision=16", "auto, bf16-mixed or"), ("--config=none", "none")],
)
def test_invalid_settings_are_refused(flag: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["set_prediction", flag])
    assert error.value.code == 2
    assert expected in capsys.readouterr().err


def test_report_is_written_as_json(tmp_path: Path) -> None:
    main(["set_prediction", "--batch_size=1", "--num_steps=1", "--repeats=1", f"--out={tmp_path / 'result.json'}"])
    assert json.loads((tmp_path / "result.json").read_text())["settings"]["num_objects"] == 10
