import pytest
import torch

from object_discovery.visualization.background import background_slot


def test_slot_with_most_border_pixels_is_chosen_over_a_larger_one() -> None:
    labels = torch.ones(1, 10, 10, dtype=torch.int64)
    labels[0, 1:9, 1:9] = 0  # 64 of 100 pixels, none on the border
    labels[0, 0, :3] = 2
    assert background_slot(labels, 4).tolist() == [1]


def test_ties_go_to_the_larger_slot_then_to_the_lower_index() -> None:
    labels = torch.tensor([2, 2, 1, 1]).expand(1, 4, 4).clone()
    assert background_slot(labels, 3).tolist() == [1]
    labels[0, 1, 2] = 2
    assert background_slot(labels, 3).tolist() == [2]


def test_background_is_chosen_for_each_image() -> None:
    labels = torch.stack([torch.full((3, 5), k) for k in (2, 0, 1)])
    assert background_slot(labels, 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize("size", [1, 2])
def test_images_without_inner_pixels(size: int) -> None:
    assert background_slot(torch.ones(1, size, size, dtype=torch.int64), 2).tolist() == [1]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`labels` to be of shape \(B, H, W\), but got \(3, 3\)"):
        background_slot(torch.zeros(3, 3, dtype=torch.int64), 1)
