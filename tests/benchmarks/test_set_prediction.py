import json
from pathlib import Path

import pytest
import torch

from object_discovery.benchmark import main
from object_discovery.benchmarks.set_prediction import SetPredictionBenchmarkParams, random_objects, run
from object_discovery.models.set_prediction import match_objects


def test_objects_are_rows_as_datasets_have_them() -> None:
    rows = random_objects(4, 6)
    assert rows.shape == (4, 6, 19)
    for part in torch.split(rows[..., 3:18], [2, 2, 3, 8], dim=-1):
        assert torch.equal(part.sort(-1, descending=True).values, torch.eye(part.shape[-1])[0].expand_as(part))
    assert (rows[..., -1] == 1).all()
    assert ((rows[..., :3] >= 0) & (rows[..., :3] <= 1)).all()


def test_the_matching_of_the_step_is_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def watched(pred: torch.Tensor, target: torch.Tensor, *options: object) -> torch.Tensor:
        seen.append((*pred.shape, *target.shape))
        assert options == (20.0, "cross_entropy")
        return match_objects(pred, target, *options)  # type: ignore[arg-type]

    monkeypatch.setattr("object_discovery.benchmarks.set_prediction.match_objects", watched)
    report = run(SetPredictionBenchmarkParams(batch_size=2, num_objects=3, num_steps=2, repeats=2))
    assert seen == [(2, 10, 19, 2, 3, 19)] * 5  # once to begin with, then two repetitions of two
    step, matching = report.measures
    assert step.median > matching.median > 0
    assert [(ratio.name, ratio.at_least) for ratio in report.ratios] == [("training step / matching", 20.0)]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [("--num_objects=0", "at least 1"), ("--precision=16", "auto, bf16-mixed or"), ("--config=none", "none")],
)
def test_what_cannot_be_measured_is_refused(flag: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["set_prediction", flag])
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


def test_the_result_is_written(tmp_path: Path) -> None:
    main(["set_prediction", "--batch_size=1", "--num_steps=1", "--repeats=1", f"--out={tmp_path / 'result.json'}"])
    assert json.loads((tmp_path / "result.json").read_text())["settings"]["num_objects"] == 10
