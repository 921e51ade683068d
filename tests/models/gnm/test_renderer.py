import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.models.gnm.renderer import GlimpseDecoder, arrange, blend, spatial_transform, visible_shares

BATCH, COUNT, SIZE, GLIMPSE = 2, 5, 12, 6


def scene(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Make glimpses, presences, boxes, depths and backgrounds."""
    generator = torch.Generator().manual_seed(seed)
    glimpses = torch.rand(BATCH * COUNT, 4, GLIMPSE, GLIMPSE, generator=generator)
    sizes = 0.2 + 0.6 * torch.rand(BATCH, COUNT, 2, generator=generator)
    centres = 2 * torch.rand(BATCH, COUNT, 2, generator=generator) - 1
    presence, depth = torch.rand(BATCH, COUNT, generator=generator), torch.randn(BATCH, COUNT, 1, generator=generator)
    background = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    return glimpses, presence, torch.cat([sizes, centres], -1), depth, background


def sampled(glimpse: Tensor, box: Tensor) -> Tensor:
    """Put a glimpse `(C, g, g)` in its place by grid_sample."""
    width, height, x, y = box
    zero = torch.zeros(())
    theta = torch.stack([torch.stack([1 / width, zero, -x / width]), torch.stack([zero, 1 / height, -y / height])])
    grid = F.affine_grid(theta[None], [1, 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(glimpse[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def rendered_one_by_one(glimpses: Tensor, presence: Tensor, boxes: Tensor, depth: Tensor, background: Tensor) -> Tensor:
    """Render as published: one object after another, each by grid_sample."""
    images = []
    for b in range(BATCH):
        opacity, painted, weights = [], [], []
        for n in range(COUNT):
            glimpse = glimpses[b * COUNT + n]
            alpha = glimpse[3:] * presence[b, n]
            opacity.append(sampled(alpha, boxes[b, n]))
            painted.append(sampled(alpha * glimpse[:3], boxes[b, n]))
            weights.append(sampled(alpha * torch.sigmoid(-depth[b, n]), boxes[b, n]))
        total = torch.stack(weights).sum(0) + 1e-15
        foreground = sum((y * w / total for y, w in zip(painted, weights, strict=True)), torch.zeros(3, SIZE, SIZE))
        covered = torch.stack(opacity).sum(0).clamp(1e-15, 1 - 1e-15)
        images.append(foreground + (1 - covered) * background[b])
    return torch.stack(images)


def test_images_and_gradients_are_those_of_a_loop_with_grid_sample() -> None:
    *objects, background = scene()
    inputs = [value.double().requires_grad_() for value in (*objects, background)]
    glimpses, presence, boxes, depth, background = inputs
    # in single precision, as boxes and presences always are
    layers = arrange(glimpses.float(), presence, boxes, depth, SIZE)
    image = blend(layers, background.float()).image
    expected = rendered_one_by_one(*(value.float() for value in inputs))
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)
    weights = torch.rand(image.shape, generator=torch.Generator().manual_seed(3))
    # where nothing is clamped the straight-through gradient is the true one
    inside = (layers.opacity.detach().sum(1) < 1)[:, None]
    assert inside.any()
    found = torch.autograd.grad((image * weights * inside).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights * inside).sum(), inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_the_nearer_object_hides_the_farther_one() -> None:
    glimpses = torch.ones(2, 4, 4, 4)
    glimpses[0, :3] = torch.tensor([1.0, 0, 0])[:, None, None]
    glimpses[1, :3] = torch.tensor([0, 1.0, 0])[:, None, None]
    boxes = torch.tensor([[[1.0, 1.0, 0, 0], [0.5, 0.5, 0, 0]]])
    background = torch.zeros(1, 3, 8, 8)
    for depths, expected in (([-20.0, 20.0], [1.0, 0, 0]), ([20.0, -20.0], [0, 1.0, 0])):
        layers = arrange(glimpses, torch.ones(1, 2), boxes, torch.tensor(depths)[None, :, None], 8)
        torch.testing.assert_close(blend(layers, background).image[0, :, 4, 4], torch.tensor(expected))
        shares = visible_shares(layers)
        assert shares[0, :, 4, 4].tolist() == pytest.approx(expected[:2], abs=1e-6)
        assert shares[0, :, 1, 4].tolist() == pytest.approx([1, 0], abs=1e-6)  # the small one is not there


def test_without_objects_there_is_the_background() -> None:
    glimpses, _, boxes, depth, background = scene()
    layers = arrange(glimpses, torch.zeros(BATCH, COUNT), boxes, depth, SIZE)
    torch.testing.assert_close(blend(layers, background).image, background)
    assert not visible_shares(layers).any()


def test_coverage_can_be_forced() -> None:
    glimpses, presence, boxes, depth, background = scene()
    layers = arrange(glimpses, presence, boxes, depth, SIZE)
    forced, free = blend(layers, background, coverage=0.9), blend(layers, background)
    torch.testing.assert_close(forced.image, free.foreground + 0.1 * background)


def test_shares_and_the_rest_make_one() -> None:
    glimpses, presence, boxes, depth, _ = scene()
    layers = arrange(glimpses, presence, boxes, depth, SIZE)
    shares = visible_shares(layers)
    assert shares.min() >= 0
    torch.testing.assert_close(shares.sum(1), layers.opacity.sum(1).clamp(0, 1))


def test_whole_frames_are_only_resized() -> None:
    glimpses = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    placed = spatial_transform(glimpses, torch.tensor([[1.0, 1.0, 0, 0]]).expand(2, -1), size=4)
    torch.testing.assert_close(placed.transpose(1, 2), glimpses)


def test_glimpses_of_each_size() -> None:
    decoder = GlimpseDecoder(64, 64)
    assert [block.convolution.out_channels // 4 for block in decoder.blocks] == [128, 64, 32, 16, 8, 4]  # type: ignore
    painted = GlimpseDecoder(5, 16)(torch.randn(3, 5))
    assert painted.shape == (3, 4, 16, 16)
    assert 0 < painted.min() < painted.max() < 1


def test_centred_glimpses_begin_as_a_spot_of_one_colour() -> None:
    torch.manual_seed(0)
    painted = GlimpseDecoder(5, 16, centred=True)(torch.randn(4, 5)).detach()
    colours, opacity = painted[:, :3], painted[:, 3]
    assert colours.flatten(2).std(2).max() < 0.1
    assert (opacity[:, 4:12, 4:12] > 0.9).all()  # opaque whatever the colour
    assert (opacity[:, 0] < 0.5).all()
    assert (opacity[:, 0, [0, 15]] < 0.01).all()


def test_centred_glimpses_stay_opaque_in_the_middle_and_free_at_their_edge() -> None:
    torch.manual_seed(0)
    decoder = GlimpseDecoder(5, 16, centred=True)
    bias = decoder.blocks[-1].convolution.bias  # type: ignore[union-attr]
    assert isinstance(bias, torch.Tensor)
    with torch.no_grad():
        bias += 1000 * torch.tensor([-1.0, 1.0])[:, None].expand(2, 8).flatten()
    logit = decoder(torch.randn(4, 5)).detach()[:, 3, 8].logit(1e-6)
    places = (torch.arange(16) + 0.5) / 8 - 1
    spot = 8 - 10 * (places[8] ** 2 + places**2)
    torch.testing.assert_close((logit - spot).abs(), torch.full((4, 16), 4.0), atol=0.05, rtol=0)
    assert (logit[:, 6:10] > 3).all()
