from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from object_discovery.metrics import ImageMean, SegmentationScores

RAGGED = ((5, 1, 3), (4,))  # images in the batches of each process
ONE_EMPTY = ((9, 4), ())


class PlainMean(ImageMean):
    def update(self, scores: torch.Tensor) -> None:
        self.add(scores)


def random_labels() -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = torch.randint(0, 4, (2, 13, 8, 8), generator=torch.Generator().manual_seed(0))
    target[2] = 0
    return pred, target


def run_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    pred, target = random_labels()
    results = []
    for sizes in (RAGGED, ONE_EMPTY):
        metric = SegmentationScores(4)
        start = sum(sizes[0]) * rank
        for size in sizes[rank]:
            metric.update(pred[start : start + size], target[start : start + size])
            start += size
        results.append(metric.compute())
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_with_ragged_batches_agree_with_one(tmp_path: Path) -> None:
    other = spawn(run_rank, (str(tmp_path),), nprocs=1, join=False)  # type: ignore[no-untyped-call]
    run_rank(1, str(tmp_path))  # this process is the second
    while not other.join():
        pass
    whole = SegmentationScores(4)
    whole.update(*random_labels())
    expected = whole.compute()
    assert expected["n_skipped"] == 1
    for rank in range(2):
        for result in torch.load(tmp_path / f"{rank}.pt"):
            for name, value in expected.items():
                assert result[name].item() == pytest.approx(value.item(), abs=1e-12), name


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
