import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from object_discovery.metrics.average_precision import (
    ATTRIBUTE_SIZES,
    COLUMNS,
    AveragePrecision,
    average_precision,
    true_positives,
)
from tests.metrics.two_processes import run_in_two_processes

Row = list[float]


def make_row(attributes: tuple[int, ...], coordinates: tuple[float, ...], confidence: float) -> Row:
    one_hot = [
        float(index == value) for value, size in zip(attributes, ATTRIBUTE_SIZES, strict=True) for index in range(size)
    ]
    return [*coordinates, *one_hot, confidence]


def random_case(rng: random.Random, ties: bool) -> tuple[Tensor, Tensor]:
    """Generate few images of few objects, often of equal attributes, on a grid on which distances are exact."""
    images, slots, objects = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 3)
    levels = [rng.randint(0, 3) / 4 for _ in range(99)] if ties else [i / 128 for i in rng.sample(range(128), 99)]

    def random_row(confidence: float) -> Row:
        return make_row((0, 0, 0, rng.randint(0, 1)), tuple(rng.randint(0, 12) / 64 for _ in range(3)), confidence)

    pred = [[random_row(levels.pop()) for _ in range(slots)] for _ in range(images)]
    target = [
        [random_row(1.0) if rng.random() < 0.6 else [0.0] * COLUMNS for _ in range(objects)] for _ in range(images)
    ]
    return torch.tensor(pred), torch.tensor(target)


def sorted_orders(pred: list[list[Row]]) -> Iterator[list[tuple[int, Row]]]:
    """Iterate over all orders of the predictions by descending confidence."""
    pooled = [(image, row) for image, rows in enumerate(pred) for row in rows]
    groups = [
        list(group)
        for _, group in itertools.groupby(sorted(pooled, key=lambda item: -item[1][18]), key=lambda item: item[1][18])
    ]
    for permuted in itertools.product(*map(itertools.permutations, groups)):
        yield [item for group in permuted for item in group]


def attributes(row: Row) -> list[int]:
    parts = (row[3:5], row[5:7], row[7:10], row[10:18])
    return [part.index(max(part)) for part in parts]


def reference_average_precision(order: list[tuple[int, Row]], target: list[list[Row]], threshold: float) -> float:
    """Compute the metric by its definition for one order of the predictions; ties enter the curve together."""
    total = sum(row[18] == 1 for rows in target for row in rows)
    matched: set[tuple[int, int]] = set()
    precisions, recalls, true = [], [], 0
    for rank, (image, row) in enumerate(order, start=1):
        best, nearest = math.inf, -1
        for index, true_row in enumerate(target[image]):
            if true_row[18] == 1 and attributes(true_row) == attributes(row):
                distance = math.sqrt(sum((6 * (a - b)) ** 2 for a, b in zip(true_row[:3], row[:3], strict=True)))
                if distance < best:
                    best, nearest = distance, index
        if best < threshold and (image, nearest) not in matched:
            matched.add((image, nearest))
            true += 1
        if rank == len(order) or order[rank][1][18] < row[18]:
            precisions.append(true / rank)
            recalls.append(true / total)
    result, previous = 0.0, 0.0
    for index, recall in enumerate(recalls):
        result += max(precisions[index:]) * (recall - previous)
        previous = recall
    return result


@pytest.mark.parametrize("ties", [False, True])
def test_equals_the_definition(ties: bool) -> None:
    rng = random.Random(int(ties))
    thresholds = (math.inf, 0.75, 0.375, 0.28125)  # including distances of the grid
    num_cases = 0
    for _ in range(1000):
        pred, target = random_case(rng, ties)
        scores = average_precision(pred, target, thresholds).tolist()
        if not (target[..., 18] == 1).any():
            assert all(math.isnan(value) for value in scores)
            continue
        orders = list(itertools.islice(sorted_orders(pred.tolist()), 8))
        assert ties or len(orders) == 1
        num_cases += len(orders) > 1 if ties else 1
        for order in orders:
            expected = [reference_average_precision(order, target.tolist(), threshold) for threshold in thresholds]
            assert scores == pytest.approx(expected, abs=1e-12)
    assert num_cases > 500


def one_image(*objects: tuple[float, float]) -> Tensor:
    """Make one image with objects of equal attributes, given the x coordinate and the confidence of each."""
    return torch.tensor([[make_row((0, 0, 0, 0), (x, 0.5, 0.5), confidence) for x, confidence in objects]])


@pytest.mark.parametrize(("step", "expected"), [(0.25, False), (0.2499, True)])
def test_distance_must_be_below_the_threshold(step: float, expected: bool) -> None:
    assert true_positives(one_image((0.5 + step, 0.9)), one_image((0.5, 1.0)), [1.5]).item() is expected


def test_prediction_is_matched_to_the_nearest_object_only() -> None:
    pred, target = one_image((0.25, 0.9), (0.25, 0.8)), one_image((0.25, 1.0), (0.3125, 1.0))
    assert true_positives(pred, target, [math.inf])[0, :, 0].tolist() == [True, False]


def test_prediction_beyond_the_threshold_leaves_the_object_unmatched() -> None:
    pred, target = one_image((0.5, 0.9), (0.25, 0.8)), one_image((0.25, 1.0))
    assert true_positives(pred, target, [math.inf, 0.5])[0].tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("column", [3, 5, 7, 10])
def test_every_attribute_must_agree(column: int) -> None:
    wrong = one_image((0.5, 0.9))
    wrong[..., column : column + 2] = wrong[..., column : column + 2].flip(-1)
    assert true_positives(one_image((0.5, 0.9)), one_image((0.5, 1.0)), [1]).all()
    assert not true_positives(wrong, one_image((0.5, 1.0)), [1]).any()


def test_padding_is_never_matched() -> None:
    assert not true_positives(torch.zeros(2, 3, 19), torch.zeros(2, 4, 19)).any()
    assert true_positives(torch.zeros(2, 3, 19), torch.zeros(2, 0, 19)).shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("pred", "target"), [((2, 3, 18), (2, 3, 19)), ((2, 3, 19), (3, 3, 19)), ((2, 3, 19), (2, 19))]
)
def test_other_shapes_are_refused(pred: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^Expected argument `(pred|target)` to be of shape \(2, ..., 19\), but got"):
        average_precision(torch.zeros(pred), torch.zeros(target))


def random_batch(images: int = 60) -> tuple[Tensor, Tensor]:
    """Generate images of ten predictions, most of them near an object, many of equal confidence."""
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(images, 10, 19)
    target[..., :3] = torch.rand(images, 10, 3, generator=generator)
    for column in (3, 5, 7, 10):
        target[..., column : column + 2].scatter_(2, torch.randint(0, 2, (images, 10, 1), generator=generator), 1)
    target[..., 18] = 1
    pred = (target + 0.05 * torch.randn(target.shape, generator=generator)).flip(1)
    pred[..., 18] = torch.randint(0, 50, (images, 10), generator=generator) / 49
    return pred, target * (torch.arange(10) < torch.randint(0, 11, (images, 1), generator=generator))[..., None]


def test_invariant_to_the_order_of_images_and_rows() -> None:
    pred, target = random_batch()
    expected = average_precision(pred, target)
    assert 0.05 < expected[2] < expected[0] < 0.95
    for _ in range(5):
        images = torch.randperm(60)
        permuted = average_precision(pred[images][:, torch.randperm(10)], target[images][:, torch.randperm(10)])
        torch.testing.assert_close(permuted, expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_class_accumulates_batches() -> None:
    pred, target = random_batch()
    scores = AveragePrecision()
    assert all(math.isnan(value) for value in scores.compute().values())
    for part in (slice(0, 7), slice(7, 8), slice(8, 60)):
        scores.update(pred[part], target[part])
    expected = average_precision(pred, target).tolist()
    for _ in range(2):
        assert list(map(float, scores.compute().values())) == pytest.approx(expected, abs=1e-12)
    assert scores.compute().keys() == {"ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"}
    assert sum(tensor.nbytes for tensor in (*scores.confidence, *scores.matched)) == 60 * 10 * 9
    scores.reset()
    assert len(scores.confidence) == 0


def test_state_stays_float32_when_the_model_is_cast() -> None:
    pred, target = random_batch(4)
    scores = AveragePrecision()
    scores.update(pred, target)
    torch.nn.ModuleList([scores]).to(torch.bfloat16)
    assert scores.confidence[0].dtype == torch.float32
    assert torch.equal(scores.confidence[0], pred[..., 18].flatten())


def scores_of_rank(rank: int) -> list[dict[str, Tensor]]:
    pred, target = random_batch()
    results = []
    for parts in (((0, 20), (20, 35)), ((35, 60),)), (((0, 60),), ()):
        scores = AveragePrecision()
        for start, end in parts[rank]:
            scores.update(pred[start:end], target[start:end])
        results.append(scores.compute())
    return results


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_agree_with_one_also_if_one_has_no_image(tmp_path: Path) -> None:
    expected = average_precision(*random_batch()).tolist()
    for results in run_in_two_processes(scores_of_rank, tmp_path):
        for scores in results:
            assert list(map(float, scores.values())) == pytest.approx(expected, abs=1e-12)
