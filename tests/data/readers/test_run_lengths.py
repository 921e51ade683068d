from itertools import pairwise

import numpy as np
import pytest
from pycocotools import mask as rle

from object_discovery.data.readers.run_lengths import count_visible_masks, decode_run_lengths

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")

SIZES = np.array([[7, 9], [9, 7], [1, 1], [40, 300], [12, 12]])


def random_masks(number: int) -> list[np.ndarray]:
    """Generate masks for each image: boxes, noise, empty, full, and only the first and last pixel."""
    generator, masks = np.random.default_rng(number), []
    for height, width in np.repeat(SIZES, number, axis=0).tolist():
        mask = np.zeros((height, width), np.uint8, order="F")
        kind = generator.integers(0, 6)
        top, left = generator.integers(0, height), generator.integers(0, width)
        if kind < 3:
            mask[top : top + generator.integers(1, 9), left : left + generator.integers(1, 9)] = 1
        elif kind == 3:
            mask[:] = generator.random(mask.shape) < 0.3
        elif kind == 4:
            mask[:] = generator.integers(0, 2)
        else:
            mask[0, 0] = mask[-1, -1] = 1
        masks.append(mask)
    return masks


def encode(masks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    strings = [rle.encode(mask)["counts"] for mask in masks]
    return np.frombuffer(b"".join(strings), np.uint8), np.cumsum([0, *map(len, strings)])


def test_decoded_runs_equal_those_of_the_masks() -> None:
    masks = random_masks(8)
    runs, indices = decode_run_lengths(*encode(masks))
    for number, mask in enumerate(masks):
        flat = np.concatenate([[0], mask.ravel(order="F"), [1 - mask[-1, -1]]])
        expected = [b - a for a, b in pairwise([0, *np.flatnonzero(np.diff(flat)).tolist()])]
        assert runs[indices == number].tolist() == expected


def test_no_strings_give_no_runs() -> None:
    runs, indices = decode_run_lengths(np.empty(0, np.uint8), np.array([0]))
    assert (runs.tolist(), indices.tolist()) == ([], [])


@pytest.mark.parametrize("is_cropped", [False, True])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_counts_equal_those_of_decoded_masks(number: int, is_cropped: bool) -> None:
    masks, images = random_masks(number), np.repeat(np.arange(len(SIZES)), number)
    crowd = np.random.default_rng(number).random(len(masks)) < 0.3
    side = SIZES.min(axis=1)
    squares = np.stack([(SIZES[:, 0] - side) // 2, (SIZES[:, 1] - side) // 2, side, side], axis=1)
    crops = squares if is_cropped else np.concatenate([np.zeros_like(SIZES), SIZES], axis=1)
    counts = count_visible_masks(*decode_run_lengths(*encode(masks)), crowd, images, SIZES, crops)
    for image, (top, left, height, width) in enumerate(crops.tolist()):
        cropped = [masks[index][top : top + height, left : left + width] for index in np.flatnonzero(images == image)]
        coverage = np.sum(cropped, axis=0)
        objects = [mask for mask, is_crowd in zip(cropped, crowd[images == image], strict=True) if not is_crowd]
        assert counts[image] == sum(bool((mask & (coverage == 1)).any()) for mask in objects)


def test_images_without_masks_have_count_0() -> None:
    counts = count_visible_masks(
        *decode_run_lengths(*encode([np.ones((7, 9), np.uint8, order="F")])),
        np.zeros(1),
        np.array([1]),
        np.array([[7, 9], [7, 9], [7, 9]]),
        np.array([[0, 1, 7, 7]] * 3),
    )
    assert counts.tolist() == [0, 1, 0]
