import numpy as np
import torch

from object_discovery.data.raycast import shadows
from object_discovery.data.raycast.intersection import Vector
from object_discovery.data.raycast.layout import sample_layouts
from object_discovery.data.raycast.primary import make_geometry
from tests.data.raycast.rooms import make_room


def _point(x: float, y: float, z: float) -> Vector:
    return torch.tensor([x]), torch.tensor([y]), torch.tensor([z])


def test_a_point_behind_an_object_is_in_full_shadow() -> None:
    for shape in ("cube", "sphere", "cylinder"):
        room = make_room((shape, 1, 0.0, 0.0))
        geometry = make_geometry(room)
        key = room.lights[0, 0]
        behind = (room.position[0, 0] - key) * key[2] / (key[2] - 0.7) + key  # end of the ray through the centre
        light = torch.from_numpy(key - room.position[0, 0]).float()
        for point, expected in ((behind, 1.0), (behind + np.array([0, 2.5, 0]), 0.0)):
            ray = torch.from_numpy(point - key).float()
            occluded = shadows.occlusion(geometry, torch.zeros(1, dtype=torch.long), _point(*light), _point(*ray))
            assert occluded.item() == expected


def test_tiled_shadows_equal_those_without_tiles() -> None:
    layout, _ = sample_layouts(np.arange(3), seed=5, counts=(4, 8), trial=0)
    geometry = make_geometry(layout)
    u, v = torch.linspace(-0.27, 0.27, 20), torch.linspace(0.26, -0.28, 20)
    floor = shadows.floor_points(geometry, u, v)
    result = shadows.floor_shadows(geometry, floor, 20)
    expected = torch.zeros_like(result)
    for scene, number in np.argwhere(layout.present):
        for light in range(3):
            source, centre = geometry.lights[:, scene, light], geometry.centre[:, scene, number]
            x, y, z = (
                coordinate[scene : scene + 1] - position for coordinate, position in zip(floor, source, strict=True)
            )
            objects = torch.tensor([scene * 10 + number])
            fraction = shadows.occlusion(geometry, objects, _point(*(source - centre)), (x, y, z))[0]
            expected[scene, light] = torch.maximum(expected[scene, light], fraction)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert (expected.amax(-1) > 0.5).all()


def test_objects_shade_others_but_not_themselves() -> None:
    room = make_room(("sphere", 0, 0.0, 0.0), ("cube", 1, 1.2, -0.55), ("sphere", 0, -2.0, -2.0))
    geometry = make_geometry(room)
    objects = torch.tensor([0, 1, 2])
    points = torch.from_numpy(room.position[0, :3]).float()
    points[1, 2] += 0.67
    occluded = shadows.object_shadows(geometry, objects, (points[:, 0] + 0.2, points[:, 1] - 0.1, points[:, 2]))
    assert occluded[0].tolist()[0] == 1
    assert occluded[1:, 0].tolist() == [0, 0]


def test_ambient_occlusion_darkens_the_floor_near_objects() -> None:
    geometry = make_geometry(make_room(("cylinder", 1, 0.0, 0.0)))
    x = torch.tensor([[0.8, 1.2, 2.0, 5.0]])
    ambient = shadows.ambient_occlusion(geometry, (x, 0 * x, 0 * x))[0]
    assert (ambient[1:] > ambient[:-1]).all()
    assert ambient[-1] > 0.99
