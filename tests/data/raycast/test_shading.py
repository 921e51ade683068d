import numpy as np
import pytest
import torch

from object_discovery.data.raycast.shading import incident_light, normalise, normals
from tests.data.raycast.marching import signed_distance


@pytest.mark.parametrize("shape", range(3))
def test_normals_equal_the_gradient_of_the_signed_distance_away_from_edges(shape: int) -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(2000, 3))
    points /= np.linalg.norm(points, axis=1)[:, None] if shape == 1 else np.abs(points).max(1)[:, None]
    if shape == 2:
        points = points[np.abs(np.linalg.norm(points[:, :2], axis=1) - 0.4) < 0.4]  # on a cap
    points *= 0.7
    is_inner = np.sort(np.abs(points), axis=1)[:, 1] < 0.85 * 0.7 if shape == 0 else np.ones(len(points), bool)
    steps = 1e-5 * np.eye(3)
    gradient = np.stack(
        [signed_distance(shape, 0.7, points + s) - signed_distance(shape, 0.7, points - s) for s in steps], axis=1
    )
    gradient /= np.linalg.norm(gradient, axis=1)[:, None]
    x, y, z = torch.from_numpy(points).unbind(1)
    number = torch.full((len(points),), shape)
    result = torch.stack(normals(number, torch.full((len(points),), 0.7, dtype=torch.float64), (x, y, z)), dim=1)
    np.testing.assert_allclose(result.norm(dim=1).numpy(), 1, atol=1e-6)
    np.testing.assert_allclose(result.numpy()[is_inner], gradient[is_inner], atol=1e-6)


def test_the_normal_of_a_cylinder_side_is_radial() -> None:
    x, y, z = torch.tensor([0.6]), torch.tensor([-0.8]), torch.tensor([0.3])
    normal = normals(torch.tensor([2]), torch.tensor([1.0]), (x, y, z))
    assert [round(coordinate.item(), 6) for coordinate in normal] == [0.6, -0.8, 0]


def test_irradiance_follows_inverse_square_and_cosine_laws() -> None:
    def irradiance(height: float, offset: float, normal: tuple[float, float, float]) -> float:
        light = torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([height])
        point = torch.tensor([offset]), torch.tensor([0.0]), torch.tensor([0.0])
        x, y, z = (torch.tensor([coordinate]) for coordinate in normal)
        return incident_light(point, (x, y, z), light)[0].item()

    assert irradiance(2, 0, (0, 0, 1)) == pytest.approx(1 / 4)
    assert irradiance(4, 0, (0, 0, 1)) == pytest.approx(1 / 16)
    assert irradiance(2, 0, (0.6, 0, 0.8)) == pytest.approx(0.8 / 4)
    assert irradiance(2, 0, (0, 0, -1)) == 0
    assert irradiance(1, 1, (0, 0, 1)) == pytest.approx(
        1 / 2 / 2
    )  # cosines of 45 degrees at the light and at the floor


def test_normalise_keeps_zero_vectors() -> None:
    zero = torch.zeros(1)
    assert [coordinate.item() for coordinate in normalise((zero, zero, zero))] == [0, 0, 0]
