import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from object_discovery.metrics.average_precision import (
    ATTRIBUTE_SIZES,
    COLUMNS,
    AveragePrecision,
    average_precision,
    found_objects,
)

Row = list[float]


def make_row(attributes: tuple[int, ...], coords: tuple[float, ...], sure: float) -> Row:
    one_hot = [
        float(place == code) for code, size in zip(attributes, ATTRIBUTE_SIZES, strict=True) for place in range(size)
    ]
    return [*coords, *one_hot, sure]


def draw_case(rng: random.Random, ties: bool) -> tuple[Tensor, Tensor]:
    """Draw few images of few objects that are often alike, on a grid of places where 6 times a distance is exact."""
    images, slots, objects = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 3)
    levels = [rng.randint(0, 3) / 4 for _ in range(99)] if ties else [i / 128 for i in rng.sample(range(128), 99)]

    def draw(sure: float) -> Row:
        return make_row((0, 0, 0, rng.randint(0, 1)), tuple(rng.randint(0, 12) / 64 for _ in range(3)), sure)

    pred = [[draw(levels.pop()) for _ in range(slots)] for _ in range(images)]
    target = [[draw(1.0) if rng.random() < 0.6 else [0.0] * COLUMNS for _ in range(objects)] for _ in range(images)]
    return torch.tensor(pred), torch.tensor(target)


def orders(pred: list[list[Row]]) -> Iterator[list[tuple[int, Row]]]:
    """Go through the orders of all predictions in which the surer ones come first."""
    pooled = [(image, row) for image, rows in enumerate(pred) for row in rows]
    groups = [
        list(group)
        for _, group in itertools.groupby(sorted(pooled, key=lambda item: -item[1][18]), key=lambda item: item[1][18])
    ]
    for chosen in itertools.product(*map(itertools.permutations, groups)):
        yield [item for group in chosen for item in group]


def attributes(row: Row) -> list[int]:
    parts = (row[3:5], row[5:7], row[7:10], row[10:18])
    return [part.index(max(part)) for part in parts]


def area(order: list[tuple[int, Row]], target: list[list[Row]], threshold: float) -> float:
    """The definition, word by word, for one order of the predictions; the equally sure are added all at once."""
    total = sum(row[18] == 1 for rows in target for row in rows)
    claimed: set[tuple[int, int]] = set()
    precisions, recalls, true = [], [], 0
    for rank, (image, row) in enumerate(order, start=1):
        best, nearest = math.inf, -1
        for number, real in enumerate(target[image]):
            if real[18] == 1 and attributes(real) == attributes(row):
                distance = math.sqrt(sum((6 * (a - b)) ** 2 for a, b in zip(real[:3], row[:3], strict=True)))
                if distance < best:
                    best, nearest = distance, number
        if best < threshold and (image, nearest) not in claimed:
            claimed.add((image, nearest))
            true += 1
        if rank == len(order) or order[rank][1][18] < row[18]:
            precisions.append(true / rank)
            recalls.append(true / total)
    result, last = 0.0, 0.0
    for place, recall in enumerate(recalls):
        result += max(precisions[place:]) * (recall - last)
        last = recall
    return result


@pytest.mark.parametrize("ties", [False, True])
def test_it_is_the_definition(ties: bool) -> None:
    rng = random.Random(int(ties))
    thresholds = (math.inf, 0.75, 0.375, 0.28125)  # distances of the grid are among them: nearer means nearer
    scored = 0
    for _ in range(1000):
        pred, target = draw_case(rng, ties)
        found = average_precision(pred, target, thresholds).tolist()
        if not (target[..., 18] == 1).any():
            assert all(math.isnan(value) for value in found)
            continue
        possible = list(itertools.islice(orders(pred.tolist()), 8))
        assert ties or len(possible) == 1
        scored += len(possible) > 1 if ties else 1
        for order in possible:
            areas = [area(order, target.tolist(), threshold) for threshold in thresholds]
            assert found == pytest.approx(areas, abs=1e-12)
    assert scored > 500


def one(*sizes: tuple[float, float]) -> Tensor:
    """Make one image with an object of the same attributes at each x, each with its score."""
    return torch.tensor([[make_row((0, 0, 0, 0), (x, 0.5, 0.5), sure) for x, sure in sizes]])


@pytest.mark.parametrize(("step", "expected"), [(0.25, False), (0.2499, True)])
def test_an_object_is_found_strictly_nearer_than_the_threshold(step: float, expected: bool) -> None:
    assert found_objects(one((0.5 + step, 0.9)), one((0.5, 1.0)), [1.5]).item() is expected


def test_a_prediction_never_falls_back_to_an_object_farther_away() -> None:
    pred, target = one((0.25, 0.9), (0.25, 0.8)), one((0.25, 1.0), (0.3125, 1.0))
    assert found_objects(pred, target, [math.inf])[0, :, 0].tolist() == [True, False]


def test_what_is_too_far_away_claims_nothing() -> None:
    pred, target = one((0.5, 0.9), (0.25, 0.8)), one((0.25, 1.0))
    assert found_objects(pred, target, [math.inf, 0.5])[0].tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("column", [3, 5, 7, 10])
def test_every_attribute_must_agree(column: int) -> None:
    wrong = one((0.5, 0.9))
    wrong[..., column : column + 2] = wrong[..., column : column + 2].flip(-1)
    assert found_objects(one((0.5, 0.9)), one((0.5, 1.0)), [1]).all()
    assert not found_objects(wrong, one((0.5, 1.0)), [1]).any()


def test_filling_is_never_found() -> None:
    assert not found_objects(torch.zeros(2, 3, 19), torch.zeros(2, 4, 19)).any()
    assert found_objects(torch.zeros(2, 3, 19), torch.zeros(2, 0, 19)).shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("pred", "target"), [((2, 3, 18), (2, 3, 19)), ((2, 3, 19), (3, 3, 19)), ((2, 3, 19), (2, 19))]
)
def test_other_shapes_are_refused(pred: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^Expected argument `(pred|target)` to be of shape \(2, ..., 19\), but got"):
        average_precision(torch.zeros(pred), torch.zeros(target))


def draw_batch(images: int = 60) -> tuple[Tensor, Tensor]:
    """Images of ten predictions, most of them near an object, many equally sure."""
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(images, 10, 19)
    target[..., :3] = torch.rand(images, 10, 3, generator=generator)
    for column in (3, 5, 7, 10):
        target[..., column : column + 2].scatter_(2, torch.randint(0, 2, (images, 10, 1), generator=generator), 1)
    target[..., 18] = 1
    pred = (target + 0.05 * torch.randn(target.shape, generator=generator)).flip(1)
    pred[..., 18] = torch.randint(0, 50, (images, 10), generator=generator) / 49
    return pred, target * (torch.arange(10) < torch.randint(0, 11, (images, 1), generator=generator))[..., None]


def test_neither_the_order_of_images_nor_that_of_rows_matters() -> None:
    pred, target = draw_batch()
    expected = average_precision(pred, target)
    assert 0.05 < expected[2] < expected[0] < 0.95
    for _ in range(5):
        images = torch.randperm(60)
        again = average_precision(pred[images][:, torch.randperm(10)], target[images][:, torch.randperm(10)])
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_class_adds_up_batches() -> None:
    pred, target = draw_batch()
    scores = AveragePrecision()
    assert all(math.isnan(value) for value in scores.compute().values())
    for part in (slice(0, 7), slice(7, 8), slice(8, 60)):
        scores.update(pred[part], target[part])
    expected = average_precision(pred, target).tolist()
    for _ in range(2):
        assert list(map(float, scores.compute().values())) == pytest.approx(expected, abs=1e-12)
    assert scores.compute().keys() == {"ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"}
    held = sum(tensor.nbytes for tensor in (*scores.sure, *scores.found))
    assert held == 60 * 10 * 9
    scores.reset()
    assert len(scores.sure) == 0


def test_half_precision_does_not_touch_the_state() -> None:
    pred, target = draw_batch(4)
    scores = AveragePrecision()
    scores.update(pred, target)
    torch.nn.ModuleList([scores]).to(torch.bfloat16)
    assert scores.sure[0].dtype == torch.float32
    assert torch.equal(scores.sure[0], pred[..., 18].flatten())


def run_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    pred, target = draw_batch()
    results = []
    for parts in (((0, 20), (20, 35)), ((35, 60),)), (((0, 60),), ()):
        scores = AveragePrecision()
        for start, end in parts[rank]:
            scores.update(pred[start:end], target[start:end])
        results.append(scores.compute())
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_processes_agree_with_one_process_even_where_one_has_no_image(tmp_path: Path) -> None:
    other = spawn(run_rank, (str(tmp_path),), nprocs=1, join=False)  # type: ignore[no-untyped-call]
    run_rank(1, str(tmp_path))  # this process is the second
    while not other.join():
        pass
    expected = average_precision(*draw_batch()).tolist()
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt"):
            assert list(map(float, found.values())) == pytest.approx(expected, abs=1e-12)
