import pytest
import torch

from object_discovery.visualization.background import background_slot


def test_what_covers_most_of_the_border_is_the_background_though_an_object_is_larger() -> None:
    labels = torch.ones(1, 10, 10, dtype=torch.int64)
    labels[0, 1:9, 1:9] = 0  # 64 of 100 pixels, none on the border
    labels[0, 0, :3] = 2
    assert background_slot(labels, 4).tolist() == [1]


def test_of_equal_borders_the_larger_wins_then_the_lower() -> None:
    halves = torch.tensor([2, 2, 1, 1]).expand(1, 4, 4).clone()
    assert background_slot(halves, 3).tolist() == [1]
    halves[0, 1, 2] = 2
    assert background_slot(halves, 3).tolist() == [2]


def test_each_image_has_its_own() -> None:
    labels = torch.stack([torch.full((3, 5), k) for k in (2, 0, 1)])
    assert background_slot(labels, 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize("size", [1, 2])
def test_images_that_are_all_border(size: int) -> None:
    assert background_slot(torch.ones(1, size, size, dtype=torch.int64), 2).tolist() == [1]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`labels` to be of shape \(B, H, W\), but got \(3, 3\)"):
        background_slot(torch.zeros(3, 3, dtype=torch.int64), 1)
