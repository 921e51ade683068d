import math

import numpy as np
import torch
from scipy.ndimage import center_of_mass

from object_discovery.layers.decoder import BroadcastDecoder
from object_discovery.layers.slot_centric import SlotCentricBroadcast, cell_centres, slot_centres


def test_slot_centres_match_scipy_center_of_mass() -> None:
    attention = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    centres = slot_centres(attention.flatten(2), 7)
    for image in range(2):
        for slot in range(3):
            y, x = center_of_mass(attention[image, slot].numpy())  # in pixels, from the centre of the first
            expected = [(2 * y + 1) / 7 - 1, (2 * x + 1) / 7 - 1]
            np.testing.assert_allclose(centres[image, slot], expected, atol=1e-5)


def test_centre_of_zero_attention_is_the_image_centre() -> None:
    assert slot_centres(torch.zeros(1, 1, 9), 3).tolist() == [[[0, 0]]]


def test_slot_centric_broadcast_matches_formula() -> None:
    torch.manual_seed(0)
    layer = SlotCentricBroadcast(4, slot_size=6, channels=5, frequencies=2)
    slots, centres = torch.randn(2, 3, 6), torch.rand(2, 3, 2) - 0.5
    actual = layer(slots, centres).unflatten(0, (2, 3))
    slot, centre = slots[1, 2], centres[1, 2] + 0.3 * layer.correction(slots[1, 2])
    y, x = cell_centres(4)[3] - centre[0], cell_centres(4)[1] - centre[1]
    waves = [
        wave(2**octave * math.pi / 2 * coordinate)
        for coordinate in (y, x)
        for wave in (torch.sin, torch.cos)
        for octave in (0, 1)
    ]
    features = torch.stack([y, *waves[:4], x, *waves[4:]])
    expected = layer.content(slot) + (1 + layer.gain(slot)) * layer.position(features)
    torch.testing.assert_close(actual[1, 2, :, 3, 1], expected)


def test_decoder_is_equivariant_to_translation_of_centres() -> None:
    torch.manual_seed(0)
    decoder = BroadcastDecoder(32, 8, 32, [8, 8], [1, 1], final_kernel_size=3, frequencies=3, slot_centric=True)
    slots = torch.randn(1, 1, 8)
    original = decoder(slots, torch.zeros(1, 1, 2))[1]
    moved = decoder(slots, torch.tensor([[[8 * 2 / 32, -4 * 2 / 32]]]))[1]  # by 8 pixels down and 4 to the left
    interior = slice(6, -6)  # where padding has no effect
    torch.testing.assert_close(
        moved[..., 8:, :-4][..., interior, interior], original[..., :-8, 4:][..., interior, interior]
    )


def test_extended_grid_starts_at_the_top_left_of_the_image() -> None:
    layer = SlotCentricBroadcast(12, slot_size=4, channels=4, extent=36 / 35)
    grid = layer.get_buffer("grid")
    torch.testing.assert_close(grid[0], torch.tensor(3 / 35 - 1))  # the centre of the first 3 of 35 pixels
    torch.testing.assert_close(grid[1] - grid[0], torch.tensor(6 / 35))
