import numpy as np
import numpy.typing as npt
import pytest

from object_discovery.data.object_encoding import ATTRIBUTES
from object_discovery.data.raycast.camera import look_at_origin, project
from object_discovery.data.raycast.layout import (
    COLOURS,
    DISTANCE,
    MARGIN,
    MATERIALS,
    SHAPES,
    SIZES,
    Layout,
    arrange_in_rows,
    sample_layouts,
    set_prediction_targets,
)


@pytest.fixture(scope="module")
def placed() -> Layout:
    layout, good = sample_layouts(np.arange(300), seed=2, counts=(3, 10), trial=0)
    return layout.take(np.flatnonzero(good))


def test_numbers_of_objects_are_uniform_over_the_published_range() -> None:
    layout, _ = sample_layouts(np.arange(4000), seed=0, counts=(3, 10), trial=0)
    counts = np.bincount(layout.present.sum(1), minlength=11)
    assert (counts[:3] == 0).all()
    np.testing.assert_allclose(counts[3:], 500, atol=100)


def test_every_kind_is_as_frequent_as_the_others() -> None:
    layout, _ = sample_layouts(np.arange(1000), seed=0, counts=(10, 10), trial=0)
    for field, kinds in (("shape", SHAPES), ("size", SIZES), ("material", MATERIALS), ("colour", COLOURS)):
        share = np.bincount(getattr(layout, field).ravel(), minlength=len(kinds)) / layout.shape.size
        np.testing.assert_allclose(share, 1 / len(kinds), atol=0.02)


def test_objects_keep_their_distance(placed: Layout) -> None:
    assert (np.abs(placed.position) <= 3).all()
    camera = look_at_origin(placed.eye)
    for scene in range(len(placed.size)):
        number = placed.present[scene].sum()
        place, size = placed.position[scene, :number, :2], np.array(SIZES)[placed.size[scene, :number]]
        offset = place[:, None] - place
        others = ~np.eye(number, dtype=bool)
        gap = np.linalg.norm(offset, axis=-1) - size - size[:, None]
        assert (gap[others] >= DISTANCE - 1e-9).all()
        for axis in (camera.right[scene, :2], camera.forward[scene, :2]):
            along: npt.NDArray[np.float64] = np.abs(offset @ axis / np.linalg.norm(axis))
            assert (along[others] >= MARGIN - 1e-9).all()


def test_objects_stand_in_the_frame(placed: Layout) -> None:
    seen = project(look_at_origin(placed.eye), placed.position)[placed.present]
    assert ((seen >= 0) & (seen <= 1)).all()


def test_camera_and_lights_are_jittered_but_do_not_depend_on_the_trial() -> None:
    first, again = (sample_layouts(np.arange(500), 0, (3, 10), trial)[0] for trial in (0, 1))
    np.testing.assert_array_equal(first.eye, again.eye)
    np.testing.assert_array_equal(first.lights, again.lights)
    assert (first.position != again.position).any((1, 2)).all()
    np.testing.assert_allclose(np.ptp(first.eye, axis=0), 1, atol=0.05)
    np.testing.assert_allclose(np.ptp(first.lights, axis=0), 2, atol=0.1)


def test_objects_that_are_set_out_keep_their_distance() -> None:
    layout = arrange_in_rows(sample_layouts(np.arange(50), 0, (10, 10), trial=0)[0])
    offset = np.linalg.norm(layout.position[:, :, None] - layout.position[:, None], axis=-1)
    assert (offset[:, ~np.eye(10, dtype=bool)] > DISTANCE + 2 * SIZES[0]).all()
    assert (np.abs(layout.position) <= 3).all()
    assert (layout.size == 0).all()


def test_targets_say_what_there_is() -> None:
    layout, _ = sample_layouts(np.arange(30), 0, (3, 10), trial=0)
    targets = set_prediction_targets(layout)
    assert targets.shape == (30, 10, 19)
    assert targets.dtype == np.float32
    assert (targets[~layout.present] == 0).all()
    real = targets[layout.present]
    np.testing.assert_allclose(6 * real[:, :3] - 3, layout.position[layout.present], atol=1e-5)
    for part, field, kinds in (
        ((3, 5), "size", ("small", "large")),
        ((5, 7), "material", MATERIALS),
        ((7, 10), "shape", SHAPES),
        ((10, 18), "colour", tuple(COLOURS)),
    ):
        names = np.array(ATTRIBUTES[field.replace("colour", "color")])[real[:, slice(*part)].argmax(1)]
        np.testing.assert_array_equal(names, np.array(kinds)[getattr(layout, field)[layout.present]])
        np.testing.assert_array_equal(real[:, slice(*part)].sum(1), 1)
    np.testing.assert_array_equal(real[:, 3] == 1, real[:, 2] > 0.6)  # what is large stands 0.7 high, else 0.35
    assert (real[:, 18] == 1).all()
