import numpy as np
import pytest
import torch

from object_discovery.metrics import contingency_table, iou_from_table, labels_from_masks


def test_table_counts_pairs_of_labels_without_ignored_pixels() -> None:
    generator = np.random.default_rng(0)
    pred = generator.integers(0, 5, (4, 9, 7))
    target = generator.choice([0, 3, 17, 254, 255], (4, 9, 7))
    table = contingency_table(torch.from_numpy(pred), torch.from_numpy(target), num_slots=5).numpy()
    assert table.shape == (4, 5, 255)
    expected = np.zeros_like(table)
    for image, slot, label in zip(np.repeat(np.arange(4), 63), pred.ravel(), target.ravel(), strict=True):
        if label != 255:
            expected[image, slot, label] += 1
    assert (table == expected).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_table_is_the_same_for_every_integer_type(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    pred = torch.randint(0, 100, (2, 8, 8), generator=generator)
    target = torch.randint(0, 256, (2, 8, 8), generator=generator)
    expected = contingency_table(pred, target, num_slots=100)
    assert torch.equal(contingency_table(pred.to(dtype), target.to(dtype), num_slots=100), expected)


def test_number_of_slots_is_determined_from_the_prediction_if_not_given() -> None:
    pred, target = torch.tensor([[0, 3]]), torch.tensor([[1, 1]])
    assert contingency_table(pred, target).shape == (1, 4, 255)
    assert contingency_table(pred[:, :0], target[:, :0]).sum() == 0


def test_label_out_of_range_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        contingency_table(torch.tensor([[0, 3]]), torch.tensor([[1, 1]]), num_slots=3)


def test_wrong_arguments_are_refused() -> None:
    labels = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="one shape"):
        contingency_table(labels, labels[:, :3])
    with pytest.raises(ValueError, match=r"`pred` to be integer labels.*labels_from_masks"):
        contingency_table(labels.float(), labels)
    with pytest.raises(ValueError, match="`target` to be integer labels"):
        contingency_table(labels, labels.float())
    with pytest.raises(ValueError, match="`num_slots` to be at least 1"):
        contingency_table(labels, labels, num_slots=0)


def test_labels_are_the_argmax_of_the_masks_and_ties_go_to_the_lowest_slot() -> None:
    masks = torch.randint(0, 3, (3, 6, 16, 16)).float()  # many ties
    assert (labels_from_masks(masks).numpy() == masks.numpy().argmax(1)).all()
    assert labels_from_masks(masks).dtype == torch.uint8
    assert (labels_from_masks(torch.full((1, 4, 2, 2), 0.25)) == 0).all()


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 256, 1, 1)])
def test_masks_of_another_shape_or_with_too_many_slots_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`masks` to be of shape"):
        labels_from_masks(torch.zeros(shape))


def test_iou_divides_by_the_union() -> None:
    pred, target = torch.tensor([[0, 0, 0, 1, 1, 2]]), torch.tensor([[4, 4, 9, 9, 9, 255]])
    iou = iou_from_table(contingency_table(pred, target, num_slots=4))[0]
    assert iou[0, 4] == 2 / 3
    assert iou[0, 9] == 1 / 5
    assert iou[1, 9] == 2 / 3
    assert iou[2].sum() == 0  # only ignored pixels
    assert iou[3].sum() == 0  # empty: 0, not NaN
