import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import center_of_mass

from object_discovery.layers.slot_centric import (
    ShapeEncoder,
    SlotCentricDecoder,
    SlotFrames,
    cell_centres,
    slot_frames,
)


def make_decoder(resolution: int = 32) -> SlotCentricDecoder:
    torch.manual_seed(0)
    decoder = SlotCentricDecoder(resolution, slot_size=8, channels=4)
    decoder.init_neutral()
    return decoder


def test_centres_match_scipy_center_of_mass() -> None:
    attention = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    centres = slot_frames(attention.flatten(2), 7).centres
    for image in range(2):
        for slot in range(3):
            y, x = center_of_mass(attention[image, slot].numpy())  # in pixels, from the centre of the first
            expected = [(2 * y + 1) / 7 - 1, (2 * x + 1) / 7 - 1]
            np.testing.assert_allclose(centres[image, slot], expected, atol=1e-5)


def test_sizes_match_the_weighted_covariance_of_numpy() -> None:
    attention = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    positions = np.stack(np.meshgrid(cell_centres(6), cell_centres(6), indexing="ij")).reshape(2, -1)
    for slot, size in enumerate(slot_frames(attention.flatten(2), 6).sizes[0]):
        covariance = np.cov(positions, aweights=attention[0, slot].flatten().numpy(), ddof=0)
        within_cells = (2 / 6) ** 2 / 12
        assert float(size) == pytest.approx((covariance.trace() / 2 + within_cells) ** 0.5, rel=1e-5)


def test_size_of_uniform_attention_is_that_of_a_uniform_distribution() -> None:
    for cells in (1, 4, 9):
        assert float(slot_frames(torch.ones(1, 1, cells**2), cells).sizes) == pytest.approx(3**-0.5)


def test_frame_of_zero_attention_is_finite_and_in_the_image_centre() -> None:
    frames = slot_frames(torch.zeros(1, 1, 9), 3)
    assert frames.centres.tolist() == [[[0, 0]]]
    assert frames.sizes.isfinite().all()


def test_shape_encoder_sees_the_attention_in_the_frame() -> None:
    torch.manual_seed(0)
    attention = torch.rand(1, 1, 64)
    frames = SlotFrames(torch.tensor([[[0.25, -0.5]]]), torch.tensor([[0.2]]))
    encoder = ShapeEncoder(5)
    y, x = (centre + 5 * 0.2 * cell_centres(14) for centre in (0.25, -0.5))  # a window of 5 standard deviations
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]
    glimpse = F.grid_sample(attention.view(1, 1, 8, 8), grid, align_corners=False).flatten(1)
    glimpse = (glimpse - glimpse.mean()) / (glimpse.var(unbiased=False) + 1e-5).sqrt()
    expected = encoder.linear(glimpse) + encoder.mlp(glimpse)
    torch.testing.assert_close(encoder(attention, frames, 8)[0], expected, rtol=1e-4, atol=1e-4)


def test_shapes_are_independent_of_position() -> None:
    attention = torch.zeros(1, 2, 16, 16)
    attention[0, 0, 3:6, 2:7] = attention[0, 1, 8:11, 9:14] = 1
    flat = attention.flatten(2)
    shapes = ShapeEncoder(5)(flat, slot_frames(flat, 16), 16)
    torch.testing.assert_close(shapes[0, 0], shapes[0, 1], rtol=1e-4, atol=1e-4)


def test_decoder_is_equivariant_to_translation_of_frames() -> None:
    decoder = make_decoder()
    with torch.no_grad():
        decoder.content.weight[:, 8:] = 0  # of the position and size of the window
    slots, sizes = torch.randn(1, 2, 8), torch.full((1, 2), 0.1)
    centres = torch.tensor([[[-0.25, 0.0], [0.0, 0.25]]])
    original = decoder(slots, SlotFrames(centres, sizes))
    moved = decoder(slots, SlotFrames(centres + torch.tensor([6 * 2 / 32, -4 * 2 / 32]), sizes))
    for before, after in zip(original[1:], moved[1:], strict=True):  # by 6 pixels down and 4 to the left
        torch.testing.assert_close(after[..., 6:, :-4], before[..., :-6, 4:], rtol=1e-3, atol=1e-4)


def test_decoder_is_equivariant_to_the_size_of_frames() -> None:
    decoder = make_decoder(64)
    with torch.no_grad():
        decoder.content.weight[:, 8:] = 0
    slots, centres = torch.randn(1, 1, 8), torch.zeros(1, 1, 2)
    # windows of 32 x 32 pixels, one for each decoded pixel, and of 64 x 64
    small, large = (decoder(slots, SlotFrames(centres, torch.full((1, 1), size)))[1][0] for size in (0.1, 0.2))
    expected = F.interpolate(small[..., 16:48, 16:48], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(large[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


def test_a_slot_has_no_weight_outside_its_window() -> None:
    decoder = make_decoder()
    frames = SlotFrames(torch.tensor([[[0.0, 0.0], [0.5, 0.5]]]), torch.tensor([[1.0, 0.05]]))
    _, slot_images, masks = decoder(torch.zeros(1, 2, 8), frames)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[20:28, 20:28] = True  # 0.25 around (0.5, 0.5), in half image sizes
    assert not masks[0, 1, ~inside].any()
    assert not slot_images[0, 1, :, ~inside].any()
    assert float(masks[0, 1, 22:26, 22:26].min()) > 0.1


def test_pixels_in_no_window_are_shared_equally() -> None:
    frames = SlotFrames(torch.tensor([[[-0.5, -0.5], [0.5, 0.5]]]), torch.full((1, 2), 0.05))
    image, _, masks = make_decoder()(torch.zeros(1, 2, 8), frames)
    assert masks[0, :, 0, 31].tolist() == [0.5, 0.5]
    assert image.isfinite().all()


def test_windows_are_bounded_and_correctable() -> None:
    decoder = make_decoder()
    frames = SlotFrames(torch.zeros(1, 3, 2), torch.tensor([[1e-6, 0.1, 5.0]]))
    torch.testing.assert_close(decoder.windows(torch.randn(1, 3, 8), frames)[0, :, 2], torch.tensor([0.08, 0.5, 1.6]))
    with torch.no_grad():
        decoder.correction.bias.copy_(torch.tensor([100.0, -100.0, 100.0]))
    window = decoder.windows(torch.randn(1, 3, 8), frames)[0, 1]
    half_size = 0.5 * np.exp(0.7)
    torch.testing.assert_close(window, torch.tensor([half_size / 2, -half_size / 2, half_size], dtype=torch.float32))


def test_gradients_reach_the_frames() -> None:
    attention = torch.rand(1, 2, 64, requires_grad=True)
    make_decoder()(torch.randn(1, 2, 8), slot_frames(attention, 8))[0].square().mean().backward()
    assert attention.grad is not None
    assert attention.grad.isfinite().all()
    assert attention.grad.any()
