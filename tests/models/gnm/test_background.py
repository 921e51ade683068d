import math

import pytest
import torch

from object_discovery.models.gnm.background import Background, upscales


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64, 128, 256])
def test_factors_reach_the_size(size: int) -> None:
    assert math.prod(upscales(size)) == size


@pytest.mark.parametrize("resolution", [16, 35, 64])
def test_backgrounds_are_painted_at_the_resolution(resolution: int) -> None:
    torch.manual_seed(0)
    painted = Background(resolution, 8, 8, size=3).paint(torch.randn(2, 3))
    assert painted.shape == (2, 3, resolution, resolution)
    assert 0 <= painted.min() < painted.max() <= 1


def test_channels_come_first_where_images_are_read() -> None:
    background = Background(16, 6, 8, size=3)
    encoded = torch.randn(2, 3, 2)
    flat = torch.stack([encoded[:, cell, channel] for channel in range(2) for cell in range(3)], 1)
    torch.testing.assert_close(background.infer(encoded).mean, background.posterior(flat)[:, :3])
