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
    layout, is_placed = sample_layouts(np.arange(300), seed=2, counts=(3, 10), trial=0)
    return layout.take(np.flatnonzero(is_placed))


def test_numbers_of_objects_are_uniform_in_the_published_range() -> None:
    layout, _ = sample_layouts(np.arange(4000), seed=0, counts=(3, 10), trial=0)
    counts = np.bincount(layout.present.sum(1), minlength=11)
    assert (counts[:3] == 0).all()
    np.testing.assert_allclose(counts[3:], 500, atol=100)


def test_attributes_are_uniform() -> None:
    layout, _ = sample_layouts(np.arange(1000), seed=0, counts=(10, 10), trial=0)
    for field, values in (("shape", SHAPES), ("size", SIZES), ("material", MATERIALS), ("colour", COLOURS)):
        share = np.bincount(getattr(layout, field).ravel(), minlength=len(values)) / layout.shape.size
        np.testing.assert_allclose(share, 1 / len(values), atol=0.02)


def test_objects_have_the_minimum_distances(placed: Layout) -> None:
    assert (np.abs(placed.position) <= 3).all()
    camera = look_at_origin(placed.eye)
    for scene in range(len(placed.size)):
        number = placed.present[scene].sum()
        position, size = placed.position[scene, :number, :2], np.array(SIZES)[placed.size[scene, :number]]
        offset = position[:, None] - position
        pairs = ~np.eye(number, dtype=bool)
        gap = np.linalg.norm(offset, axis=-1) - size - size[:, None]
        assert (gap[pairs] >= DISTANCE - 1e-9).all()
        for axis in (camera.right[scene, :2], camera.forward[scene, :2]):
            component: npt.NDArray[np.float64] = np.abs(offset @ axis / np.linalg.norm(axis))
            assert (component[pairs] >= MARGIN - 1e-9).all()


def test_objects_are_inside_the_frame(placed: Layout) -> None:
    projected = project(look_at_origin(placed.eye), placed.position)[placed.present]
    assert ((projected >= 0) & (projected <= 1)).all()


def test_camera_and_lights_are_jittered_but_do_not_depend_on_the_trial() -> None:
    first, second = (sample_layouts(np.arange(500), 0, (3, 10), trial)[0] for trial in (0, 1))
    np.testing.assert_array_equal(first.eye, second.eye)
    np.testing.assert_array_equal(first.lights, second.lights)
    assert (first.position != second.position).any((1, 2)).all()
    np.testing.assert_allclose(np.ptp(first.eye, axis=0), 1, atol=0.05)
    np.testing.assert_allclose(np.ptp(first.lights, axis=0), 2, atol=0.1)


def test_objects_arranged_in_rows_are_small_and_apart() -> None:
    layout = arrange_in_rows(sample_layouts(np.arange(50), 0, (10, 10), trial=0)[0])
    offset = np.linalg.norm(layout.position[:, :, None] - layout.position[:, None], axis=-1)
    assert (offset[:, ~np.eye(10, dtype=bool)] > DISTANCE + 2 * SIZES[0]).all()
    assert (np.abs(layout.position) <= 3).all()
    assert (layout.size == 0).all()


def test_targets_encode_the_layout() -> None:
    layout, _ = sample_layouts(np.arange(30), 0, (3, 10), trial=0)
    targets = set_prediction_targets(layout)
    assert targets.shape == (30, 10, 19)
    assert targets.dtype == np.float32
    assert (targets[~layout.present] == 0).all()
    present = targets[layout.present]
    np.testing.assert_allclose(6 * present[:, :3] - 3, layout.position[layout.present], atol=1e-5)
    for columns, field, values in (
        ((3, 5), "size", ("small", "large")),
        ((5, 7), "material", MATERIALS),
        ((7, 10), "shape", SHAPES),
        ((10, 18), "colour", tuple(COLOURS)),
    ):
        names = np.array(ATTRIBUTES[field.replace("colour", "color")])[present[:, slice(*columns)].argmax(1)]
        np.testing.assert_array_equal(names, np.array(values)[getattr(layout, field)[layout.present]])
        np.testing.assert_array_equal(present[:, slice(*columns)].sum(1), 1)
    np.testing.assert_array_equal(
        present[:, 3] == 1, present[:, 2] > 0.6
    )  # the centre of a large object is at 0.7, of a small one at 0.35
    assert (present[:, 18] == 1).all()
