import numpy as np
import pytest
import torch

from object_discovery.data.raycast.textures import PATTERNS, albedo, sample_textures, value_noise


def _trilinear(lattice: np.ndarray, point: np.ndarray) -> float:
    """Blend the eight corners around a point, with smooth weights."""
    cell = np.floor(point).astype(int)
    part = point - cell
    part = part * part * (3 - 2 * part)
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part))
        x, y, z = (cell + corner) % 16
        total += weight * lattice[x, y, z]
    return total


def test_noise_blends_the_corners_of_its_cell() -> None:
    generator = np.random.default_rng(0)
    lattice = generator.random((16, 16, 16))
    points = generator.uniform(-20, 20, (50, 3))
    x, y, z = torch.from_numpy(points).unbind(1)
    found = value_noise(torch.from_numpy(lattice.ravel()), (x, y, z))
    np.testing.assert_allclose(found.numpy(), [_trilinear(lattice, point) for point in points], atol=1e-12)
    flat = value_noise(torch.from_numpy(lattice.ravel()), (x, y, z), flat=True)
    points[:, 2] = 0
    np.testing.assert_allclose(flat.numpy(), [_trilinear(lattice, point) for point in points], atol=1e-12)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("pattern", range(len(PATTERNS)))
def test_every_pattern_mixes_two_colours_and_shows_both(pattern: int, flat: bool) -> None:
    materials = sample_textures(np.arange(1), seed=0)._replace(pattern=torch.full((11,), pattern))
    point = torch.from_numpy(np.random.default_rng(0).uniform(-2, 2, (3, 1, 4000))).float()
    point[2] *= 0 if flat else 1
    surface = torch.tensor([4])
    colour = torch.stack(albedo(materials, surface, tuple(point), flat)).flatten(1)  # type: ignore[arg-type]
    first, second = materials.colours[:, :, 4, None]
    mix = (colour - first) / (second - first)
    torch.testing.assert_close(mix[0], mix[1], rtol=0, atol=1e-3)
    assert mix.min() > -1e-3
    assert mix.max() < 1 + 1e-3
    assert (mix[0] < 0.1).float().mean() + (mix[0] > 0.9).float().mean() > 0.1
    assert mix[0].max() - mix[0].min() > 0.9


def test_materials_depend_on_the_number_of_the_scene_only() -> None:
    together, alone = sample_textures(np.arange(5), seed=1), sample_textures(np.array([3]), seed=1)
    for some, one in zip(together[:-1], alone[:-1], strict=True):
        assert torch.equal(some[..., 33:44], one)
    assert not torch.equal(sample_textures(np.array([3]), seed=2).colours, alone.colours)
