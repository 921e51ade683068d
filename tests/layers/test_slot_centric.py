import math

import numpy as np
import torch
from scipy.ndimage import center_of_mass

from object_discovery.layers.decoder import BroadcastDecoder
from object_discovery.layers.slot_centric import SlotCentricBroadcast, cell_centres, slot_centres


def test_centres_are_centres_of_mass() -> None:
    attention = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    centres = slot_centres(attention.flatten(2), 7)
    for image in range(2):
        for slot in range(3):
            y, x = center_of_mass(attention[image, slot].numpy())  # in cells, from the middle of the first
            expected = [(2 * y + 1) / 7 - 1, (2 * x + 1) / 7 - 1]
            np.testing.assert_allclose(centres[image, slot], expected, atol=1e-5)


def test_slots_that_attend_to_nothing_are_in_the_middle() -> None:
    assert slot_centres(torch.zeros(1, 1, 9), 3).tolist() == [[[0, 0]]]


def test_layer_against_the_formula_at_one_place() -> None:
    torch.manual_seed(0)
    layer = SlotCentricBroadcast(4, slot_size=6, channels=5, frequencies=2)
    slots, centres = torch.randn(2, 3, 6), torch.rand(2, 3, 2) - 0.5
    found = layer(slots, centres).unflatten(0, (2, 3))
    slot, centre = slots[1, 2], centres[1, 2] + 0.3 * layer.correction(slots[1, 2])
    y, x = cell_centres(4)[3] - centre[0], cell_centres(4)[1] - centre[1]
    waves = [
        wave(2**octave * math.pi / 2 * place)
        for place in (y, x)
        for wave in (torch.sin, torch.cos)
        for octave in (0, 1)
    ]
    features = torch.stack([y, *waves[:4], x, *waves[4:]])
    expected = layer.content(slot) + (1 + layer.gain(slot)) * layer.position(features)
    torch.testing.assert_close(found[1, 2, :, 3, 1], expected)


def test_a_slot_that_moves_moves_its_picture() -> None:
    torch.manual_seed(0)
    decoder = BroadcastDecoder(32, 8, 32, [8, 8], [1, 1], final_kernel_size=3, frequencies=3, slot_centric=True)
    slots = torch.randn(1, 1, 8)
    still = decoder(slots, torch.zeros(1, 1, 2))[1]
    moved = decoder(slots, torch.tensor([[[8 * 2 / 32, -4 * 2 / 32]]]))[1]  # 8 pixels down, 4 to the left
    inner = slice(6, -6)  # beyond the reach of the borders
    torch.testing.assert_close(moved[..., 8:, :-4][..., inner, inner], still[..., :-8, 4:][..., inner, inner])


def test_a_grid_that_reaches_beyond_the_image_begins_where_it_does() -> None:
    layer = SlotCentricBroadcast(12, slot_size=4, channels=4, extent=36 / 35)
    places = layer.get_buffer("grid")
    torch.testing.assert_close(places[0], torch.tensor(3 / 35 - 1))  # the middle of the first 3 of 35 pixels
    torch.testing.assert_close(places[1] - places[0], torch.tensor(6 / 35))
