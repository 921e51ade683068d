import numpy as np
import pytest
import torch

from object_discovery.data.raycast.camera import look_at_origin
from object_discovery.data.raycast.layout import CUBE_SIDE, SIZES, sample_layouts
from object_discovery.data.raycast.primary import cast_primary, make_geometry
from tests.data.raycast.marching import march
from tests.data.raycast.rooms import make_room

RESOLUTION = 24


def _rays(eye: np.ndarray, resolution: int) -> np.ndarray:
    """Rays through the pixel centres of the published crop, from row 29 and column 64 of 320 x 240 pixels."""
    camera = look_at_origin(eye[None])
    pixel = (np.arange(resolution) + 0.5) / resolution * 192
    u, v = (pixel + 64 - 160) / 350, (120 - 29 - pixel) / 350
    return camera.forward + u[None, :, None] * camera.right + v[:, None, None] * camera.up


@pytest.mark.parametrize("scene", range(6))
def test_labels_and_depth_equal_those_of_sphere_tracing(scene: int) -> None:
    layout = sample_layouts(np.arange(6), seed=1, counts=(6, 10), trial=0)[0].take(np.array([scene]))
    labels, depth = (part[0].numpy() for part in cast_primary(make_geometry(layout), RESOLUTION))
    rays = _rays(layout.eye[0], RESOLUTION).reshape(-1, 3)
    nearest, expected = -layout.eye[0, 2] / rays[:, 2], np.zeros(len(rays))
    is_grazing = np.zeros(len(rays), dtype=bool)
    for number in np.flatnonzero(layout.present[0]):
        (cos, sin), shape = layout.rotation[0, number], layout.shape[0, number]
        rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        size = SIZES[layout.size[0, number]] * (CUBE_SIDE if shape == 0 else 1)
        origin = np.broadcast_to(rotation @ (layout.eye[0] - layout.position[0, number]), rays.shape)
        t, closest = march(shape, size, origin, rays @ rotation.T, steps=150)
        is_grazing |= (closest > 1e-6) & (closest < 3e-3)
        closer = (closest <= 1e-6) & (t < nearest)
        nearest[closer], expected[closer] = t[closer], number + 1
    assert is_grazing.mean() < 0.03
    np.testing.assert_array_equal(labels.ravel()[~is_grazing], expected[~is_grazing])
    np.testing.assert_allclose(depth.ravel()[~is_grazing], nearest[~is_grazing], rtol=1e-5)
    assert len(np.unique(labels)) > 4


def test_the_nearest_object_is_visible() -> None:
    behind, front = ("cylinder", 1, 0.0, 0.0), ("sphere", 0, 1.3, -1.13)
    for order in ((behind, front), (front, behind)):
        labels, depth = cast_primary(make_geometry(make_room(*order)), 64)
        front_labels, front_depth = cast_primary(make_geometry(make_room(front)), 64)
        assert (labels[front_labels == 1] == 1 + order.index(front)).all()
        torch.testing.assert_close(depth[front_labels == 1], front_depth[front_labels == 1], rtol=3e-6, atol=0)
        assert (labels == 1 + order.index(behind)).any()


def test_label_maps_agree_between_resolutions() -> None:
    geometry = make_geometry(sample_layouts(np.arange(4), seed=0, counts=(5, 5), trial=0)[0])
    fine, _ = cast_primary(geometry, 93)
    coarse, _ = cast_primary(geometry, 31)
    torch.testing.assert_close(fine[:, 1::3, 1::3], coarse)


def test_a_scene_without_objects_is_floor() -> None:
    labels, depth = cast_primary(make_geometry(make_room()), 10)
    assert labels.shape == depth.shape == (1, 10, 10)
    assert not labels.any()
    assert (depth[:, :-1] > depth[:, 1:]).all()
