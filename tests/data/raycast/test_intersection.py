import numpy as np
import pytest
import torch

from object_discovery.data.raycast.intersection import INTERVALS, Vector
from tests.data.raycast.marching import march, signed_distance


def _vector(array: np.ndarray) -> Vector:
    x, y, z = torch.from_numpy(array).unbind(1)
    return x, y, z


@pytest.mark.parametrize("shape", range(3))
def test_entries_equal_those_of_sphere_tracing(shape: int) -> None:
    generator = np.random.default_rng(shape)
    origin = 4 * generator.normal(size=(400, 3))
    origin = origin[np.linalg.norm(origin, axis=1) > 2]
    direction = (generator.uniform(-1.2, 1.2, origin.shape) - origin) * generator.uniform(0.5, 2, (len(origin), 1))
    enter, leave = INTERVALS[shape](_vector(origin), _vector(direction), torch.tensor(0.7, dtype=torch.float64))
    t, closest = march(shape, 0.7, origin, direction)
    hit = (enter < leave).numpy()
    is_clear = (closest < 1e-9) | (closest > 1e-3)
    assert is_clear.mean() > 0.9
    assert 0.1 < hit.mean() < 0.9
    np.testing.assert_array_equal(hit[is_clear], closest[is_clear] < 1e-9)
    np.testing.assert_allclose(enter.numpy()[hit & is_clear], t[hit & is_clear], atol=1e-6)


@pytest.mark.parametrize("shape", range(3))
def test_entry_and_exit_lie_on_the_surface(shape: int) -> None:
    generator = np.random.default_rng(shape)
    origin, target = generator.normal(size=(200, 3)) + 4, generator.uniform(-0.2, 0.2, (200, 3))
    interval = INTERVALS[shape](_vector(origin), _vector(target - origin), torch.tensor(0.5, dtype=torch.float64))
    for t in interval:
        points = origin + t.numpy()[:, None] * (target - origin)
        np.testing.assert_allclose(signed_distance(shape, 0.5, points), 0, atol=1e-12)


@pytest.mark.parametrize("shape", range(3))
def test_rays_along_an_axis_hit_or_miss(shape: int) -> None:
    for axis in range(3):
        origin, direction = torch.full((2, 3), 0.25), torch.zeros(2, 3)
        origin[:, axis], direction[:, axis] = -3, 1
        origin[1, (axis + 1) % 3] = 2
        enter, leave = INTERVALS[shape](tuple(origin.unbind(1)), tuple(direction.unbind(1)), torch.tensor(1.0))  # type: ignore[arg-type]
        assert (enter < leave).tolist() == [True, False]
