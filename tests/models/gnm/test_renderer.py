import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.models.gnm.renderer import (
    GlimpseDecoder,
    composite,
    object_masks,
    transform_objects,
)

BATCH, COUNT, SIZE, GLIMPSE = 2, 5, 12, 6


def random_scene() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return random glimpses, presences, boxes, depths and backgrounds."""
    generator = torch.Generator().manual_seed(0)
    glimpses = torch.rand(BATCH * COUNT, 4, GLIMPSE, GLIMPSE, generator=generator)
    sizes = 0.2 + 0.6 * torch.rand(BATCH, COUNT, 2, generator=generator)
    centres = 2 * torch.rand(BATCH, COUNT, 2, generator=generator) - 1
    presence, depth = torch.rand(BATCH, COUNT, generator=generator), torch.randn(BATCH, COUNT, 1, generator=generator)
    background = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    return glimpses, presence, torch.cat([sizes, centres], -1), depth, background


def warp(glimpse: Tensor, box: Tensor) -> Tensor:
    """Warp a glimpse `(C, g, g)` into its box by grid_sample."""
    width, height, x, y = box
    zero = torch.zeros(())
    theta = torch.stack([torch.stack([1 / width, zero, -x / width]), torch.stack([zero, 1 / height, -y / height])])
    grid = F.affine_grid(theta[None], [1, 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(glimpse[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def render_one_by_one(glimpses: Tensor, presence: Tensor, boxes: Tensor, depth: Tensor, background: Tensor) -> Tensor:
    """Render with the published formula, one object after another, each by grid_sample."""
    images = []
    for b in range(BATCH):
        alphas, colours, weights = [], [], []
        for n in range(COUNT):
            glimpse = glimpses[b * COUNT + n]
            alpha = glimpse[3:] * presence[b, n]
            alphas.append(warp(alpha, boxes[b, n]))
            colours.append(warp(alpha * glimpse[:3], boxes[b, n]))
            weights.append(warp(alpha * torch.sigmoid(-depth[b, n]), boxes[b, n]))
        total = torch.stack(weights).sum(0) + 1e-15
        foreground = sum((y * w / total for y, w in zip(colours, weights, strict=True)), torch.zeros(3, SIZE, SIZE))
        total_alpha = torch.stack(alphas).sum(0).clamp(1e-15, 1 - 1e-15)
        images.append(foreground + (1 - total_alpha) * background[b])
    return torch.stack(images)


def test_images_and_gradients_equal_those_of_a_loop_with_grid_sample() -> None:
    inputs = [value.double().requires_grad_() for value in random_scene()]
    glimpses, presence, boxes, depth, background = inputs
    # in float32, like boxes and presences
    objects = transform_objects(glimpses.float(), presence, boxes, depth, SIZE)
    image = composite(objects, background.float()).image
    expected = render_one_by_one(*(value.float() for value in inputs))
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)
    weights = torch.rand(image.shape, generator=torch.Generator().manual_seed(3))
    # the straight-through gradient is exact where nothing is clamped
    is_exact = (objects.alpha.detach().sum(1) < 1)[:, None]
    assert is_exact.any()
    gradients = torch.autograd.grad((image * weights * is_exact).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weights * is_exact).sum(), inputs)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-2, atol=1e-3)


def test_nearer_object_occludes_the_farther_one() -> None:
    glimpses = torch.ones(2, 4, 4, 4)
    glimpses[0, :3] = torch.tensor([1.0, 0, 0])[:, None, None]
    glimpses[1, :3] = torch.tensor([0, 1.0, 0])[:, None, None]
    boxes = torch.tensor([[[1.0, 1.0, 0, 0], [0.5, 0.5, 0, 0]]])
    background = torch.zeros(1, 3, 8, 8)
    for depths, expected in (([-20.0, 20.0], [1.0, 0, 0]), ([20.0, -20.0], [0, 1.0, 0])):
        objects = transform_objects(glimpses, torch.ones(1, 2), boxes, torch.tensor(depths)[None, :, None], 8)
        torch.testing.assert_close(composite(objects, background).image[0, :, 4, 4], torch.tensor(expected))
        masks = object_masks(objects)
        assert masks[0, :, 4, 4].tolist() == pytest.approx(expected[:2], abs=1e-6)
        assert masks[0, :, 1, 4].tolist() == pytest.approx([1, 0], abs=1e-6)  # outside the small object


def test_image_without_objects_is_the_background() -> None:
    glimpses, _, boxes, depth, background = random_scene()
    objects = transform_objects(glimpses, torch.zeros(BATCH, COUNT), boxes, depth, SIZE)
    torch.testing.assert_close(composite(objects, background).image, background)
    assert not object_masks(objects).any()


def test_forced_alpha_replaces_that_of_the_objects() -> None:
    glimpses, presence, boxes, depth, background = random_scene()
    objects = transform_objects(glimpses, presence, boxes, depth, SIZE)
    forced, free = composite(objects, background, forced_alpha=0.9), composite(objects, background)
    torch.testing.assert_close(forced.image, free.foreground + 0.1 * background)


def test_masks_sum_to_the_clamped_total_alpha() -> None:
    glimpses, presence, boxes, depth, _ = random_scene()
    objects = transform_objects(glimpses, presence, boxes, depth, SIZE)
    masks = object_masks(objects)
    assert masks.min() >= 0
    torch.testing.assert_close(masks.sum(1), objects.alpha.sum(1).clamp(0, 1))


def test_glimpse_shapes_and_channels() -> None:
    decoder = GlimpseDecoder(64, 64)
    assert [block.convolution.out_channels // 4 for block in decoder.blocks] == [128, 64, 32, 16, 8, 4]  # type: ignore
    glimpses = GlimpseDecoder(5, 16)(torch.randn(3, 5))
    assert glimpses.shape == (3, 4, 16, 16)
    assert 0 < glimpses.min() < glimpses.max() < 1


def test_glimpses_are_initially_a_disc_of_uniform_colour() -> None:
    torch.manual_seed(0)
    glimpses = GlimpseDecoder(5, 16, disc_init=True)(torch.randn(4, 5)).detach()
    rgb, alpha = glimpses[:, :3], glimpses[:, 3]
    assert rgb.flatten(2).std(2).max() < 0.1
    assert (alpha[:, 4:12, 4:12] > 0.9).all()
    assert (alpha[:, 0] < 0.5).all()
    assert (alpha[:, 0, [0, 15]] < 0.01).all()


def test_alpha_of_disc_glimpses_changes_by_a_bounded_logit() -> None:
    torch.manual_seed(0)
    decoder = GlimpseDecoder(5, 16, disc_init=True)
    bias = decoder.blocks[-1].convolution.bias  # type: ignore[union-attr]
    assert isinstance(bias, torch.Tensor)
    with torch.no_grad():
        bias += 1000 * torch.tensor([-1.0, 1.0])[:, None].expand(2, 8).flatten()
    logit = decoder(torch.randn(4, 5)).detach()[:, 3, 8].logit(1e-6)
    coordinates = (torch.arange(16) + 0.5) / 8 - 1
    initial_logit = 8 - 10 * (coordinates[8] ** 2 + coordinates**2)
    torch.testing.assert_close((logit - initial_logit).abs(), torch.full((4, 16), 4.0), atol=0.05, rtol=0)
    assert (logit[:, 6:10] > 3).all()
