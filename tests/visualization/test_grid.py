from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.visualization.grid import discovery_grid, draw_boxes, picture_grid, save_png, slot_labels
from object_discovery.visualization.palette import palette

GUTTER = 4


def tiles(grid: Tensor, rows: int, columns: int, height: int, width: int) -> Tensor:
    """Take a grid without headings apart into `(rows, columns, 3, H, W)`."""
    assert grid.shape == (3, GUTTER + rows * (height + GUTTER), GUTTER + columns * (width + GUTTER))
    lines = torch.split(grid[:, GUTTER:], height + GUTTER, dim=1)
    parts = [torch.split(line[:, :height, GUTTER:], width + GUTTER, dim=2) for line in lines]
    return torch.stack([torch.stack([part[..., :width] for part in line]) for line in parts])


def hard(labels: list[list[list[int]]], num_slots: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), num_slots).movedim(-1, 1).float()


def test_columns_are_image_reconstruction_true_masks_masks_and_slots() -> None:
    images = torch.rand(2, 3, 2, 4)
    masks = hard([[[1, 1, 1, 1], [1, 0, 2, 1]], [[0, 0, 0, 0], [0, 2, 2, 0]]], 3)
    found = Discovery(torch.zeros(2, 3, 8), masks, images / 2, torch.rand(2, 3, 3, 2, 4))
    true = torch.tensor([[[0, 0, 0, 0], [0, 1, 2, 255]], [[0, 0, 0, 0], [0, 1, 1, 0]]], dtype=torch.uint8)
    parts = tiles(discovery_grid(images, found, masks=true, scale=1, headings=False), 2, 7, 2, 4)
    assert torch.equal(parts[:, 0], (images * 255).round().byte())
    assert torch.equal(parts[:, 1], (images / 2 * 255).round().byte())
    assert parts[0, 2, :, 1].T.tolist() == [*palette(3).tolist(), [255, 255, 255]]
    dark, first, third = palette(1)[0].tolist(), palette(2)[1].tolist(), palette(4)[3].tolist()
    assert parts[0, 3, :, 1].T.tolist() == [dark, first, third, dark]  # slot 1 is the background
    assert parts[1, 3, :, 1].T.tolist() == [dark, third, third, dark]
    for slot in range(3):
        assert found.slot_images is not None
        expected = torch.where(masks[:, slot, None] > 0, found.slot_images[:, slot], 1.0)
        assert torch.equal(parts[:, 4 + slot], (expected * 255).round().byte())


def test_without_slot_images_the_image_shows_through_soft_masks() -> None:
    images, masks = torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2, 2), 0.5)
    parts = tiles(discovery_grid(images, Discovery(torch.zeros(1, 2, 8), masks), scale=1, headings=False), 1, 4, 2, 2)
    assert (parts[0, 2:] == 128).all()


def test_masks_can_be_drawn_over_the_image() -> None:
    images, found = torch.ones(1, 3, 2, 2), Discovery(torch.zeros(1, 1, 8), torch.ones(1, 1, 2, 2))
    parts = tiles(discovery_grid(images, found, scale=1, opacity=0.6, headings=False), 1, 3, 2, 2)
    assert (parts[0, 1] == round(0.6 * 40 + 0.4 * 255)).all()


def test_the_background_can_be_given() -> None:
    found = Discovery(torch.zeros(1, 2, 8), hard([[[0, 0], [0, 1]]], 2))
    grid = discovery_grid(torch.ones(1, 3, 2, 2), found, background=torch.tensor([1]), scale=1, headings=False)
    masks = tiles(grid, 1, 4, 2, 2)[0, 1]
    assert masks[:, 1].T.tolist() == [palette(2)[1].tolist(), palette(1)[0].tolist()]


def test_small_images_are_enlarged_without_blur_and_large_ones_left() -> None:
    image = torch.rand(1, 3, 32, 32)
    grid = discovery_grid(image, Discovery(torch.zeros(1, 1, 8), torch.ones(1, 1, 32, 32)), headings=False)
    first = tiles(grid, 1, 3, 128, 128)[0, 0]
    enlarged = Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy()).resize((128, 128), 0)
    assert np.array_equal(first.permute(1, 2, 0).numpy(), np.asarray(enlarged))
    large = discovery_grid(torch.rand(1, 3, 200, 300), Discovery(torch.zeros(1, 1, 8), torch.ones(1, 1, 200, 300)))
    assert large.shape[2] == GUTTER + 3 * (300 + GUTTER)


def test_headings_stand_above_and_leave_the_rest_alone() -> None:
    images, found = torch.rand(1, 3, 16, 16), Discovery(torch.zeros(1, 2, 8), torch.rand(1, 2, 16, 16).softmax(1))
    plain, named = (discovery_grid(images, found, headings=headings) for headings in (False, True))
    height = named.shape[1] - plain.shape[1]
    assert height > 0
    assert torch.equal(named[:, height:], plain)
    for column in range(4):  # each has its own letters
        assert named[:, :height, GUTTER + column * (128 + GUTTER) :][..., :128].min() < 128


def test_what_a_diverged_model_in_half_precision_paints_can_be_drawn() -> None:
    nan = torch.full((1, 3, 4, 4), float("nan"), dtype=torch.bfloat16, requires_grad=True)
    masks = torch.full((1, 2, 4, 4), float("nan"))
    grid = discovery_grid(torch.rand(1, 3, 4, 4), Discovery(torch.zeros(1, 2, 8), masks, nan), scale=1, headings=False)
    assert (tiles(grid, 1, 5, 4, 4)[0, 1] == 0).all()


@pytest.mark.parametrize(
    ("images", "masks", "true", "message"),
    [
        ((3, 4, 4), (1, 2, 4, 4), None, r"`images` to be of shape \(B, 3, H, W\), but got \(3, 4, 4\)"),
        ((1, 1, 4, 4), (1, 2, 4, 4), None, r"`images` to be of shape \(B, 3, H, W\), but got \(1, 1, 4, 4\)"),
        (
            (1, 3, 4, 4),
            (1, 2, 8, 8),
            None,
            r"masks of argument `discovery` to be \(1, K, 4, 4\), but got \(1, 2, 8, 8\)",
        ),
        ((1, 3, 4, 4), (1, 2, 4, 4), (1, 8, 8), r"`masks` to be \(1, 4, 4\), but got \(1, 8, 8\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    images: tuple[int, ...], masks: tuple[int, ...], true: tuple[int, ...] | None, message: str
) -> None:
    found = Discovery(torch.zeros(1, 2, 8), torch.ones(masks))
    labels = None if true is None else torch.zeros(true, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        discovery_grid(torch.ones(images), found, masks=labels)


def test_slots_keep_their_numbers_but_for_the_background() -> None:
    labels = torch.arange(4).expand(2, 1, 4)
    assert slot_labels(labels, torch.tensor([0, 2])).tolist() == [[[0, 2, 3, 4]], [[1, 2, 0, 4]]]


def test_pictures_survive_the_file(tmp_path: Path) -> None:
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    save_png(picture, tmp_path / "new" / "picture.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "picture.png")), picture.permute(1, 2, 0).numpy())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


@pytest.mark.parametrize("picture", [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8)])
def test_what_is_no_picture_is_refused(picture: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`image` to be uint8 \(3, H, W\), but got"):
        save_png(picture, tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []


def test_further_columns_stand_after_the_reconstruction() -> None:
    images, other = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    found = Discovery(torch.zeros(2, 3, 8), torch.rand(2, 3, 16, 16).softmax(1), image=1 - images)
    plain = discovery_grid(images, found, scale=1, headings=False)
    more = discovery_grid(images, found, scale=1, headings=False, extra={"other": other})
    assert torch.equal(more[:, :, :44], plain[:, :, :44])
    assert torch.equal(more[:, 4:20, 44:60], (other[0] * 255).round().byte())
    assert torch.equal(more[:, :, 64:], plain[:, :, 44:])


def test_pictures_are_drawn_in_columns_with_names() -> None:
    images = torch.rand(2, 3, 16, 16)
    grid = picture_grid({"a": images, "b": 2 - images}, scale=1, headings=False)
    assert grid.shape == (3, 44, 44)
    assert torch.equal(grid[:, 24:40, 4:20], (images[1] * 255).round().byte())
    assert (grid[:, 24:40, 24:40] == 255).all()  # colours are clipped
    assert picture_grid({"a": images}, scale=1).shape[1] > 44


def test_boxes_are_drawn_in_the_colours_of_their_slots_and_only_those_shown() -> None:
    images = torch.zeros(2, 3, 12, 12)
    boxes = torch.tensor([[[1.0, 2.0, 5.0, 7.0], [6.0, 0.0, 12.0, 4.0]]] * 2)
    drawn = draw_boxes(images, boxes, torch.tensor([[True, True], [False, False]]))
    first, second = (torch.tensor(colour) / 255 for colour in palette(3)[1:])
    for x, y in ((1, 2), (5, 7), (1, 7), (3, 2)):
        torch.testing.assert_close(drawn[0, :, y, x], first.float())
    for x, y in ((6, 0), (11, 4), (8, 0)):  # what lies beyond the border is drawn at it
        torch.testing.assert_close(drawn[0, :, y, x], second.float())
    assert not drawn[0, :, 4, 3].any()  # inside
    assert not drawn[1].any()


def test_boxes_end_at_the_border_of_images_of_any_shape() -> None:
    drawn = draw_boxes(torch.zeros(1, 3, 8, 12), torch.tensor([[[2.0, 1.0, 20.0, 20.0]]]), torch.tensor([[True]]))
    there = drawn[0].amax(0) > 0
    assert there.any(0).tolist() == [False] * 2 + [True] * 10
    assert there.any(1).tolist() == [False] + [True] * 7
    assert there[7, 2:].all()
    assert there[1:, 11].all()
