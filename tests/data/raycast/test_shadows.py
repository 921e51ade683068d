import numpy as np
import torch

from object_discovery.data.raycast import shadows
from object_discovery.data.raycast.intersection import Vector
from object_discovery.data.raycast.layout import sample_layouts
from object_discovery.data.raycast.primary import make_geometry
from tests.data.raycast.rooms import make_room


def _point(x: float, y: float, z: float) -> Vector:
    return torch.tensor([x]), torch.tensor([y]), torch.tensor([z])


def test_a_point_behind_an_object_is_in_its_shadow() -> None:
    for shape in ("cube", "sphere", "cylinder"):
        room = make_room((shape, 1, 0.0, 0.0))
        geometry = make_geometry(room)
        key = room.lights[0, 0]
        behind = (room.position[0, 0] - key) * key[2] / (key[2] - 0.7) + key  # where the ray through the centre ends
        light = torch.from_numpy(key - room.position[0, 0]).float()
        for place, expected in ((behind, 1.0), (behind + np.array([0, 2.5, 0]), 0.0)):
            ray = torch.from_numpy(place - key).float()
            hidden = shadows.occlusion(geometry, torch.zeros(1, dtype=torch.long), _point(*light), _point(*ray))
            assert hidden.item() == expected


def test_shadows_of_tiles_are_those_of_the_whole_floor() -> None:
    layout, _ = sample_layouts(np.arange(3), seed=5, counts=(4, 8), trial=0)
    geometry = make_geometry(layout)
    u, v = torch.linspace(-0.27, 0.27, 20), torch.linspace(0.26, -0.28, 20)
    floor = shadows.floor_points(geometry, u, v)
    found = shadows.floor_shadows(geometry, floor, 20)
    expected = torch.zeros_like(found)
    for scene, number in np.argwhere(layout.present):
        for light in range(3):
            source, centre = geometry.lights[:, scene, light], geometry.centre[:, scene, number]
            x, y, z = (part[scene : scene + 1] - lamp for part, lamp in zip(floor, source, strict=True))
            objects = torch.tensor([scene * 10 + number])
            shade = shadows.occlusion(geometry, objects, _point(*(source - centre)), (x, y, z))[0]
            expected[scene, light] = torch.maximum(expected[scene, light], shade)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (expected.amax(-1) > 0.5).all()


def test_an_object_shades_another_but_not_itself() -> None:
    room = make_room(("sphere", 0, 0.0, 0.0), ("cube", 1, 1.2, -0.55), ("sphere", 0, -2.0, -2.0))
    geometry = make_geometry(room)
    objects = torch.tensor([0, 1, 2])
    facing = torch.from_numpy(room.position[0, :3]).float()
    facing[1, 2] += 0.67
    hidden = shadows.object_shadows(geometry, objects, (facing[:, 0] + 0.2, facing[:, 1] - 0.1, facing[:, 2]))
    assert hidden[0].tolist()[0] == 1
    assert hidden[1:, 0].tolist() == [0, 0]


def test_the_floor_is_darker_beside_objects() -> None:
    geometry = make_geometry(make_room(("cylinder", 1, 0.0, 0.0)))
    x = torch.tensor([[0.8, 1.2, 2.0, 5.0]])
    light = shadows.ambient_occlusion(geometry, (x, 0 * x, 0 * x))[0]
    assert (light[1:] > light[:-1]).all()
    assert light[-1] > 0.99
