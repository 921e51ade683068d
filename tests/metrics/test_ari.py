import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from object_discovery.metrics import ARI, FGARI, adjusted_rand_index


@pytest.mark.parametrize("num_slots", [1, 2, 7])
@pytest.mark.parametrize("labels", [[0, 1], [0, 3, 250], [0, 1, 2, 3, 4, 5, 255], [5, 255]])
def test_equals_scikit_learn(num_slots: int, labels: list[int]) -> None:
    generator = np.random.default_rng(num_slots)
    pred = generator.integers(0, num_slots, (20, 6, 6))
    target = generator.choice(labels, (20, 6, 6))
    pred[:10] = np.where(generator.random((10, 6, 6)) < 0.7, target[:10] % num_slots, pred[:10])  # some agreement
    for ignore_background in (False, True):
        scores = adjusted_rand_index(
            torch.from_numpy(pred), torch.from_numpy(target), ignore_background=ignore_background, num_slots=num_slots
        )
        assert scores.dtype == torch.float64
        for score, predicted, true in zip(scores.numpy(), pred, target, strict=True):
            valid = (true != 255) & ((true > 0) | (not ignore_background))
            assert score == pytest.approx(adjusted_rand_score(true[valid], predicted[valid]), abs=1e-12)


@pytest.mark.parametrize(
    ("pred", "target", "expected"),
    [
        ([0, 0, 0], [1, 1, 1], 1.0),  # one object in one slot
        ([0, 0, 1], [1, 1, 1], 0.0),  # one object in two slots
        ([0, 1, 2], [1, 2, 3], 1.0),  # every pixel is an object
        ([1], [1], 1.0),  # a single pixel
        ([0, 0, 0], [1, 2, 3], 0.0),
        ([0, 0, 1, 1], [1, 2, 1, 2], -0.5),
    ],
)
def test_degenerate_cases(pred: list[int], target: list[int], expected: float) -> None:
    assert adjusted_rand_score(target, pred) == expected
    assert adjusted_rand_index(torch.tensor([pred]), torch.tensor([target])).item() == expected


def test_large_images_are_exact() -> None:
    generator = np.random.default_rng(0)
    target = generator.integers(1, 6, (1, 1000, 1000), dtype=np.uint8)
    pred = np.where(generator.random(target.shape) < 0.01, generator.integers(0, 7, target.shape), target)
    score = adjusted_rand_index(torch.from_numpy(pred), torch.from_numpy(target), num_slots=7).item()
    assert score == pytest.approx(adjusted_rand_score(target.ravel(), pred.ravel()), abs=1e-13)


def test_invariant_to_permutations_of_the_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randint(0, 7, (2, 8, 10, 10), generator=generator)
    slots = torch.randperm(7, generator=generator)
    objects = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(254, generator=generator)])
    assert torch.equal(adjusted_rand_index(slots[pred], objects[target]), adjusted_rand_index(pred, target))


def test_images_without_pixels_to_score_are_nan_skipped_or_one() -> None:
    pred = torch.tensor([[0, 1], [0, 1], [0, 1]])
    target = torch.tensor([[0, 0], [1, 2], [255, 255]])
    assert adjusted_rand_index(pred, target).isnan().tolist() == [True, False, True]
    assert adjusted_rand_index(pred, target, ignore_background=False).isnan().tolist() == [False, False, True]
    pred[1] = 0  # the only image with objects scores 0
    skip, one = FGARI(2), FGARI(2, unscorable="one")
    for metric in (skip, one):
        metric.update(pred, target)
    assert (skip.compute().item(), skip.n_skipped.item()) == (0.0, 2)
    assert (one.compute().item(), one.n_skipped.item()) == (pytest.approx(2 / 3), 0)


def test_classes_compute_the_mean_over_images() -> None:
    pred, target = torch.randint(0, 4, (2, 9, 8, 8), generator=torch.Generator().manual_seed(0))
    for metric, ignore_background in ((ARI(4), False), (FGARI(), True)):
        for start, end in ((0, 4), (4, 5), (5, 9)):
            metric.update(pred[start:end], target[start:end])
        expected = adjusted_rand_index(pred, target, ignore_background=ignore_background).mean()
        assert metric.compute().item() == pytest.approx(expected.item(), abs=1e-12)


def test_unknown_unscorable_is_refused() -> None:
    with pytest.raises(ValueError, match="`unscorable` to be 'skip' or 'one', but got 'zero'"):
        ARI(unscorable="zero")  # type: ignore[arg-type]
