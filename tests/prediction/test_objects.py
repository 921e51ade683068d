import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.errors import UserError
from object_discovery.prediction.objects import predict, resize_bilinear
from tests.checkpoints import ByColour, tiny_model


def scene(width: int, height: int, boxes: dict[str, tuple[int, int, int, int]], ground: str = "blue") -> Image.Image:
    """Draw boxes [x0, y0, x1, y1), x1 and y1 just outside."""
    image = Image.new("RGB", (width, height), ground)
    for colour, (x0, y0, x1, y1) in boxes.items():
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)
    return image


MODEL = ByColour(resolution=16, num_slots=3)


def test_boxes_areas_and_labels_are_at_the_size_of_the_image() -> None:
    image = scene(32, 32, {"red": (4, 6, 12, 10), "lime": (20, 16, 30, 28)})
    (found,) = predict(MODEL, [image])
    expected = np.zeros((32, 32), np.uint8)
    expected[6:10, 4:12] = 1
    expected[16:28, 20:30] = 2
    assert np.array_equal(found.labels, expected)
    assert [(slot.slot, slot.label, slot.background, slot.box, slot.area) for slot in found.slots] == [
        (0, 1, False, [4, 6, 12, 10], 32),
        (1, 2, False, [20, 16, 30, 28], 120),
        (2, 0, True, [0, 0, 32, 32], 32 * 32 - 152),
    ]


def test_images_of_many_shapes_go_through_together() -> None:
    wide = scene(64, 32, {"red": (16, 8, 32, 24)})
    small = scene(8, 8, {"lime": (2, 2, 6, 6)}, ground="red")
    for found, image, box, slots in zip(
        predict(MODEL, [wide, small]), (wide, small), ([16, 8, 32, 24], [2, 2, 6, 6]), ([0, 2], [0, 1]), strict=True
    ):
        assert found.labels.shape == (image.height, image.width)
        assert [slot.slot for slot in found.slots] == slots  # the third covers nothing
        assert [slot.box for slot in found.slots if not slot.background] == [box]
        assert {slot.label for slot in found.slots} == {0, 1}


def test_the_slot_at_the_border_is_the_background_whatever_its_number() -> None:
    for number, ground in enumerate(("red", "lime", "blue")):
        (found,) = predict(MODEL, [scene(16, 16, {}, ground=ground)])
        assert [(slot.slot, slot.label, slot.background) for slot in found.slots] == [(number, 0, True)]
        assert not found.labels.any()


def test_a_crop_sees_the_central_square_and_leaves_the_rest_out() -> None:
    image = scene(64, 32, {"red": (20, 8, 28, 16), "lime": (0, 0, 16, 32)})
    (found,) = predict(MODEL, [image], crop=True)
    assert found.crop == (16, 0, 48, 32)
    assert (found.labels[:, :16] == 255).all()
    assert (found.labels[:, 48:] == 255).all()
    assert [(slot.slot, slot.box) for slot in found.slots] == [(0, [20, 8, 28, 16]), (2, [16, 0, 48, 32])]
    assert sum(slot.area for slot in found.slots) == 32 * 32


def test_each_pixel_goes_to_the_slot_with_the_largest_enlarged_mask() -> None:
    model = tiny_model()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 23, 3)).astype(np.uint8))
    (found,) = predict(model, [image])
    enlarged = torch.nn.functional.interpolate(found.found.masks, (40, 23), mode="bilinear")[0].argmax(0).numpy()
    by_label = {slot.label: slot.slot for slot in found.slots}
    assert np.array_equal(np.vectorize(by_label.__getitem__)(found.labels), enlarged)
    assert len(by_label) == len(np.unique(enlarged))


def test_forward_options_reach_the_model() -> None:
    model = tiny_model()
    model.forward_options = {"num_slots": 2}
    (found,) = predict(model, [scene(20, 20, {})])
    assert found.found.masks.shape == (1, 2, 16, 16)


def test_more_slots_than_label_maps_hold_are_refused() -> None:
    class Many(ByColour):
        def forward(self, images: Tensor, **options: int) -> Discovery:
            return Discovery(images.new_zeros(1, 255, 4), images.new_zeros(1, 255, 16, 16))

    with pytest.raises(UserError, match="Expected at most 254 slots, but the model has 255"):
        predict(Many(resolution=16), [scene(16, 16, {})])


def test_resizing_smooths_where_images_become_smaller() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 1, 32, 32)
    assert (resize_bilinear(stripes, 4, 4)[..., 1:-1] - 0.5).abs().max() < 0.05
