import pytest
import torch
import torch.nn.functional as F

from object_discovery.layers.spatial_transform import spatial_transform


def test_box_of_the_whole_image_is_the_identity() -> None:
    glimpses = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = spatial_transform(glimpses, torch.tensor([[1.0, 1.0, 0, 0]]).expand(2, -1), size=4)
    torch.testing.assert_close(images.transpose(1, 2), glimpses)


@pytest.mark.parametrize("box", [(0.5, 0.3, 0.2, -0.4), (2.0, 1.5, 0.7, 0.1), (0.1, 0.1, -1.0, 1.0)])
def test_equals_grid_sample(box: tuple[float, float, float, float]) -> None:
    glimpses = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    width, height, x, y = box
    theta = torch.tensor([[[1 / width, 0, -x / width], [0, 1 / height, -y / height]]])
    grid = F.affine_grid(theta, [1, 3, 12, 12], align_corners=False)
    expected = F.grid_sample(glimpses, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    actual = spatial_transform(glimpses, torch.tensor([box]), 12).transpose(1, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
