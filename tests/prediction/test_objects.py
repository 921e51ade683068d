import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.errors import UserError
from object_discovery.prediction.objects import predict, resize_bilinear
from tests.checkpoints import ByColour, tiny_model


def render_boxes(
    width: int, height: int, boxes: dict[str, tuple[int, int, int, int]], background: str = "blue"
) -> Image.Image:
    """Render boxes `(x0, y0, x1, y1)`; x1 and y1 are exclusive."""
    image = Image.new("RGB", (width, height), background)
    for colour, (x0, y0, x1, y1) in boxes.items():
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)
    return image


MODEL = ByColour(resolution=16, num_slots=3)


def test_boxes_areas_and_labels_have_the_size_of_the_image() -> None:
    image = render_boxes(32, 32, {"red": (4, 6, 12, 10), "lime": (20, 16, 30, 28)})
    (prediction,) = predict(MODEL, [image])
    expected = np.zeros((32, 32), np.uint8)
    expected[6:10, 4:12] = 1
    expected[16:28, 20:30] = 2
    assert np.array_equal(prediction.labels, expected)
    assert [(slot.slot, slot.label, slot.background, slot.box, slot.area) for slot in prediction.slots] == [
        (0, 1, False, [4, 6, 12, 10], 32),
        (1, 2, False, [20, 16, 30, 28], 120),
        (2, 0, True, [0, 0, 32, 32], 32 * 32 - 152),
    ]


def test_images_of_several_sizes_are_one_batch() -> None:
    wide = render_boxes(64, 32, {"red": (16, 8, 32, 24)})
    small = render_boxes(8, 8, {"lime": (2, 2, 6, 6)}, background="red")
    for prediction, image, box, slots in zip(
        predict(MODEL, [wide, small], fit="squash"),
        (wide, small),
        ([16, 8, 32, 24], [2, 2, 6, 6]),
        ([0, 2], [0, 1]),
        strict=True,
    ):
        assert prediction.labels.shape == (image.height, image.width)
        assert [slot.slot for slot in prediction.slots] == slots  # one slot covers no pixel
        assert [slot.box for slot in prediction.slots if not slot.background] == [box]
        assert {slot.label for slot in prediction.slots} == {0, 1}


def test_background_is_the_slot_at_the_border() -> None:
    for slot, background in enumerate(("red", "lime", "blue")):
        (prediction,) = predict(MODEL, [render_boxes(16, 16, {}, background=background)])
        assert [(item.slot, item.label, item.background) for item in prediction.slots] == [(slot, 0, True)]
        assert not prediction.labels.any()


def test_pixels_outside_the_central_crop_have_label_255() -> None:
    image = render_boxes(64, 32, {"red": (20, 8, 28, 16), "lime": (0, 0, 16, 32)})
    (prediction,) = predict(MODEL, [image], fit="crop")
    assert prediction.crop == (16, 0, 48, 32)
    assert (prediction.labels[:, :16] == 255).all()
    assert (prediction.labels[:, 48:] == 255).all()
    assert [(slot.slot, slot.box) for slot in prediction.slots] == [(0, [20, 8, 28, 16]), (2, [16, 0, 48, 32])]
    assert sum(slot.area for slot in prediction.slots) == 32 * 32


def test_each_pixel_is_assigned_to_the_slot_with_the_largest_resized_mask() -> None:
    model = tiny_model()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 23, 3)).astype(np.uint8))
    (prediction,) = predict(model, [image], fit="squash")
    slot_map = (
        torch.nn.functional.interpolate(prediction.discovery.masks, (40, 23), mode="bilinear")[0].argmax(0).numpy()
    )
    slot_of_label = {slot.label: slot.slot for slot in prediction.slots}
    assert np.array_equal(np.vectorize(slot_of_label.__getitem__)(prediction.labels), slot_map)
    assert len(slot_of_label) == len(np.unique(slot_map))


def test_default_fit_is_that_of_training() -> None:
    model, image = ByColour(resolution=16, num_slots=3), render_boxes(64, 32, {})
    assert predict(model, [image])[0].crop == (16, 0, 48, 32)  # unknown
    model.run_info = {"fit": "squash"}
    assert predict(model, [image])[0].crop == (0, 0, 64, 32)
    with pytest.raises(ValueError, match="Expected argument `fit` to be 'crop' or 'squash', but got 'pad'"):
        predict(model, [image], fit="pad")


def test_forward_options_reach_the_model() -> None:
    model = tiny_model()
    model.forward_options = {"num_slots": 2}
    (prediction,) = predict(model, [render_boxes(20, 20, {})])
    assert prediction.discovery.masks.shape == (1, 2, 16, 16)


def test_more_than_254_slots_are_refused() -> None:
    class ManySlots(ByColour):
        def forward(self, images: Tensor, **options: int) -> Discovery:
            return Discovery(images.new_zeros(1, 255, 4), images.new_zeros(1, 255, 16, 16))

    with pytest.raises(UserError, match="Expected at most 254 slots, but the model has 255"):
        predict(ManySlots(resolution=16), [render_boxes(16, 16, {})])


def test_downsizing_is_antialiased() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 1, 32, 32)
    assert (resize_bilinear(stripes, 4, 4)[..., 1:-1] - 0.5).abs().max() < 0.05
