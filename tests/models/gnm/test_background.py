import math

import pytest
import torch

from object_discovery.models.gnm.background import Background, upscale_factors


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64, 128, 256])
def test_product_of_upscale_factors_is_the_size(size: int) -> None:
    assert math.prod(upscale_factors(size)) == size


@pytest.mark.parametrize("resolution", [16, 35, 64])
def test_backgrounds_are_decoded_at_the_resolution(resolution: int) -> None:
    torch.manual_seed(0)
    images = Background(resolution, 8, 8, size=3).decode(torch.randn(2, 3))
    assert images.shape == (2, 3, resolution, resolution)
    assert 0 <= images.min() < images.max() <= 1


def test_posterior_flattens_channels_before_cells() -> None:
    background = Background(16, 6, 8, size=3)
    features = torch.randn(2, 3, 2)
    flat = torch.stack([features[:, cell, channel] for channel in range(2) for cell in range(3)], 1)
    torch.testing.assert_close(background.infer(features).mean, background.posterior(flat)[:, :3])
