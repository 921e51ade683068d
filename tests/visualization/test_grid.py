from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.visualization.grid import discovery_grid, draw_boxes, picture_grid, plot_discovery, save_png
from object_discovery.visualization.palette import MASK_ALPHA, palette

GUTTER = 4


def split_grid(grid: Tensor, rows: int, columns: int, height: int, width: int) -> Tensor:
    """Split a grid without headings into its tiles `(rows, columns, 3, H, W)`."""
    assert grid.shape == (3, GUTTER + rows * (height + GUTTER), GUTTER + columns * (width + GUTTER))
    lines = torch.split(grid[:, GUTTER:], height + GUTTER, dim=1)
    parts = [torch.split(line[:, :height, GUTTER:], width + GUTTER, dim=2) for line in lines]
    return torch.stack([torch.stack([part[..., :width] for part in line]) for line in parts])


def one_hot_masks(labels: list[list[list[int]]], num_slots: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), num_slots).movedim(-1, 1).float()


def random_discovery(images: int, slots: int, size: int) -> Discovery:
    return Discovery(torch.zeros(images, slots, 8), torch.rand(images, slots, size, size).softmax(1))


def blend(colours: list[list[int]], value: float) -> list[list[int]]:
    """Blend colours with a grey image of this value in [0, 1]."""
    return [[round(MASK_ALPHA * channel + (1 - MASK_ALPHA) * value * 255) for channel in colour] for colour in colours]


def test_columns_are_image_reconstruction_true_masks_predicted_masks_and_slots() -> None:
    images = torch.rand(2, 3, 2, 4)
    images[:, :, 1] = 1
    masks = one_hot_masks([[[1, 1, 1, 1], [1, 0, 2, 1]], [[0, 0, 0, 0], [0, 2, 2, 0]]], 3)
    discovery = Discovery(torch.zeros(2, 3, 8), masks, images / 2, torch.rand(2, 3, 3, 2, 4))
    true = torch.tensor([[[0, 0, 0, 0], [0, 1, 2, 255]], [[0, 0, 0, 0], [0, 1, 1, 0]]], dtype=torch.uint8)
    tiles = split_grid(discovery_grid(images, discovery, masks=true, scale=1, headings=False), 2, 7, 2, 4)
    assert torch.equal(tiles[:, 0], (images * 255).round().byte())
    assert torch.equal(tiles[:, 1], (images / 2 * 255).round().byte())
    assert tiles[0, 2, :, 1].T.tolist() == blend([*palette(3).tolist(), [255, 255, 255]], 1)
    for slot in range(3):
        assert discovery.slot_images is not None
        expected = torch.where(masks[:, slot, None] > 0, discovery.slot_images[:, slot], 1.0)
        assert torch.equal(tiles[:, 4 + slot], (expected * 255).round().byte())


def test_predicted_masks_have_the_colours_of_the_true_objects_they_match() -> None:
    true = torch.tensor([[[0, 0, 0, 0], [0, 1, 2, 0]], [[0, 0, 0, 0], [0, 5, 5, 0]]], dtype=torch.uint8)
    masks = one_hot_masks([[[1, 1, 1, 1], [1, 2, 0, 1]], [[0, 0, 0, 0], [0, 2, 2, 0]]], 3)
    discovery = Discovery(torch.zeros(2, 3, 8), masks)
    grid = discovery_grid(torch.zeros(2, 3, 2, 4), discovery, masks=true, scale=1, headings=False)
    tiles = split_grid(grid, 2, 6, 2, 4)
    assert torch.equal(tiles[:, 2], tiles[:, 1])


def test_slots_keep_their_colours_between_images_without_true_masks() -> None:
    masks = one_hot_masks([[[1, 1, 1, 1], [1, 0, 2, 1]], [[0, 0, 0, 0], [0, 2, 2, 0]]], 3)
    discovery = Discovery(torch.zeros(2, 3, 8), masks)
    tiles = split_grid(discovery_grid(torch.zeros(2, 3, 2, 4), discovery, scale=1, headings=False), 2, 5, 2, 4)
    background, first, third = (palette(4)[index].tolist() for index in (0, 1, 3))
    assert tiles[0, 1, :, 1].T.tolist() == blend([background, first, third, background], 0)
    assert tiles[1, 1, :, 1].T.tolist() == blend([background, third, third, background], 0)


def test_slots_show_the_image_weighted_by_their_masks_without_slot_images() -> None:
    images, masks = torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2, 2), 0.5)
    grid = discovery_grid(images, Discovery(torch.zeros(1, 2, 8), masks), scale=1, headings=False)
    assert (split_grid(grid, 1, 4, 2, 2)[0, 2:] == 128).all()


def test_background_slot_can_be_given() -> None:
    discovery = Discovery(torch.zeros(1, 2, 8), one_hot_masks([[[0, 0], [0, 1]]], 2))
    background = torch.tensor([1])
    grid = discovery_grid(torch.ones(1, 3, 2, 2), discovery, background=background, scale=1, headings=False)
    masks = split_grid(grid, 1, 4, 2, 2)[0, 1]
    assert masks[:, 1].T.tolist() == blend([palette(2)[1].tolist(), palette(1)[0].tolist()], 1)


def test_small_images_are_enlarged_by_nearest_neighbour_and_large_ones_kept() -> None:
    image = torch.rand(1, 3, 32, 32)
    grid = discovery_grid(image, Discovery(torch.zeros(1, 1, 8), torch.ones(1, 1, 32, 32)), headings=False)
    first = split_grid(grid, 1, 3, 128, 128)[0, 0]
    enlarged = Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy()).resize((128, 128), 0)
    assert np.array_equal(first.permute(1, 2, 0).numpy(), np.asarray(enlarged))
    large = discovery_grid(torch.rand(1, 3, 200, 300), Discovery(torch.zeros(1, 1, 8), torch.ones(1, 1, 200, 300)))
    assert large.shape[2] == GUTTER + 3 * (300 + GUTTER)


def test_headings_are_written_above_the_unchanged_grid() -> None:
    images, discovery = torch.rand(1, 3, 16, 16), random_discovery(1, 2, 16)
    plain, named = (discovery_grid(images, discovery, headings=headings) for headings in (False, True))
    height = named.shape[1] - plain.shape[1]
    assert height > 0
    assert torch.equal(named[:, height:], plain)
    for column in range(4):  # each column has text above it
        assert named[:, :height, GUTTER + column * (128 + GUTTER) :][..., :128].min() < 128


def test_long_headings_are_written_in_a_smaller_font() -> None:
    images = torch.rand(1, 3, 64, 64)
    heights = [picture_grid({name: images}, scale=1).shape[1] for name in ("a", "a longer name", "m" * 99)]
    assert heights[0] > heights[1] > heights[2]


def test_nan_of_a_diverged_model_in_half_precision_is_black() -> None:
    nan = torch.full((1, 3, 4, 4), float("nan"), dtype=torch.bfloat16, requires_grad=True)
    discovery = Discovery(torch.zeros(1, 2, 8), torch.full((1, 2, 4, 4), float("nan")), nan)
    grid = discovery_grid(torch.rand(1, 3, 4, 4), discovery, scale=1, headings=False)
    assert (split_grid(grid, 1, 5, 4, 4)[0, 1] == 0).all()


def test_images_may_be_uint8() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    discovery = random_discovery(2, 3, 8)
    assert torch.equal(discovery_grid(images, discovery), discovery_grid(images / 255, discovery))


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
def test_sizes_that_differ_are_refused(
    images: tuple[int, ...], masks: tuple[int, ...], true: tuple[int, ...] | None, message: str
) -> None:
    discovery = Discovery(torch.zeros(1, 2, 8), torch.ones(masks))
    labels = None if true is None else torch.zeros(true, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        discovery_grid(torch.ones(images), discovery, masks=labels)


def test_plot_is_the_grid_as_a_pil_image(tmp_path: Path) -> None:
    images, discovery, masks = torch.rand(2, 3, 16, 16), random_discovery(2, 3, 16), torch.randint(0, 3, (2, 16, 16))
    plot = plot_discovery(images, discovery, masks)
    expected = discovery_grid(images, discovery, masks=masks).permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(plot), expected)
    plot.save(tmp_path / "plot.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "plot.png")), expected)
    assert plot_discovery(images, discovery).width == plot.width - 128 - GUTTER  # without the column of true masks


def test_saved_images_can_be_read_again(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    save_png(image, tmp_path / "new" / "image.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "image.png")), image.permute(1, 2, 0).numpy())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["image.png"]


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8)])
def test_images_of_another_type_or_shape_are_not_saved(image: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`image` to be uint8 \(3, H, W\), but got"):
        save_png(image, tmp_path / "image.png")
    assert list(tmp_path.iterdir()) == []


def test_extra_columns_follow_the_reconstruction() -> None:
    images, other = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    discovery = random_discovery(2, 3, 16)._replace(image=1 - images)
    plain = discovery_grid(images, discovery, scale=1, headings=False)
    extended = discovery_grid(images, discovery, scale=1, headings=False, extra={"other": other})
    assert torch.equal(extended[:, :, :44], plain[:, :, :44])
    assert torch.equal(extended[:, 4:20, 44:60], (other[0] * 255).round().byte())
    assert torch.equal(extended[:, :, 64:], plain[:, :, 44:])


def test_grid_of_named_columns() -> None:
    images = torch.rand(2, 3, 16, 16)
    grid = picture_grid({"a": images, "b": 2 - images}, scale=1, headings=False)
    assert grid.shape == (3, 44, 44)
    assert torch.equal(grid[:, 24:40, 4:20], (images[1] * 255).round().byte())
    assert (grid[:, 24:40, 24:40] == 255).all()  # clipped to [0, 1]
    assert picture_grid({"a": images}, scale=1).shape[1] > 44


def test_boxes_are_drawn_where_shown_and_clipped_to_the_image() -> None:
    boxes = torch.tensor([[[1.0, 2.0, 5.0, 7.0], [6.0, 0.0, 12.0, 4.0]]] * 2)
    images = draw_boxes(torch.zeros(2, 3, 12, 12), boxes, torch.tensor([[True, True], [False, False]]))
    colour = torch.from_numpy(palette(2)[1]) / 255
    for x, y in ((1, 2), (5, 7), (1, 7), (3, 2), (6, 0), (11, 4), (8, 0)):
        torch.testing.assert_close(images[0, :, y, x], colour)
    assert not images[0, :, 4, 3].any()  # inside the first box
    assert not images[1].any()


def test_boxes_are_clipped_to_images_that_are_not_square() -> None:
    image = draw_boxes(torch.zeros(1, 3, 8, 12), torch.tensor([[[2.0, 1.0, 20.0, 20.0]]]), torch.tensor([[True]]))
    outline = image[0].amax(0) > 0
    assert outline.any(0).tolist() == [False] * 2 + [True] * 10
    assert outline.any(1).tolist() == [False] + [True] * 7
    assert outline[7, 2:].all()
    assert outline[1:, 11].all()
