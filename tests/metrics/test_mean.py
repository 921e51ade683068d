import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from object_discovery.metrics import ImageMean, SegmentationScores

SIZES = ((5, 1, 3), (4,), ())  # images in the batches of each process; the last process sees none


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = torch.randint(0, 4, (2, 13, 8, 8), generator=torch.Generator().manual_seed(0))
    target[2] = 0
    return pred, target


def _run_rank(rank: int, folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SIZES))
    start = sum(sum(sizes) for sizes in SIZES[:rank])
    pred, target = draw()
    metric = SegmentationScores(4)
    for size in SIZES[rank]:
        metric.update(pred[start : start + size], target[start : start + size])
        start += size
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_processes_with_ragged_batches_agree_with_one_process(tmp_path: Path) -> None:
    mp.spawn(_run_rank, (str(tmp_path),), nprocs=len(SIZES))  # type: ignore[no-untyped-call]
    whole = SegmentationScores(4)
    whole.update(*draw())
    expected = whole.compute()
    assert expected["n_skipped"] == 1
    for rank in range(len(SIZES)):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, value in expected.items():
            assert found[name].item() == pytest.approx(value.item(), abs=1e-12), name


def test_conversion_of_the_model_to_half_precision_does_not_touch_the_state() -> None:
    model = torch.nn.Module()
    model.metric = ImageMean()
    scores = torch.tensor([1 / 3, 1.0], dtype=torch.float64)
    model.metric.add(scores)
    for convert in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.float(), lambda m: m.to("cpu")):
        convert(model)
        assert model.metric.total.dtype == torch.float64
        assert model.metric.compute().item() == scores.mean().item()
    model.metric.reset()
    assert model.metric.total.dtype == torch.float64


def test_state_moves_with_the_model() -> None:
    metric = ImageMean().to("meta")
    assert metric.total.device.type == metric.count.device.type == "meta"


def test_images_are_skipped_one_score_at_a_time() -> None:
    metric = ImageMean(num_scores=2)
    metric.add(torch.tensor([[1.0, torch.nan], [0.0, 0.5], [torch.nan, torch.nan]]))
    assert metric.compute().tolist() == [0.5, 0.5]
    assert metric.n_skipped.item() == 2


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_image_gives_nan() -> None:
    assert ImageMean().compute().isnan()
