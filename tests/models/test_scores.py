import pytest
import torch
from torch import Tensor

from object_discovery import Discovery
from object_discovery.metrics import SegmentationScores
from object_discovery.models.scores import MeanScore, SplitScores


def make_discovery(labels: Tensor, image: Tensor | None = None, slots: int = 3) -> Discovery:
    """Make a discovery with hard masks."""
    masks = torch.nn.functional.one_hot(labels, slots).permute(0, 3, 1, 2).float()
    return Discovery(torch.randn(len(labels), slots, 4), masks, image)


def test_scores_are_means_over_images_not_over_batches() -> None:
    torch.manual_seed(0)
    labels, masks = torch.randint(0, 3, (5, 4, 4)), torch.randint(0, 3, (5, 4, 4))
    images, reconstructions = torch.rand(5, 3, 4, 4), torch.rand(5, 3, 4, 4)
    scores = SplitScores()
    for batch in (slice(0, 4), slice(4, 5)):
        scores.update(make_discovery(labels[batch], reconstructions[batch]), images[batch], masks[batch])
    values = scores.compute()
    assert values["mse"].item() == pytest.approx((reconstructions - images).square().mean().item(), rel=1e-5)
    assert values["mask_entropy"].item() == pytest.approx(0, abs=1e-6)
    segmentation = SegmentationScores()
    segmentation.update(labels, masks)
    for name, value in segmentation.compute().items():
        assert values[name].item() == pytest.approx(value.item())
    assert {value.dtype for value in values.values()} == {torch.float32}


def test_perfect_segmentation_scores_one_for_any_permutation_of_labels() -> None:
    masks = torch.tensor([[[0, 0], [1, 2]]])
    scores = SplitScores()
    scores.update(make_discovery((masks + 1) % 3), torch.zeros(1, 3, 2, 2), masks)
    values = scores.compute()
    assert [values[name].item() for name in ("fg_ari", "ari", "mbo_i", "miou")] == [1, 1, 1, 1]


def test_scores_without_data_are_absent() -> None:
    scores = SplitScores()
    assert scores.compute() == {}
    scores.update(make_discovery(torch.zeros(1, 2, 2, dtype=torch.int64)), torch.zeros(1, 3, 2, 2), None)
    assert scores.compute().keys() == {"active_slots", "duplicated_slots", "mask_entropy"}


def test_reset_clears_all_scores() -> None:
    scores = SplitScores()
    labels = torch.randint(0, 3, (2, 4, 4))
    scores.update(make_discovery(labels, torch.rand(2, 3, 4, 4)), torch.rand(2, 3, 4, 4), labels)
    scores.reset()
    assert scores.compute() == {}


def test_number_of_slots_may_differ_between_batches() -> None:
    scores = SplitScores()
    for slots in (3, 6):
        labels = torch.arange(16).view(1, 4, 4) % slots
        scores.update(make_discovery(labels, slots=slots), torch.zeros(1, 3, 4, 4), labels)
    assert scores.compute()["ari"].item() == pytest.approx(1)


def test_mean_score_averages() -> None:
    mean = MeanScore()
    mean.update(torch.tensor([1.0, 2.0]))
    mean.update(torch.tensor([6.0]))
    assert mean.compute().item() == 3
