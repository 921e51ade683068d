import numpy as np
import pytest
import torch

from object_discovery.data.raycast.textures import PATTERNS, albedo, sample_textures, value_noise


def _interpolate(lattice: np.ndarray, point: np.ndarray) -> float:
    """Interpolate the eight lattice points around a point, with smoothstep weights."""
    cell = np.floor(point).astype(int)
    fraction = point - cell
    smooth = fraction * fraction * (3 - 2 * fraction)
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, smooth, 1 - smooth))
        x, y, z = (cell + corner) % 16
        total += weight * lattice[x, y, z]
    return total


def test_value_noise_interpolates_the_lattice() -> None:
    generator = np.random.default_rng(0)
    lattice = generator.random((16, 16, 16))
    points = generator.uniform(-20, 20, (50, 3))
    x, y, z = torch.from_numpy(points).unbind(1)
    noise = value_noise(torch.from_numpy(lattice.ravel()), (x, y, z))
    np.testing.assert_allclose(noise.numpy(), [_interpolate(lattice, point) for point in points], atol=1e-12)
    flat = value_noise(torch.from_numpy(lattice.ravel()), (x, y, z), flat=True)
    points[:, 2] = 0
    np.testing.assert_allclose(flat.numpy(), [_interpolate(lattice, point) for point in points], atol=1e-12)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("pattern", range(len(PATTERNS)))
def test_every_pattern_mixes_its_two_colours(pattern: int, flat: bool) -> None:
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


def test_textures_do_not_depend_on_the_batch() -> None:
    batch, single = sample_textures(np.arange(5), seed=1), sample_textures(np.array([3]), seed=1)
    for batch_field, field in zip(batch[:-1], single[:-1], strict=True):
        assert torch.equal(batch_field[..., 33:44], field)
    assert not torch.equal(sample_textures(np.array([3]), seed=2).colours, single.colours)
