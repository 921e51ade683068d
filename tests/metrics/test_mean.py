from pathlib import Path

import pytest
import torch

from object_discovery.metrics import ImageMean, SegmentationScores
from tests.metrics.two_processes import run_in_two_processes

RAGGED = ((5, 1, 3), (4,))  # images in the batches of each process
ONE_EMPTY = ((9, 4), ())


class PlainMean(ImageMean):
    def update(self, scores: torch.Tensor) -> None:
        self.add(scores)


def random_labels() -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = torch.randint(0, 4, (2, 13, 8, 8), generator=torch.Generator().manual_seed(0))
    target[2] = 0
    return pred, target


def scores_of_rank(rank: int) -> list[dict[str, torch.Tensor]]:
    pred, target = random_labels()
    results = []
    for sizes in (RAGGED, ONE_EMPTY):
        metric = SegmentationScores(4)
        start = sum(sizes[0]) * rank
        for size in sizes[rank]:
            metric.update(pred[start : start + size], target[start : start + size])
            start += size
        results.append(metric.compute())
    return results


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_with_ragged_batches_agree_with_one(tmp_path: Path) -> None:
    single_process = SegmentationScores(4)
    single_process.update(*random_labels())
    expected = single_process.compute()
    assert expected["n_skipped"] == 1
    for results in run_in_two_processes(scores_of_rank, tmp_path):
        for scores in results:
            for name, value in expected.items():
                assert scores[name].item() == pytest.approx(value.item(), abs=1e-12), name


def test_state_stays_float64_when_the_model_is_cast() -> None:
    metric = PlainMean()
    model = torch.nn.ModuleList([metric])
    scores = torch.tensor([1 / 3, 1.0], dtype=torch.float64)
    metric.update(scores)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        model.to(dtype)
        assert metric.total.dtype == torch.float64
        assert metric.compute().item() == scores.mean().item()
    metric.reset()
    assert metric.total.dtype == torch.float64


def test_state_moves_to_the_device() -> None:
    metric = PlainMean().to("meta")
    assert metric.total.device.type == metric.count.device.type == "meta"


def test_nan_is_skipped_for_each_score() -> None:
    metric = PlainMean(num_scores=2)
    metric.update(torch.tensor([[1.0, torch.nan], [0.0, 0.5], [torch.nan, torch.nan]]))
    assert metric.compute().tolist() == [0.5, 0.5]
    assert metric.n_skipped.item() == 2


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_mean_of_no_image_is_nan() -> None:
    assert PlainMean().compute().isnan()
