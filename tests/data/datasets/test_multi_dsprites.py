import math
import zlib

import numpy as np
import pytest

from object_discovery.data.datasets import multi_dsprites
from object_discovery.data.datasets.multi_dsprites import SHAPES, VARIANTS, generate_multi_dsprites

# unit shapes: an ellipse of semi-axes 0.6^-0.5 and 1.6^-0.5, the heart (x^2 + y^2 - 1)^3 = x^2 y^3, a square of side 2
AREAS = {"oval": math.pi / math.sqrt(0.6 * 1.6), "heart": 3.6620, "square": 4.0}


@pytest.mark.parametrize(
    ("variant", "min_objects", "max_objects"),
    [("binarized", 2, 3), ("colored_on_grayscale", 2, 5), ("colored_on_colored", 1, 4)],
)
def test_labels_are_contiguous_and_object_counts_as_published(variant: str, min_objects: int, max_objects: int) -> None:
    images, masks = generate_multi_dsprites(np.arange(300), variant=variant)
    labels = [np.unique(mask).tolist() for mask in masks]
    assert all(unique == list(range(len(unique))) for unique in labels)
    assert {len(unique) - 1 for unique in labels} == set(range(min_objects, max_objects + 1))
    assert images.shape == (300, 64, 64, 3)


def test_binarized_is_white_on_black() -> None:
    images, masks = generate_multi_dsprites(np.arange(20), variant="binarized")
    np.testing.assert_array_equal(images, np.where(masks > 0, 255, 0)[..., None].repeat(3, -1))


@pytest.mark.parametrize(("variant", "gray"), [("colored_on_grayscale", True), ("colored_on_colored", False)])
def test_each_entity_has_one_colour(variant: str, gray: bool) -> None:
    images, masks = generate_multi_dsprites(np.arange(40), variant=variant)
    for image, mask in zip(images, masks, strict=True):
        colours = [np.unique(image[mask == label], axis=0) for label in np.unique(mask)]
        assert all(len(colour) == 1 for colour in colours)
        assert (len(np.unique(colours[0])) == 1) == gray
        assert all(len(np.unique(colour)) > 1 for colour in colours[1:])
    assert len(np.unique(images[:, 0, 0], axis=0)) > 30


def test_counts_limit_the_number_of_objects() -> None:
    _, masks = generate_multi_dsprites(np.arange(100), counts=(3, 4))
    assert {int(mask.max()) for mask in masks} == {3, 4}


def test_scenes_depend_on_index_and_seed_only() -> None:
    images, masks = generate_multi_dsprites(np.arange(64), seed=3)
    subset, subset_masks = generate_multi_dsprites([40, 7], seed=3)
    np.testing.assert_array_equal(subset, images[[40, 7]])
    np.testing.assert_array_equal(subset_masks, masks[[40, 7]])
    assert (generate_multi_dsprites(np.arange(64), seed=4)[1] != masks).any((1, 2)).all()


def test_checksums_of_scenes() -> None:
    images, masks = generate_multi_dsprites(np.arange(16), seed=1)
    assert (zlib.crc32(images.tobytes()), zlib.crc32(masks.tobytes())) == (2225796339, 2394038938)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_their_area_at_every_orientation_and_scale(shape: str) -> None:
    orientations = np.tile(np.arange(40), 2)
    scales = np.repeat([0.5, 1.0], 40).astype(np.float32)
    offsets = np.full((80, 2), 16.2, dtype=np.float32)
    inside = multi_dsprites._sprites(np.full(80, SHAPES.index(shape)), orientations, scales, offsets)
    area = AREAS[shape] * (10.5 * scales) ** 2
    pixels = inside.sum((1, 2))
    np.testing.assert_allclose(pixels[:40], area[:40], rtol=0.1)
    np.testing.assert_allclose(pixels[40:], area[40:], rtol=0.05)
    np.testing.assert_allclose(np.mean(pixels[40:]), area[40], rtol=0.005)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_within_their_radius(shape: str) -> None:
    angle = np.linspace(0, 2 * np.pi, 1000, dtype=np.float32)
    radius = np.float32(15.5 / 10.5)
    assert not multi_dsprites._inside(shape, radius * np.cos(angle), radius * np.sin(angle)).any()


def test_heart_of_orientation_zero_is_upright_and_symmetric() -> None:
    orientation = np.zeros(1, dtype=np.int64)
    offsets = np.full((1, 2), 16, dtype=np.float32)
    heart = multi_dsprites._sprites(
        orientation + SHAPES.index("heart"), orientation, np.ones(1, dtype=np.float32), offsets
    )[0]
    rows = np.flatnonzero(heart.any(1))
    assert heart[rows[2]].sum() > 2 * heart[rows[-3]].sum()
    np.testing.assert_array_equal(heart, heart[:, ::-1])


def test_sprites_are_inside_the_image() -> None:
    _, masks = generate_multi_dsprites(np.arange(2000), counts=(1, 1))
    areas = (masks > 0).sum((1, 2))
    assert np.min(areas) > 0.9 * min(AREAS.values()) * 5.25**2
    _, rows, columns = np.nonzero(masks)
    assert set(range(2, masks.shape[1] - 2)) <= set(rows.tolist()) & set(columns.tolist())


def test_later_sprites_occlude_earlier_ones() -> None:
    centres = np.array([[[20, 20], [20, 24]]], dtype=np.float32)
    inside = np.ones((1, 2, 32, 32), dtype=bool)
    mask = multi_dsprites._compose(centres, inside)[0]
    assert mask[20, 20] == 2
    assert mask[20, 5] == 1


def test_sprites_are_visible_without_resampling() -> None:
    counts = np.full(300, 5)
    masks = multi_dsprites._sample_masks(np.arange(300), counts, seed=0, rounds=0)
    assert multi_dsprites._visible(masks, 5).all()


def test_hidden_sprites_are_detected() -> None:
    assert multi_dsprites._visible(np.array([[[0, 2, 2]]], dtype=np.uint8), 2).tolist() == [[False, True]]


def test_variants_equal_those_of_the_published_files() -> None:
    assert set(VARIANTS) == {"binarized", "colored_on_grayscale", "colored_on_colored"}
